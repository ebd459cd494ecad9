"""Memory of a process that holds pages of files, such as libraries."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator

_DONT_NEED = 4
"""`MADV_DONTNEED` of Linux."""
_RANGE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r..p \S+ \S+ [1-9]\d* +/")
"""First line of a private mapping of a file in `smaps`."""


def release() -> None:
    """Give back the pages of files that this process has only read.

    The system reads a page again from its cache when it is needed. Pages that were written to, such as
    those with relocated addresses, stay. Call it after much was read that will not be needed again: the
    compiler's library has 70 MB, and loading kernels touches most of them once.
    """
    advise = ctypes.CDLL(None).madvise
    for first, end in _find_unwritten():
        advise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), _DONT_NEED)


def _find_unwritten() -> Iterator[tuple[int, int]]:
    """Return first and end address of each private mapping of a file without pages of this process."""
    with open("/proc/self/smaps") as lines:
        found = None
        for line in lines:
            if line[0] in "0123456789abcdef":
                found = _RANGE.match(line)
            elif found and line.startswith("Anonymous:") and line.split()[1] == "0":
                yield int(found[1], 16), int(found[2], 16)
