"""Texts to codes, in the order of the messages.

While channels are converted, texts that are not in a dictionary are noted with the place of their first
occurrence. At the end of the batch they get provisional codes in the order of these places. The feed
replaces them when it commits. So the codes depend neither on where batches are cut nor on the order in
which channels and columns are converted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mdstream.errors import UnfitError
from mdstream.handoff.columns import ColumnData
from mdstream.limits import LONGEST_TEXT
from mdstream.streams.spec import Channel, Column, Kind
from mdstream.streams.storage import DICTIONARY_LIMIT, DTYPE, PROVISIONAL
from workers.decoding.columns import Coded, Position, present

Place = tuple[int, int, int]
"""The place of a row: its payload, its message, and its row within that message."""


def places_of(positions: Iterable[Position]) -> list[Place]:
    """Return the places of rows whose messages are consecutive."""
    places: list[Place] = []
    for payload, message in positions:
        row = 0
        if places and places[-1][:2] == (payload, message):
            row = places[-1][2] + 1
        places.append((payload, message, row))
    return places


class BatchCodes:
    """Assigns the codes of one batch. `known` returns the codes of a dictionary by name."""

    # Written by `admit` only.
    overflowed: bool
    """Whether a dictionary had no room."""
    _noted: dict[str, dict[str, tuple[Place, int, int]]]
    """Dictionary → new texts, each with its first occurrence: place of the row, item of a list, column."""

    def __init__(self, known: Callable[[str], Mapping[str, int]]) -> None:
        self.overflowed = False
        self._known = known
        self._noted = {}

    def admit(self, channel: Channel, coded: Coded, places: list[Place]) -> None:
        """Note new texts. Raises `UnfitError`, and notes none, if one does not fit."""
        fresh: dict[str, dict[str, tuple[Place, int, int]]] = {}
        for index, texts in coded:
            column = channel.columns[index]
            known = self._known(column.dictionary)
            unknown = _members(column, texts).difference(known)
            unknown.discard(None)
            if not unknown:
                continue
            first = fresh.setdefault(column.dictionary, {})
            noted = self._noted.get(column.dictionary, {})
            if max(map(len, unknown)) > LONGEST_TEXT:
                raise UnfitError(f"{column.key}: text of over {LONGEST_TEXT} characters")
            new = sum(text not in noted for text in first)
            new += sum(text not in noted and text not in first for text in unknown)
            if len(known) + len(noted) + new > DICTIONARY_LIMIT[column.kind]:
                self.overflowed = True
                raise UnfitError(f"{column.key}: the dictionary {column.dictionary!r} is full")
            for row, text in enumerate(texts):
                items = (text or ()) if column.kind is Kind.SYMBOLS else (text,)
                for number, item in enumerate(items):
                    if item in unknown:
                        at = places[row], number, index
                        first[item] = min(at, first.get(item, at))
        for dictionary, first in fresh.items():
            noted = self._noted.setdefault(dictionary, {})
            for text, at in first.items():
                noted[text] = min(at, noted.get(text, at))

    def new(self) -> dict[str, tuple[str, ...]]:
        """Return dictionary → new texts, in order of first occurrence."""
        return {
            dictionary: tuple(sorted(noted, key=noted.__getitem__))
            for dictionary, noted in self._noted.items()
        }

    def assign(
        self,
        channel: Channel,
        columns: Sequence[ColumnData],
        coded: Coded,
        new: Mapping[str, tuple[str, ...]],
    ) -> list[ColumnData]:
        """Return the columns of a channel with the coded ones filled."""
        filled = list(columns)
        for index, texts in coded:
            column = channel.columns[index]
            code = self.coder(column, new)
            filled[index] = (
                _code_lists(texts, code)
                if column.kind is Kind.SYMBOLS
                else _code_column(column, texts, code)
            )
        return filled

    def coder(self, column: Column, new: Mapping[str, tuple[str, ...]]) -> Callable[[str], int]:
        """Return the function text → code of one column; codes are provisional for texts in `new`."""
        fresh = new.get(column.dictionary, ())
        known = self._known(column.dictionary)
        if not fresh:
            return known.__getitem__
        base = PROVISIONAL[column.kind]
        provisional = {text: base + i for i, text in enumerate(fresh)}

        def code(text: str) -> int:
            found = known.get(text)
            return provisional[text] if found is None else found

        return code


def _members(column: Column, texts: Sequence[Any]) -> set[Any]:
    if column.kind is Kind.SYMBOLS:
        return {symbol for listed in texts if listed for symbol in listed}
    return set(texts)


def _code_column(column: Column, texts: list[Any], code: Callable[[Any], int]) -> ColumnData:
    mask = present(texts)
    codes = {text: code(text) for text in set(texts) if text is not None}
    codes[None] = 0
    return ColumnData(np.array([codes[t] for t in texts], DTYPE[column.kind]), mask)


def _code_lists(lists: list[Any], code: Callable[[Any], int]) -> ColumnData:
    heap = np.array([code(s) for listed in lists if listed for s in listed], np.uint32)
    ends = np.cumsum([len(v or ()) for v in lists], dtype=np.int64)
    return ColumnData(ends, present(lists), heap)
