"""Symbols as an argument: of readers, `scan` and backfills."""

from __future__ import annotations

from collections.abc import Iterable

from mdstream.errors import ConfigError


def list_symbols(symbols: str | Iterable[str]) -> list[str]:
    """Return symbols as a list; a single text is one symbol. Raises `ConfigError` if they are not texts."""
    if isinstance(symbols, str):
        return [symbols]
    found: list[str] = list(symbols) if isinstance(symbols, Iterable) else []
    if not isinstance(symbols, Iterable) or not all(isinstance(each, str) for each in found):
        raise ConfigError(f"symbols: {symbols!r} is neither a symbol nor a list of symbols")
    return found
