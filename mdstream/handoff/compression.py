"""Compression of payloads. A compressed payload stays compressed until a worker decompresses it."""

from __future__ import annotations

import io
import zlib
from enum import IntEnum

from mdstream.errors import DecompressionError

_MEMBER = b"\x1f\x8b"
"""The first bytes of a member of a gzip file."""
_MEMBERS_LOOKED_AT = 10
"""Members in which the start of a body is searched."""


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
    start = b""
    for _ in range(_MEMBERS_LOOKED_AT):
        # A script that runs a backfill may have an `isal.py` beside it, so Python's own is used here.
        unpacker = zlib.decompressobj(wbits=31)
        try:
            start += unpacker.decompress(data, most - len(start))
        except zlib.error as error:
            raise DecompressionError(f"bad gzip: {error}") from error
        data = unpacker.unused_data
        if len(start) == most or data[:2] != _MEMBER:
            break
    return start


def decompress(data: bytes | memoryview, compression: Compression, most: int) -> bytes:
    """Return the decompressed bytes of all members (RFC 1952 allows several).

    Raises `DecompressionError`, also if there are more than `most`.
    """
    if compression is Compression.PLAIN:
        return bytes(data)
    from isal import igzip, igzip_lib, isal_zlib  # readers and feeds do not need it

    unpacker = isal_zlib.decompressobj(wbits=31)
    try:
        plain: bytes = unpacker.decompress(data, most + 1)
        if unpacker.eof and unpacker.unused_data[:2] == _MEMBER and len(plain) <= most:
            rest = io.BytesIO(unpacker.unused_data)
            with igzip.IGzipFile(fileobj=rest) as others:  # type: ignore[no-untyped-call]
                plain += others.read(most + 1 - len(plain))
    except (igzip_lib.IsalError, OSError, EOFError) as error:  # type: ignore[misc]  # its stub has a variable
        raise DecompressionError(f"bad gzip: {error}") from error
    if len(plain) > most:
        raise DecompressionError(f"more than {most:,} bytes once decompressed")
    if not unpacker.eof:
        raise DecompressionError("bad gzip: it ends too early")
    return plain
