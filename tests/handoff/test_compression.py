from __future__ import annotations

import gzip
import time
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdstream.errors import DecompressionError
from mdstream.handoff.compression import Compression, decompress, decompressed_size, decompressed_start
from mdstream.handoff.slab import Slab
from mdstream.streams.spec import PayloadKind
from workers.decoding.payloads import Payloads


@given(st.binary(max_size=2000), st.integers(1, 9))
def test_what_was_packed_is_unpacked(data: bytes, level: int) -> None:
    compressed = gzip.compress(data, level)
    assert decompress(compressed, Compression.GZIP, len(data)) == data
    assert decompressed_size(compressed, Compression.GZIP) == len(data)
    assert decompress(memoryview(data), Compression.PLAIN, 0) == data
    assert decompressed_size(data, Compression.PLAIN) == len(data)


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=5))
def test_all_members_are_unpacked(parts: list[bytes]) -> None:
    """RFC 1952, 2.2: a gzip file has one member or more."""
    packed = b"".join(map(gzip.compress, parts))
    assert decompress(packed, Compression.GZIP, 10_000) == gzip.decompress(packed) == b"".join(parts)
    with pytest.raises(DecompressionError):
        decompress(packed[:-1], Compression.GZIP, 10_000)
    whole = b"".join(parts)
    assert decompressed_start(packed, Compression.GZIP, 50) == whole[:50]
    if total := sum(map(len, parts)):
        with pytest.raises(DecompressionError, match="more than"):
            decompress(packed, Compression.GZIP, total - 1)


def test_very_many_members_take_no_longer_than_their_bytes() -> None:
    """Each member that copied the rest would take minutes."""
    packed = gzip.compress(b"") * 100_000 + gzip.compress(b"end")
    began = time.process_time()
    assert decompress(packed, Compression.GZIP, 10) == b"end"
    assert decompressed_start(packed, Compression.GZIP, 10) == b""
    assert time.process_time() - began < 30


@given(st.binary(max_size=300), st.binary(max_size=40), st.integers(0, 400))
def test_whatever_comes_is_unpacked_as_the_library_does_or_refused(
    data: bytes, noise: bytes, at: int
) -> None:
    compressed = gzip.compress(data)
    bent = compressed[: min(at, len(compressed))] + noise
    try:
        plain = decompress(bent, Compression.GZIP, 10_000)
    except DecompressionError:
        return
    unpacker = zlib.decompressobj(wbits=31)
    assert plain == unpacker.decompress(bent)
    assert unpacker.eof


def test_a_bomb_is_not_unpacked() -> None:
    bomb = gzip.compress(bytes(10_000_000))
    with pytest.raises(DecompressionError, match="more than 1,000,000 bytes once decompressed"):
        decompress(bomb, Compression.GZIP, 1_000_000)


def test_a_slab_of_packed_and_plain_payloads_is_read_in_order(tmp_path: Path) -> None:
    slab = Slab.create(tmp_path / "slab", 65_536)
    slab.begin(1)
    kept = [b'{"a":1}', b"[]", b"x" * 5000, b"not gzip at all"]
    for number, (data, compression) in enumerate(
        zip(kept, (Compression.GZIP, Compression.PLAIN, Compression.GZIP, Compression.PLAIN), strict=True)
    ):
        compressed = gzip.compress(data) if compression else data
        slab.append(
            compressed, PayloadKind.TRADES, number, compression, decompressed_size(compressed, compression)
        )
    slab.append(b"not gzip at all", PayloadKind.LISTED, 9, Compression.GZIP)
    slab.seal()
    payloads = Payloads.of_slab(slab, slab.entries)
    assert [bytes(payloads.view(i)) for i in range(5)] == [*kept, b"not gzip at all"]
    assert payloads.recv_ns.tolist() == [0, 1, 2, 3, 9]
    assert payloads.kinds.tolist() == [PayloadKind.TRADES] * 4 + [PayloadKind.LISTED]


def test_a_slab_takes_no_more_than_its_results_have_room_for(tmp_path: Path) -> None:
    slab = Slab.create(tmp_path / "slab", 65_536)
    slab.begin(1)
    assert slab.fits(1000, 10_000_000), "an empty slab takes one payload of any decompressed size"
    slab.append(bytes(1000), PayloadKind.TRADES, 0, Compression.GZIP, 50_000)
    assert slab.fits(1000, 15_000)
    assert not slab.fits(1000, 16_000)
    assert slab.fits(1000)
