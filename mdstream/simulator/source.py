"""What a simulator serves in place of its own market."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from mdstream.simulator.market import Message


class Frame(bytes):
    """A WebSocket frame with a payload as it once came."""


class Source(Protocol):
    """A stretch of the past, for streams and for REST."""

    first: int
    """Where it begins, ns since 1970."""

    def slices(
        self, stream: str, subscription: Mapping[str, Sequence[str]]
    ) -> Iterator[Sequence[tuple[int, Message | Frame]]]:
        """What a subscription is answered with, each with its time in ns, in order, as lists: messages, or
        WebSocket frames as they are to be written.
        """

    def state(self, stream: str, symbols: Sequence[str]) -> dict[str, Message]:
        """Snapshots of the symbols that have any."""

    def chain(self, underlying: str) -> list[str]:
        """The contracts of an underlying."""
