"""Sources that a simulator serves in place of its made-up markets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from mdstream.simulator.generator import Message


class RecordedPayload(bytes):
    """A payload as once received, in its WebSocket message."""


class MarketSource(Protocol):
    """A range of the past, for streams and for REST."""

    first: int
    """Its start, ns since 1970."""

    def slices(
        self, stream: str, subscription: Mapping[str, Sequence[str]]
    ) -> Iterator[Sequence[tuple[int, Message | RecordedPayload]]]:
        """Yield lists of the messages of a subscription, in order, each with its time in ns."""

    def state(self, stream: str, symbols: Sequence[str]) -> dict[str, Message]:
        """Return the state of the symbols that have one."""

    def chain(self, underlying: str) -> list[str]:
        """Return the contracts of an underlying."""
