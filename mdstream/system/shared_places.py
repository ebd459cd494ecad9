"""Files in places where other users can write too: `/dev/shm`, the folder for temporary files.

Another user can put a folder or a symbolic link there under any name that is free. So a folder is ours only
if it is a real folder that belongs to this user, and nobody else can write into it. A check by path can be
out of date when the path is used. So files that are written are opened relative to a checked descriptor of
their folder, and no link is followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def is_private(folder: Path) -> bool:
    """Return whether `folder` is a real folder of this user, into which no other user can write."""
    try:
        return _is_private(os.lstat(folder))
    except OSError:
        return False


def is_out_of_reach(folder: Path) -> bool:
    """Return whether `folder` is private, and no other user can put another one in its place.

    All folders above it must belong to this user or root. Where others can write, only the owner of an
    entry may rename it (the sticky bit). This user's primary group does not count as others.
    """
    return is_private(folder) and not any(map(_is_open_to_others, folder.resolve().parents))


def _is_open_to_others(folder: Path) -> bool:
    found = folder.stat()
    if found.st_uid not in (0, os.getuid()):
        return True
    others = stat.S_IWOTH if found.st_gid == os.getgid() else _OTHERS
    return bool(found.st_mode & others) and not found.st_mode & stat.S_ISVTX


@contextmanager
def private_folder(folder: Path) -> Iterator[int]:
    """Open a folder and yield its descriptor. Raises `PermissionError` if it is not private."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not _is_private(os.fstat(descriptor)):
            raise PermissionError(f"{folder} is not this user's alone")
        yield descriptor
    finally:
        os.close(descriptor)


def open_new(folder: Path, name: str) -> int:
    """Open the file `name` in a private folder for writing, empty; return its descriptor.

    Raises `OSError` if the folder is not private, or the name is a link.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with private_folder(folder) as parent:
        return os.open(name, flags, 0o600, dir_fd=parent)


def _is_private(found: os.stat_result) -> bool:
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & _OTHERS
