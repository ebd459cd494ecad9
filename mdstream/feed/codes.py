"""The dictionaries of one stream: workers use provisional codes for new texts, the commit assigns codes.

Workers decode batches in parallel, so none knows the texts that the others found. Each gives its new texts
provisional codes; the feed assigns the final codes, in the order of the stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mdstream.frames.dictionary import DictionaryWriter
from mdstream.frames.rundir import dictionary_path
from mdstream.handoff.columns import ColumnData
from mdstream.handoff.ticket import Receipt
from mdstream.streams.spec import CODED, Channel, Column, StreamSpec
from mdstream.streams.storage import DICTIONARY_LIMIT, PROVISIONAL

Codes = Mapping[str, npt.NDArray[np.uint32]]
"""Dictionary → codes of a batch's new texts, in the order of `Receipt.new`."""


class Dictionaries:
    """The dictionaries of one stream. Used only in the feed's process."""

    def __init__(self, run: Path, spec: StreamSpec) -> None:
        self._writers = {
            name: DictionaryWriter(dictionary_path(run, spec.name, name)) for name in spec.dictionaries
        }
        self._limits = {
            column.dictionary: DICTIONARY_LIMIT[column.kind]
            for channel in spec.channels
            for column in channel.columns
            if column.kind in CODED
        }

    def fit(self, receipt: Receipt) -> bool:
        """Return whether there is room for a batch's new texts. If not, decode the batch again: earlier
        batches added texts that its worker could not know.
        """
        return all(
            self._writers[name].size_with(texts) <= self._limits[name]
            for name, texts in receipt.new.items()
        )

    def add(self, receipt: Receipt) -> Codes:
        """Assign codes to a batch's new texts. Raises `NoSpaceError`."""
        return {
            name: np.array(self._writers[name].add(texts), np.uint32) for name, texts in receipt.new.items()
        }

    def text(self, column: Column, code: int) -> str:
        """Return the text of a column's code."""
        return self._writers[column.dictionary].texts[code]

    def codes(self, dictionary: str) -> Mapping[str, int]:
        """Return the code of each text of a dictionary."""
        return self._writers[dictionary].codes

    def texts(self, dictionary: str) -> Sequence[str]:
        """Return all texts of a dictionary, by code."""
        return self._writers[dictionary].texts


def resolve_codes(channel: Channel, columns: Sequence[ColumnData], codes: Codes) -> None:
    """Replace the provisional codes in a batch's columns."""
    for column, data in zip(channel.columns, columns, strict=True):
        if column.kind in CODED and column.dictionary in codes:
            given = codes[column.dictionary]
            if data.heap is not None:
                data.heap = replace_provisional(data.heap, given, PROVISIONAL[column.kind])
            else:
                data.values = replace_provisional(data.values, given, PROVISIONAL[column.kind])


def replace_provisional(codes: Any, given: npt.NDArray[np.uint32], base: int) -> Any:
    """Return `codes` with provisional ones (from `base` on) replaced by the assigned codes, `given`."""
    provisional = codes >= base
    if not provisional.any():
        return codes
    replaced = codes.copy()
    replaced[provisional] = given[codes[provisional] - base]
    return replaced
