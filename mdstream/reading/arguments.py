"""Arguments of readers, `scan` and backfills: strings, flags, and lists of names."""

from __future__ import annotations

from collections.abc import Iterable

from mdstream.errors import ConfigError

_KINDS: dict[type, str] = {str: "a string", bool: "True or False"}


def require(kind: type, **given: object) -> None:
    """Raise `ConfigError` if an argument among `given` is not of a kind: `str` or `bool`."""
    for name, value in given.items():
        if not isinstance(value, kind):
            raise ConfigError(f"{name}: {value!r} is not {_KINDS[kind]}")


def list_symbols(symbols: str | Iterable[str]) -> list[str]:
    """Return symbols as a list; a single string is one symbol. Raises `ConfigError` for anything else."""
    return list_names("symbols", "symbol", symbols)


def list_names(argument: str, what: str, names: str | Iterable[str]) -> list[str]:
    """Return the names in an argument as a list; a single string is one name (`what`).

    Raises `ConfigError` if they are not strings.
    """
    if isinstance(names, str):
        return [names]
    found: list[str] = list(names) if isinstance(names, Iterable) else []
    if not isinstance(names, Iterable) or not all(isinstance(each, str) for each in found):
        raise ConfigError(f"{argument}: {names!r} is neither a {what} nor a list of {what}s")
    return found
