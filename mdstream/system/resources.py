"""What the system must allow a process: open files, and semaphores in shared memory.

Both have limits of their own, and without them Python fails in the middle of something else. So they are
checked before anything starts, and their errors become one sentence.
"""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import resource

from mdstream.errors import ConfigError, SharedMemoryError
from mdstream.system import children

RUN_FILES = 256
"""Files that a process of a run may need to have open; a feed of stocks had 91 on 2026-11-30."""
BACKFILL_FILES = 48
"""The same for a backfill, beside one for each request under way."""
_WANTED_FILES = 65_536

_TOO_MANY = frozenset({errno.EMFILE, errno.ENFILE})


def allow_files(needed: int) -> None:
    """Raise this process's limit of open files as far as it may. Raises `ConfigError` below `needed`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _WANTED_FILES if hard == resource.RLIM_INFINITY else min(hard, _WANTED_FILES)
    if 0 <= soft < most:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
    if 0 <= soft < needed:
        raise ConfigError(
            f"only {soft} files may be open in a process, and {needed} are needed: raise the limit "
            "(`ulimit -n 1024`, or LimitNOFILE= of a systemd unit)"
        )


def is_too_many_files(error: BaseException) -> bool:
    """Return whether an error means that no more files can be opened."""
    return isinstance(error, OSError) and error.errno in _TOO_MANY


def too_many_files() -> ConfigError:
    """Return the error for a process that can open no more files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return ConfigError(
        f"too many open files, {soft} are allowed: raise the limit (`ulimit -n 1024`, or LimitNOFILE= of a "
        "systemd unit), or end programs that have many files open"
    )


def check_semaphores() -> None:
    """Raise `SharedMemoryError` if no semaphore can be created, which every pool of processes needs."""
    try:
        with children.protect_start():  # the first semaphore starts Python's resource tracker, a child
            multiprocessing.get_context("spawn").Lock()
    except OSError as error:
        raise no_semaphores(error) from error


def no_semaphores(error: OSError) -> SharedMemoryError:
    """Return the error for a pool of processes that could not create its semaphores."""
    return SharedMemoryError(
        f"no semaphores can be created in /dev/shm ({error.strerror}), and worker processes need them: "
        "mount it so that this user can write to it, with room for more files"
    )
