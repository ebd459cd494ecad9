"""Bodies about the past, kept as they were sent: they do not change, and take long to make."""

from __future__ import annotations

import gzip
from collections import OrderedDict

_MOST_BYTES = 512 * 1024 * 1024
"""Bodies kept, in packed bytes; then those that were asked for longest ago are evicted."""
_PACKED_FROM = 1024
"""Bytes from which on a body is worth packing."""
_LEVEL = 6

Key = tuple[tuple[str, str], ...]


class BodyCache:
    """Packed bodies by what was asked for."""

    _kept: OrderedDict[Key, bytes]
    _bytes: int

    def __init__(self) -> None:
        self._kept = OrderedDict()
        self._bytes = 0

    def get(self, key: Key) -> bytes | None:
        """Return the packed body, if it is kept."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def keep(self, key: Key, packed: bytes) -> None:
        """Keep a packed body."""
        self._kept[key] = packed
        self._bytes += len(packed)
        while self._bytes > _MOST_BYTES:
            _, evicted = self._kept.popitem(last=False)
            self._bytes -= len(evicted)


def pack(body: bytes) -> bytes:
    """Return a body as gzip, where that is worth it; else as it is."""
    return gzip.compress(body, _LEVEL) if len(body) >= _PACKED_FROM else body


def unpack(body: bytes) -> bytes:
    """Return what `pack` packed."""
    return gzip.decompress(body) if is_packed(body) else body


def is_packed(body: bytes) -> bool:
    """Return whether a body is gzip."""
    return body[:2] == b"\x1f\x8b"
