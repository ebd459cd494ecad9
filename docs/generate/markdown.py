"""Small pieces of Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_SIGNS = re.compile(r"([\\\\`*_\[\]#])")


def plain(text: str) -> str:
    """Return `text` with the signs escaped that have a meaning in Markdown."""
    return _SIGNS.sub(r"\\\1", text).replace("<", "&lt;")


def code(text: str) -> str:
    """Return `text` as inline code, or nothing for an empty text."""
    return f"`{text}`" if text else ""


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table. Raises `ValueError` for a row of another length than `headings`."""
    lines = [_row(headings), _row(["---"] * len(headings))]
    for row in rows:
        if len(row) != len(headings):
            raise ValueError(f"{len(row)} cells under {len(headings)} headings: {row!r}")
        lines.append(_row([_cell(text) for text in row]))
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
