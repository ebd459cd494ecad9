"""A layout in numbers: the steps by which a kernel follows one message.

    step 0             step 1                 step 2
    [{"T":"t","S":"    ","p":                 ,"s":            literal: must match byte for byte
                   AAPL                187.25           100    action: how the value's end is found

Each step is a literal and the action for the value that follows. The place of a value is a span, kept as
start | length << 32, both in bytes; 0 means that the value is missing.
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
"""Row of the span table that takes the span."""
ARGUMENT = 4
SECOND = 5
STEP_WIDTH = 6

# Actions.
TEXT = 0
"""JSON: a text; its opening quote is in the literal."""
SAME_LENGTH = 1
"""JSON: a text that usually has the length it had last; ARGUMENT remembers it."""
BARE = 2
"""JSON: a number, true, false or null that ends at the byte in ARGUMENT."""
LIST = 3
"""JSON: an array without inner arrays; its opening bracket is in the literal. It is usually of texts and as
long as the last one, which ARGUMENT remembers.
"""
VALUE = 4
"""msgpack: any value but a map."""
HERE = 5
"""A value of ARGUMENT bytes inside the next literal: the type of the message."""
MISSING = 6
"""This layout has no value here."""
SKIP_TEXT = 7
"""JSON: an unwanted text; plain ASCII, otherwise the payload falls back."""
SKIP_BARE = 8
"""JSON: an unwanted number, true, false or null; checked to be one."""
SKIP_VALUE = 9
"""msgpack: an unwanted value."""
LEVELS = 10
"""A list of levels, one row each. ARGUMENT is the index of its item << 8 | its side, from 1, which takes
the place of a span.
"""
SOME = 11
"""The message fits only if it had a level."""
END = 12
ONE = 13
"""JSON: a text that usually has one character; its opening quote is in the literal."""
SAME_BARE = 14
"""Like BARE; usually as long as the last one, which SECOND remembers."""
SKIP_LIST = 15
"""JSON: an unwanted array of plain texts and bare values, otherwise the payload falls back."""

# An item is a table of 3 x 4: literal, its length, slot and last byte of the first value, then of the
# second value, and the literal that ends the item.

ITEM_WIDTH = 12

# Columns of a layout.
FIRST = 0
"""Index of its first step."""
CHANNEL = 1
START = 2
"""Bytes of the first literal that fit into one word."""
ENTRIES = 3
"""JSON: index of the entries of the layout's shortcut (`keys`); negative if it has none."""
BETWEEN = 4
"""Number of values between two literals."""
MORE = 5
"""Number of further words to compare."""
KEYS = 6
"""Keys of the message."""
LEAD = 7
"""Bytes before the end of its first key."""
LAYOUT_WIDTH = 8

# Verdicts of a match on a payload.
GOOD = np.uint8(0)
FELL_BACK = np.uint8(1)
OTHER = np.uint8(2)
"""Not for this kernel."""

# Why a match stopped.
DONE = 0
MISS = 1
"""A message has an unknown layout."""
FULL = 2
"""The span table has no room for another row."""

# State of a match between two calls.
AT_PAYLOAD = 0
AT_MESSAGE = 1
AT_BYTE = 2
"""Where the message begins; negative before the payload was begun."""
AT_AFTER = 3
"""Where the message ends, if another path has decoded it; otherwise negative."""
AT_WIDTH = 4

NAME_WIDTH = 4
"""REST bodies: words of a member's name, after its length."""

# REST bodies: state of the walk, bits of what was met, the one symbol that the body names, symbols in the
# table of keys, and their number before the payload began. The same for all of a match: the channel, the
# slot of its symbols, and whether symbols may be bare.
AT_PLACE = 4
AT_MET = 5
AT_WHOLE = 6
AT_KEYS = 7
AT_KEYS_BEFORE = 8
AT_CHANNEL = 9
AT_SYMBOLS = 10
AT_BARE = 11
AT_BODIES_WIDTH = 12
