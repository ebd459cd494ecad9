"""Messages to columns: a whole column at a time, strictly.

The values of a key are converted together. A value that does not fit raises `UnfitError` with the key and
the reason; the decoder then finds the malformed messages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from operator import itemgetter
from typing import Any

import numpy as np
import orjson

from mdstream.errors import UnfitError
from mdstream.handoff.columns import Array, ColumnData
from mdstream.limits import LARGEST_NUMBER
from mdstream.streams.bar_rules import join_conditions
from mdstream.streams.spec import CODED, Channel, Column, Kind
from mdstream.streams.storage import DTYPE
from mdstream.venues.alpaca.bodies import is_zero_time
from workers.decoding.timestamps import Timestamps

Message = dict[str, Any]
Position = tuple[int, int]
"""Index of a payload in its batch, and index of a message in its payload."""

Coded = list[tuple[int, list[Any]]]
"""Columns of texts without codes: index of the column, and the text (or list) of each row."""


@dataclass(slots=True)
class Rows:
    """The messages of one channel, in order. A message of an order book becomes many rows."""

    records: list[Message] = field(default_factory=list)
    positions: list[Position] = field(default_factory=list)
    recv_ns: list[int] = field(default_factory=list)


class ColumnMaker:
    """Converts the messages of a channel to its columns."""

    def __init__(self) -> None:
        self._timestamps = Timestamps()
        self._convert: dict[Kind, Callable[[Column, list[Any]], ColumnData]] = {
            Kind.TIME: self._times,
            Kind.FLOAT: _floats,
            Kind.INT: _integers,
            Kind.UINT: _integers,
            Kind.BOOL: _booleans,
            Kind.TEXT: _texts,
            Kind.JSON: _json_texts,
        }

    def columns(self, channel: Channel, rows: Rows) -> tuple[list[ColumnData], Coded]:
        """Return the columns of `channel`, with coded ones still empty, and the texts to code.

        Raises `UnfitError` if a value does not fit.
        """
        columns: list[ColumnData] = []
        coded: Coded = []
        absent: dict[str, Array] = {}
        subs: dict[str, list[Message]] = {}
        for index, column in enumerate(channel.columns):
            if not column.key:
                columns.append(ColumnData(np.array(rows.recv_ns, np.int64)))
                continue
            values = values_of(rows.records, column, subs)
            if column.kind in CODED:
                texts = code_texts(column, values)
                if column.side_of in absent:
                    _blank_texts(texts, absent[column.side_of])
                coded.append((index, texts))
                columns.append(ColumnData(np.empty(0)))
                continue
            try:
                data = self._convert[column.kind](column, values)
            except (OverflowError, ValueError) as error:
                raise UnfitError(f"{column.key}: {error}") from error
            if column.absent_at_zero:
                absent[column.name] = data.values == 0
                data.mask = _without(data.mask, absent[column.name])
            elif column.side_of in absent:
                data.mask = _without(data.mask, absent[column.side_of] & (data.values == 0))
            if column.required and data.mask is not None:
                raise UnfitError(f"{column.key}: missing")
            columns.append(data)
        for column, _ in find_lacking(channel, masks_of(columns, coded)):
            raise UnfitError(f"{column.key}: missing")
        return columns, coded

    def value(self, column: Column, value: Any) -> ColumnData:
        """Convert one value of a column of numbers or times. Raises `UnfitError` or `ValueError`."""
        try:
            return self._convert[column.kind](column, [value])
        except OverflowError as error:
            raise UnfitError(f"{column.key}: {error}") from error

    def _times(self, column: Column, values: list[Any]) -> ColumnData:
        nanoseconds = self._timestamps.nanoseconds
        mask = present(values)
        if mask is None:
            return ColumnData(np.array([nanoseconds(v) for v in values], np.int64))
        return ColumnData(np.array([0 if v is None else nanoseconds(v) for v in values], np.int64), mask)


MaskOf = Callable[[int], Any]
"""Returns the mask of a column by its index: bool, true where it has a value; None if it has no null."""


def find_lacking(channel: Channel, mask_of: MaskOf) -> Iterator[tuple[Column, Array]]:
    """Yield each essential column that lacks values, and the rows that lack it."""
    for index, part in channel.essentials.items():
        mask = mask_of(index)
        if mask is None:
            continue
        absent = ~mask
        if part:
            absent &= _any_value(part, mask_of)
        if absent.any():
            yield channel.columns[index], np.flatnonzero(absent)


def find_empty(channel: Channel, mask_of: MaskOf) -> Array:
    """Return the rows of snapshots that have no value: all their parts are absent. They are not rows."""
    columns = (
        [i for i, column in enumerate(channel.columns) if column.nullable] if channel.has_parts else []
    )
    has_value = _any_value(columns, mask_of) if columns else True
    return np.flatnonzero(~has_value) if has_value is not True else np.empty(0, np.int64)


def _any_value(columns: Sequence[int], mask_of: MaskOf) -> Any:
    """Return which rows have a value in any of `columns`."""
    masks = [mask_of(index) for index in columns]
    return True if any(mask is None for mask in masks) else np.logical_or.reduce(masks)


def masks_of(columns: Sequence[ColumnData], coded: Coded) -> MaskOf:
    """Return the masks of columns, whose coded ones are still empty."""
    texts = dict(coded)
    return lambda index: present(texts[index]) if index in texts else columns[index].mask


def type_name(value: Any) -> str:
    """Return JSON's name for the type of `value`."""
    names = {dict: "an object", list: "an array", str: "text", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def list_of(value: Any, key: str) -> list[Any]:
    """Return `value`, checked to be an array; null is an empty one."""
    if value is None:
        return []
    if type(value) is not list:
        raise UnfitError(f"{key}: expected an array, got {type_name(value)}")
    return value


def flatten(channel: Channel, rows: Rows) -> Rows:
    """Return one record per row: each level of an order book becomes a record of its own."""
    if channel.levels is None:
        return rows
    flat = Rows()
    for record, position, recv_ns in zip(rows.records, rows.positions, rows.recv_ns, strict=True):
        levels = [
            {**record, "side": side, "p": level.get("p"), "s": level.get("s")}
            if type(level) is dict
            else _raise(UnfitError(f"{key}: expected an object, got {type_name(level)}"))
            for key, side in channel.levels.items()
            for level in list_of(record.get(key), key)
        ]
        if not levels and record.get("r"):
            levels = [{**record, "side": None, "p": None, "s": None}]
        flat.records += levels
        flat.positions += [position] * len(levels)
        flat.recv_ns += [recv_ns] * len(levels)
    return flat


def _raise(error: Exception) -> Any:
    raise error


_NOTHING: Message = {}


def _part_of(record: Message, key: str) -> Any:
    """Return a part of a snapshot; an empty one if the service has none."""
    part = record.get(key) or _NOTHING
    return _NOTHING if type(part) is dict and is_zero_time(part.get("t")) else part


def values_of(records: list[Message], column: Column, subs: dict[str, list[Message]]) -> list[Any]:
    """Return the raw values of a column, None for a missing key."""
    key = column.key
    head, dot, tail = key.partition(".")
    if dot:
        if head not in subs:
            subs[head] = [_part_of(record, head) for record in records]
            if set(map(type, subs[head])) - {dict}:
                raise UnfitError(f"{head}: expected an object")
        records, key = subs[head], tail
    try:
        values = list(map(itemgetter(key), records))
    except KeyError:  # missing in some messages
        values = [record.get(key) for record in records]
    if column.values is not None:
        names = column.values
        try:
            return [None if v is None else names[v] for v in values]
        except (KeyError, TypeError) as error:
            raise UnfitError(f"{key}: unknown value {error}") from error
    return values


def present(values: list[Any]) -> Any:
    """Return a mask of the values that are not None; None if no value is missing."""
    if None not in values:
        return None
    return np.array([v is not None for v in values], np.bool_)


def _without(mask: Any, absent: Array) -> Any:
    """Return `mask` without the rows of `absent`; None if all values are present."""
    if not absent.any():
        return mask
    return ~absent if mask is None else mask & ~absent


def _checked_numbers(values: list[Any], allowed: frozenset[type]) -> list[Any]:
    """Return `values`, checked to be numbers (a bool is not), with 0 for missing ones."""
    types = set(map(type, values))
    if not types <= allowed | {type(None)}:
        wrong = next(v for v in values if type(v) not in allowed and v is not None)
        raise UnfitError(f"expected a number, got {type_name(wrong)}")
    return [0 if v is None else v for v in values] if type(None) in types else values


_NUMBERS = frozenset({int, float})
_INTEGERS = frozenset({int})


def _floats(column: Column, values: list[Any]) -> ColumnData:
    numbers = np.array(_checked_numbers(values, _NUMBERS), np.float64)
    if not np.isfinite(numbers).all():
        raise UnfitError(f"expected a finite number, got {numbers[~np.isfinite(numbers)][0]}")
    if (large := np.abs(numbers) > LARGEST_NUMBER).any():
        raise UnfitError(f"expected a number of at most {LARGEST_NUMBER:g}, got {numbers[large][0]:g}")
    return ColumnData(numbers, present(values))


def _integers(column: Column, values: list[Any]) -> ColumnData:
    if float in set(map(type, values)):
        values = [_whole(v) if type(v) is float else v for v in values]
    numbers = _checked_numbers(values, _INTEGERS)
    dtype = DTYPE[column.kind]
    if numbers and not np.iinfo(dtype).min <= min(numbers) <= max(numbers) <= np.iinfo(dtype).max:
        raise UnfitError(f"does not fit into {dtype}")
    return ColumnData(np.array(numbers, dtype), present(values))


def _whole(value: float) -> int:
    if not value.is_integer():
        raise UnfitError(f"expected a whole number, got {value}")
    return int(value)


def _booleans(column: Column, values: list[Any]) -> ColumnData:
    if not set(map(type, values)) <= {bool, type(None)}:
        raise UnfitError("expected true or false")
    return ColumnData(np.array([bool(v) for v in values], np.bool_))


def _texts(column: Column, values: list[Any]) -> ColumnData:
    if not set(map(type, values)) <= {str, type(None)}:
        wrong = next(v for v in values if type(v) is not str and v is not None)
        raise UnfitError(f"expected text, got {type_name(wrong)}")
    return _heap([b"" if v is None else v.encode() for v in values], present(values))


def _json_texts(column: Column, values: list[Any]) -> ColumnData:
    try:
        texts = [b"" if v is None else orjson.dumps(v) for v in values]
    except TypeError as error:  # bytes, timestamps and the like, which msgpack has and JSON has not
        raise UnfitError(f"{column.key}: {error}") from error
    return _heap(texts, present(values))


def _heap(texts: list[bytes], mask: Any) -> ColumnData:
    ends = np.cumsum([len(t) for t in texts], dtype=np.int64)
    return ColumnData(ends, mask, np.frombuffer(b"".join(texts), np.uint8))


def code_texts(column: Column, values: list[Any]) -> list[Any]:
    """Return the texts of a coded column: a text or None per row, for SYMBOLS a list of texts."""
    types = set(map(type, values))
    if column.kind is Kind.CONDITIONS:
        if types - {list, str, type(None)}:
            raise UnfitError(f"{column.key}: expected a list of conditions")
        try:
            # In an older form of the protocol, one condition is plain text.
            return [
                v if v is None else _join(*v) if type(v) is list else _join(*([v] if v else []))
                for v in values
            ]
        except TypeError as error:
            raise UnfitError(f"{column.key}: a condition is not text") from error
    if column.kind is Kind.SYMBOLS:
        if types - {list, type(None)} or any(type(s) is not str for v in values if v for s in v):
            raise UnfitError(f"{column.key}: expected a list of symbols")
        return values
    if types - {str, type(None)}:
        raise UnfitError(f"{column.key}: expected text")
    if column.required and (type(None) in types or "" in values):
        raise UnfitError(f"{column.key}: missing")
    return values


@lru_cache(maxsize=4096)
def _join(*codes: str) -> str:
    return join_conditions(list(codes))


def _blank_texts(texts: list[Any], absent: Array) -> None:
    """Drop the exchange of an absent quote side, which the service sends as a blank."""
    for row in np.flatnonzero(absent):
        if texts[row] is not None and not texts[row].strip():
            texts[row] = None
