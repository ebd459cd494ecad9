"""Decoding in tests: payloads in, rows of plain values out."""

from __future__ import annotations

from typing import Any

from mdstream.handoff.columns import ColumnData
from mdstream.streams import STREAMS
from mdstream.streams.spec import Column, Kind, PayloadKind
from mdstream.streams.storage import PROVISIONAL
from workers.decoding.fallback import Decoded, FallbackDecoder
from workers.decoding.payloads import Payloads

RECV_NS = 1_700_000_000_123_456_789


class Dictionaries:
    """Dictionaries that give codes to texts as a feed does, batch after batch."""

    def __init__(self) -> None:
        self.texts: dict[str, list[str]] = {}
        self.codes: dict[str, dict[str, int]] = {}

    def known(self, name: str) -> dict[str, int]:
        return self.codes.setdefault(name, {})

    def take(self, decoded: Decoded) -> None:
        for name, texts in decoded.new.items():
            for text in texts:
                if text not in self.known(name):
                    self.known(name)[text] = len(self.known(name))
                    self.texts.setdefault(name, []).append(text)


def decode(stream: str, *payloads: bytes, kind: PayloadKind = PayloadKind.JSON) -> Decoded:
    decoder = FallbackDecoder(STREAMS[stream], Dictionaries().known)
    return decoder.decode(Payloads.of([(p, kind, RECV_NS) for p in payloads]))


def rows(
    stream: str, decoded: Decoded, dictionaries: Dictionaries | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Return channel → rows, with texts instead of codes, and without `recv_ts`."""
    out = {}
    for name, columns in decoded.columns.items():
        channel = STREAMS[stream].by_name[name]
        values = [
            _values(c, d, decoded, dictionaries) for c, d in zip(channel.columns, columns, strict=True)
        ]
        names = [c.name for c in channel.columns]
        out[name] = [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]
        for row in out[name]:
            assert row.pop("recv_ts") == RECV_NS
    return out


def find_text(decoded: Decoded, dictionaries: Dictionaries | None, column: Column, code: int) -> str:
    """Return the text of a code from this batch or an earlier one."""
    if code >= PROVISIONAL[column.kind]:
        return decoded.new[column.dictionary][code - PROVISIONAL[column.kind]]
    assert dictionaries is not None
    return dictionaries.texts[column.dictionary][code]


def _values(
    column: Column, data: ColumnData, decoded: Decoded, dictionaries: Dictionaries | None
) -> list[Any]:
    def text(code: int) -> str:
        return find_text(decoded, dictionaries, column, code)

    values: list[Any] = data.values.tolist()
    if data.heap is not None:
        starts = [0, *values[:-1]]
        cut = [data.heap[a:b] for a, b in zip(starts, values, strict=True)]
        values = (
            [[text(int(c)) for c in piece] for piece in cut]
            if column.kind is Kind.SYMBOLS
            else [bytes(piece).decode() for piece in cut]
        )
    elif column.kind in PROVISIONAL:
        present = [True] * len(values) if data.mask is None else data.mask.tolist()
        values = [text(v) if there else None for v, there in zip(values, present, strict=True)]
    if data.mask is None:
        return values
    return [v if there else None for v, there in zip(values, data.mask.tolist(), strict=True)]


def find_stream_and_kind(path: str) -> tuple[str, PayloadKind]:
    """Return the stream and the kind of a recorded REST body, found by its path."""
    stream = next(name for name in STREAMS if name in path)
    last = [part for part in path.split("/") if part not in ("latest", "{symbol}")][-1]
    spec = STREAMS[stream]
    return stream, spec.state_kind if last == spec.fetch.member else PayloadKind[last.upper()]
