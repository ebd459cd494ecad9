"""The vocabulary in which a stream type is declared: columns, channels, endpoints.

A stream is data, not code. `stocks.py` and its siblings declare which keys on the wire become
which columns, where the stream is served and how a symbol is fetched; decoders, frames, sessions
and the simulator read the declaration and know no stream by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from functools import cached_property

import orjson

from mdstream.streams.rest_spec import Chain, Fetch, History


class Kind(Enum):
    """What a column holds; decides how it is read from the wire and how it is stored."""

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

    # Kinds are looked up in dicts for every column of every batch; Enum's own hash is Python code.
    __hash__ = object.__hash__


class PayloadKind(IntEnum):
    """What a payload is: how its bytes are read, and where its records go."""

    JSON = 0
    """A WebSocket message: a JSON array of messages."""
    MSGPACK = 1
    """A WebSocket message: a msgpack array of messages."""
    SNAPSHOTS = 2
    """A REST body, like the five that follow: the state of symbols, by symbol."""
    TRADES = 3
    """Records by symbol, like the three that follow, of the channel with this name."""
    QUOTES = 4
    BARS = 5
    ORDERBOOKS = 6
    LISTED = 7
    """The state of symbols as a list of records, each of which names its own symbols."""
    MARK = 8
    """A word of the feed's own between payloads, where it happened: one of `Mark`. It is no data."""

    @property
    def from_stream(self) -> bool:
        return self <= PayloadKind.MSGPACK


class Mark(bytes, Enum):
    """What a feed notes among its payloads, so that bars are the same wherever batches are cut."""

    GAP = b"gap"
    """The connection was lost here: what came between is not known."""
    TICK = b"tick"
    """Nothing came for a while: only time went on."""


STATE = "snapshots"
"""The channel of what REST says about the state of symbols, in every stream."""

SYMBOLS = "symbols"
"""The dictionary of symbols, in every stream."""


VARIABLE = frozenset({Kind.TEXT, Kind.JSON, Kind.SYMBOLS})
"""Kinds whose rows differ in size: stored as 64-bit offsets and a heap."""

CODED = frozenset({Kind.SYMBOL, Kind.CODE, Kind.CONDITIONS, Kind.SYMBOLS})
"""Kinds stored as codes into a dictionary."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a frame and the wire key it comes from.

    `key` may reach into sub-objects with dots (`latestTrade.p`). An empty `key` marks the column the
    decoder fills itself, `recv_ts`. A row lacking a `required` key
    is rejected; any other missing key is null, or `default` where one is given.

    `absent_at_zero` marks the price of a quote side: 0 there means that the side is absent. The
    columns that name it in `side_of` are then null too where they hold nothing (0 or blank).
    `values` translates wire values to names. `dictionary` names the dictionary of a coded column.
    """

    name: str
    kind: Kind
    key: str = ""
    required: bool = False
    default: bool | None = None
    absent_at_zero: bool = False
    side_of: str = ""
    values: Mapping[str, str] | None = None
    dictionary: str = ""

    @property
    def nullable(self) -> bool:
        return not self.required and self.default is None


SYMBOL = Column("symbol", Kind.SYMBOL, "S", required=True, dictionary=SYMBOLS)
"""The first column of every frame whose rows belong to one symbol each."""

_VERSION = Column("version", Kind.UINT, required=True)

RECV_TS = Column("recv_ts", Kind.TIME, required=True)
"""When the payload was received here; the last column of every frame that comes off the wire."""


STORED_APART = ("feed", "timeframe", "adjustment")
"""Columns that the store's tables have beside those of the channel."""


@dataclass(frozen=True, slots=True)
class Channel:
    """One frame of a stream: which wire messages become its rows.

    `types` are the values of `T` that belong here, `subscriptions` the names under which the
    service offers them. Where `levels` is given (wire key → side), a message carries lists of
    `{p, s}` levels and becomes one row a level (the keys `side`, `p` and `s` beside those of the
    message), else one row a message.

    `is_timely` says that messages are sent as soon as what they report has happened, so that their age
    upon receipt is the delay of the feed. Where `revised_by` is given, a later row with the same identity
    replaces an earlier one, and that column says which of two is the later.

    `identity` names the columns that make a row of one source the same as a row of another: of the stream
    and of history, of two feeds, of what was received and what was fetched to fill a gap. It may name what
    the store keeps apart besides (`STORED_APART`); where it lacks `feed`, all feeds bring the same rows. If
    none is given, it is `feed` and all columns but `recv_ts`. Equal rows of one source are not the same.
    """

    name: str
    columns: tuple[Column, ...]
    types: tuple[str, ...] = ()
    subscriptions: tuple[str, ...] = ()
    levels: Mapping[str, str] | None = None
    is_timely: bool = False
    revised_by: str = ""
    identity: tuple[str, ...] = ()
    at: Mapping[str, int] = field(init=False, compare=False, repr=False)
    """The index of each column, by its name."""

    def __post_init__(self) -> None:
        places = {column.name: index for index, column in enumerate(self.columns)}
        object.__setattr__(self, "at", places)
        everything = ("feed", *(name for name in places if name != RECV_TS.name))
        object.__setattr__(self, "identity", self.identity or everything)

    def column(self, name: str) -> Column:
        """The column called `name`."""
        return self.columns[self.at[name]]

    @property
    def time(self) -> str:
        """The column with a row's time: the event's, or, where no row must have one, when it came."""
        times = [c for c in self.columns if c.kind is Kind.TIME]
        return next((c.name for c in times if c.required), times[-1].name)


@dataclass(frozen=True, slots=True)
class Aspect:
    """Something that is known of a symbol, and of which only the last counts: its trade, its quote.

    It is brought by the rows of `channel` (empty: by none), and by those of the state, if they have it.
    `columns` are those of `<stream>.latest`, each named after the aspect where the channel's own are not;
    `time` is the one that says which of two is the newer (empty: the one that comes later), `recv` when it
    came.
    """

    name: str
    columns: tuple[Column, ...]
    time: str
    recv: str
    channel: str = ""

    def sources(self, channel: Channel) -> list[int]:
        """Return for each of `columns` the index of its source in the channel; nothing if one has none."""
        found = []
        for column in self.columns:
            own = "recv_ts" if column.name == self.recv else column.name
            if own not in channel.at:
                own = own.removeprefix(self.name + "_")
            if own not in channel.at:
                return []
            found.append(channel.at[own])
        return found


BAR_INTERVALS = {"bars_1s": 1_000_000_000, "bars_1m": 60_000_000_000}
"""Channels of bars that are built here, and their length in ns."""


def _built_bars(volume: Kind) -> tuple[Column, ...]:
    """Columns of bars that are built here. Prices are null in a bar whose every trade was cancelled;
    `vwap_volume` is the volume behind `vwap`, so that longer bars can be made of these.
    """
    return (
        SYMBOL,
        Column("ts", Kind.TIME, required=True),
        *(Column(name, Kind.FLOAT) for name in ("open", "high", "low", "close")),
        Column("volume", volume, required=True),
        Column("trade_count", Kind.INT, required=True),
        Column("vwap", Kind.FLOAT),
        Column("vwap_volume", volume, required=True),
        Column("revised", Kind.BOOL, required=True),
        Column("complete", Kind.BOOL, required=True),
        RECV_TS,
    )


@dataclass(frozen=True, slots=True)
class BarRules:
    """Which trades update which part of a minute bar, by condition code and tape.

    Source: Alpaca's published table (market data FAQ, 2026-09). A trade follows the strictest rule
    of its conditions; a condition that is listed nowhere restricts nothing. The same letter means
    other things on the CTA tapes (A, B) than on the UTP tapes (C, O), so each condition maps to the
    tapes on which the rule holds; no tapes means all.

    `trades` names the channel of trades, `midpoints` that of quotes whose midpoints move prices too, as the
    service has it for crypto: such a bar needs no trade. `corrections` and `cancels` name the channels that
    amend trades.
    """

    volume_only: Mapping[str, str] = field(default_factory=dict)
    excluded: Mapping[str, str] = field(default_factory=dict)
    volume: Kind = Kind.INT
    has_condition_list: bool = False
    """Whether a trade has a list of conditions, and not one."""
    trades: str = "trades"
    midpoints: str = ""
    corrections: str = ""
    cancels: str = ""

    @property
    def sources(self) -> tuple[str, str, str, str]:
        """The channels that bars are made of; empty where there is none."""
        return self.trades, self.midpoints, self.corrections, self.cancels

    def counts(self, conditions: Iterable[str], tape: str) -> tuple[bool, bool]:
        """Whether a trade with these conditions counts in prices, and in volume."""
        price = volume = True
        for condition in conditions:
            for table, is_excluded in ((self.volume_only, False), (self.excluded, True)):
                tapes = table.get(condition)
                if tapes is not None and (not tapes or tape in tapes):
                    price = False
                    volume = volume and not is_excluded
        return price, volume


@dataclass(frozen=True)
class StreamSpec:
    """Everything mdstream knows about one stream type."""

    name: str
    channels: tuple[Channel, ...]
    feeds: Mapping[str, str]
    """Feed → WebSocket path."""
    default_feed: str
    codec: str
    """`json` or `msgpack`: what is asked for unless the configuration says otherwise."""
    codecs: tuple[str, ...]
    symbols: tuple[str, ...]
    """What is followed unless the configuration names symbols."""
    fetch: Fetch
    mute_after_s: Mapping[str, float]
    """Subscription → seconds of silence, while its market is open, after which a socket is dead."""
    always_open: bool
    """Whether this market trades around the clock."""
    is_default: bool = True
    """Whether a run serves this stream without being asked to."""
    bar_rules: BarRules | None = None
    latest: tuple[Aspect, ...] = ()
    """What `<stream>.latest` shows of each symbol."""
    added_by_server: Mapping[str, str] = field(default_factory=dict)
    """Subscription the server adds by itself → the one it comes along with."""
    history: tuple[History, ...] = ()
    """Channels whose past can be fetched."""
    chain: Chain | None = None
    """Set where symbols are contracts, which their underlyings list."""
    asset_classes: tuple[str, ...] = ()
    """The classes under which the account API lists the symbols; empty: it does not."""
    instrument: str = ""
    """What one symbol is: `equity`, `option_contract` or `currency_pair`; empty: none of these."""
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
        """By name, the channels with a frame of rows: those of the wire, and bars that are built here."""
        return {c.name: c for c in (*self.channels, *self.built_bars)}

    @cached_property
    def received_channels(self) -> tuple[Channel, ...]:
        """The channels with a frame of what the service sends: those of the wire, and the state."""
        return tuple(c for c in self.channels if c.types or c.name == STATE)

    @cached_property
    def latest_channel(self) -> Channel:
        """The keyed frame of last values: a row a symbol."""
        columns = [column for aspect in self.latest for column in aspect.columns]
        return Channel("latest", (SYMBOL, *columns, _VERSION))

    @cached_property
    def built_bars(self) -> tuple[Channel, ...]:
        """The channels of bars that are built here from trades."""
        if self.bar_rules is None:
            return ()
        columns = _built_bars(self.bar_rules.volume)
        return tuple(Channel(name, columns) for name in BAR_INTERVALS)

    @cached_property
    def subscriptions(self) -> tuple[str, ...]:
        """Every subscription a client may ask for, in the service's order."""
        names = [s for c in self.channels for s in c.subscriptions]
        return tuple(n for n in names if n not in self.added_by_server)

    @cached_property
    def dictionaries(self) -> tuple[str, ...]:
        """Every dictionary the stream's frames use, in order of first use."""
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
        """What bodies with the state of symbols are."""
        return PayloadKind.LISTED if self.fetch.listed else PayloadKind.SNAPSHOTS

    def kind_of(self, history: History) -> PayloadKind:
        """What the pages of a history are."""
        return self.state_kind if history.rows == STATE else PayloadKind[history.channel.upper()]

    def member_of(self, kind: PayloadKind) -> str:
        """The member that holds the records in bodies of `kind`."""
        return self.fetch.member if kind is self.state_kind else kind.name.lower()

    def channel_of(self, kind: PayloadKind) -> Channel | None:
        """The channel whose rows the records in bodies of `kind` become; None if the stream has none."""
        return self.by_name.get(STATE if kind is self.state_kind else kind.name.lower())


def join_conditions(codes: list[str]) -> str:
    """Condition codes as one text, without loss: `["@", "F", "T"]` → `@FT`.

    One-character codes, which all of today's are, are written side by side. A list with any other
    code becomes a JSON array, which `split_conditions` recognises by its opening bracket.
    """
    if all(len(code) == 1 for code in codes) and (not codes or codes[0] != "["):
        return "".join(codes)
    return orjson.dumps(codes).decode()


def split_conditions(text: str) -> list[str]:
    """The codes that `join_conditions` joined."""
    if not text.startswith("["):
        return list(text)
    codes: list[str] = orjson.loads(text)
    return codes
