from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdstream.errors import UnpackingError
from mdstream.handoff.packing import Packing, unpack, unpacked_size
from mdstream.handoff.slab import Slab
from mdstream.streams.spec import PayloadKind
from workers.decoding.payloads import Payloads


@given(st.binary(max_size=2000), st.integers(1, 9))
def test_what_was_packed_is_unpacked(data: bytes, level: int) -> None:
    packed = gzip.compress(data, level)
    assert unpack(packed, Packing.GZIP, len(data)) == data
    assert unpacked_size(packed, Packing.GZIP) == len(data)
    assert unpack(memoryview(data), Packing.PLAIN, 0) == data
    assert unpacked_size(data, Packing.PLAIN) == len(data)


@given(st.binary(max_size=300), st.binary(max_size=40), st.integers(0, 400))
def test_whatever_comes_is_unpacked_as_the_library_does_or_refused(
    data: bytes, noise: bytes, at: int
) -> None:
    packed = gzip.compress(data)
    bent = packed[: min(at, len(packed))] + noise
    try:
        plain = unpack(bent, Packing.GZIP, 10_000)
    except UnpackingError:
        return
    unpacker = zlib.decompressobj(wbits=31)
    assert plain == unpacker.decompress(bent)
    assert unpacker.eof


def test_a_bomb_is_not_unpacked() -> None:
    bomb = gzip.compress(bytes(10_000_000))
    with pytest.raises(UnpackingError, match="more than 1,000,000 bytes once unpacked"):
        unpack(bomb, Packing.GZIP, 1_000_000)


def test_a_slab_of_packed_and_plain_payloads_is_read_in_order(tmp_path: Path) -> None:
    slab = Slab.create(tmp_path / "slab", 65_536)
    slab.begin(1)
    kept = [b'{"a":1}', b"[]", b"x" * 5000, b"not gzip at all"]
    for number, (data, packing) in enumerate(
        zip(kept, (Packing.GZIP, Packing.PLAIN, Packing.GZIP, Packing.PLAIN), strict=True)
    ):
        packed = gzip.compress(data) if packing else data
        slab.append(packed, PayloadKind.TRADES, number, packing, unpacked_size(packed, packing))
    slab.append(b"not gzip at all", PayloadKind.LISTED, 9, Packing.GZIP)
    slab.seal()
    payloads = Payloads.of_slab(slab, slab.entries)
    assert [bytes(payloads.view(i)) for i in range(5)] == [*kept, b"not gzip at all"]
    assert payloads.recv_ns.tolist() == [0, 1, 2, 3, 9]
    assert payloads.kinds.tolist() == [PayloadKind.TRADES] * 4 + [PayloadKind.LISTED]


def test_a_slab_takes_no_more_than_its_results_have_room_for(tmp_path: Path) -> None:
    slab = Slab.create(tmp_path / "slab", 65_536)
    slab.begin(1)
    assert slab.fits(1000, 10_000_000), "an empty slab takes one payload of any unpacked size"
    slab.append(bytes(1000), PayloadKind.TRADES, 0, Packing.GZIP, 50_000)
    assert slab.fits(1000, 15_000)
    assert not slab.fits(1000, 16_000)
    assert slab.fits(1000)
