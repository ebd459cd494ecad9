"""Whether systemd-logind removes this user's shared memory at logout: its setting `RemoveIPC`."""

from __future__ import annotations

import configparser
from pathlib import Path

_FILES = ("usr/lib/systemd/logind.conf", "etc/systemd/logind.conf")
_FOLDERS = ("usr/lib/systemd/logind.conf.d", "run/systemd/logind.conf.d", "etc/systemd/logind.conf.d")
_LAST_SYSTEM_USER = 999
"""logind spares the system's own users."""


def removes_shared_memory(user: str, uid: int, root: Path = Path("/")) -> bool:
    """Return whether the files of a user in `/dev/shm` are removed when the user's last session ends.

    That is the default of systemd. It spares users who may linger.
    """
    if uid <= _LAST_SYSTEM_USER or not (root / "run/systemd/sessions").is_dir():
        return False
    return not (root / "var/lib/systemd/linger" / user).exists() and _is_set(root)


def _is_set(root: Path) -> bool:
    """Return the value of `RemoveIPC`: a later file wins over an earlier one."""
    found = True
    files = [root / name for name in _FILES]
    files += sorted((p for f in _FOLDERS for p in (root / f).glob("*.conf")), key=lambda path: path.name)
    for file in files:
        parser = configparser.ConfigParser(strict=False, interpolation=None)
        try:
            parser.read(file)
            found = parser.getboolean("Login", "RemoveIPC", fallback=found)
        except (configparser.Error, ValueError, OSError):
            continue  # systemd ignores such a line too
    return found
