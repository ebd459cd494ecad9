"""Files in places where other users can write too: `/dev/shm`, the folder for temporary files.

Another user can put a folder or a symbolic link there under any name that is free. So a folder is ours only
if it is a real folder that belongs to this user, and nobody else can write into it. A check by path can be
out of date when the path is used. So files that are written are opened relative to a checked descriptor of
their folder, and no link is followed.

A file that the user names may be in such a place, too. A link there is followed if it belongs to this user
or root, and a file that another user has put there is not written to (`open_named`). A file that must be
complete is made under a name that nobody can guess, and then gets its own (`replace_named`).
"""

from __future__ import annotations

import errno
import os
import pwd
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_MOST_LINKS = 40
"""Links that are followed from one path, as in Linux."""
_LONGEST_PREFIX = 200


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
    others = stat.S_IWOTH if found.st_gid == os.getgid() else _OTHERS
    return _is_foreign(found) or bool(found.st_mode & others and not found.st_mode & stat.S_ISVTX)


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


# -- files that the user names


def why_not_ours(path: Path) -> str:
    """Return why a file at `path` must not be written: another user has put it there. Empty if it may."""
    try:
        _require_ours(follow_own_links(path))
    except PermissionError as error:
        return str(error.strerror)
    except OSError:
        return ""  # whoever opens it finds what is wrong
    return ""


def follow_own_links(path: Path) -> Path:
    """Return where the links at `path` lead. Raises `PermissionError` if one belongs to another user.

    The result is a link only if it leads to an open file of a process, as /dev/stdout does.
    """
    for _ in range(_MOST_LINKS):
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            return path
        if not stat.S_ISLNK(found.st_mode):
            return path
        if _is_foreign(found):
            raise _refuse(f"{path} is a link that belongs to {_name_owner(found)}; name another file")
        target = path.parent / os.readlink(path)
        if not os.path.lexists(target) and path.exists():
            return path
        path = target
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))


def open_named(path: Path) -> BinaryIO:
    """Open the file that the user named for writing, in place and empty.

    Raises `PermissionError` if another user has put it there, and other `OSError`.
    """
    target = follow_own_links(path)
    _require_ours(target)  # opening a pipe would wait
    flags = os.O_WRONLY | os.O_CLOEXEC
    if not target.is_symlink():
        flags |= os.O_CREAT | os.O_NOFOLLOW
    descriptor = os.open(target, flags, 0o666)
    try:
        found = os.fstat(descriptor)
        if flags & os.O_NOFOLLOW:
            _require_ours(target, found)
        if stat.S_ISREG(found.st_mode):
            os.ftruncate(descriptor, 0)
        return os.fdopen(descriptor, "wb")
    except BaseException:
        os.close(descriptor)
        raise


@contextmanager
def replace_named(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of the one that the user named when the block ends without an error.

    It keeps the permissions of the one before. Raises as `open_named` does.
    """
    target = follow_own_links(path)
    _require_ours(target)
    if target.exists() and not target.is_file():
        with open_named(target) as file:  # a device or a pipe
            yield file
        return
    name = f".{target.name[:_LONGEST_PREFIX]}.{secrets.token_hex(8)}.partial"
    partial = target.with_name(name)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(partial, flags, 0o666), "wb") as file:
            if target.exists():
                os.fchmod(file.fileno(), stat.S_IMODE(target.stat().st_mode))
            yield file
        partial.rename(target)
    finally:
        partial.unlink(missing_ok=True)


def _require_ours(target: Path, found: os.stat_result | None = None) -> None:
    """Raise `PermissionError` if another user has put the file `target` into a place that is open to all.

    A hard link to a file of ours is such a file, too. What the owner of the folder has in it is not.
    """
    try:
        found = found or os.lstat(target)
    except FileNotFoundError:
        return
    folder = os.stat(target.parent)
    is_open = _is_foreign(folder) or bool(folder.st_mode & stat.S_IWOTH)
    is_named_twice = stat.S_ISREG(found.st_mode) and found.st_nlink > 1
    if is_open and _is_foreign(found) and found.st_uid != folder.st_uid and not stat.S_ISCHR(found.st_mode):
        raise _refuse(f"{target} belongs to {_name_owner(found)}; name another file")
    if is_open and is_named_twice:
        raise _refuse(f"{target} has another name elsewhere, and others can write in its folder; remove it")


def _is_foreign(found: os.stat_result) -> bool:
    return found.st_uid not in (0, os.getuid())


def _refuse(why: str) -> PermissionError:
    return PermissionError(errno.EPERM, why)


def _name_owner(found: os.stat_result) -> str:
    try:
        return f"the user {pwd.getpwuid(found.st_uid).pw_name}"
    except KeyError:
        return f"the user {found.st_uid}"
