"""Both decoders side by side, and unusual values to test them."""

from __future__ import annotations

import numpy as np

from mdstream.handoff.columns import ResultArea
from mdstream.streams import STREAMS
from mdstream.streams.spec import PayloadKind, StreamSpec
from tests.decoding import RECV_NS, Dictionaries
from workers.decoding.decoder import Decoder
from workers.decoding.fallback import Decoded, FallbackDecoder
from workers.decoding.payloads import Payloads


class Pair:
    """Both decoders, which decode the same batches. Each has its own dictionaries."""

    def __init__(self, stream: str | StreamSpec) -> None:
        spec = STREAMS[stream] if isinstance(stream, str) else stream
        self.kernels, self.fallback = Dictionaries(), Dictionaries()
        self._decoder = Decoder(spec, self.kernels.known)
        self._oracle = FallbackDecoder(spec, self.fallback.known)
        self.payloads = self.fell_back = 0
        self.room = 1 << 20

    def decode(self, payloads: list[bytes], kind: PayloadKind) -> Decoded:
        return self.decode_mixed([(p, kind) for p in payloads])

    def decode_mixed(self, payloads: list[tuple[bytes, PayloadKind]]) -> Decoded:
        batch = Payloads.of([(p, kind, RECV_NS + i) for i, (p, kind) in enumerate(payloads)])
        area = ResultArea(memoryview(bytearray(self.room)))
        ours, theirs = self._decoder.decode(batch, area), self._oracle.decode(batch)
        assert not ours.fault
        assert_same(ours, theirs)
        self.payloads += len(payloads)
        self.fell_back += ours.fell_back
        self.kernels.take(ours)
        self.fallback.take(theirs)
        return ours


def assert_same(ours: Decoded, theirs: Decoded) -> None:
    assert ours.counts == theirs.counts
    assert sorted(ours.rejects) == sorted(theirs.rejects)
    assert ours.control == theirs.control
    assert ours.new == theirs.new
    assert ours.bodies == theirs.bodies
    assert sorted(ours.lost_levels) == sorted(theirs.lost_levels)
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


UNUSUAL_VALUES = [
    b"0",
    b"-0",
    b"-0.0",
    b"1",
    b"-1",
    b"1.5",
    b"0.1",
    b"-0.001",
    b"01",
    b"1.",
    b".5",
    b"+1",
    b"1e5",
    b"1E-7",
    b"1.5e+22",
    b"1e23",
    b"1e400",
    b"1e100",
    b"-1.0000000000000002e100",
    b"1e200",
    b"1e-400",
    b"9007199254740993",
    b"9007199254740993.0",
    b"0.30000000000000004",
    b"123456789012345678",
    b"9223372036854775807",
    b"9223372036854775808",
    b"18446744073709551615",
    b"18446744073709551616",
    b"-9223372036854775808",
    b"123456789.123456789",
    b"100.0",
    b"1e2",
    b"-",
    b"--1",
    b"null",
    b"true",
    b"false",
    b"nul",
    b"NaN",
    b"Infinity",
    b'""',
    b'" "',
    b'"@"',
    b'"AAPL"',
    b'"\\u0041"',
    b'"\xc3\xa9"',
    b'"\xff"',
    b'"a\\"b"',
    b'"\x01"',
    b"[]",
    b'["@"]',
    b'["@","T"]',
    b'["AB"]',
    b'["[","x"]',
    b"[1]",
    b'["@",]',
    b"[[]]",
    b"{}",
    b'{"a":1}',
    b'[{"p":1,"s":2}]',
    b'[{"s":2,"p":1e-9},{"p":1,"s":0}]',
    b'[{"p":1}]',
    b'[{"p":null,"s":"x"}]',
    b'"2024-03-12T10:38:50Z"',
    b'"2024-03-12T10:38:50.7Z"',
    b'"2024-03-12T10:38:50.796132219Z"',
    b'"2024-03-12T10:38:50.7961322191Z"',
    b'"2024-03-12T10:38:50.Z"',
    b'"2024-03-12T10:38:60Z"',
    b'"2024-02-30T10:38:50Z"',
    b'"2024-02-29T10:38:50Z"',
    b'"2023-02-29T10:38:50Z"',
    b'"1969-12-31T23:59:59Z"',
    b'"9999-12-31T23:59:59Z"',
    b'"2024-03-12T10:38:50+01:00"',
    b'"2024-03-12 10:38:50Z"',
    b'"2024-03-12t10:38:50z"',
    b'"2024-03-12T10:38:50.123456789-05:30"',
    b'"2024-03-12T10:38:50.+05:30"',
    b'"2024-03-12T10:38:50+24:00"',
    b'"2024-03-12T10:38:50-00:60"',
    b'"2024-03-12T10:38:50 01:00"',
    b'"1970-01-01T00:00:00+23:59"',
    b'"2024-03-12T24:00:00Z"',
    b'"2024-03-12T10:38:50.79613221Z"',
    b'"\\n"',
]
