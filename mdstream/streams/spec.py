"""The vocabulary in which a stream type is declared: columns, channels, endpoints.

A stream is data, not code. `stocks.py` and its siblings declare which keys on the wire become which
columns, where the stream is served, and how a symbol is fetched. Decoders, frames, sessions and the
simulator read the declarations; their code names no stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from functools import cached_property

from mdstream.streams.bar_rules import BAR_INTERVALS, BarRules
from mdstream.streams.rest_spec import Chain, Fetch, HistorySpec


class Kind(Enum):
    """The type of a column: how it is read from the wire, and how it is stored."""

    SYMBOL = "symbol"
    """uint32 code into the stream's `symbols` dictionary."""
    TIME = "time"
    """int64 nanoseconds since 1970 UTC, from RFC 3339 text or a msgpack timestamp."""
    FLOAT = "float"
    INT = "int"
    UINT = "uint"
    BOOL = "bool"
    CODE = "code"
    """uint16 code of a short text (exchange, tape) in the column's dictionary."""
    CONDITIONS = "conditions"
    """uint16 code of a list of condition codes, joined without loss (`join_conditions`)."""
    TEXT = "text"
    """UTF-8 text of any length."""
    JSON = "json"
    """Any value, kept as JSON text."""
    SYMBOLS = "symbols"
    """A list of symbols: uint32 codes into the stream's `symbols` dictionary."""
    BYTES = "bytes"
    """Bytes of any length."""

    # Kinds are looked up in dicts for every column of every batch; Enum's own hash is Python code.
    __hash__ = object.__hash__


class PayloadKind(IntEnum):
    """Kind of a payload: how its bytes are read, and where its records go."""

    JSON = 0
    """A WebSocket message: a JSON array of messages."""
    MSGPACK = 1
    """A WebSocket message: a msgpack array of messages."""
    # REST bodies:
    SNAPSHOTS = 2
    """Snapshots by symbol."""
    TRADES = 3
    """Records by symbol, of the channel with this name; the next three likewise."""
    QUOTES = 4
    BARS = 5
    ORDERBOOKS = 6
    LISTED = 7
    """A list of records, each with its own symbols."""
    MARK = 8
    """A marker that the feed inserts between payloads (`Mark`); it and the next one are not received."""
    REQUESTED = 9
    """The symbols that the next payload, a body, was requested for: a JSON array, from the feed."""

    @property
    def from_stream(self) -> bool:
        return self <= PayloadKind.MSGPACK


class Mark(bytes, Enum):
    """Markers among the payloads, so that bars do not depend on where batches are cut."""

    GAP = b"gap"
    """The connection was lost here: data may be missing."""
    TICK = b"tick"
    """Time passed without data."""


STATE = "snapshots"
"""The channel of snapshots from REST, in every stream."""

SYMBOLS = "symbols"
"""The dictionary of symbols, in every stream."""


VARIABLE = frozenset({Kind.TEXT, Kind.JSON, Kind.SYMBOLS, Kind.BYTES})
"""Kinds whose rows differ in size: stored as 64-bit offsets and a heap."""

CODED = frozenset({Kind.SYMBOL, Kind.CODE, Kind.CONDITIONS, Kind.SYMBOLS})
"""Kinds stored as codes into a dictionary."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a frame and the wire key it comes from.

    `key` may reach into sub-objects with dots (`latestTrade.p`). The decoder itself fills the column with
    an empty `key`, `recv_ts`. A row without a `required` key is rejected; any other missing key is null, or
    `default` if that is given.

    A row without an `essential` value says nothing, and is rejected too (`Channel.essentials`). But the
    column may have nulls: a part of a snapshot may be absent as a whole, and so may the level of a reset
    book. Tables of earlier versions have rows without such values.

    `absent_at_zero` marks the price of a quote side: 0 means that the side is absent. Columns that name it
    in `side_of` are then null too if they are 0 or blank. `values` translates wire values to names.
    `dictionary` names the dictionary of a coded column.
    """

    name: str
    kind: Kind
    key: str = ""
    required: bool = False
    essential: bool = False
    default: bool | None = None
    absent_at_zero: bool = False
    side_of: str = ""
    values: Mapping[str, str] | None = None
    dictionary: str = ""

    @property
    def nullable(self) -> bool:
        return not self.required and self.default is None


SYMBOL = Column("symbol", Kind.SYMBOL, "S", required=True, dictionary=SYMBOLS)
"""The first column of every frame with one symbol in each row."""

_VERSION = Column("version", Kind.UINT, required=True)

RECV_TS = Column("recv_ts", Kind.TIME, required=True)
"""When the payload was received here; the last column of every received channel."""


MOST_AHEAD_NS = 60_000_000_000
"""A time that is further ahead of its receipt than this is not believed: it neither moves the clock of bars
nor keeps later rows out of the last values.
"""


LEVEL_KEYS = frozenset({"side", "p", "s"})
"""The keys of a level of an order book."""

STORED_APART = ("feed", "timeframe", "adjustment")
"""Columns that the store's tables have in addition to those of the channel."""


@dataclass(frozen=True, slots=True)
class Channel:
    """One frame of a stream: which wire messages become its rows.

    `types` are the values of `T` that belong here, `subscriptions` the service's names for them. With
    `levels` (wire key → side), a message has lists of `{p, s}` levels and becomes one row for each level,
    with the keys `side`, `p` and `s` added; otherwise one row.

    `is_timely`: the service sends messages as soon as the event has happened, so that their age when
    received is the delay of the data feed. With `revised_by`, a later row with the same identity replaces
    an earlier one, and that column says which of two is the later; of equal ones, the later received is.

    Two rows of different sources with equal `identity` are one event. Two equal rows of one source are two
    events, and nothing merges them. A source is a run, the history of a data feed, or rows fetched to fill
    a gap. `identity` may name `STORED_APART` columns too; without `feed`, all data feeds have the same
    rows. Default: `feed` and all columns but `recv_ts`.

    Pages of history may repeat rows. With `numbered_by`, the service gives each event of a feed a number in
    that column. Two equal rows with a number are one; rows without a number are all kept. With `one_per`, a
    feed has one row for each value of these columns, and the first one counts.
    """

    name: str
    columns: tuple[Column, ...]
    types: tuple[str, ...] = ()
    subscriptions: tuple[str, ...] = ()
    levels: Mapping[str, str] | None = None
    is_timely: bool = False
    revised_by: str = ""
    identity: tuple[str, ...] = ()
    numbered_by: str = ""
    one_per: tuple[str, ...] = ()
    at: Mapping[str, int] = field(init=False, compare=False, repr=False)
    """The index of each column, by its name."""
    essentials: Mapping[int, tuple[int, ...]] = field(init=False, compare=False, repr=False)
    """The index of each essential column → the columns of its part of a snapshot, or of its level. It must
    have a value if one of these has; if there are none, in every row.
    """

    def __post_init__(self) -> None:
        places = {column.name: index for index, column in enumerate(self.columns)}
        object.__setattr__(self, "at", places)
        parts = [self._part_of(column) for column in self.columns]
        essentials = {
            index: tuple(i for i, part in enumerate(parts) if part and part == parts[index])
            for index, column in enumerate(self.columns)
            if column.essential
        }
        object.__setattr__(self, "essentials", essentials)
        everything = ("feed", *(name for name in places if name != RECV_TS.name))
        object.__setattr__(self, "identity", self.identity or everything)

    def _part_of(self, column: Column) -> str:
        """Return the part of a message that a column is of; empty if it is of the message itself."""
        if self.levels is not None and column.key in LEVEL_KEYS:
            return "level"
        head, dot, _ = column.key.partition(".")
        return head if dot else ""

    def column(self, name: str) -> Column:
        """Return the column called `name`."""
        return self.columns[self.at[name]]

    @property
    def has_parts(self) -> bool:
        """Whether a message consists of parts, such as the last trade and quote, that are of use alone."""
        return any("." in column.key for column in self.columns)

    @property
    def time(self) -> str:
        """The column with the time of the event, or, if that is optional, the time of receipt."""
        times = [c for c in self.columns if c.kind is Kind.TIME]
        return next((c.name for c in times if c.required), times[-1].name)


REJECTS = Channel(
    "rejects",
    (
        Column("kind", Kind.TEXT, required=True),
        Column("place", Kind.TEXT, required=True),
        Column("reason", Kind.TEXT, required=True),
        Column("bytes", Kind.BYTES, required=True),
        RECV_TS,
    ),
)
"""What could not become a row, in every stream: `kind` says what `bytes` are, such as `json` or `trades`.

`place` is where they were: message of a payload, whose receive time the row has, or row of a frame.
"""


@dataclass(frozen=True, slots=True)
class Aspect:
    """A last value of a symbol, such as its trade or quote.

    It is updated by `channel` (empty: none) and by snapshots that have it. `columns` are those of
    `<stream>.latest`, whose names may have the aspect's name as a prefix. `time` is the column that says
    which of two is newer (empty: the later received one). `recv` is the column with the receive time.
    """

    name: str
    columns: tuple[Column, ...]
    time: str
    recv: str
    channel: str = ""

    def sources(self, channel: Channel) -> list[int]:
        """Return the index in the channel of the source of each column; an empty list if one has none."""
        found = []
        for column in self.columns:
            own = "recv_ts" if column.name == self.recv else column.name
            if own not in channel.at:
                own = own.removeprefix(self.name + "_")
            if own not in channel.at:
                return []
            found.append(channel.at[own])
        return found


_BUILT_BARS = (
    SYMBOL,
    Column("ts", Kind.TIME, required=True),
    *(Column(name, Kind.FLOAT) for name in ("open", "high", "low", "close")),
    Column("volume", Kind.FLOAT, required=True),
    Column("trade_count", Kind.INT, required=True),
    Column("vwap", Kind.FLOAT),
    Column("vwap_volume", Kind.FLOAT, required=True),
    Column("revised", Kind.BOOL, required=True),
    Column("complete", Kind.BOOL, required=True),
    RECV_TS,
)
"""The columns of bars that the feed builds. Prices are null if all trades were cancelled; `vwap_volume` is
the volume behind `vwap`, so that these bars can be joined to longer ones.
"""


@dataclass(frozen=True)
class StreamSpec:
    """The declaration of one stream."""

    name: str
    channels: tuple[Channel, ...]
    feeds: Mapping[str, str]
    """The service's data feeds → WebSocket path."""
    default_feed: str
    codec: str
    """`json` or `msgpack`: the codec unless the settings say otherwise."""
    codecs: tuple[str, ...]
    symbols: tuple[str, ...]
    """The subscribed symbols unless the settings name others."""
    fetch: Fetch
    mute_after_s: Mapping[str, float]
    """Subscription → seconds of silence after which a socket counts as dead while its market is open."""
    always_open: bool
    """Whether this market never closes."""
    is_default: bool = True
    """Whether a run serves this stream by default."""
    bar_rules: BarRules | None = None
    latest: tuple[Aspect, ...] = ()
    """The values that `<stream>.latest` has of each symbol."""
    added_by_server: Mapping[str, str] = field(default_factory=dict)
    """Subscription that the server adds by itself → the subscription that it comes with."""
    history: tuple[HistorySpec, ...] = ()
    """Channels whose history can be fetched."""
    chain: Chain | None = None
    """Set if symbols are contracts, which are listed by underlying."""
    asset_classes: tuple[str, ...] = ()
    """The classes under which the account API lists the symbols; empty: it does not list them."""
    instrument: str = ""
    """Type of a symbol: `equity`, `option_contract` or `currency_pair`; empty: another one."""
    no_wildcard: tuple[str, ...] = ()
    """Subscriptions for which the service does not accept `*`."""

    @cached_property
    def by_type(self) -> dict[str, Channel]:
        """`T` on the wire → its channel."""
        return {wire_type: c for c in self.channels for wire_type in c.types}

    @cached_property
    def by_name(self) -> dict[str, Channel]:
        return {c.name: c for c in self.channels}

    @cached_property
    def row_channels(self) -> dict[str, Channel]:
        """Name → channel with a frame of rows: the declared ones, bars that the feed builds, rejects."""
        return {c.name: c for c in (*self.channels, *self.built_bars, REJECTS)}

    @cached_property
    def received_channels(self) -> tuple[Channel, ...]:
        """The channels with a frame of what a run receives: those with wire types, and snapshots."""
        return tuple(c for c in self.channels if c.types or c.name == STATE)

    @cached_property
    def latest_channel(self) -> Channel:
        """The channel of the keyed frame of last values: one row for each symbol."""
        columns = [column for aspect in self.latest for column in aspect.columns]
        return Channel("latest", (SYMBOL, *columns, _VERSION))

    @cached_property
    def built_bars(self) -> tuple[Channel, ...]:
        """The channels of bars that the feed builds from trades."""
        if self.bar_rules is None:
            return ()
        return tuple(Channel(name, _BUILT_BARS) for name in BAR_INTERVALS)

    @cached_property
    def subscriptions(self) -> tuple[str, ...]:
        """Every subscription that a client may request, in the service's order."""
        names = [s for c in self.channels for s in c.subscriptions]
        return tuple(n for n in names if n not in self.added_by_server)

    @cached_property
    def dictionaries(self) -> tuple[str, ...]:
        """Every dictionary of the stream's frames, in order of first use."""
        seen = {
            column.dictionary: None
            for channel in self.channels
            for column in channel.columns
            if column.kind in CODED
        }
        return tuple(seen)

    # -- REST bodies

    @property
    def state_kind(self) -> PayloadKind:
        """The kind of bodies with the state of symbols."""
        return PayloadKind.LISTED if self.fetch.listed else PayloadKind.SNAPSHOTS

    def kind_of(self, history: HistorySpec) -> PayloadKind:
        """Return the kind of the pages of a history."""
        return self.state_kind if history.rows == STATE else PayloadKind[history.channel.upper()]

    def member_of(self, kind: PayloadKind) -> str:
        """Return the member that holds the records in bodies of `kind`."""
        return self.fetch.member if kind is self.state_kind else kind.name.lower()

    def channel_of(self, kind: PayloadKind) -> Channel | None:
        """Return the channel of the records in bodies of `kind`; None if the stream has none."""
        return self.by_name.get(STATE if kind is self.state_kind else kind.name.lower())
