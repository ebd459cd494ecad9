"""`python -m docs.generate NAME ...`: print the generated parts of the pages."""

from __future__ import annotations

import sys

from docs.generate import GENERATORS

for _name in sys.argv[1:] or GENERATORS:
    if _name not in GENERATORS:
        sys.exit(f"no generated part {_name!r}; choose from {', '.join(GENERATORS)}")
    print(GENERATORS[_name]())
