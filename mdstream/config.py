"""What can be set. Every setting is spelled once, as a field of a frozen struct below.

`mdstream.settings` reads, merges and checks them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from mdstream.streams import STREAMS
from mdstream.venues.alpaca import endpoints

_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Of the container: microseconds of CPU time a period, and the period."""


class Struct(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A frozen group of settings that refuses unknown names."""


class Credentials(Struct, frozen=True):
    """API key and secret. Neither is ever printed, logged or written to a report or a frame."""

    key_id: str = ""
    secret_key: str = ""

    def __bool__(self) -> bool:
        return bool(self.key_id and self.secret_key)

    def __repr__(self) -> str:
        return f"Credentials({'set' if self else 'not set'})"

    def __rich_repr__(self) -> Any:
        yield "set" if self else "not set"


ANY_KEY = Credentials(key_id="any", secret_key="any")
"""What a server on this machine is told where no key is set: simulators and replays take any."""


class StreamConfig(Struct, frozen=True):
    """One stream. An empty list of symbols or channels means the stream's own default.

    `mute_after_s` says, by channel, after how many seconds without its rows the connection is taken
    for dead; channels that share a frame (all bars) count as one. `chain_contracts` bounds how many
    contracts of one underlying are followed (options). `stream_url` is this stream's own server, where that
    is another than the rest's (a replay, say).
    """

    symbols: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    feed: str = ""
    codec: str = ""
    mute_after_s: dict[str, float] = {}
    chain_contracts: int = 50
    stream_url: str = ""


class FetchConfig(Struct, frozen=True):
    """REST fetches: every symbol at start and then every `interval_s` seconds (0: only at start).

    `budget_per_minute` is the account's request budget, shared by all streams (Alpaca's free plan
    has 200); `deadline_s` bounds one request with all its retries.
    """

    interval_s: float = 60.0
    budget_per_minute: int = 200
    concurrency: int = 64
    timeout_s: float = 10.0
    deadline_s: float = 90.0
    attempts: int = 5


class BackfillConfig(Struct, frozen=True):
    """Fetching history: `concurrency` requests under way at a time, decoded by `workers` processes.

    Of workers, -1 means one a core. `budget_per_minute` bounds the requests; 0: `fetch.budget_per_minute`,
    until the service's headers say how many it allows.
    """

    concurrency: int = 128
    workers: int = -1
    budget_per_minute: int = 0


class HandoffConfig(Struct, frozen=True):
    """From the socket to the workers: `slabs` buffers of `slab_kb` a stream, then reading pauses; fewer and
    smaller ones where shared memory is small.

    `linger_ms` holds a batch back for company (0: submit as soon as a worker is free).
    `ticket_timeout_s` is how long one batch may keep a worker before the worker counts as hung.
    `kernels` says whether compiled kernels decode what they know, or the library everything.
    """

    slab_kb: int = 1024
    slabs: int = 12
    linger_ms: float = 0.0
    ticket_timeout_s: float = 10.0
    max_payload_mb: int = 64
    kernels: bool = True


class FramesConfig(Struct, frozen=True):
    """Shared frames: where they live, how many megabytes of each are kept, and how many of all frames of
    a stream together (0: its share of what is free when the run starts).
    """

    directory: str = ""
    retention_mb: int = 256
    stream_mb: int = 0
    chunk_mb: int = 16


class SimulatorConfig(Struct, frozen=True):
    """The embedded simulator, used when neither keys nor a server are given."""

    seed: int = 1
    rate: float = 500.0
    messages_per_frame: int = 1
    latency_ms: float = 20.0


class StoreConfig(Struct, frozen=True):
    """Where frames are recorded: a folder, or `s3://bucket/prefix` (keys as the AWS tools take them, from
    `AWS_ACCESS_KEY_ID` and the like; `AWS_ENDPOINT_URL` for another service than Amazon's).

    Rows are committed every `every_s` seconds, by `workers` processes. Files that compaction has replaced
    are kept for `keep_hours`.
    """

    path: str = "store"
    every_s: float = 5.0
    workers: int = 1
    keep_hours: int = 1


class LogConfig(Struct, frozen=True):
    level: str = "info"
    json: bool = False


class Endpoint(Struct, frozen=True):
    """A REST server: its base URL, the key it gets, the PEM bundle that it is verified with (or "")."""

    url: str
    credentials: Credentials
    ca_file: str = ""

    @property
    def lacks_keys(self) -> bool:
        """Whether this is Alpaca's own server and there is no key for it."""
        return not self.credentials and self.url in endpoints.REST_URLS


class Connection(Struct, frozen=True):
    """How one stream's server is reached: base URL, key, PEM bundle, and the settings of the socket."""

    url: str
    credentials: Credentials
    ca_file: str
    auth: str
    websocket: str
    compression: bool
    max_payload_mb: int


class HistoryConfig(Struct, frozen=True):
    """The settings that a backfill works with."""

    data: Endpoint
    trading: Endpoint
    fetch: FetchConfig
    """With the backfill's own concurrency."""
    workers: int
    budget_per_minute: int
    learns_budget: bool
    """Whether the service's headers replace the budget."""


class FeedConfig(Struct, frozen=True):
    """The settings that one stream's feed works with."""

    stream: StreamConfig
    connection: Connection
    data: Endpoint
    fetch: FetchConfig
    handoff: HandoffConfig
    frames: FramesConfig
    workers: int
    journal: str
    rejects: str
    log_level: str


class Config(Struct, frozen=True):
    """All settings of one run."""

    streams: tuple[str, ...] = tuple(STREAMS)
    duration: float = 0.0
    """Seconds to run; 0 runs until stopped."""
    workers: int = -1
    """Pool processes a stream; 0 decodes inside the feed, -1 shares the cores out over streams."""
    report: str = ""
    """Where to write the JSON report; empty: nowhere."""
    stream_url: str = ""
    data_url: str = ""
    trading_url: str = ""
    """Where assets and contracts are listed, for symbol patterns; empty: as the key is of a paper or a live
    account, or, where another `data_url` is named, there."""
    ca_file: str = ""
    """PEM bundle to trust instead of the system's authorities."""
    auth: str = "message"
    """How to authenticate on the stream: `message`, or `headers` with a message as fallback."""
    websocket: str = "picows"
    """The library that receives: `picows`, the fast one, or `websockets`."""
    compression: bool = False
    """Ask the stream for permessage-deflate; only `websockets` knows it, and is used then."""
    record: bool = False
    """Whether frames are recorded in the store as they come."""
    journal: str = ""
    """Folder for the raw journal, the very bytes of every payload; empty: none is kept."""
    rejects: str = ""
    """Folder for rejected payloads; empty: the user's state folder."""
    start_timeout_s: float = 60.0
    hang_timeout_s: float = 10.0
    drain_timeout_s: float = 30.0
    credentials: Credentials = Credentials()
    stocks: StreamConfig = StreamConfig()
    options: StreamConfig = StreamConfig()
    crypto: StreamConfig = StreamConfig()
    news: StreamConfig = StreamConfig()
    fetch: FetchConfig = FetchConfig()
    backfill: BackfillConfig = BackfillConfig()
    handoff: HandoffConfig = HandoffConfig()
    frames: FramesConfig = FramesConfig()
    simulator: SimulatorConfig = SimulatorConfig()
    store: StoreConfig = StoreConfig()
    log: LogConfig = LogConfig()

    def stream(self, name: str) -> StreamConfig:
        """The settings of stream `name`, its own defaults filled in."""
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
        """The settings that the feed of stream `name` works with."""
        return FeedConfig(
            stream=self.stream(name),
            connection=self.connection(name),
            data=self.data_endpoint,
            fetch=self.fetch,
            handoff=self.handoff,
            frames=self.frames,
            workers=self.workers_per_stream(),
            journal=self.journal,
            rejects=self.rejects,
            log_level=self.log.level,
        )

    @property
    def history(self) -> HistoryConfig:
        """The settings that a backfill works with."""
        backfill = self.backfill
        return HistoryConfig(
            data=self.data_endpoint,
            trading=Endpoint(url=self.trading_base(), credentials=self.credentials, ca_file=self.ca_file),
            fetch=msgspec.structs.replace(self.fetch, concurrency=backfill.concurrency),
            workers=backfill.workers,
            budget_per_minute=backfill.budget_per_minute or self.fetch.budget_per_minute,
            learns_budget=not backfill.budget_per_minute,
        )

    def connection(self, name: str) -> Connection:
        """How the server of stream `name` is reached."""
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
    def simulated(self) -> bool:
        """Whether the run needs the embedded simulator: no keys, and no other server named."""
        return not self.credentials and not self.stream_url and not self.data_url

    def workers_per_stream(self) -> int:
        """Pool processes of each stream's feed: its share of the cores, one of which is the feed's own."""
        if self.workers >= 0:
            return self.workers
        return max(1, usable_cores() // len(self.streams) - 1)

    def urls(self) -> tuple[str, str]:
        """Base URLs of the stream and of REST; one that is not given follows from the other."""
        stream, data = self.stream_url.rstrip("/"), self.data_url.rstrip("/")
        if not stream and not data:
            return endpoints.STREAM_URL, endpoints.DATA_URL
        return stream or endpoints.sibling(data), data or endpoints.sibling(stream)

    def trading_base(self) -> str:
        """Base URL of the account API, which lists assets and contracts."""
        if self.trading_url:
            return self.trading_url.rstrip("/")
        if (data := self.urls()[1]) != endpoints.DATA_URL:
            return data
        return endpoints.trading_url(self.credentials.key_id)


def usable_cores() -> int:
    """Cores that this process may use: those that it is bound to, and no more than a container's quota."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = _QUOTA.read_text().split()
        return max(1, min(cores, -(-int(quota) // int(period))))
    except (OSError, ValueError):  # none, or "max"
        return cores


def is_loopback(url: str) -> bool:
    """Whether `url` names this machine, which no proxy stands before."""
    return urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")
