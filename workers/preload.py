"""The module that a pool's fork server imports. A process that has imported it is a worker that has not
begun.

One process loads the libraries and the kernels for all workers, and they share its memory. Nothing here may
start a thread (Polars' allocator has one, which its fork handlers take care of).
"""

from __future__ import annotations

import workers.history  # noqa: F401
from workers import boot

boot.prepare()
