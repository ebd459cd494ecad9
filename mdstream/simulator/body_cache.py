"""A cache of bodies about the past, which do not change and are slow to make."""

from __future__ import annotations

import gzip
from collections import OrderedDict

_MOST_BYTES = 512 * 1024 * 1024
"""Most compressed bytes in the cache; beyond that the least recently used bodies are evicted."""
_PACKED_FROM = 1024
"""Size in bytes of the smallest body that is compressed."""
_LEVEL = 6

Key = tuple[tuple[str, str], ...]


class BodyCache:
    """Query → compressed body."""

    _kept: OrderedDict[Key, bytes]
    _bytes: int

    def __init__(self) -> None:
        self._kept = OrderedDict()
        self._bytes = 0

    def get(self, key: Key) -> bytes | None:
        """Return the compressed body, if the cache has it."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def keep(self, key: Key, compressed: bytes) -> None:
        """Add a compressed body."""
        self._kept[key] = compressed
        self._bytes += len(compressed)
        while self._bytes > _MOST_BYTES:
            _, evicted = self._kept.popitem(last=False)
            self._bytes -= len(evicted)


def compress(body: bytes) -> bytes:
    """Return a large body as gzip, and a small one as it is."""
    return gzip.compress(body, _LEVEL) if len(body) >= _PACKED_FROM else body


def decompress(body: bytes) -> bytes:
    """Return the body that `compress` compressed."""
    return gzip.decompress(body) if is_compressed(body) else body


def is_compressed(body: bytes) -> bool:
    """Return whether a body is gzip."""
    return body[:2] == b"\x1f\x8b"
