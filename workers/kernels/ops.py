"""A layout in numbers: the steps by which a kernel follows one message.

Each step is a literal that must stand there, byte for byte, and then what comes after it. Places of
values ("spans") are kept as start | length << 32, both in bytes, 0 where a value is missing.
"""

from __future__ import annotations

import numpy as np

# Columns of a step.
LITERAL = 0
"""Index of the literal's first word."""
LENGTH = 1
"""Bytes of the literal."""
ACTION = 2
SLOT = 3
"""Where the span goes: row of the table of spans."""
ARGUMENT = 4
SECOND = 5
STEP_WIDTH = 6

# Actions.
TEXT = 0
"""JSON: a text, its opening quote in the literal."""
SAME_LENGTH = 1
"""JSON: a text that mostly has the length it had last, which ARGUMENT remembers."""
BARE = 2
"""JSON: a number, true, false or null, that ends at the byte in ARGUMENT."""
LIST = 3
"""JSON: an array without arrays inside, its opening bracket in the literal; mostly of texts, and as long as
the last one, which ARGUMENT remembers."""
VALUE = 4
"""msgpack: any value but a map."""
HERE = 5
"""A value of ARGUMENT bytes that is part of the next literal: the type of the message."""
MISSING = 6
"""No value in this layout."""
SKIP_TEXT = 7
"""JSON: a text that no column wants; plain ASCII, or the payload falls back."""
SKIP_BARE = 8
"""JSON: a number, true, false or null that no column wants, checked to be one."""
SKIP_VALUE = 9
"""msgpack: a value that no column wants."""
LEVELS = 10
"""A list of levels, each of which is a row: ARGUMENT is the index of its item << 8 | its side, from 1,
which stands in place of a span."""
SOME = 11
"""The message fits only if it had a level."""
END = 12
ONE = 13
"""JSON: a text that mostly is one character, its opening quote in the literal."""
SAME_BARE = 14
"""As BARE; mostly as long as the last one, which SECOND remembers."""
SKIP_LIST = 15
"""JSON: an array that no column wants, of plain texts and bare values, or the payload falls back."""

# An item is a table of 3 x 4: literal, its length, slot and last byte of the first value, of the second
# value, and the literal that ends the item.

ITEM_WIDTH = 12

# Columns of a layout.
FIRST = 0
"""Index of its first step."""
CHANNEL = 1
START = 2
"""Bytes of the first literal that fit into one word."""
ENTRIES = 3
"""JSON: where the entries of the layout's shortcut begin (`keys`); negative if it has none."""
BETWEEN = 4
"""Values between two literals."""
MORE = 5
"""Words more to compare."""
KEYS = 6
"""Keys of the message."""
LEAD = 7
"""Bytes before the end of its first key."""
LAYOUT_WIDTH = 8

# What a match says of a payload.
GOOD = np.uint8(0)
FELL_BACK = np.uint8(1)
OTHER = np.uint8(2)
"""Not for this kernel."""

# Why a match stopped.
DONE = 0
MISS = 1
"""A message has a layout that is not known."""
FULL = 2
"""The table of spans has no room for another row."""

# Where a match stands between two calls.
AT_PAYLOAD = 0
AT_MESSAGE = 1
AT_BYTE = 2
"""Where the message begins; negative before the payload was begun."""
AT_AFTER = 3
"""Where the message ends, if others have seen to it; else negative."""
AT_WIDTH = 4

NAME_WIDTH = 4
"""Of REST bodies: words of a member's name, after its length."""

# Of REST bodies: where the walk is, what was met, the one symbol that the body names, the symbols in
# the table of keys, as many as before the payload began; and, the same for all of a match: the channel,
# the slot of its symbols, and whether symbols may stand bare.
AT_PLACE = 4
AT_MET = 5
AT_WHOLE = 6
AT_KEYS = 7
AT_KEYS_BEFORE = 8
AT_CHANNEL = 9
AT_SYMBOLS = 10
AT_BARE = 11
AT_BODIES_WIDTH = 12
