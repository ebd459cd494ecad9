"""The vocabulary for what a stream has over REST: the state of its symbols, their past, who lists them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from mdstream.venues.alpaca.limits import HISTORY_PAGE


@dataclass(frozen=True, slots=True)
class Fetch:
    """How the current state of symbols is fetched over REST: one multi-symbol GET.

    `{feed}` in the path stands for the stream's feed. `max_symbols` is what one request may name. `member`
    is the member of a body that holds the records: by symbol, or, where it is `listed`, in a list whose
    records name their own symbols. `fixed` are query parameters always sent, `feed_parameter` says that the
    stream's feed goes along as `feed`. `since_parameter` asks only for what is new since the previous
    cycle; a symbol that an answer lacks then has nothing new, and has not failed.
    """

    path: str
    max_symbols: int = 200
    member: str = "snapshots"
    listed: bool = False
    fixed: Mapping[str, str] = field(default_factory=dict)
    feed_parameter: bool = False
    since_parameter: str = ""


@dataclass(frozen=True, slots=True)
class Chain:
    """How the symbols of a stream are found by another name: contracts by their underlying.

    `path` is where the chain of one `{symbol}` is fetched, `listing` where the account API lists contracts,
    also expired ones, in the member `member`. `is_contract` says whether a symbol is a contract and not an
    underlying, `underlying_of` names a contract's, `nearest` picks so many contracts that trade most.
    `example` is a contract.
    """

    path: str
    listing: str
    member: str
    is_contract: Callable[[str], bool]
    underlying_of: Callable[[str], str]
    nearest: Callable[[Sequence[str], int], list[str]]
    example: str


@dataclass(frozen=True, slots=True)
class History:
    """How the past of a channel is fetched over REST, symbol by symbol and page after page, and stored.

    `{feed}` in the path stands for the stream's feed; `feed_parameter` says that it goes along as `feed`.
    Pages hold `limit` rows at most; `fixed` goes along with each request. Their records become rows of
    `channel`, or of `rows` where that is another one. With `bars`, a timeframe is asked for, and with
    `adjusted` an adjustment. The store keeps a `date` or a `year` apart (`partition`). Without a timeframe,
    a shard of a year spans `shard_days`. With `everything`, the service gives the rows of all symbols where
    none is named.
    """

    channel: str
    path: str
    rows: str = ""
    limit: int = HISTORY_PAGE
    feed_parameter: bool = False
    fixed: Mapping[str, str] = field(default_factory=dict)
    bars: bool = False
    adjusted: bool = False
    partition: str = "date"
    shard_days: int = 1
    everything: bool = False
