"""The vocabulary in which a simulated market is declared."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from mdstream.simulator.answers import Answer
from mdstream.simulator.generator import Generator, Message
from mdstream.simulator.past_records import Past
from mdstream.streams import STREAMS
from mdstream.streams.spec import StreamSpec


class Route(NamedTuple):
    """A REST path and its answer. A replay uses `replayed`, or refuses if there is none."""

    path: str
    answer: Answer
    replayed: Answer | None = None


class Ticks(NamedTuple):
    """How the rows of a recorded day become messages.

    `columns` are those besides `kind` (the type of message) and `symbol`. `makers` has, for each kind, the
    function that makes a message from a row and its number.
    """

    columns: frozenset[str]
    makers: Mapping[str, Callable[[Mapping[str, str], int], Message]]


@dataclass(frozen=True)
class Market:
    """The declaration of a simulated market: its messages and REST answers."""

    generator: type[Generator]
    """Makes the messages of a connection."""
    symbol_form: re.Pattern[str]
    """The form of symbols."""
    routes: tuple[Route, ...]
    past: type[Past] = Past
    """Makes the records of REST answers, if these have a price."""
    chain: Callable[[str], list[str]] = lambda underlying: []
    """Lists the contracts of an underlying."""
    state_members: Mapping[str, str] = field(default_factory=dict)
    """For replays: channel → member of a symbol's state that its first row becomes; empty: the whole."""
    share: float = 1.0
    """Number of its messages for each message of another market."""
    is_open: bool = False
    """Whether REST answers without a key."""
    asset_class: str = ""
    """The class under which the account API lists its symbols; empty: it does not list them."""
    exchange: str = ""
    """The exchange of its symbols in the account API."""
    ticks: Ticks | None = None
    """Set if a recorded day can replace made-up messages."""

    @property
    def name(self) -> str:
        """The name of the stream."""
        return self.generator.stream

    @property
    def universe(self) -> tuple[str, ...]:
        """The symbols that `*` means."""
        return self.generator.universe

    @cached_property
    def spec(self) -> StreamSpec:
        """The declaration of the stream."""
        return STREAMS[self.name]

    def is_symbol(self, text: str) -> bool:
        """Return whether `text` has the form of a symbol of this market."""
        return self.symbol_form.fullmatch(text) is not None
