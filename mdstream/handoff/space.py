"""Room in shared memory, taken before it is written through a map.

A write through a map on a full tmpfs ends the process with SIGBUS. Room that is reserved first turns the
same shortage into `NoSpaceError`, which can be handled. Here is the one place that translates the system's
errors: a file system may lack bytes, or the inode of another file.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from mdstream.errors import NoSpaceError

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.ENOMEM})
"""Error numbers of a file system, or a machine, without room."""


def create_file(path: Path, size: int, flags: int = 0) -> int:
    """Create a file with real room for `size` bytes, and return its descriptor.

    `flags` are added to those of `os.open`. Without room it raises `NoSpaceError`, and leaves no file.
    """
    with room_for(path, size):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | flags, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size)
        except BaseException:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise
    return descriptor


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
    """Return the error for a write of `needed` bytes under `path` that found no room."""
    parent = path.parent
    try:
        stat = os.statvfs(parent)
    except OSError:
        return NoSpaceError(str(parent), needed, 0)
    is_out_of_inodes = bool(stat.f_files) and not stat.f_favail
    return NoSpaceError(str(parent), needed, stat.f_bavail * stat.f_frsize, is_out_of_inodes)


class Shortages:
    """What waits for room in shared memory, and since when."""

    # Written here alone: the moment at which each thing first found no room.
    _since: dict[str, float]

    def __init__(self) -> None:
        self._since = {}

    def begin(self, what: str, now: float) -> bool:
        """Note that `what` found no room; return whether it had some before."""
        is_new = what not in self._since
        self._since.setdefault(what, now)
        return is_new

    def seconds(self, what: str, now: float) -> float:
        """Return how long `what` has waited."""
        return now - self._since.get(what, now)

    def end(self, what: str) -> None:
        """Note that `what` found room."""
        if self._since:
            self._since.pop(what, None)
