"""Room in shared memory, taken before it is written through a map.

A write through a map on a full tmpfs ends the process with SIGBUS; reserving first turns the same
lack of room into an error that can be told and handled.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from mdstream.errors import NoSpaceError


def reserve(descriptor: int, size: int, path: Path) -> None:
    """Give the open file `size` bytes of real room, or raise `NoSpaceError`."""
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM):
            raise
        raise no_space(path, size) from error


def no_space(path: Path, needed: int) -> NoSpaceError:
    """The error for a write of `needed` bytes under `path` that found no room."""
    parent = path.parent
    try:
        stat = os.statvfs(parent)
        free = stat.f_bavail * stat.f_frsize
    except OSError:
        free = 0
    return NoSpaceError(str(parent), needed, free)
