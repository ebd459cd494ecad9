"""Room in shared memory, taken before it is written through a map.

A write through a map on a full tmpfs ends the process with SIGBUS; reserving first turns the same
lack of room into an error that can be told and handled.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from mdstream.errors import NoSpaceError

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.ENOMEM})
"""What the system says where there is no room."""


def reserve(descriptor: int, size: int, path: Path) -> None:
    """Give the open file `size` bytes of real room, or raise `NoSpaceError`."""
    with room_for(path, size):
        os.posix_fallocate(descriptor, 0, size)


@contextlib.contextmanager
def room_for(path: Path, size: int) -> Iterator[None]:
    """Around a write of `size` bytes at `path`: raises `NoSpaceError` where there is no room for them."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
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
