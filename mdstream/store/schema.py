"""How the columns of a channel are stored on disk, for any program that reads Parquet or Delta tables.

Delta tables know times in microseconds only: a time is stored as that, and what is beyond it, 0 to 999
nanoseconds, in a column of its own beside it. Codes are stored as the texts they stand for.
"""

from __future__ import annotations

import pyarrow as pa

from mdstream.streams.spec import CODED, Channel, Column, Kind

BEYOND = "_ns"
"""Ending of the column with the nanoseconds beyond a time's microsecond."""

LARGEST_INT = (1 << 63) - 1
"""Delta tables have no unsigned integers: a larger one cannot be stored."""

_TYPES: dict[Kind, pa.DataType] = {
    Kind.TIME: pa.timestamp("us", "UTC"),
    Kind.FLOAT: pa.float64(),
    Kind.INT: pa.int64(),
    Kind.UINT: pa.int64(),
    Kind.BOOL: pa.bool_(),
    Kind.TEXT: pa.string(),
    Kind.JSON: pa.string(),
    Kind.SYMBOLS: pa.list_(pa.string()),
}
_CODES = pa.dictionary(pa.int32(), pa.string())


def stored_columns(channel: Channel) -> list[Column]:
    """The columns that are stored: all but those that tell kinds of message of one channel apart."""
    return [column for column in channel.columns if column.values is None]


def stored_schema(channel: Channel, coded: bool = False) -> pa.Schema:
    """The Arrow schema of the stored columns; with `coded`, texts of codes as dictionaries."""
    fields = []
    for column in stored_columns(channel):
        is_code = column.kind in CODED and column.kind is not Kind.SYMBOLS
        kind = (_CODES if coded else pa.string()) if is_code else _TYPES[column.kind]
        fields.append(pa.field(column.name, kind, column.nullable))
        if column.kind is Kind.TIME:
            fields.append(pa.field(column.name + BEYOND, pa.int16(), column.nullable))
    return pa.schema(fields)
