"""Where the kernels' machine code is stored, and whether it is complete. Loads no compiler.

The folder's name is a digest of everything that the machine code depends on: the text of all sources, the
versions, the CPU. It has neither paths nor times of files, so a new installation of the same version finds
the code of the old one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import importlib.metadata
import inspect
import json
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from mdstream.system.shared_places import is_out_of_reach, is_private

BOUNDS_CHECKED = os.environ.get("NUMBA_BOUNDSCHECK", "0") not in ("", "0")
"""Whether every array access is checked (slow; for fuzzing)."""

_KERNELS = Path(__file__).parent
_IMPORTED = re.compile(rb"^from (mdstream\.[\w.]+) import", re.MULTILINE)


def _digest() -> str:
    """Return a digest of everything that the machine code depends on."""
    versions = [importlib.metadata.version(name) for name in ("numba", "llvmlite", "numpy")]
    digest = hashlib.sha256(f"{sys.version} {versions} {_processor()} {BOUNDS_CHECKED}".encode())
    for name, text in sorted(find_sources().items()):
        digest.update(f"{name} {len(text)} ".encode() + text)
    return digest.hexdigest()[:16]


def find_sources() -> dict[str, bytes]:
    """Return the sources of the kernels, and of the modules whose constants they have, by name."""
    sources = {path.name: path.read_bytes() for path in _KERNELS.glob("*.py")}
    package = Path(inspect.getfile(is_private)).parents[1]
    for module in {name.decode() for text in sources.values() for name in _IMPORTED.findall(text)}:
        path = package.joinpath(*module.split(".")[1:]).with_suffix(".py")
        sources[module] = path.read_bytes()
    return sources


def _processor() -> str:
    """Return what the machine code is made for: the CPU's model and features."""
    try:
        first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        first = ""
    lines = [line for line in first.splitlines() if line.startswith(("model name", "flags", "Features"))]
    return "\n".join([platform.machine(), platform.processor(), *lines])


def _cache_folder() -> Path:
    """Return a writable folder, wherever the package itself is installed."""
    wanted = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME")
    name = f"kernels-{_digest()}"
    home = os.path.expanduser("~/.cache")  # unchanged where there is no home folder
    for base in (
        Path(wanted or home) / "mdstream",
        Path(tempfile.gettempdir()) / f"mdstream-{os.getuid()}",
    ):
        if not base.is_absolute():
            continue
        try:
            base.mkdir(0o700, parents=True, exist_ok=True)
            (base / name).mkdir(0o700, exist_ok=True)
        except OSError:
            continue
        # Code in this folder is executed, so no other user may write into it, or replace it.
        if is_private(base) and is_out_of_reach(base / name) and os.access(base / name, os.W_OK):
            return base / name
    raise OSError(f"{base} cannot be written, or is not this user's alone")


def _find_folder() -> tuple[Path | None, OSError | None]:
    """Return the folder, or the error that says why there is none."""
    try:
        return _cache_folder(), None
    except OSError as error:
        return None, error


CACHE, _OBSTACLE = _find_folder()

_COMPLETE = "complete"
"""A file that exists once all kernels of these sources are on disk. It holds their digests; its time is
their last use.
"""

_ROOM_BYTES = 10_000_000


def is_complete() -> bool:
    """Return whether all kernels of these sources are on disk and unchanged.

    Raises OSError if they are not and there is no room for them.
    """
    if CACHE is None:
        assert _OBSTACLE is not None
        raise _OBSTACLE
    if (digests := _read_digests()) and digests == _digests(CACHE):
        return True
    stat = os.statvfs(CACHE)
    if stat.f_bavail * stat.f_frsize < _ROOM_BYTES:
        raise OSError(errno.ENOSPC, f"{CACHE}: less than 10 MB free")
    return False


def count() -> tuple[int, int]:
    """Return how many kernels are on disk, and how many these sources have."""
    total = sum(path.read_text().count("\n@kernel") for path in _KERNELS.glob("*.py"))
    done = 0 if CACHE is None else sum(1 for _ in CACHE.rglob("*.nbi"))
    return min(done, total), total


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Hold the lock of this folder: no other process compiles into it meanwhile.

    Raises OSError before anything is compiled if a file of `_ROOM_BYTES` cannot be written: a full disk, a
    quota, a limit on the size of files.
    """
    if CACHE is None:
        assert _OBSTACLE is not None
        raise _OBSTACLE
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.posix_fallocate(lock.fileno(), 0, _ROOM_BYTES)
        lock.truncate(0)
        yield


def is_damaged() -> bool:
    """Return whether the files on disk are not what was compiled: loading them could end the process."""
    assert CACHE is not None
    digests = _read_digests()
    return bool(digests) and digests != _digests(CACHE)


def _read_digests() -> dict[str, str]:
    """Read the digests of the compiled kernels; empty if there are none or the file is damaged."""
    assert CACHE is not None
    try:
        digests = json.loads((CACHE / _COMPLETE).read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError:
        return {"": ""}
    return digests if isinstance(digests, dict) else {"": ""}


def discard() -> None:
    """Remove the compiled kernels: they cannot be loaded."""
    assert CACHE is not None
    for path in (CACHE / _COMPLETE, *CACHE.rglob("*.nb?")):
        path.unlink(missing_ok=True)


def complete() -> None:
    """Note that all kernels are on disk now."""
    if CACHE is not None:
        hidden = CACHE / f"{_COMPLETE}.{os.getpid()}"
        hidden.write_text(json.dumps(_digests(CACHE)))
        hidden.rename(CACHE / _COMPLETE)


def mark_used() -> None:
    """Note that all kernels were used now."""
    if CACHE is not None and (CACHE / _COMPLETE).exists():
        (CACHE / _COMPLETE).touch()


def _digests(folder: Path) -> dict[str, str]:
    """Return the digest of each file with machine code, by its path under `folder`."""
    files = (path for path in folder.rglob("*.nb?") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(files)
    }


UNUSED_DAYS = 30


def drop_unused() -> None:
    """Remove machine code of other versions that nobody has used for a long time."""
    if CACHE is None:
        return
    oldest = time.time() - UNUSED_DAYS * 86400
    for folder in CACHE.parent.glob("kernels-*"):
        marker = folder / _COMPLETE
        used = (marker if marker.exists() else folder).stat().st_mtime
        if folder != CACHE and used < oldest:
            shutil.rmtree(folder, ignore_errors=True)
