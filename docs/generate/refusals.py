"""What the service may refuse, from the table in `mdstream.venues.alpaca.refusals`."""

from __future__ import annotations

from collections.abc import Container

from docs.generate.markdown import plain, table
from mdstream.venues.alpaca.refusals import RULES, STREAM_TEXTS, BodyShape, Place, Rule


def render() -> str:
    """Return a table for each place of a refusal.

    Raises `ValueError` for a set of codes that it cannot describe.
    """
    parts = []
    for place in Place:
        rows = [_row(rule) for rule in RULES if rule.place is place]
        parts += [f"### {place.value}\n", table(("code", "before", "after", "exit", "sentence"), rows)]
    return "\n".join(parts)


def _row(rule: Rule) -> tuple[str, str, str, str, str]:
    codes = _codes(rule.codes)
    if rule.place is Place.STREAM:
        codes = f"{codes} {STREAM_TEXTS[int(codes)]}"
    if shapes := [shape.value for shape in BodyShape if shape in rule.shapes]:
        codes += "" if len(shapes) == len(BodyShape) else f" with {' or '.join(shapes)}"
    if rule.words:
        codes += f", “{rule.words}”"
    return plain(codes), rule.before.value, rule.after.value, f"`{rule.exit}`", plain(rule.sentence)


def _codes(codes: Container[int]) -> str:
    if isinstance(codes, range):
        return f"{codes.start}–{codes.stop - 1}" if codes.start else "all others"
    if isinstance(codes, set | frozenset):
        return ", ".join(map(str, sorted(codes)))
    raise ValueError(f"codes {codes!r}")
