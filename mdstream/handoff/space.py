"""Room in shared memory: reserve it before a write through a map, and report if there is none.

A write through a map of a full tmpfs kills the process with SIGBUS. Reserving space first turns that into
`NoSpaceError`, which can be handled. Only this module translates the system's errors: a file system may
have no bytes left, or no inode for another file.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from mdstream.errors import NoSpaceError, RunRemovedError

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.ENOMEM})
"""Error numbers of a full file system or a machine without memory."""


def create_file(path: Path, size: int, flags: int = 0) -> int:
    """Create a file, reserve `size` bytes for it, and return its descriptor.

    `flags` are added to those of `os.open`. Raises `NoSpaceError`, and leaves no file, if there is no room.
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
    """Translate errors of a write of `size` bytes at `path`.

    They become `NoSpaceError` if there was no room, and `RunRemovedError` if its folder is gone.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise RunRemovedError(str(path.parent)) from error
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise no_space(path, size) from error


def no_space(path: Path, needed: int) -> NoSpaceError:
    """Return the error for a write of `needed` bytes at `path` that found no room."""
    parent = path.parent
    try:
        stat = os.statvfs(parent)
    except OSError:
        return NoSpaceError(str(parent), needed, 0)
    is_out_of_inodes = bool(stat.f_files) and not stat.f_favail
    return NoSpaceError(str(parent), needed, stat.f_bavail * stat.f_frsize, is_out_of_inodes)


class Shortages:
    """Records what waits for room in shared memory, and since when."""

    # Written only here.
    _since: dict[str, float]
    """When each first found no room."""

    def __init__(self) -> None:
        self._since = {}

    def begin(self, what: str, now: float) -> bool:
        """Note that `what` found no room; return whether its shortage is new."""
        is_new = what not in self._since
        self._since.setdefault(what, now)
        return is_new

    def seconds(self, what: str, now: float) -> float:
        """Return how many seconds `what` has waited."""
        return now - self._since.get(what, now)

    def end(self, what: str) -> None:
        """Note that `what` found room."""
        if self._since:
            self._since.pop(what, None)
