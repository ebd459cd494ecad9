"""Exit codes, from `mdstream.errors`."""

from __future__ import annotations

import ast
import inspect

from docs.generate.markdown import table
from mdstream import errors
from mdstream.errors import Exit, MdstreamError


def render() -> str:
    """Return a table of the exit codes: number, meaning, and the errors that end a command with it.

    Raises `ValueError` for a code that has neither a description nor an error.
    """
    described = _descriptions()
    rows = []
    for code in Exit:
        names = [f"`{kind.__name__}`" for kind in _errors() if kind.exit_code is code]
        text = described.get(code.name, _MEANING.get(code.name, ""))
        if not text:
            raise ValueError(f"exit code {code.name} of mdstream.errors has no description")
        rows.append((f"`{int(code)}`", text, ", ".join(names)))
    return table(("code", "meaning", "errors"), rows)


_MEANING = {
    "OK": "All went well.",
    "CONFIG": "A setting, flag, file or argument is wrong.",
    "CREDENTIALS": "The service refuses the key or the plan, or its certificate does not verify.",
    "SHARED_MEMORY": "Shared memory is full, or cannot be used.",
    "ADDRESS_IN_USE": "Another program listens on the port.",
    "NO_RUN": "No running engine was found.",
}
"""Codes whose name says enough in the source."""


def _descriptions() -> dict[str, str]:
    """Return the docstrings that stand behind members of `Exit`."""
    (found,) = (
        node
        for node in ast.parse(inspect.getsource(errors)).body
        if isinstance(node, ast.ClassDef) and node.name == "Exit"
    )
    texts: dict[str, str] = {}
    for before, node in zip(found.body, found.body[1:], strict=False):
        if (
            isinstance(before, ast.Assign)
            and isinstance(before.targets[0], ast.Name)
            and isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
        ):
            texts[before.targets[0].id] = inspect.cleandoc(str(node.value.value))
    return texts


def _errors() -> list[type[MdstreamError]]:
    """Return the errors that set an exit code of their own, in the order of the source."""
    return [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, MdstreamError) and "exit_code" in vars(kind)
    ]
