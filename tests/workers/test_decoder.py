"""Kernels against the library: whatever the bytes, they must make the same of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mdstream.simulator.encode import ENCODINGS
from mdstream.streams import STREAMS
from mdstream.streams.spec import PayloadKind
from tests import traffic
from tests.decoding import RECV_NS, Dictionaries
from workers.decoder import Decoder
from workers.library import Decoded, LibraryDecoder
from workers.payloads import Payloads

COUNT = 3000


class Pair:
    """Both decoders, batch after batch, each with dictionaries of its own."""

    def __init__(self, stream: str) -> None:
        self.kernels, self.library = Dictionaries(), Dictionaries()
        self._decoder = Decoder(STREAMS[stream], self.kernels.known)
        self._oracle = LibraryDecoder(STREAMS[stream], self.library.known)
        self.payloads = self.gave_way = 0

    def decode(self, payloads: list[bytes], kind: PayloadKind) -> Decoded:
        batch = Payloads.of([(p, kind, RECV_NS + i) for i, p in enumerate(payloads)])
        ours, theirs = self._decoder.decode(batch), self._oracle.decode(batch)
        assert_same(ours, theirs)
        self.payloads += len(payloads)
        self.gave_way += ours.gave_way
        self.kernels.take(ours)
        self.library.take(theirs)
        return ours


def assert_same(ours: Decoded, theirs: Decoded) -> None:
    assert ours.counts == theirs.counts
    assert sorted(ours.rejects) == sorted(theirs.rejects)
    assert ours.control == theirs.control
    assert ours.new == theirs.new
    assert ours.symbols == theirs.symbols
    assert ours.page_tokens == theirs.page_tokens
    assert set(ours.columns) == set(theirs.columns)
    for name, columns in ours.columns.items():
        for index, (one, other) in enumerate(zip(columns, theirs.columns[name], strict=True)):
            where = f"{name}, column {index}"
            assert one.values.dtype == other.values.dtype, where
            assert one.values.tobytes() == other.values.tobytes(), where
            assert (one.mask is None) == (other.mask is None), where
            if one.mask is not None and other.mask is not None:
                assert np.array_equal(one.mask, other.mask), where
            if one.heap is not None and other.heap is not None:
                assert one.heap.tobytes() == other.heap.tobytes(), where


def batches(stream: str, codec: str, per: int, count: int = COUNT, size: int = 40) -> Any:
    form = ENCODINGS[codec]
    messages = traffic.messages(stream, count)
    payloads = [
        form.payload([form.message(m) for m in messages[i : i + per]]) for i in range(0, count, per)
    ]
    return [payloads[i : i + size] for i in range(0, len(payloads), size)]


@pytest.mark.parametrize("per", [1, 3, 50])
@pytest.mark.parametrize("stream", ["stocks", "crypto"])
def test_generated_traffic_decodes_alike(stream: str, per: int) -> None:
    pair = Pair(stream)
    for batch in batches(stream, "json", per):
        pair.decode(batch, PayloadKind.JSON)
    assert pair.gave_way < pair.payloads / 2
