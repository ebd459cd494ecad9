"""What generates parts of the documentation from the code, and what builds the site.

    <!-- generate NAME -->   in a page of docs/ ─► hook.py ─► GENERATORS[NAME]() ─► Markdown in the page

`python -m docs.generate NAME` prints one part. A name that does not exist, a part that no page shows and a
column or setting without a description are errors: the build stops.
"""

from __future__ import annotations

from collections.abc import Callable

from docs.generate import api, commands, exit_codes, frames, limits, metrics, refusals, settings

GENERATORS: dict[str, Callable[[], str]] = {
    "api": api.render,
    "commands": commands.render,
    "exit-codes": exit_codes.render,
    "frames": frames.render,
    "limits": limits.render,
    "metrics": metrics.render,
    "refusals": refusals.render,
    "settings": settings.render,
}
