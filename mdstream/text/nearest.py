"""The known names nearest to an unknown one, for errors that say what was meant."""

from __future__ import annotations

from collections.abc import Iterable

from mdstream.text.patterns import find_matching, is_pattern, stem_of

_MOST_NEAR = 3
_MOST_LISTED = 8
_MOST_COMPARED = 20_000
"""If there are more, only those with the same first letter are compared: one takes microseconds."""


def find_nearest(name: str, known: Iterable[str]) -> list[str]:
    """Return the few names of `known` that `name` may stand for, the most likely first.

    First come names that differ in case or punctuation alone (`BTCUSD`), then similar ones, then those that
    begin with it. For a pattern, names that it matches come first, then those nearest to its stem.
    """
    every = list(dict.fromkeys(known))
    if not is_pattern(name):
        return _find_similar(name, every)
    stem = stem_of(name)
    near = _find_similar(stem, every) or _share_beginning(stem, every)
    return list(dict.fromkeys([*find_matching(name, every), *near]))[:_MOST_NEAR]


def _find_similar(name: str, every: list[str]) -> list[str]:
    import difflib

    plain = _plain(name)
    if len(every) > _MOST_COMPARED:
        every = [each for each in every if _plain(each)[:1] == plain[:1]][:_MOST_COMPARED]
    same = [each for each in every if _plain(each) == plain]
    by_upper = {each.upper(): each for each in every}
    similar = difflib.get_close_matches(name.upper(), by_upper, _MOST_NEAR)
    begins = sorted(each for each in every if plain and _plain(each).startswith(plain))
    return list(dict.fromkeys([*same, *(by_upper[each] for each in similar), *begins]))[:_MOST_NEAR]


def _share_beginning(stem: str, every: list[str]) -> list[str]:
    """Return names with the longest common beginning with `stem`, of two characters at least."""
    for length in range(len(stem), 1, -1):
        if found := [each for each in every if each.startswith(stem[:length])]:
            return found[:_MOST_NEAR]
    return []


def suggest(name: str, known: Iterable[str]) -> str:
    """Return what to try instead of an unknown `name`, as the end of an error's sentence."""
    every = list(dict.fromkeys(known))
    if near := find_nearest(name, every):
        return f"did you mean {' or '.join(map(repr, near))}?"
    if not every:
        return "there are none"
    more = len(every) - _MOST_LISTED
    return f"choose from {', '.join(every[:_MOST_LISTED])}{f' and {more:,} more' if more > 0 else ''}"


def _plain(name: str) -> str:
    """Return a name without punctuation and case."""
    return "".join(filter(str.isalnum, name)).upper()


def differ_in_form(name: str, other: str) -> bool:
    """Return whether two names differ, but in case or punctuation alone, as `BTCUSD` and `BTC/USD`."""
    return name != other and _plain(name) == _plain(other)
