"""What JSON is made of: white space, plain texts, bare values."""

from __future__ import annotations

from typing import Any

from workers.kernels.compiling import inlined
from workers.kernels.words import MASKS, eight_of, load64

QUOTE = 0x22
COMMA = 0x2C
OPEN = 0x5B
CLOSE = 0x5D
QUOTES = eight_of(QUOTE)
CLOSES = eight_of(CLOSE)


@inlined
def skip_space(buffer: Any, i: int, end: int) -> int:
    """The first byte from `i` on that is no white space."""
    while i < end and (
        buffer[i] == 0x20 or buffer[i] == 0x0A or buffer[i] == 0x0D or buffer[i] == 0x09
    ):
        i += 1
    return i


@inlined
def is_plain(buffer: Any, i: int, end: int) -> bool:
    """Whether a text's bytes stand for themselves: ASCII, no escape, no control character."""
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
    """Whether these bytes are a number as JSON writes it, true, false or null."""
    size = end - i
    if size == 4:
        word = load64(buffer, i) & MASKS[4]
        if word == 0x65757274 or word == 0x6C6C756E:
            return True
    if size == 5 and load64(buffer, i) & MASKS[5] == 0x65736C6166:
        return True
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
    # An exponent may be too large for any number: that is for the library to say.
    return i == end
