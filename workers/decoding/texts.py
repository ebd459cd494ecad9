"""The codes of raw texts: the table behind `workers.kernels.texts`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt

from mdstream.errors import UnfitError
from mdstream.streams.spec import Column
from workers.decoding.columns import code_texts
from workers.kernels import texts as kernels
from workers.kernels.words import SPARE

_MOST_TEXTS = 1 << 21
_MOST_UNCODED = 1 << 12
"""Most texts without a code at the start of a batch: they are from rejected messages."""


class TextTable:
    """The texts of all coded columns in one codec; each kind of column is an owner, by number.

    `parse` reads raw bytes as the fallback decoder does. It is called once for each text; then the table
    knows the text by its bytes.
    """

    texts: list[str | None]
    """The texts by number."""
    _columns: list[Column]
    """A column of each owner."""
    _used: int
    """Bytes of `pool` that are taken."""
    _uncoded: set[int]
    """Numbers of the texts that have no code yet."""

    # Arrays that kernels read (`kernels.texts`); written here and by `insert`.
    keys: npt.NDArray[np.uint64]
    slots: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    owners: npt.NDArray[np.int64]
    codes: npt.NDArray[np.int64]
    blanks: npt.NDArray[np.uint8]
    pool: npt.NDArray[np.uint8]

    def __init__(self, parse: Callable[[bytes], Any]) -> None:
        self._parse = parse
        self._columns = []
        self.clear()

    def owner(self, column: Column) -> int:
        """Return the owner of `column`; columns of one kind share their texts."""
        kinds = [_kind(known) for known in self._columns]
        if _kind(column) not in kinds:
            self._columns.append(column)
            return len(kinds)
        return kinds.index(_kind(column))

    def clear(self) -> None:
        """Drop every text."""
        self.keys = np.zeros(256, np.uint64)
        self.slots = np.full(256, -1, np.int32)
        self.starts = np.zeros(128, np.int64)
        self.sizes = np.zeros(128, np.int64)
        self.owners = np.zeros(128, np.int64)
        self.codes = np.zeros(128, np.int64)
        self.blanks = np.zeros(128, np.uint8)
        self.pool = np.zeros(4096, np.uint8)
        self.texts = []
        self._used = 0
        self._uncoded = set()

    def refresh(self, known: Callable[[str], Mapping[str, int]]) -> None:
        """Load new codes of known texts; `known` returns the codes of a dictionary."""
        if len(self.texts) > _MOST_TEXTS or len(self._uncoded) > _MOST_UNCODED:
            self.clear()
        for number in list(self._uncoded):
            codes = known(self._columns[int(self.owners[number])].dictionary)
            code = codes.get(self.texts[number] or "")
            if code is not None:
                self.codes[number] = code
                self._uncoded.discard(number)

    def learn(self, raw: bytes, owner: int, known: Mapping[str, int]) -> None:
        """Learn the text of `raw`, of up to `LONGEST` bytes, in a column of `owner`."""
        code, text = self._read(raw, self._columns[owner], known)
        number = len(self.texts)
        self._make_room(number + 1, self._used + len(raw))
        self.pool[self._used : self._used + len(raw)] = np.frombuffer(raw, np.uint8)
        self.starts[number], self.sizes[number] = self._used, len(raw)
        self.owners[number], self.codes[number] = owner, code
        self.blanks[number] = text is not None and not text.strip()
        self._insert(number, number + 1)
        self._used += -(-len(raw) // 8) * 8  # zeros after it: a short text is one whole word
        self.texts.append(text)
        if code == kernels.NO_CODE:
            self._uncoded.add(number)

    def _read(self, raw: bytes, column: Column, known: Mapping[str, int]) -> tuple[int, str | None]:
        try:
            value = self._parse(raw)
            if column.values is not None and value is not None:
                value = column.values[value]
            [text] = code_texts(column, [value])
        except (UnfitError, ValueError, KeyError, TypeError, msgpack.UnpackException):
            return kernels.UNFIT, None
        if text is None:
            return kernels.NULL, None
        return known.get(text, kernels.NO_CODE), text

    def _make_room(self, texts: int, size: int) -> None:
        if texts > len(self.starts):
            for name in ("starts", "sizes", "owners", "codes", "blanks"):
                old = getattr(self, name)
                setattr(self, name, np.concatenate((old, np.zeros_like(old))))
        if size + SPARE > len(self.pool):
            self.pool = np.concatenate((self.pool, np.zeros(len(self.pool) + size, np.uint8)))
        if texts * 2 > len(self.slots):
            self.slots = np.full(len(self.slots) * 4, -1, np.int32)
            self.keys = np.zeros(len(self.slots), np.uint64)
            self._insert(0, len(self.texts))

    def _insert(self, first: int, count: int) -> None:
        kernels.insert(first, count, self.keys, self.slots, self.starts, self.sizes, self.owners, self.pool)


def _kind(column: Column) -> tuple[Any, ...]:
    """Return the properties of a column that decide which code bytes get."""
    values = None if column.values is None else tuple(column.values.items())
    return column.dictionary, column.kind, column.required, values
