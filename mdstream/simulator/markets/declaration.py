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
    """A REST path, and what answers it: in a replay `replayed`, or, where there is none, a refusal."""

    path: str
    answer: Answer
    replayed: Answer | None = None


class Ticks(NamedTuple):
    """How the rows of a recorded day become messages.

    `columns` are those that rows have beside `kind`, the type of message, and `symbol`; `makers` make a
    message of a row of each kind and its number.
    """

    columns: frozenset[str]
    makers: Mapping[str, Callable[[Mapping[str, str], int], Message]]


@dataclass(frozen=True)
class Market:
    """Everything that one stream says on the wire and over REST."""

    generator: type[Generator]
    """Makes the messages of a connection."""
    symbol_form: re.Pattern[str]
    """What symbols look like."""
    routes: tuple[Route, ...]
    past: type[Past] = Past
    """Makes the records that REST gives, where these have a price."""
    chain: Callable[[str], list[str]] = lambda underlying: []
    """Lists the contracts of an underlying."""
    state_members: Mapping[str, str] = field(default_factory=dict)
    """For replays: channel → the member of a symbol's state that its first row is; empty: the whole."""
    share: float = 1.0
    """How many messages it has for each one of other markets."""
    is_open: bool = False
    """Whether REST answers without a key."""
    asset_class: str = ""
    """The class under which the account API lists its symbols; empty: it does not."""
    exchange: str = ""
    """The exchange that the account API names for them."""
    ticks: Ticks | None = None
    """Set where a recorded day can take the place of what is made up."""

    @property
    def name(self) -> str:
        """The name of the stream."""
        return self.generator.stream

    @property
    def universe(self) -> tuple[str, ...]:
        """The symbols that `*` stands for."""
        return self.generator.universe

    @cached_property
    def spec(self) -> StreamSpec:
        """The declaration of the stream."""
        return STREAMS[self.name]

    def is_symbol(self, text: str) -> bool:
        """Return whether `text` looks like a symbol of this market."""
        return self.symbol_form.fullmatch(text) is not None
