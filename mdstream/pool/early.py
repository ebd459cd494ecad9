"""The early start of the fork server: it loads its modules while the command still imports the rest."""

from __future__ import annotations

import os

from mdstream.pool import forkserver
from mdstream.pool.pool import SINGLE_THREADED, forkserver_modules
from mdstream.pool.worker_code import are_kernels_compiled
from mdstream.system import children, resources

ARROW_ALLOCATOR = "ARROW_DEFAULT_MEMORY_POOL"
"""Variable that names the allocator of Arrow."""
FEEDS = ("mdstream.feed.process", "mdstream.session.sockets.picows_socket")
"""What the fork server of an engine loads for its feeds, which share its memory."""


def prepare_environment() -> None:
    """Set the environment that all children inherit."""
    os.environ.update(SINGLE_THREADED)
    # Arrow's own allocator takes 10 MB in each process; feeds and supervisor allocate little with it.
    os.environ.setdefault(ARROW_ALLOCATOR, "system")
    # Python's resource tracker warns of the semaphores of killed feeds as it removes them.
    quiet = "ignore:resource_tracker:UserWarning"
    before = os.environ.get("PYTHONWARNINGS", "")
    if quiet not in before:
        os.environ["PYTHONWARNINGS"] = f"{before},{quiet}" if before else quiet


def load_for_feeds() -> None:
    """Start the fork server for the feeds of an engine. It ends with this process, used or not."""
    prepare_environment()
    resources.allow_files(resources.RUN_FILES)  # the fork server passes it on
    with children.protect_start():
        forkserver.begin(*forkserver_modules(*FEEDS))


def load_for_workers(size: int) -> None:
    """Start the fork server for a pool of `size`, if its workers are forked and kernels are compiled."""
    if size > 1 and are_kernels_compiled():
        os.environ.update(SINGLE_THREADED)
        with children.protect_start():
            forkserver.begin(*forkserver_modules())
