"""Where the kernels' machine code is kept, and whether it is all there. Loads no compiler.

Numba's own check of what is out of date sees only the file that a kernel stands in, not those it calls
into; so the folder's name holds a digest of all of them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from workers import UNKEPT

BOUNDS_CHECKED = os.environ.get("NUMBA_BOUNDSCHECK", "0") not in ("", "0")
"""Whether every access is checked, which is slow: for fuzzing."""

_KERNELS = Path(__file__).parent


def _digest() -> str:
    """Names what the machine code depends on and Numba's own key leaves out."""
    numba = importlib.metadata.version("numba")
    versions = f"{sys.version} {numba} {_processor()} {BOUNDS_CHECKED}"
    digest = hashlib.sha256(versions.encode())
    for path in sorted(_KERNELS.glob("*.py")):
        # Numba takes a file of another place or time for another file.
        digest.update(f"{path.resolve()} {path.stat().st_mtime_ns}".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _processor() -> str:
    """What the machine code is made for: the model, and what it can do."""
    try:
        first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        first = ""
    told = [line for line in first.splitlines() if line.startswith(("model name", "flags", "Features"))]
    return "\n".join([platform.machine(), platform.processor(), *told])


def _cache_folder() -> Path:
    """A folder that can be written, wherever the package itself is installed."""
    told = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME")
    name = f"kernels-{_digest()}"
    home = os.path.expanduser("~/.cache")  # itself, where there is no home at all
    for base in (Path(told or home) / "mdstream", Path(tempfile.gettempdir()) / f"mdstream-{os.getuid()}"):
        if not base.is_absolute():
            continue
        try:
            base.mkdir(0o700, parents=True, exist_ok=True)
            (base / name).mkdir(exist_ok=True)
        except OSError:
            continue
        # What lies in it is run: it must be ours alone, above all among everybody's temporary files.
        found = base.stat()
        ours = found.st_uid == os.getuid() and not found.st_mode & 0o022
        if ours and os.access(base / name, os.W_OK):
            return base / name
    raise OSError(f"{base} cannot be written, or is not this user's alone")


CACHE = None if os.environ.get(UNKEPT) else _cache_folder()

_COMPLETE = "complete"
"""A file that is there once all kernels of these sources are on disk: their digests. Its time is when they
were last used."""

_ROOM_BYTES = 10_000_000


def is_complete() -> bool:
    """Whether all kernels of these sources are on disk, as they were compiled.

    Raises OSError if they are not, and there is no room for them.
    """
    if CACHE is None:
        return False
    if (told := _read_digests()) and told == _digests(CACHE):
        return True
    stat = os.statvfs(CACHE)
    if stat.f_bavail * stat.f_frsize < _ROOM_BYTES:
        raise OSError(errno.ENOSPC, f"{CACHE}: less than 10 MB free")
    return False


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """While no other process compiles for this folder."""
    assert CACHE is not None
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def is_damaged() -> bool:
    """Whether what is on disk is not what was compiled: to load it could end the process."""
    assert CACHE is not None
    told = _read_digests()
    return bool(told) and told != _digests(CACHE)


def _read_digests() -> dict[str, str]:
    """The digests of the kernels as they were compiled; none if they were not, or that is damaged."""
    assert CACHE is not None
    try:
        told = json.loads((CACHE / _COMPLETE).read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError:
        return {"": ""}
    return told if isinstance(told, dict) else {"": ""}


def discard() -> None:
    """Remove what is on disk: it cannot be loaded."""
    assert CACHE is not None
    for path in (CACHE / _COMPLETE, *CACHE.rglob("*.nb?")):
        path.unlink(missing_ok=True)


def complete() -> None:
    """All kernels are on disk now."""
    if CACHE is not None:
        hidden = CACHE / f"{_COMPLETE}.{os.getpid()}"
        hidden.write_text(json.dumps(_digests(CACHE)))
        hidden.rename(CACHE / _COMPLETE)


def mark_used() -> None:
    """All kernels were used now."""
    if CACHE is not None and (CACHE / _COMPLETE).exists():
        (CACHE / _COMPLETE).touch()


def _digests(folder: Path) -> dict[str, str]:
    """The digest of each file with machine code, by its place under `folder`."""
    files = (path for path in folder.rglob("*.nb?") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(files)
    }


UNUSED_DAYS = 30


def drop_unused() -> None:
    """Remove what other versions left beside this one's code and nobody has used for long."""
    if CACHE is None:
        return
    oldest = time.time() - UNUSED_DAYS * 86400
    for folder in CACHE.parent.glob("kernels-*"):
        marker = folder / _COMPLETE
        used = (marker if marker.exists() else folder).stat().st_mtime
        if folder != CACHE and used < oldest:
            shutil.rmtree(folder, ignore_errors=True)
