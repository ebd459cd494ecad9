"""The frames and their columns, from the declarations in `mdstream.streams` and `mdstream.telemetry`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, cast

import polars as pl

from docs.generate import metrics
from docs.generate.markdown import code, table
from docs.generate.meanings import CHANNELS, MEANINGS, PREFIXES, Meaning
from mdstream.reading.views import list_views
from mdstream.streams import STREAMS
from mdstream.streams.books import book_channel
from mdstream.streams.spec import REJECTS, STATE, Channel, Column, Kind, StreamSpec
from mdstream.telemetry import schema

_FOLDED = 20
"""Tables with more rows than this are folded."""

_CODED = pl.Categorical()
_TIME = pl.Datetime("ns", "UTC")

TYPES: dict[Kind, pl.DataType] = {
    Kind.SYMBOL: _CODED,
    Kind.TIME: _TIME,
    Kind.FLOAT: pl.Float64(),
    Kind.INT: pl.Int64(),
    Kind.UINT: pl.UInt64(),
    Kind.BOOL: pl.Boolean(),
    Kind.CODE: _CODED,
    Kind.CONDITIONS: _CODED,
    Kind.TEXT: pl.String(),
    Kind.BYTES: pl.Binary(),
    Kind.JSON: pl.String(),
    Kind.SYMBOLS: pl.List(pl.String()),
}
"""How readers see each kind of column."""

_BOOK: dict[str, pl.DataType] = {
    "symbol": _CODED,
    "level": pl.Int64(),
    "bid_price": pl.Float64(),
    "bid_size": pl.Float64(),
    "ask_price": pl.Float64(),
    "ask_size": pl.Float64(),
    "ts": _TIME,
    "recv_ts": _TIME,
    "complete": pl.Boolean(),
    "bid_levels": pl.Int64(),
    "ask_levels": pl.Int64(),
}
"""A book as readers see it, a row a level."""

_PARTED = ("telemetry.batches",)
"""Frames of which each feed writes a part."""

_KEYS = ("symbol", "level", "root", "expiry", "strike", "right", "complete", "bid_levels", "ask_levels")
"""Columns of views and books that are never null."""


class FrameColumn(NamedTuple):
    """A column as readers see it."""

    name: str
    type: pl.DataType
    nullable: bool


class Frame(NamedTuple):
    """A frame that readers can ask for."""

    name: str
    columns: tuple[FrameColumn, ...]


def frames() -> list[Frame]:
    """Return every frame there can be, by stream, the engine's own last."""
    found = [frame for spec in STREAMS.values() for frame in _of_stream(spec)]
    telemetry = [value for value in vars(schema).values() if isinstance(value, Channel)]
    return found + [_labelled(_frame("telemetry", channel)) for channel in telemetry]


def render() -> str:
    """Return a section for each stream, a table for each frame.

    Raises `ValueError` for a frame or a column without a meaning, and for meanings that no column has.
    """
    unused = set(MEANINGS)
    parts, section = [], ""
    for frame in frames():
        stream, _, channel = frame.name.partition(".")
        if stream != section:
            section = stream
            parts.append(f"## {stream}\n")
        text = CHANNELS.get(frame.name) or CHANNELS.get(channel)
        if text is None:
            raise ValueError(f"frame {frame.name} has no description")
        rows = []
        for column in frame.columns:
            key, meaning = meaning_of(frame.name, column.name)
            unused.discard(key)
            null = "yes" if column.nullable else ""
            rows.append((code(column.name), _type(column.type), meaning.unit, null, meaning.text))
        parts.append(f"### {frame.name}\n\n{text}\n")
        columns = table(("column", "type", "unit", "nullable", "meaning"), rows)
        parts.append(_fold(columns, len(rows)) if len(rows) > _FOLDED else columns)
    if unused:
        raise ValueError(f"meanings of columns that do not exist: {sorted(unused)}")
    return "\n".join(parts)


def meaning_of(frame: str, column: str) -> tuple[str, Meaning]:
    """Return what a column of a frame means, and under which key that stands.

    Raises `ValueError` where it stands nowhere.
    """
    stream, _, channel = frame.partition(".")
    if (metric := metrics.metric_of(frame, column)) is not None:
        return "", Meaning(metric.help, metric.unit)
    for key in (f"{frame}.{column}", f"{channel}.{column}", f"{stream}.{column}", column):
        if key in MEANINGS:
            return key, MEANINGS[key]
    for prefix in sorted(PREFIXES, key=len, reverse=True):
        inner = column.removeprefix(prefix + "_")
        if inner != column:
            source = {"trade": "trades", "quote": "quotes", "pricing": "pricing"}.get(prefix, "bars")
            key, meaning = meaning_of(f"{stream}.{source}", inner)
            return key, Meaning(PREFIXES[prefix] + meaning.text, meaning.unit)
    raise ValueError(f"column {column} of frame {frame} has no meaning in docs/generate/meanings.py")


def _of_stream(spec: StreamSpec) -> Iterator[Frame]:
    channels = (*spec.channels, *spec.built_bars)
    stored = [c for c in channels if c.types or c in spec.built_bars or c.name == STATE]
    sources = [_frame(spec.name, channel) for channel in (*stored, REJECTS)]
    if spec.latest:
        latest = _frame(spec.name, spec.latest_channel)
        sources.append(Frame(latest.name, latest.columns[:-1]))  # readers do not see the version
    yield from sources
    if book_channel(spec):
        yield _made(f"{spec.name}.books", _BOOK, {})
    by_name = {frame.name: frame for frame in sources}
    for name, view in list_views(spec):
        source = by_name[f"{spec.name}.{view.source}"]
        made = view.make(pl.DataFrame(schema={column.name: column.type for column in source.columns}))
        nullable = {column.name: column.nullable for column in source.columns}
        yield _made(f"{spec.name}.{name}", made.schema, nullable)


def _frame(stream: str, channel: Channel) -> Frame:
    return Frame(f"{stream}.{channel.name}", tuple(map(_column, channel.columns)))


def _labelled(frame: Frame) -> Frame:
    """Return a frame of which each feed writes a part with the label that readers see: the stream."""
    if frame.name not in _PARTED:
        return frame
    return Frame(frame.name, (FrameColumn("stream", _CODED, False), *frame.columns))


def _column(column: Column) -> FrameColumn:
    return FrameColumn(column.name, TYPES[column.kind], column.nullable)


def _made(name: str, columns: Mapping[str, pl.DataType], nullable: Mapping[str, bool]) -> Frame:
    """Return a frame that readers make, by its schema; `nullable` holds what is known from its source."""
    found = [FrameColumn(c, _seen(kind), nullable.get(c, c not in _KEYS)) for c, kind in columns.items()]
    return Frame(name, tuple(found))


def _seen(kind: pl.DataType) -> pl.DataType:
    return _CODED if isinstance(kind, pl.Categorical) else kind


def _type(kind: pl.DataType) -> str:
    if isinstance(kind, pl.List):
        return f"List({_type(cast(pl.DataType, kind.inner))})"
    return 'Datetime("ns", "UTC")' if kind == _TIME else str(kind).partition("(")[0]


def _fold(text: str, rows: int) -> str:
    """Return a block that is folded until it is clicked."""
    inner = "\n".join("    " + line if line else "" for line in text.splitlines())
    return f'??? note "{rows} columns"\n\n{inner}\n'
