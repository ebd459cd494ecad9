"""Which code the raw bytes of a text stand for: the table behind `workers.kernels.texts`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt

from mdstream.streams.spec import Column
from workers.columns import Unfit, code_texts
from workers.kernels import texts as kernels
from workers.kernels.words import SPARE

_MOST_TEXTS = 1 << 21


class TextTable:
    """The texts of one kind of column in one codec.

    `parse` reads raw bytes as the library does. A text is met once by the library, and from then on
    by its bytes alone.
    """

    # The mutable state: the arrays the kernels read, the texts by number, those without a code.

    def __init__(self, column: Column, parse: Callable[[bytes], Any]) -> None:
        self._column = column
        self._parse = parse
        self.clear()

    def clear(self) -> None:
        """Forget every text."""
        self.keys: npt.NDArray[np.uint64] = np.zeros(256, np.uint64)
        self.slots: npt.NDArray[np.int32] = np.full(256, -1, np.int32)
        self.starts: npt.NDArray[np.int64] = np.zeros(128, np.int64)
        self.sizes: npt.NDArray[np.int64] = np.zeros(128, np.int64)
        self.codes: npt.NDArray[np.int64] = np.zeros(128, np.int64)
        self.blanks: npt.NDArray[np.bool_] = np.zeros(128, np.bool_)
        self.pool: npt.NDArray[np.uint8] = np.zeros(4096, np.uint8)
        self.texts: list[str | None] = []
        self._used = 0
        self._uncoded: set[int] = set()

    def refresh(self, known: Mapping[str, int]) -> None:
        """Take up the codes that texts have been given since."""
        if len(self.texts) > _MOST_TEXTS:
            self.clear()
        for number in list(self._uncoded):
            code = known.get(self.texts[number] or "")
            if code is not None:
                self.codes[number] = code
                self._uncoded.discard(number)

    def meet(self, raw: bytes, known: Mapping[str, int]) -> None:
        """Learn what `raw`, of up to `LONGEST` bytes, spells."""
        code, text = self._read(raw, known)
        number = len(self.texts)
        self._make_room(number + 1, self._used + len(raw))
        self.pool[self._used : self._used + len(raw)] = np.frombuffer(raw, np.uint8)
        self.starts[number], self.sizes[number] = self._used, len(raw)
        self.codes[number] = code
        self.blanks[number] = text is not None and not text.strip()
        self._insert(number, number + 1)
        self._used += -(-len(raw) // 8) * 8  # zeros behind it: a short text is one whole word
        self.texts.append(text)
        if code == kernels.NO_CODE:
            self._uncoded.add(number)

    def _read(self, raw: bytes, known: Mapping[str, int]) -> tuple[int, str | None]:
        try:
            value = self._parse(raw)
            if self._column.values is not None and value is not None:
                value = self._column.values[value]
            [text] = code_texts(self._column, [value])
        except (Unfit, ValueError, KeyError, TypeError, msgpack.UnpackException):
            return kernels.UNFIT, None
        if text is None:
            return kernels.NULL, None
        return known.get(text, kernels.NO_CODE), text

    def _make_room(self, texts: int, size: int) -> None:
        if texts > len(self.starts):
            for name in ("starts", "sizes", "codes", "blanks"):
                old = getattr(self, name)
                setattr(self, name, np.concatenate((old, np.zeros_like(old))))
        if size + SPARE > len(self.pool):
            self.pool = np.concatenate((self.pool, np.zeros(len(self.pool) + size, np.uint8)))
        if texts * 2 > len(self.slots):
            self.slots = np.full(len(self.slots) * 4, -1, np.int32)
            self.keys = np.zeros(len(self.slots), np.uint64)
            self._insert(0, len(self.texts))

    def _insert(self, first: int, count: int) -> None:
        kernels.insert(first, count, self.keys, self.slots, self.starts, self.sizes, self.pool)
