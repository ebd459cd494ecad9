"""How a payload's bytes are packed. What came compressed stays so until a worker unpacks it."""

from __future__ import annotations

from enum import IntEnum

from mdstream.errors import UnpackingError


class Packing(IntEnum):
    """What was done to a payload's bytes on their way."""

    PLAIN = 0
    GZIP = 1


def unpacked_size(data: bytes, packing: Packing) -> int:
    """How many bytes `data` says that it unpacks to: a guess, for nobody has looked."""
    if packing is Packing.PLAIN or len(data) < 18:
        return len(data)
    return int.from_bytes(data[-4:], "little")


def unpack(data: bytes | memoryview, packing: Packing, most: int) -> bytes:
    """The bytes as they were. Raises `UnpackingError`, also for more than `most` of them."""
    if packing is Packing.PLAIN:
        return bytes(data)
    from isal import igzip_lib, isal_zlib  # readers and feeds do without

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
