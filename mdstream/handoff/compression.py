"""Compression of payloads. A compressed payload stays compressed until a worker decompresses it."""

from __future__ import annotations

import zlib
from enum import IntEnum

from mdstream.errors import DecompressionError

_MEMBER = b"\x1f\x8b"
"""The first bytes of a member of a gzip file."""


class Compression(IntEnum):
    """Compression of a payload's bytes."""

    PLAIN = 0
    GZIP = 1


def decompressed_size(data: bytes, compression: Compression) -> int:
    """Return the decompressed size that `data` states. It may be wrong: nothing is decompressed."""
    if compression is Compression.PLAIN or len(data) < 18:
        return len(data)
    return int.from_bytes(data[-4:], "little")


def decompressed_start(data: bytes, compression: Compression, most: int) -> bytes:
    """Return the first `most` decompressed bytes. Raises `DecompressionError`."""
    if compression is Compression.PLAIN:
        return data[:most]
    try:  # a script that runs a backfill may have an `isal.py` beside it, so Python's own is used here
        return zlib.decompressobj(wbits=31).decompress(data, most)
    except zlib.error as error:
        raise DecompressionError(f"bad gzip: {error}") from error


def decompress(data: bytes | memoryview, compression: Compression, most: int) -> bytes:
    """Return the decompressed bytes of all members (RFC 1952 allows several).

    Raises `DecompressionError`, also if there are more than `most`.
    """
    if compression is Compression.PLAIN:
        return bytes(data)
    from isal import igzip_lib, isal_zlib  # readers and feeds do not need it

    parts: list[bytes] = []
    rest: bytes | memoryview = data
    while not parts or bytes(rest[:2]) == _MEMBER:
        unpacker = isal_zlib.decompressobj(wbits=31)
        try:
            parts.append(unpacker.decompress(rest, most + 1))
        except igzip_lib.IsalError as error:  # type: ignore[misc]  # its stub has a variable
            raise DecompressionError(f"bad gzip: {error}") from error
        if sum(map(len, parts)) > most:
            raise DecompressionError(f"more than {most:,} bytes once decompressed")
        if not unpacker.eof:
            raise DecompressionError("bad gzip: it ends too early")
        rest = unpacker.unused_data
    return b"".join(parts)
