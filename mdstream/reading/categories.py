"""Shared dictionaries as Polars categoricals: columns of codes become texts without a copy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from mdstream.frames.dictionary import DictionaryReader
from mdstream.frames.layout import dictionary_of
from mdstream.frames.rundir import dictionary_path


class Categories:
    """One shared dictionary as a Polars categorical type.

    Polars numbers texts in the order in which it meets them, so its codes equal those of the dictionary.
    The exception is a program that casts a text to this type before the dictionary has the text. Later
    codes are then translated, which copies the column; earlier ones are still the shared memory itself.
    """

    # Written by `refresh`, under the attachment's lock.
    _codes: pl.Series
    """Polars' code of each text, by the dictionary's code."""
    _equal: int
    """How many codes, from 0 on, are equal in both."""
    _kept: list[pl.Series]
    """Series that refer to the texts. Polars forgets a text that nothing refers to."""

    def __init__(self, path: Path, physical: type[pl.UInt16] | type[pl.UInt32]) -> None:
        self.dtype = pl.Categorical(pl.Categories(str(path), "mdstream", physical))
        self._reader = DictionaryReader(path)
        self._codes = pl.Series(dtype=physical)
        self._equal = 0
        self._kept = []

    @property
    def texts(self) -> list[str]:
        """All texts at this moment, by code."""
        self._reader.refresh()
        return self._reader.texts

    @property
    def codes(self) -> Mapping[str, int]:
        """The dictionary's code of each text at this moment."""
        self._reader.refresh()
        return self._reader.codes

    def refresh(self) -> None:
        """Add the dictionary's new texts to Polars' categories."""
        first = len(self._codes)
        texts = self.texts[first:]
        if not texts:
            return
        series = pl.Series(texts, dtype=self.dtype)
        self._kept.append(series)
        codes = series.to_physical()
        if self._equal == first:
            differing = np.flatnonzero(codes.to_numpy() != np.arange(first, first + len(texts)))
            self._equal += int(differing[0]) if len(differing) else len(texts)
        self._codes = self._codes.append(codes)

    @property
    def is_identity(self) -> bool:
        """Whether all of Polars' codes equal those of the dictionary."""
        return self._equal == len(self._codes)

    def to_texts(self, codes: pl.Series) -> pl.Expr:
        """Return an expression for a column of the dictionary's codes as a categorical column."""
        if not self.is_identity and (codes.max() or 0) >= self._equal:  # type: ignore[operator]
            return pl.lit(self._codes.gather(codes).cat.to(self.dtype).alias(codes.name))
        return pl.col(codes.name).cat.to(self.dtype)


class StreamCategories:
    """The categories of one stream's dictionaries; its frames share them."""

    # Written here, under the attachment's lock.
    _by_name: dict[str, Categories]

    def __init__(self, run: Path, stream: str) -> None:
        self._run = run
        self._stream = stream
        self._by_name = {}

    def __getitem__(self, dictionary: str) -> Categories:
        return self._by_name[dictionary]

    def open(self, dictionary: str, physical: type[pl.UInt16] | type[pl.UInt32]) -> Categories:
        """Return the categories of a dictionary whose codes have the type `physical`."""
        if dictionary not in self._by_name:
            path = dictionary_path(self._run, self._stream, dictionary)
            self._by_name[dictionary] = Categories(path, physical)
        return self._by_name[dictionary]

    def refresh(self, schema: pa.Schema) -> None:
        """Add all new texts, also of dictionaries that only a frame of `schema` uses."""
        for field in schema:
            if name := dictionary_of(field):
                self.open(name, pl.UInt16 if field.type == pa.uint16() else pl.UInt32)
        for categories in self._by_name.values():
            categories.refresh()
