"""Limits on what comes from outside, from `mdstream.limits`."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator

from docs.generate.markdown import table
from mdstream import limits


def render() -> str:
    """Return a table of the limits: what is limited, how much may be, and what happens beyond.

    Raises `ValueError` for a limit without a description of both.
    """
    rows = []
    for name, text in _described():
        what, separator, beyond = text.rstrip(".").partition("; ")
        if not separator:
            raise ValueError(f"mdstream.limits.{name} does not say what happens beyond")
        rows.append((what, f"{getattr(limits, name):,}", beyond[0].upper() + beyond[1:]))
    return table(("of what", "most", "beyond"), rows)


def _described() -> Iterator[tuple[str, str]]:
    """Yield the name of each limit, and the text after it."""
    body = ast.parse(inspect.getsource(limits)).body
    for node, after in zip(body, [*body[1:], ast.Pass()], strict=True):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            text = ""
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                text = str(after.value.value)
            yield node.targets[0].id, " ".join(text.split())
