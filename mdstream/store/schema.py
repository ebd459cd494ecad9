"""Storage of a channel's columns on disk, for any program that reads Parquet or Delta tables.

Delta tables store times in microseconds. The 0 to 999 nanoseconds beyond them go into a column of their
own, next to the time. Codes are stored as their texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import orjson
import pyarrow as pa

from mdstream.streams.spec import CODED, Channel, Column, Kind

if TYPE_CHECKING:
    import polars as pl

NS_SUFFIX = "_ns"
"""Suffix of the column with the nanoseconds beyond a time's microsecond."""

RUN = "run"
"""Column of recorded tables with the name of the run that recorded the row: a source of `scan`."""

ROW = "row"
"""Column of recorded tables with the number of the row in its run's frame (`store/arrival.py`)."""

LARGEST_INT = (1 << 63) - 1
"""Largest integer that can be stored: Delta tables have no unsigned integers."""


def why_too_large(column: str, value: int) -> str:
    """Return why a table cannot hold an integer above `LARGEST_INT`."""
    return f"{column} {value} is more than a signed 64-bit integer holds"


_TYPES: dict[Kind, pa.DataType] = {
    Kind.TIME: pa.timestamp("us", "UTC"),
    Kind.FLOAT: pa.float64(),
    Kind.INT: pa.int64(),
    Kind.UINT: pa.int64(),
    Kind.BOOL: pa.bool_(),
    Kind.TEXT: pa.string(),
    Kind.JSON: pa.string(),
    Kind.SYMBOLS: pa.list_(pa.string()),
    Kind.BYTES: pa.binary(),
}
_CODES = pa.dictionary(pa.int32(), pa.string())


def stored_columns(channel: Channel) -> list[Column]:
    """Return the columns that are stored: all except those that only name the kind of message."""
    return [column for column in channel.columns if column.values is None]


def stored_schema(channel: Channel, coded: bool = False) -> pa.Schema:
    """Return the Arrow schema of the stored columns. With `coded`, codes are dictionaries of texts."""
    fields = []
    for column in stored_columns(channel):
        is_code = column.kind in CODED and column.kind is not Kind.SYMBOLS
        kind = (_CODES if coded else pa.string()) if is_code else _TYPES[column.kind]
        fields.append(pa.field(column.name, kind, column.nullable))
        if column.kind is Kind.TIME:
            fields.append(pa.field(column.name + NS_SUFFIX, pa.int16(), column.nullable))
    return pa.schema(fields)


def find_widened(channel: Channel, whole: Iterable[str]) -> list[str]:
    """Return those of the columns `whole`, which a table has as whole numbers, that are fractions now."""
    fractions = {column.name for column in channel.columns if column.kind is Kind.FLOAT}
    return [name for name in whole if name in fractions]


def format_time(when: datetime) -> str:
    """Return a time in UTC as the statistics in Delta's log have it: in milliseconds."""
    return when.strftime("%Y-%m-%dT%H:%M:%S.") + f"{when.microsecond // 1000:03d}Z"


def format_stats(rows: int, first: Mapping[str, str | int], last: Mapping[str, str | int]) -> str:
    """Return the statistics of a file for Delta's log: number of rows, least and greatest values.

    Times are in microseconds since 1970. No value of these columns is null.
    """
    stats = {
        "numRecords": rows,
        "minValues": {name: _format_bound(value, 0) for name, value in first.items()},
        "maxValues": {name: _format_bound(value, 1) for name, value in last.items()},
        "nullCount": dict.fromkeys(first, 0),
    }
    return orjson.dumps(stats).decode()


def _format_bound(value: str | int, up: int) -> str:
    """Return a bound as Delta's log has it: times in milliseconds, an upper one rounded up."""
    if isinstance(value, str):
        return value
    return format_time(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=value // 1000 + up))


def polars_schema(channel: Channel) -> pl.Schema:
    """Return the stored columns with their types in Polars."""
    import polars as pl

    empty = pl.from_arrow(stored_schema(channel).empty_table())
    assert isinstance(empty, pl.DataFrame)
    return empty.schema
