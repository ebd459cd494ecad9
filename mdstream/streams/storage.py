"""How each kind of column is stored, in result areas and in frames."""

from __future__ import annotations

from typing import Any

import numpy as np

from mdstream.limits import MOST_SYMBOLS, MOST_TEXTS
from mdstream.streams.spec import Kind

DTYPE: dict[Kind, np.dtype[Any]] = {
    Kind.SYMBOL: np.dtype(np.uint32),
    Kind.TIME: np.dtype(np.int64),
    Kind.FLOAT: np.dtype(np.float64),
    Kind.INT: np.dtype(np.int64),
    Kind.UINT: np.dtype(np.uint64),
    Kind.BOOL: np.dtype(np.bool_),
    Kind.CODE: np.dtype(np.uint16),
    Kind.CONDITIONS: np.dtype(np.uint16),
    Kind.TEXT: np.dtype(np.uint8),
    Kind.JSON: np.dtype(np.uint8),
    Kind.SYMBOLS: np.dtype(np.uint32),
    Kind.BYTES: np.dtype(np.uint8),
}
"""dtype of a column's values; of a heap item if rows differ in size."""

PROVISIONAL: dict[Kind, int] = {
    Kind.SYMBOL: 1 << 31,
    Kind.SYMBOLS: 1 << 31,
    Kind.CODE: 1 << 15,
    Kind.CONDITIONS: 1 << 15,
}
"""First provisional code: a worker uses these for texts without a code."""

DICTIONARY_LIMIT: dict[Kind, int] = {
    Kind.SYMBOL: MOST_SYMBOLS,
    Kind.SYMBOLS: MOST_SYMBOLS,
    Kind.CODE: MOST_TEXTS,
    Kind.CONDITIONS: MOST_TEXTS,
}
"""Most texts of a dictionary. When it is full, messages with new texts are rejected."""
