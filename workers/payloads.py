"""The payloads of one batch, as decoders take them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mdstream.handoff.slab import Slab
from mdstream.streams.spec import PayloadKind
from workers.kernels.words import SPARE


class Piece(NamedTuple):
    """A payload, or some messages of one: which, the first of them, and their bytes."""

    payload: int
    message: int
    data: memoryview | bytes
    kind: PayloadKind
    recv_ns: int


@dataclass(frozen=True, slots=True)
class Payloads:
    """Bytes in one buffer, and a number a payload for each of the rest.

    `buffer` is uint8 and has `SPARE` bytes at least before the first payload and behind the last.
    """

    buffer: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    kinds: npt.NDArray[np.uint8]
    recv_ns: npt.NDArray[np.int64]

    @classmethod
    def of_slab(cls, slab: Slab, entries: int) -> Payloads:
        """The first `entries` payloads of a slab, in place."""
        table = slab.table[:entries]
        return cls(
            np.frombuffer(slab.view, np.uint8),
            table["offset"].astype(np.int64),
            table["length"].astype(np.int64),
            table["kind"].astype(np.uint8),
            table["recv_ns"].astype(np.int64),
        )

    @classmethod
    def of(cls, payloads: Iterable[tuple[bytes, PayloadKind, int]]) -> Payloads:
        """A copy of (bytes, kind, receive time in ns)."""
        parts: Sequence[tuple[bytes, PayloadKind, int]] = list(payloads)
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
        """All of payload `index`."""
        kind = PayloadKind(int(self.kinds[index]))
        return Piece(index, 0, self.view(index), kind, int(self.recv_ns[index]))

    def cut(self, span: Any) -> bytes:
        """The bytes of a span (start | length << 32)."""
        start = int(span) & 0xFFFFFFFF
        return self.buffer[start : start + (int(span) >> 32)].tobytes()

    def view(self, index: int) -> memoryview:
        """The bytes of payload `index`, in place."""
        start = int(self.offsets[index])
        return self.buffer[start : start + int(self.lengths[index])].data
