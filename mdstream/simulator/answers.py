"""Answers about the past, kept as they were sent: they do not change, and take long to make up."""

from __future__ import annotations

import gzip
from collections import OrderedDict

_MOST_BYTES = 512 * 1024 * 1024
_PACKED_FROM = 1024
"""Bytes from which on an answer is worth packing."""

_LEVEL = 6

Key = tuple[tuple[str, str], ...]


class Answers:
    """Packed bodies by what was asked, the last `_MOST_BYTES` of them."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Key, bytes] = OrderedDict()
        self._bytes = 0

    def get(self, key: Key) -> bytes | None:
        """The packed body, if it is kept."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def keep(self, key: Key, packed: bytes) -> None:
        """Keep a packed body, in place of those that were asked for longest ago."""
        self._kept[key] = packed
        self._bytes += len(packed)
        while self._bytes > _MOST_BYTES:
            _, gone = self._kept.popitem(last=False)
            self._bytes -= len(gone)


def packed(body: bytes) -> bytes:
    """A body as gzip, where that makes it smaller; else as it is."""
    return gzip.compress(body, _LEVEL) if len(body) >= _PACKED_FROM else body


def unpacked(body: bytes) -> bytes:
    """What `packed` packed."""
    return gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body
