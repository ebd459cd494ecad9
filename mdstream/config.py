"""The settings. Each is declared once, as a field of a frozen struct: meaning, limits, unit, flag, default.

`mdstream.settings` reads, merges and checks them. Help texts and documents are derived from the fields. The
descriptions make this file long.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec

from mdstream.errors import ConfigError
from mdstream.streams import STREAMS
from mdstream.text.masking import hide
from mdstream.venues.alpaca import endpoints
from mdstream.venues.alpaca.limits import FREE_PLAN

AUTO = -1
"""The value of a number that is written `auto`."""

_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""The container's limit: microseconds of CPU time per period, and the period."""


def setting(
    description: str, *, ge: float | None = None, le: float | None = None, **about: Any
) -> msgspec.Meta:
    """Declare the meaning of a setting and its limits: at least `ge`, at most `le`.

    `about` are attributes of `mdstream.settings.Setting`: `unit`, `choices`, `schemes`, `is_path`,
    `is_store`, `example`, `flag`, `metavar`, `variable`, `secret`, `is_automatic`, `forms`.
    """
    return msgspec.Meta(description=description, ge=ge, le=le, extra=about)


def add_flag(flag: str) -> msgspec.Meta:
    """Give a setting that is declared elsewhere a flag."""
    return msgspec.Meta(extra={"flag": flag})


class Struct(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A frozen group of settings that refuses unknown names."""


class Credentials(Struct, frozen=True):
    """API key and secret. Neither is ever printed, logged or written to a report or a frame."""

    key_id: Annotated[str, setting("Key of the account.", variable="APCA_API_KEY_ID", secret=True)] = ""
    secret_key: Annotated[str, setting("Its secret.", variable="APCA_API_SECRET_KEY", secret=True)] = ""

    def __post_init__(self) -> None:
        hide(self.key_id, self.secret_key)

    def __bool__(self) -> bool:
        return bool(self.key_id and self.secret_key)

    def __repr__(self) -> str:
        return f"Credentials({'set' if self else 'not set'})"

    def __rich_repr__(self) -> Any:
        yield "set" if self else "not set"


ANY_KEY = Credentials(key_id="any", secret_key="any")
"""The key for servers on this machine if none is set: simulators and replays accept any."""


class StreamConfig(Struct, frozen=True):
    """One stream: what is followed, and how. An empty value means the stream's default."""

    symbols: Annotated[
        tuple[str, ...],
        setting(
            "Symbols to follow, or '*' for all. For options: contracts, or underlyings, which stand for "
            "contracts of their chains.",
            flag="--symbols",
        ),
    ] = ()
    priority: Annotated[
        tuple[str, ...],
        setting(
            "Which of the symbols are subscribed and fetched before the others. An underlying stands "
            "for its contracts.",
            example='["AAPL", "MSFT"]',
        ),
    ] = ()
    channels: Annotated[tuple[str, ...], setting("Channels to subscribe to.")] = ()
    feed: Annotated[str, setting("Data feed of the service.", flag="--feed")] = ""
    codec: Annotated[str, setting("Encoding to ask the stream for.")] = ""
    mute_after_s: Annotated[
        dict[str, Annotated[float, msgspec.Meta(ge=0.1)]],
        setting(
            "By channel: reconnect if no row of it arrives for this long while its market is open. "
            "Channels that share a frame, as all bars do, count as one.",
            unit="s",
            example="{ quotes = 30.0 }",
        ),
    ] = {}
    chain_contracts: Annotated[
        int,
        setting(
            "Contracts to follow for each underlying; options only. Each fetch of a chain chooses anew: "
            "the next expiries, the middle strikes. One that is followed stays until it expires, or is not "
            "among the nearest 2 × chain_contracts.",
            ge=1,
        ),
    ] = 50
    stream_url: Annotated[
        str,
        setting(
            "Server of this stream only, such as a replay; empty: the server of all streams.",
            schemes=("ws", "wss"),
            example='"ws://127.0.0.1:8765"',
        ),
    ] = ""


class FetchConfig(Struct, frozen=True):
    """Requests to the REST API: the state of every symbol, at start and then at an interval."""

    interval_s: Annotated[
        float,
        setting(
            "Interval between fetches of all symbols; 0: once each, at start or when they are subscribed.",
            unit="s",
            ge=0,
        ),
    ] = 60.0
    budget_per_minute: Annotated[
        int,
        setting(
            "Request limit of the account, shared by all streams; if it is small, symbols are grouped. "
            "Alpaca's free plan allows 200.",
            unit="requests/min",
            ge=1,
            le=1_000_000,
        ),
    ] = FREE_PLAN
    concurrency: Annotated[int, setting("Concurrent requests of each stream.", ge=1)] = 64
    timeout_s: Annotated[float, setting("Timeout of one attempt.", unit="s", ge=0.01)] = 10.0
    deadline_s: Annotated[
        float, setting("Timeout of one request with all its attempts.", unit="s", ge=0.01)
    ] = 90.0
    attempts: Annotated[int, setting("Attempts per request.", ge=1)] = 5


class BackfillConfig(Struct, frozen=True):
    """History that is fetched into a store (`mdstream backfill`). Timeouts are those of `[fetch]`."""

    concurrency: Annotated[int, setting("Concurrent requests.", ge=1, flag="--concurrency")] = 128
    workers: Annotated[
        int,
        setting(
            "Worker processes that decode; 0: decode in the main process; auto: one per core.",
            ge=AUTO,
            le=256,
            flag="--workers",
            is_automatic=True,
        ),
    ] = AUTO
    budget_per_minute: Annotated[
        int,
        setting(
            "Request limit; 0: fetch.budget_per_minute until the headers of the service report its limit.",
            unit="requests/min",
            ge=0,
            le=1_000_000,
        ),
    ] = 0


class HandoffConfig(Struct, frozen=True):
    """Buffers between socket and workers. If shared memory is small, they are fewer and smaller."""

    slab_kb: Annotated[int, setting("Size of one buffer.", unit="kB", ge=16)] = 1024
    slabs: Annotated[
        int, setting("Buffers of each stream; while all are full, reading from the socket pauses.", ge=2)
    ] = 12
    linger_ms: Annotated[
        float,
        setting(
            "Time to wait for more messages of a batch; 0: submit it when a worker is free.",
            unit="ms",
            ge=0,
        ),
    ] = 0.0
    ticket_timeout_s: Annotated[
        float, setting("Timeout of one batch; a worker that exceeds it counts as hung.", unit="s", ge=0.1)
    ] = 10.0
    max_payload_mb: Annotated[int, setting("Largest payload that is accepted.", unit="MB", ge=1)] = 64
    kernels: Annotated[
        bool,
        setting("Decode with compiled kernels; false: use the fallback decoder, which is much slower."),
    ] = True


class FramesConfig(Struct, frozen=True):
    """The frames in shared memory, and how many rows they keep."""

    directory: Annotated[str, setting("Folder of the runs; empty: /dev/shm.", is_path=True)] = ""
    retention_mb: Annotated[
        int, setting("Size of each frame; beyond it, the oldest rows are dropped.", unit="MB", ge=1)
    ] = 256
    stream_mb: Annotated[
        int,
        setting(
            "Size of all frames of a stream; 0: its share of the memory that is free at start.",
            unit="MB",
            ge=0,
        ),
    ] = 0
    chunk_mb: Annotated[int, setting("Size of one file of a frame.", unit="MB", ge=1)] = 16


Seed = Annotated[int, setting("The same seed gives the same market.")]
Rate = Annotated[
    float,
    setting("Messages on each connection; 0: as fast as the client takes them.", unit="messages/s", ge=0),
]
MessagesPerPayload = Annotated[int, setting("Messages in each payload.", ge=1)]
Latency = Annotated[float, setting("Delay of REST answers and authentication.", unit="ms", ge=0)]


class SimulatorConfig(Struct, frozen=True):
    """The embedded simulator, used if neither keys nor a server are set.

    Its defaults are those of a demonstration: a rate that leaves the machine to the engine, and the delay
    of a server on the internet. Those of `mdstream simulate` are for tests: it is faster.
    """

    seed: Seed = 1
    rate: Rate = 500.0
    messages_per_payload: MessagesPerPayload = 1
    latency_ms: Latency = 20.0


class StoreConfig(Struct, frozen=True):
    """The store of recorded frames.

    The keys of an object store are those of the AWS tools (`AWS_ACCESS_KEY_ID`, ...). For another service
    than Amazon's, set `AWS_ENDPOINT_URL`.
    """

    path: Annotated[
        str,
        setting(
            "Folder, or s3://bucket/prefix.",
            is_path=True,
            is_store=True,
            example='"s3://bucket/prefix"',
            flag="--store",
            metavar="DIR",
        ),
    ] = "store"
    every_s: Annotated[float, setting("Interval between commits of rows.", unit="s", ge=0.1)] = 5.0
    workers: Annotated[int, setting("Processes that sort, compress and write.", ge=1)] = 1
    keep_hours: Annotated[
        int, setting("How long to keep files that compaction has replaced.", unit="h", ge=0)
    ] = 1


class LogConfig(Struct, frozen=True):
    """Log lines, on standard error."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        setting("Lowest level that is logged.", flag="--log-level"),
    ] = "info"
    json: Annotated[bool, setting("Write log lines as JSON.", flag="--log-json")] = False


class Endpoint(Struct, frozen=True):
    """A REST server: its base URL, key, and PEM bundle (or "")."""

    url: str
    credentials: Credentials
    ca_file: str = ""

    def require_keys(self, what: str) -> None:
        """Raise `ConfigError` if this is Alpaca's own server and no key is set; `what` needs one."""
        if not self.credentials and self.url in endpoints.REST_URLS:
            raise ConfigError(
                f"{what} needs keys: set APCA_API_KEY_ID and APCA_API_SECRET_KEY, or choose a server, for "
                "example --data-url http://127.0.0.1:8765 (mdstream simulate)"
            )


class Connection(Struct, frozen=True):
    """The connection of one stream: base URL, key, PEM bundle, settings of the socket."""

    url: str
    credentials: Credentials
    ca_file: str
    auth: str
    websocket: str
    compression: bool
    max_payload_mb: int


class BackfillSettings(Struct, frozen=True):
    """The settings that a backfill works with."""

    data: Endpoint
    trading: Endpoint
    fetch: FetchConfig
    """With the concurrency of the backfill."""
    workers: int
    budget_per_minute: int
    learns_budget: bool
    """Whether the budget follows the headers of the service."""
    feeds: dict[str, str]
    """The data feed of each stream."""


class FeedConfig(Struct, frozen=True):
    """The settings that one stream's feed works with."""

    stream: StreamConfig
    connection: Connection
    data: Endpoint
    fetch: FetchConfig
    handoff: HandoffConfig
    frames: FramesConfig
    workers: int
    """Number of workers, or the most if it adapts."""
    adapts: bool
    """Whether the number follows the load, from none."""
    journal: str
    rejects: str
    drain_timeout_s: float
    log: LogConfig


class _Settings(Struct, frozen=True):
    """All settings of a run, except the sections of the streams, which `Config` adds."""

    streams: Annotated[
        tuple[str, ...],
        setting(
            "Streams to run.", choices=tuple(STREAMS), example='["stocks", "options"]', flag="--streams"
        ),
    ] = tuple(name for name, spec in STREAMS.items() if spec.is_default)
    duration: Annotated[
        float,
        setting(
            "Duration of the run, also as 5m, 90s or 1h30m; 0: until stopped.",
            unit="s",
            ge=0,
            flag="--duration",
            metavar="SECONDS",
        ),
    ] = 0.0
    workers: Annotated[
        int,
        setting(
            "Worker processes of each stream; auto: none while its feed can decode alone, more as the load "
            "rises, at most the cores divided among the streams, less one for the feed.",
            ge=AUTO,
            le=256,
            flag="--workers",
            is_automatic=True,
        ),
    ] = AUTO
    report: Annotated[
        str,
        setting(
            "File for the JSON report at the end of the run; empty: none.",
            is_path=True,
            example='"run.json"',
            flag="--report",
            metavar="FILE.json",
        ),
    ] = ""
    stream_url: Annotated[
        str,
        setting(
            "Alpaca-compatible stream server; empty: Alpaca if keys are set, else the embedded simulator.",
            schemes=("ws", "wss"),
            example='"ws://127.0.0.1:8765"',
            flag="--stream-url",
            metavar="WS_URL",
        ),
    ] = ""
    data_url: Annotated[
        str,
        setting(
            "Alpaca-compatible REST server; empty: the one that belongs to stream_url.",
            schemes=("http", "https"),
            example='"http://127.0.0.1:8765"',
            flag="--data-url",
            metavar="HTTP_URL",
        ),
    ] = ""
    trading_url: Annotated[
        str,
        setting(
            "Server that lists assets and contracts, for symbol patterns; empty: data_url if it is set, "
            "else Alpaca's server for the account of the key, paper or live.",
            schemes=("http", "https"),
        ),
    ] = ""
    ca_file: Annotated[
        str, setting("PEM bundle to trust; empty: the system's authorities.", is_path=True)
    ] = ""
    auth: Annotated[
        Literal["message", "headers"],
        setting("How to authenticate on the stream; headers fall back to a message."),
    ] = "message"
    websocket: Annotated[
        Literal["picows", "websockets"],
        setting("WebSocket library: picows is faster, websockets supports compression."),
    ] = "picows"
    compression: Annotated[
        bool, setting("Request permessage-deflate from the server; implies the library websockets.")
    ] = False
    record: Annotated[
        bool,
        setting("Record the frames of all streams in the store, each row exactly once.", flag="--record"),
    ] = False
    journal: Annotated[
        str,
        setting(
            "Folder for the journal, the raw bytes of every payload; empty: no journal.",
            is_path=True,
            flag="--journal",
            metavar="DIR",
        ),
    ] = ""
    rejects: Annotated[
        str, setting("Folder for rejected payloads; empty: ~/.local/state/mdstream/RUN.", is_path=True)
    ] = ""
    start_timeout_s: Annotated[
        float,
        setting("Timeout of the start of a feed; a feed that exceeds it is restarted.", unit="s", ge=1),
    ] = 60.0
    hang_timeout_s: Annotated[
        float,
        setting(
            "Timeout of the heartbeat of a feed; a feed that exceeds it is killed and restarted.",
            unit="s",
            ge=3,
        ),
    ] = 10.0
    drain_timeout_s: Annotated[
        float,
        setting("Timeout for the feeds to commit what they have at the end of the run.", unit="s", ge=0),
    ] = 30.0
    credentials: Credentials = Credentials()
    fetch: FetchConfig = FetchConfig()
    backfill: BackfillConfig = BackfillConfig()
    handoff: HandoffConfig = HandoffConfig()
    frames: FramesConfig = FramesConfig()
    store: StoreConfig = StoreConfig()
    simulator: SimulatorConfig = SimulatorConfig()
    log: LogConfig = LogConfig()

    def stream(self, name: str) -> StreamConfig:
        """Return the settings of stream `name`, with the stream's defaults filled in."""
        spec = STREAMS[name]
        given: StreamConfig = getattr(self, name)
        return msgspec.structs.replace(
            given,
            symbols=given.symbols or spec.symbols,
            channels=given.channels or spec.subscriptions,
            feed=given.feed or spec.default_feed,
            codec=given.codec or spec.codec,
        )

    def feed(self, name: str) -> FeedConfig:
        """Return the settings that the feed of stream `name` works with."""
        return FeedConfig(
            stream=self.stream(name),
            connection=self.connection(name),
            data=self.data_endpoint,
            fetch=self.fetch,
            handoff=self.handoff,
            frames=self.frames,
            workers=self.workers_per_stream(),
            adapts=self.workers == AUTO,
            journal=self.journal,
            rejects=self.rejects,
            drain_timeout_s=self.drain_timeout_s,
            log=self.log,
        )

    def connection(self, name: str) -> Connection:
        """Return how the server of stream `name` is reached."""
        return Connection(
            url=self.stream(name).stream_url.rstrip("/") or self.urls()[0],
            credentials=self.credentials,
            ca_file=self.ca_file,
            auth=self.auth,
            websocket=self.websocket,
            compression=self.compression,
            max_payload_mb=self.handoff.max_payload_mb,
        )

    @property
    def data_endpoint(self) -> Endpoint:
        """The server of snapshots and history."""
        return Endpoint(url=self.urls()[1], credentials=self.credentials, ca_file=self.ca_file)

    @property
    def backfill_settings(self) -> BackfillSettings:
        """The settings that a backfill works with."""
        backfill = self.backfill
        return BackfillSettings(
            data=self.data_endpoint,
            trading=Endpoint(url=self.trading_base(), credentials=self.credentials, ca_file=self.ca_file),
            fetch=msgspec.structs.replace(self.fetch, concurrency=backfill.concurrency),
            workers=backfill.workers,
            budget_per_minute=backfill.budget_per_minute or self.fetch.budget_per_minute,
            learns_budget=not backfill.budget_per_minute,
            feeds={name: self.stream(name).feed for name in STREAMS},
        )

    @property
    def simulated(self) -> bool:
        """Whether the run needs the embedded simulator: it has neither keys nor a server."""
        return not self.credentials and not self.stream_url and not self.data_url

    def workers_per_stream(self) -> int:
        """Return the workers of each feed, or the most if their number adapts: its share of the cores, less
        one for the feed itself.
        """
        if self.workers != AUTO:
            return self.workers
        return max(1, usable_cores() // len(self.streams) - 1)

    def urls(self) -> tuple[str, str]:
        """Return the base URLs of the stream and of REST; one that is not set is derived from the other."""
        stream, data = self.stream_url.rstrip("/"), self.data_url.rstrip("/")
        if not stream and not data:
            return endpoints.STREAM_URL, endpoints.DATA_URL
        return stream or endpoints.sibling(data), data or endpoints.sibling(stream)

    def trading_base(self) -> str:
        """Return the base URL of the account API, which lists assets and contracts."""
        if self.trading_url:
            return self.trading_url.rstrip("/")
        if (data := self.urls()[1]) != endpoints.DATA_URL:
            return data
        return endpoints.trading_url(self.credentials.key_id)


if TYPE_CHECKING:
    Config = _Settings
else:
    Config = msgspec.defstruct(
        "Config",
        [(name, StreamConfig, StreamConfig()) for name in STREAMS],
        bases=(_Settings,),
        module=__name__,
        namespace={"__doc__": "All settings of one run: a section for each stream beside the others."},
        frozen=True,
        kw_only=True,
        forbid_unknown_fields=True,
    )


def usable_cores() -> int:
    """Return how many cores this process may use, by its affinity and its container's quota."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = _QUOTA.read_text().split()
        return max(1, min(cores, -(-int(quota) // int(period))))
    except (OSError, ValueError):  # none, or "max"
        return cores


def is_loopback(url: str) -> bool:
    """Return whether `url` names this machine; such a server needs neither a proxy nor a key."""
    return urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")
