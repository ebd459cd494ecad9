"""Payloads to columns: by compiled kernels if they know the form, otherwise by the fallback decoder.

    payloads ─► match (pass 1) ─► spans ─► values, codes (pass 2) ─► columns ─┐
                   │ fell back                 │ fell back                    ├─► in order of receipt
                   └───► fallback decoder ◄────┘  ─► columns ─────────────────┘

The kernels' result equals the fallback decoder's, bit for bit, or they leave the payload to it. So the rows
do not depend on which of the two decoded a payload.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mdstream.errors import UnfitError
from mdstream.handoff.columns import ColumnData, ResultArea, concatenate
from mdstream.handoff.ticket import BodyContents, Reject
from mdstream.streams.spec import Channel, PayloadKind, StreamSpec
from workers.decoding.codes import BatchCodes
from workers.decoding.columns import Position
from workers.decoding.fallback import Decoded, FallbackDecoder, describe_fault
from workers.decoding.kernel_decoder import KernelDecoder, Known, has_kernels
from workers.decoding.kernel_rows import ChannelRows
from workers.decoding.matching import keep_skipped
from workers.decoding.payloads import Payloads, Piece
from workers.kernels import ops


@dataclass(slots=True)
class _Taken:
    """The part of a batch that kernels decoded."""

    left: npt.NDArray[np.bool_]
    """Payloads that the kernels left to the fallback decoder."""
    messages: npt.NDArray[np.uint32]
    parts: dict[str, list[ChannelRows]] = field(default_factory=dict)
    pieces: list[Piece] = field(default_factory=list)
    """Single messages that the kernels left, in payloads that they decoded."""
    bodies: dict[int, BodyContents] = field(default_factory=dict)
    fell_back: int = 0


class Decoder:
    """Decodes the batches of one stream.

    `known` returns the codes of a dictionary by name; it may grow between batches, never within one.
    Without `kernels`, everything goes to the fallback decoder.
    """

    _kernel_decoders: dict[PayloadKind, KernelDecoder]
    """Created for the first payload of a kind; dropped after an error of the kernels. Written only here."""

    def __init__(self, spec: StreamSpec, known: Known, *, kernels: bool = True) -> None:
        self._spec = spec
        self._known = known
        self._kernels = [kind for kind in PayloadKind if kernels and has_kernels(spec, kind)]
        self._fallback = FallbackDecoder(spec, known)
        self._kernel_decoders = {}

    def decode(self, payloads: Payloads, area: ResultArea | None = None) -> Decoded:
        """Return the columns of a batch, in `area` if possible. Malformed bytes never raise."""
        kinds = self._kinds(payloads)
        if not kinds:
            return self._fallback.decode(payloads)
        area = area or ResultArea(memoryview(b""))
        used, fault = area.used, ""
        try:
            if decoded := self.by_kernels(payloads, kinds, area):
                return decoded
        except Exception as error:  # an error in our code must not lose a batch
            self._kernel_decoders.clear()
            fault = describe_fault("the kernels, so all payloads fell back", error)
        area.used = used
        alone = self._fallback.decode(payloads)
        alone.fell_back, alone.fault = len(payloads), fault or alone.fault
        return alone

    def stream_decoder(self) -> tuple[PayloadKind, KernelDecoder] | None:
        """Return the kernels that decode payloads of the stream, and their kind; None before the first."""
        for kind, decoder in self._kernel_decoders.items():
            if kind.from_stream:
                return kind, decoder
        return None

    def add_bytes(self, rejects: Sequence[Reject], payloads: Payloads) -> list[Reject]:
        """Return rejects, found after decoding, with their bytes."""
        return self._fallback.add_bytes(rejects, [payloads.piece(i) for i in range(len(payloads))])

    def by_kernels(self, payloads: Payloads, kinds: list[PayloadKind], area: ResultArea) -> Decoded | None:
        """Decode a batch: payloads of `kinds` by kernels, the rest by the fallback decoder.

        Return None if a dictionary has no room for all new texts: then their order decides which get a
        code. Errors of the kernels propagate.
        """
        taken = self._take(payloads, kinds, area)
        codes = BatchCodes(self._known)
        try:
            for name, parts in taken.parts.items():
                for part in parts:
                    _admit(codes, self._spec.by_name[name], part)
        except UnfitError:
            return None
        decoded = self._merge(payloads, taken, codes)
        return None if codes.overflowed else decoded

    def _kinds(self, payloads: Payloads) -> list[PayloadKind]:
        """Return the kinds of payload that kernels decode."""
        [valid] = np.bincount(payloads.kinds).nonzero()
        return [kind for kind in self._kernels if kind in valid.tolist()]

    def _take(self, payloads: Payloads, kinds: list[PayloadKind], area: ResultArea) -> _Taken:
        taken = _Taken(np.ones(len(payloads), np.bool_), np.zeros(len(payloads), np.uint32))
        for kind in kinds:
            decoder = self._kernel_decoders.get(kind)
            if decoder is None:
                decoder = self._kernel_decoders[kind] = KernelDecoder(self._spec, self._known, kind)
            verdicts = (payloads.kinds != kind) * ops.OTHER
            found, parts = decoder.decode(payloads, verdicts, area)
            taken.left &= verdicts != ops.GOOD
            taken.messages += found.messages
            taken.bodies |= found.bodies
            taken.fell_back += int(np.count_nonzero(verdicts == ops.FELL_BACK))
            for name, part in parts.items():
                taken.parts.setdefault(name, []).append(part)
            for message in keep_skipped(found.skipped, verdicts):
                recv_ns = int(payloads.recv_ns[message.payload])
                taken.pieces.append(Piece(message.payload, message.message, message.data, kind, recv_ns))
        return taken

    def _merge(self, payloads: Payloads, taken: _Taken, codes: BatchCodes) -> Decoded:
        pieces = [payloads.piece(payload) for payload in np.flatnonzero(taken.left).tolist()]
        pieces = sorted(pieces + taken.pieces, key=lambda piece: (piece.payload, piece.message))
        out = self._fallback.decode_pieces(pieces, codes, taken.messages.tolist())
        out.fell_back = taken.fell_back
        out.bodies |= taken.bodies
        for name, parts in taken.parts.items():
            channel = self._spec.by_name[name]
            for part in parts:
                for fresh in part.fresh:
                    code = codes.coder(channel.columns[fresh.column], out.new)
                    values = part.columns[fresh.column].values
                    values[fresh.rows] = np.array([code(t) for t in fresh.texts])[fresh.which]
            positions = out.rows[name].positions if name in out.columns else []
            _interleave(name, parts, positions, out)
        return out


def _admit(codes: BatchCodes, channel: Channel, part: ChannelRows) -> None:
    for fresh in part.fresh:
        codes.admit(channel, [(fresh.column, fresh.texts)], part.places(fresh.firsts))


def _interleave(name: str, parts: list[ChannelRows], positions: list[Position], out: Decoded) -> None:
    """Put the rows of both decoders in order of receipt."""
    others = out.columns.get(name)
    if others is None and len(parts) == 1:
        out.columns[name] = parts[0].columns
        out.places[name] = parts[0].payload, parts[0].message
        return
    at = np.array(positions, np.int64).reshape(-1, 2)
    payload = np.concatenate([*(part.payload for part in parts), at[:, 0]])
    message = np.concatenate([*(part.message for part in parts), at[:, 1]])
    order = np.lexsort((message, payload))
    ways = [*(part.columns for part in parts), *([] if others is None else [others])]
    merged = []
    for pieces in zip(*ways, strict=True):
        whole = concatenate(pieces)
        mask = None if whole.mask is None else whole.mask[order]
        merged.append(ColumnData(whole.values[order], mask))
    out.columns[name] = merged
    out.places[name] = payload[order], message[order]
