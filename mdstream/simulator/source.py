"""What a simulator serves in place of its made-up markets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from mdstream.simulator.generator import Message


class RecordedPayload(bytes):
    """A payload as it once came, within its WebSocket message."""


class MarketSource(Protocol):
    """A stretch of the past, for streams and for REST."""

    first: int
    """Where it begins, ns since 1970."""

    def slices(
        self, stream: str, subscription: Mapping[str, Sequence[str]]
    ) -> Iterator[Sequence[tuple[int, Message | RecordedPayload]]]:
        """Yield what a subscription is answered with, each with its time in ns, in order, as lists."""

    def state(self, stream: str, symbols: Sequence[str]) -> dict[str, Message]:
        """Return the state of the symbols that have any."""

    def chain(self, underlying: str) -> list[str]:
        """Return the contracts of an underlying."""
