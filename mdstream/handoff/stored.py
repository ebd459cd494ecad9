"""How the columns of a channel are stored on disk, for any program that reads Parquet or Delta tables.

Delta tables know times in microseconds only: a time is stored as that, and what is beyond it, 0 to 999
nanoseconds, in a column of its own beside it. Codes are stored as the texts they stand for.
"""

from __future__ import annotations

import os
import re

import pyarrow as pa

from mdstream.errors import StoreError
from mdstream.streams.spec import CODED, Channel, Column, Kind

BEYOND = "_ns"
"""Ending of the column with the nanoseconds beyond a time's microsecond."""

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_ANSWER = re.compile(r"<Code>([^<]*)</Code>\s*(?:<Message>([^<]*)</Message>)?")

_SOON = {"max_retries": "2", "retry_timeout": "10s", "connect_timeout": "5s", "timeout": "10s"}

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


def plain(error: BaseException) -> str:
    """What the libraries of tables and object stores say, in a line without colours and addresses."""
    text = _COLOURS.sub("", str(error)) or type(error).__name__
    if found := _ANSWER.search(text):
        return ": ".join(filter(None, found.groups()))
    parts = [" ".join(part.split()) for part in text.split("↳")]
    return ": ".join(dict.fromkeys((parts[0], parts[-1])))


def check_object_store(store: str) -> None:
    """Raise `StoreError` where an object store does not answer, or has no such bucket, or not for us."""
    from deltalake import DeltaTable

    try:
        DeltaTable.is_deltatable(f"{store.rstrip('/')}/live", {**storage_options(store), **_SOON})
    except Exception as error:  # those of the library have no common root
        raise StoreError(f"store: {store} cannot be used: {plain(error)}") from error


def storage_options(store: str) -> dict[str, str]:
    """What the object store needs to know besides the environment (`AWS_ACCESS_KEY_ID`, …)."""
    if "://" not in store:
        return {}
    options = {}
    if (endpoint := os.environ.get("AWS_ENDPOINT_URL", "")).startswith("http://"):
        options["AWS_ALLOW_HTTP"] = "true"
        options["AWS_ENDPOINT_URL"] = endpoint
    return options
