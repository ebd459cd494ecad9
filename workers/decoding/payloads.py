"""The payloads of one batch, in the form that decoders read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mdstream.errors import DecompressionError
from mdstream.handoff.compression import Compression, decompress
from mdstream.handoff.slab import Slab
from mdstream.limits import LARGEST_UNPACKED
from mdstream.streams.spec import PayloadKind
from workers.kernels.words import SPARE


class Piece(NamedTuple):
    """A payload, or some of its messages: which payload, the first message, and the bytes."""

    payload: int
    message: int
    data: memoryview | bytes
    kind: PayloadKind
    recv_ns: int


@dataclass(frozen=True, slots=True)
class Payloads:
    """Payloads in one buffer, with one number per payload in the other arrays.

    `buffer` is uint8 with at least `SPARE` bytes before the first payload and after the last.
    """

    buffer: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    kinds: npt.NDArray[np.uint8]
    recv_ns: npt.NDArray[np.int64]

    @classmethod
    def of_slab(cls, slab: Slab, entries: int) -> Payloads:
        """Return the first `entries` payloads of a slab, in place unless some must be decompressed.

        A payload that cannot be decompressed stays as it is, and will be rejected.
        """
        table = slab.table[:entries]
        if table["compression"].any():
            return cls.of(_unpack(slab, index, entry) for index, entry in enumerate(table))
        return cls(
            np.frombuffer(slab.view, np.uint8),
            table["offset"].astype(np.int64),
            table["length"].astype(np.int64),
            table["kind"].astype(np.uint8),
            table["recv_ns"].astype(np.int64),
        )

    @classmethod
    def of(cls, payloads: Iterable[tuple[bytes | memoryview, PayloadKind, int]]) -> Payloads:
        """Return a copy of payloads given as (bytes, kind, receive time in ns)."""
        parts: Sequence[tuple[bytes | memoryview, PayloadKind, int]] = list(payloads)
        lengths = np.array([len(data) for data, _, _ in parts], np.int64)
        whole = bytearray(b"".join((bytes(SPARE), *(data for data, _, _ in parts), bytes(SPARE))))
        return cls(
            np.frombuffer(whole, np.uint8),
            np.concatenate(([0], np.cumsum(lengths)[:-1])).astype(np.int64)[: len(parts)] + SPARE,
            lengths,
            np.array([kind for _, kind, _ in parts], np.uint8),
            np.array([recv for _, _, recv in parts], np.int64),
        )

    def __len__(self) -> int:
        return len(self.offsets)

    def piece(self, index: int) -> Piece:
        """Return all of payload `index`."""
        kind = PayloadKind(int(self.kinds[index]))
        return Piece(index, 0, self.view(index), kind, int(self.recv_ns[index]))

    def cut(self, span: Any) -> bytes:
        """Return the bytes of a span (start | length << 32)."""
        start = int(span) & 0xFFFFFFFF
        return self.buffer[start : start + (int(span) >> 32)].tobytes()

    def view(self, index: int) -> memoryview:
        """Return the bytes of payload `index`, in place."""
        start = int(self.offsets[index])
        return self.buffer[start : start + int(self.lengths[index])].data


def _unpack(slab: Slab, index: int, entry: Any) -> tuple[bytes | memoryview, PayloadKind, int]:
    data: bytes | memoryview = slab.payload(index)
    with contextlib.suppress(DecompressionError):
        data = decompress(data, Compression(int(entry["compression"])), LARGEST_UNPACKED)
    return data, PayloadKind(int(entry["kind"])), int(entry["recv_ns"])
