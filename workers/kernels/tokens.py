"""The parts of JSON: white space, plain texts, bare values."""

from __future__ import annotations

from typing import Any

from workers.kernels.compiling import inlined
from workers.kernels.words import MASKS, eight_of, find, load64

QUOTE = 0x22
COMMA = 0x2C
OPEN = 0x5B
CLOSE = 0x5D
QUOTES = eight_of(QUOTE)
CLOSES = eight_of(CLOSE)
_LONGEST_NUMBER = 200
"""Digits that certainly fit into a float64, with an exponent of two digits."""


@inlined
def skip_space(buffer: Any, i: int, end: int) -> int:
    """Return the first byte from `i` on that is not white space."""
    while i < end and (buffer[i] == 0x20 or buffer[i] == 0x0A or buffer[i] == 0x0D or buffer[i] == 0x09):
        i += 1
    return i


@inlined
def is_plain(buffer: Any, i: int, end: int) -> bool:
    """Return whether a text's bytes are plain: ASCII, no escape, no control character."""
    while i < end:
        byte = buffer[i]
        if byte < 0x20 or byte >= 0x7F or byte == 0x5C or byte == QUOTE:
            return False
        i += 1
    return True


@inlined
def _is_digit(byte: Any) -> bool:
    return 0x30 <= byte <= 0x39


@inlined
def is_bare(buffer: Any, i: int, end: int) -> bool:
    """Return whether these bytes are true, false, null, or a JSON number far from the largest."""
    size = end - i
    if size == 4:
        word = load64(buffer, i) & MASKS[4]
        if word == 0x65757274 or word == 0x6C6C756E:
            return True
    if size == 5 and load64(buffer, i) & MASKS[5] == 0x65736C6166:
        return True
    if size > _LONGEST_NUMBER:
        return False
    if i < end and buffer[i] == 0x2D:
        i += 1
    if i >= end or not _is_digit(buffer[i]):
        return False
    if buffer[i] == 0x30:
        i += 1
    else:
        while i < end and _is_digit(buffer[i]):
            i += 1
    if i < end and buffer[i] == 0x2E:
        i += 1
        start = i
        while i < end and _is_digit(buffer[i]):
            i += 1
        if i == start:
            return False
    if i < end and buffer[i] | 0x20 == 0x65:
        i += 1
        if i < end and (buffer[i] == 0x2B or buffer[i] == 0x2D):
            i += 1
        start = i
        while i < end and _is_digit(buffer[i]):
            i += 1
        return i == end and 1 <= i - start <= 2
    return i == end


@inlined
def list_end(buffer: Any, i: int, end: int) -> int:
    """Return where the array at `i` ends if it holds only plain texts and bare values, or a negative."""
    i = skip_space(buffer, i + 1, end)
    if i < end and buffer[i] == CLOSE:
        return i + 1
    while i < end:
        if buffer[i] == QUOTE:
            start = i + 1
            i = find(buffer, start, end, QUOTES)
            if i >= end or not is_plain(buffer, start, i):
                return -1
            i += 1
        else:
            start = i
            while i < end and buffer[i] > 0x20 and buffer[i] != COMMA and buffer[i] != CLOSE:
                i += 1
            if not is_bare(buffer, start, i):
                return -1
        i = skip_space(buffer, i, end)
        if i < end and buffer[i] == COMMA:
            i = skip_space(buffer, i + 1, end)
        elif i < end and buffer[i] == CLOSE:
            return i + 1
        else:
            return -1
    return -1
