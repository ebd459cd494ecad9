"""A process gives back what it has read of files, and loses nothing that it has written."""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path

import pytest

from mdstream.system import file_pages

_SIZE = 4 << 20


def _rss_kb(path: Path) -> int:
    """Return how much of `path` this process holds in memory, in kB."""
    found, held = False, 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line[0] in "0123456789abcdef":
            found = line.endswith(str(path))
        elif found and line.startswith("Rss:"):
            held += int(line.split()[1])
    return held


def _protect(pages: mmap.mmap) -> None:
    """Make `pages` read-only for good."""
    view = ctypes.c_char.from_buffer(pages)
    address = ctypes.addressof(view)
    del view
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(address), ctypes.c_size_t(_SIZE), mmap.PROT_READ) == 0


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "pages"
    path.write_bytes(b"0123456789abcdef" * (_SIZE // 16))
    return path


def test_pages_that_were_only_read_are_given_back_and_read_again(file: Path) -> None:
    with (
        open(file, "rb") as source,
        mmap.mmap(source.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ) as pages,
    ):
        before = bytes(pages)
        assert _rss_kb(file) == _SIZE // 1024
        file_pages.release()
        assert _rss_kb(file) == 0
        assert bytes(pages) == before


@pytest.mark.parametrize("flags", [mmap.MAP_PRIVATE, mmap.MAP_SHARED])
def test_pages_that_were_written_keep_what_was_written(file: Path, flags: int) -> None:
    with open(file, "r+b") as source, mmap.mmap(source.fileno(), 0, flags) as pages:
        pages[:5] = b"other"
        pages[_SIZE // 2 : _SIZE // 2 + 5] = b"other"
        _protect(pages)  # as a library's table of addresses: written when it was loaded, read-only since
        file_pages.release()
        assert pages[:5] == pages[_SIZE // 2 : _SIZE // 2 + 5] == b"other"
        assert _rss_kb(file) > 0
