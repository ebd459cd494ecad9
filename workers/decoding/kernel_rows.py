"""What kernels make of a batch: the rows of each channel, and the texts that have no code yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mdstream.handoff.columns import Columns
from workers.decoding.codes import Place


@dataclass(slots=True)
class Fresh:
    """Texts of one column without a code.

    The rows with such a text, in order; the texts, each once, with its first row; each row's index in them.
    """

    column: int
    rows: npt.NDArray[np.int64]
    texts: list[str]
    firsts: npt.NDArray[np.int64]
    which: npt.NDArray[np.intp]

    @classmethod
    def of(cls, column: int, rows: Any, numbers: Any, text_of: Callable[[int], str]) -> Fresh:
        """Return the new texts of `rows`, where each row has the text of a number."""
        order = np.argsort(rows, kind="stable")
        rows, numbers = rows[order], numbers[order]
        unique, first, which = np.unique(numbers, return_index=True, return_inverse=True)
        texts = [text_of(number) for number in unique.tolist()]
        return cls(column, rows, texts, rows[first], which)


@dataclass(slots=True)
class ChannelRows:
    """The kernels' rows of one channel. Arrays are views that are valid until the next batch."""

    columns: Columns
    fresh: list[Fresh]
    payload: npt.NDArray[np.int32]
    message: npt.NDArray[np.int32]

    def places(self, rows: npt.NDArray[np.int64]) -> list[Place]:
        """Return the places of rows."""
        begins = (np.diff(self.payload) != 0) | (np.diff(self.message) != 0)
        firsts = np.concatenate([[0], np.flatnonzero(begins) + 1])
        first = firsts[np.searchsorted(firsts, rows, side="right") - 1]
        within = (rows - first).tolist()
        return list(zip(self.payload[rows].tolist(), self.message[rows].tolist(), within, strict=True))
