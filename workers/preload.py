"""The module that a pool's fork server imports: it loads the libraries and kernels of a worker.

Workers are forked from that process and share its memory. Nothing here may start a thread (Polars'
allocator has one, which its fork handlers take care of).
"""

from __future__ import annotations

import workers.history  # noqa: F401
from mdstream.system import file_pages
from workers import boot

boot.prepare()
file_pages.release()
