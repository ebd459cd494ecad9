"""Imported, the process is a worker that has not begun: what a pool of several is forked from.

One process loads the libraries and the kernels for all of them, and they share its memory. Nothing here
may start a thread (Polars' allocator has one, which its handlers of forks take care of).
"""

from __future__ import annotations

import workers.history  # noqa: F401
from workers import boot

boot.prepare()
