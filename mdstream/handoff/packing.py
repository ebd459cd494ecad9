"""Packing of payloads. A compressed payload stays compressed until a worker unpacks it."""

from __future__ import annotations

from enum import IntEnum

from mdstream.errors import UnpackingError


class Packing(IntEnum):
    """Compression of a payload's bytes."""

    PLAIN = 0
    GZIP = 1


def unpacked_size(data: bytes, packing: Packing) -> int:
    """Return how many bytes `data` says that it unpacks to. It may be wrong: nothing is unpacked."""
    if packing is Packing.PLAIN or len(data) < 18:
        return len(data)
    return int.from_bytes(data[-4:], "little")


def unpack(data: bytes | memoryview, packing: Packing, most: int) -> bytes:
    """Return the unpacked bytes. Raises `UnpackingError`, also if there are more than `most`."""
    if packing is Packing.PLAIN:
        return bytes(data)
    from isal import igzip_lib, isal_zlib  # readers and feeds do not need it

    unpacker = isal_zlib.decompressobj(wbits=31)
    try:
        plain: bytes = unpacker.decompress(data, most + 1)
    except igzip_lib.IsalError as error:  # type: ignore[misc]  # its stub has a variable
        raise UnpackingError(f"bad gzip: {error}") from error
    if len(plain) > most:
        raise UnpackingError(f"more than {most:,} bytes once unpacked")
    if not unpacker.eof:
        raise UnpackingError("bad gzip: it ends too early")
    return plain
