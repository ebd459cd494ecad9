"""Shortcuts: layouts of JSON by the keys of a message, as `workers.kernels.keys` reads them."""

from __future__ import annotations

from collections.abc import Sequence

from workers.decoding.layouts import Shortcut, Step
from workers.kernels import keys, ops

_END_OF_KEY = b'":'
_OF_ONE_VALUE = frozenset(
    {
        ops.TEXT,
        ops.SAME_LENGTH,
        ops.BARE,
        ops.SAME_BARE,
        ops.LIST,
        ops.ONE,
        ops.SKIP_TEXT,
        ops.SKIP_BARE,
        ops.SKIP_LIST,
    }
)
_QUOTED = frozenset({ops.TEXT, ops.SAME_LENGTH, ops.LIST, ops.ONE})
"""Actions of values whose first byte is in the literal before them."""
_SKIPPED = {ops.SKIP_TEXT: keys.TEXT, ops.SKIP_BARE: keys.BARE, ops.SKIP_LIST: keys.LIST}


def shortcut(steps: Sequence[Step]) -> Shortcut | None:
    """Return the shortcut of a layout, if its form allows one."""
    entries: list[int] = []
    more: list[int] = []
    others: list[int] = []
    found = lead = 0
    literal = b""
    for part, action, slot, argument in steps:
        literal += part
        if action == ops.MISSING:
            others += [slot, 0]
        elif action == ops.HERE and not entries:
            others += [slot, argument << 32 | len(literal)]
        elif action == ops.END:
            if len(literal) > 8:
                return None
            entries += [0, len(literal), 0, 0, *_word(literal)]
        elif action in _OF_ONE_VALUE:
            last = literal.rfind(_END_OF_KEY)
            found += literal.count(_END_OF_KEY)
            if last < 0 or len(literal) > keys.LONGEST_LITERAL:
                return None
            if not entries:
                lead = literal.find(_END_OF_KEY)
            ahead = len(literal) - (action in _QUOTED)
            whose = _SKIPPED.get(action, slot)
            entries += [found - 1, last, ahead, whose, *_word(literal[:8])]
            for at in range(8, len(literal), 8):
                more += [found - 1, last - at, *_word(literal[at : at + 8])]
            literal = b""
        else:
            return None
    between = len(entries) // keys.ENTRY_WIDTH - 2
    if between < 0 or found > keys.MOST_KEYS:
        return None
    return Shortcut([*entries, *more, *others, -1], between, len(more) // keys.MORE_WIDTH, found, lead)


def _word(literal: bytes) -> tuple[int, int]:
    """Return up to eight bytes as a word, and their mask, as int64."""
    mask = b"\xff" * len(literal)
    word, kept = (int.from_bytes(b.ljust(8, b"\0"), "little", signed=True) for b in (literal, mask))
    return word, kept
