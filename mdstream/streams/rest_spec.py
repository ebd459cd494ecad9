"""The vocabulary in which a stream's REST calls are declared: snapshots, chains of contracts, history."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

from mdstream.venues.alpaca.limits import HISTORY_PAGE


@dataclass(frozen=True, slots=True)
class Fetch:
    """How to fetch the current state of symbols over REST: one GET for several symbols.

    `{feed}` in the path stands for the data feed. A request names at most `max_symbols`. `member` is the
    member of a body with the records: an object by symbol or, if `listed`, a list of records that name
    their own symbols. `fixed` are query parameters of every request. With `feed_parameter`, the data feed
    is sent as `feed`. `since_parameter` requests only records that are new since the previous cycle; a
    symbol that the answer lacks then has nothing new, and has not failed.
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
    """How to find contracts by their underlying.

    `path` is the path of the chain of one `{symbol}`. `listing` is the path of the account API's list of
    contracts, which has expired ones too, in the member `member`. `is_contract` distinguishes a contract
    from an underlying, `underlying_of` returns the root of a contract's name, `expiry_of` its last day, and
    `nearest` picks a number of contracts that trade most. `root_of` returns the root of an underlying's
    plain contracts, and `is_root_of` says whether contracts with a root are of an underlying, adjusted ones
    included. `spellings_of` returns the underlyings that a root or symbol may mean. `example` is a
    contract.
    """

    path: str
    listing: str
    member: str
    is_contract: Callable[[str], bool]
    underlying_of: Callable[[str], str]
    expiry_of: Callable[[str], date]
    root_of: Callable[[str], str]
    is_root_of: Callable[[str, str], bool]
    spellings_of: Callable[[str], tuple[str, ...]]
    nearest: Callable[[Sequence[str], int], list[str]]
    example: str


@dataclass(frozen=True, slots=True)
class HistorySpec:
    """How to fetch the history of a channel over REST, by symbol and page, and store it.

    `{feed}` in the path stands for the data feed; with `feed_parameter` it is sent as `feed`. Pages have at
    most `limit` rows; `fixed` are query parameters of every request. Records become rows of `channel`, or
    of `rows` if that is given. Requests of `bars` have a timeframe, and `adjusted` ones an adjustment. The
    store is partitioned by `date` or `year` (`partition`). Without a timeframe, a shard of a year spans
    `shard_days`. With `everything`, a request without symbols returns the rows of all symbols. With
    `mapped`, a request may name the day as of which symbols are meant (`asof`). With `sparse`, most shards
    are empty, so that an empty one is no sign of a gap. Without `needs_keys`, the service documents that it
    serves this history without keys.
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
    mapped: bool = False
    sparse: bool = False
    needs_keys: bool = True
