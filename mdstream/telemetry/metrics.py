"""THE table of metrics: one row for each thing that the engine counts or measures about itself.

                 ┌─► telemetry.state       the words of a feed's state in shared memory
    this table ──┼─► telemetry.schema      the columns of `telemetry.streams` and of the other frames
                 ├─► engine.measure        the row of each second
                 ├─► engine.report         the keys of a stream in the report
                 ├─► views.summary         the warnings below the report
                 └─► Attachment.metrics    current values, for any program

To add a counter, touch two places:

1. Add a row to `STREAM`, with source `LIVE`, or `COMMITTED` if it must change together with a batch.
2. Count it: `state["name"] += 1` for a `LIVE` word, `FeedState.commit(..., name=1)` for a `COMMITTED` one.

Then it is in the frame, in the report and in `Attachment.metrics`. Declare a `Loss` if people must know
when it is not 0. A feed that takes over from a killed one continues its counts: never restart one at 0.

The name of a measurement ends with its unit (`_s`, `_ms`, `_ns`, `_bytes`, `_percent`). For Prometheus,
convert to base units (seconds, bytes, ratio) and end the names of counters with `_total`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from functools import partial
from typing import Any

from mdstream.telemetry.histogram import percentile_ms


class MetricKind(StrEnum):
    COUNTER = "counter"
    """Only grows during a run."""
    GAUGE = "gauge"
    """Grows and shrinks."""
    HISTOGRAM = "histogram"
    """A counter for each bucket (`telemetry.histogram`)."""


class Source(Enum):
    """Where the value of a metric is kept."""

    LIVE = "live"
    """In a word of the feed's state that is set on its own."""
    COMMITTED = "committed"
    """In a word of the feed's state that grows with each batch, together with all others of this source."""
    LENGTH = "length"
    """Like `COMMITTED`, but a batch sets it: to the length of a frame."""
    BUCKETS = "buckets"
    """In a word of the feed's state for each bucket of a histogram."""
    HEADS = "heads"
    """In the heads of the stream's frames."""
    SAMPLE = "sample"
    """In a sample of a process, a core or the machine (`telemetry.sampler`)."""
    SUPERVISOR = "supervisor"
    """In the supervisor."""


Values = Mapping[str, Any]
"""Values by the name of their metric: numbers, and arrays of counts for histograms."""

Formula = Callable[[Values], float | None]
"""Computes a metric from others of the same stream; None if they have no data."""

_GROUPS = ("fetch", "pool", "bars", "latency", "feed_delay")
"""Groups of the report. A metric whose name begins with one of these belongs to it."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A row of the table.

    `unit` is the unit of measurement, or says what is counted. `source` is the place where the value is
    kept, or the formula that computes it. If a metric with `is_loss` is not 0, the report warns with the
    number and `help`. A metric with `is_internal` serves formulas and the engine itself.
    """

    kind: MetricKind
    name: str
    unit: str
    source: Source | Formula
    help: str
    is_loss: bool = False
    is_internal: bool = False

    @property
    def is_column(self) -> bool:
        """Whether readers see it as one number: a column of a frame, a key of the report."""
        return self.kind is not MetricKind.HISTOGRAM and not self.is_internal

    @property
    def is_float(self) -> bool:
        return self.unit in ("seconds", "milliseconds", "percent")

    @property
    def place(self) -> tuple[str, str]:
        """The group in the report ("" for none) and the key in it."""
        group = next((group for group in _GROUPS if self.name.startswith(group + "_")), "")
        return group, self.name.removeprefix(group + "_")


LIVE, COMMITTED, LENGTH, BUCKETS, HEADS, SAMPLE, SUPERVISOR = Source
Counter, Gauge, Histogram = (partial(Metric, kind) for kind in MetricKind)
Word = partial(Counter, is_internal=True)
Loss = partial(Counter, is_loss=True)


def _sum_of(*names: str) -> Formula:
    return lambda values: sum(values[name] for name in names)


def _received_of(what: str) -> Formula:
    """A feed publishes this count a few times a second; it may have committed more since."""
    return lambda values: max(values[f"{what}_received"], values[f"{what}_committed"])


def _in_flight_of(what: str) -> Formula:
    return lambda values: max(0, values[f"{what}_received"] - values[f"{what}_committed"])


def _seconds_of(nanoseconds: str) -> Formula:
    return lambda values: values[nanoseconds] / 1e9


def _percentile_of(histogram: str, quantile: float) -> Formula:
    return lambda values: percentile_ms(values[histogram], quantile)


def _percentiles(name: str, what: str) -> Iterator[Metric]:
    for label, quantile in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999)):
        text = f"{what}: {100 * quantile:g} percent of the messages took at most this."
        yield Gauge(f"{name}_{label}_ms", "milliseconds", _percentile_of(name, quantile), text)


_LIFE = (
    Gauge("pid", "process id", LIVE, "Process of the feed."),
    Counter("restarts", "processes", LIVE, "Processes started to replace a feed that died."),
    Gauge(
        "heartbeat_ns",
        "nanoseconds",
        LIVE,
        "When the event loop of the feed last ran, on the monotonic clock of the machine.",
    ),
)

_CONNECTION = (
    Gauge("connected", "connections", LIVE, "1 while the WebSocket is connected and subscribed."),
    Counter("established", "connections", LIVE, "Connections that were subscribed."),
    Counter("reconnects", "attempts", LIVE, "Attempts to connect again."),
    Gauge("subscriptions", "subscriptions", LIVE, "Channels of symbols that the service streams."),
    Gauge("subscriptions_refused", "subscriptions", LIVE, "Channels of symbols that it refuses."),
    Gauge(
        "subscriptions_lost",
        "subscriptions",
        LIVE,
        "Subscriptions that were streamed before and are refused now: at most the number by which "
        "`subscriptions` is below its highest value.",
    ),
    Gauge(
        "subscriptions_most",
        "subscriptions",
        LIVE,
        "The most that `subscriptions` ever was.",
        is_internal=True,
    ),
    Gauge(
        "subscriptions_wanted",
        "subscriptions",
        LIVE,
        "Channels of symbols that the user wants, with underlyings in place of their contracts.",
        is_internal=True,
    ),
    Gauge("symbols_ok", "symbols", LIVE, "Symbols that are served."),
    Gauge("symbols_failed", "symbols", LIVE, "Symbols that are not served."),
    Counter("control", "messages", LIVE, "Messages of the protocol that hold no data."),
)

_WEBSOCKET = (
    Word("payloads_received", "payloads", LIVE, "Payloads received, as last published."),
    Word("bytes_received", "bytes", LIVE, "Bytes of `payloads_received`."),
    Word("payloads_committed", "payloads", COMMITTED, "Payloads of committed batches."),
    Word("bytes_committed", "bytes", COMMITTED, "Bytes of `payloads_committed`."),
    Counter("payloads", "payloads", _received_of("payloads"), "Payloads received over the WebSocket."),
    Counter("bytes", "bytes", _received_of("bytes"), "Bytes received over the WebSocket."),
    Counter("committed", "messages", COMMITTED, "Messages whose rows are in the frames."),
    Counter("rejected", "messages", COMMITTED, "Messages that could not become rows."),
    Gauge("in_flight", "payloads", _in_flight_of("payloads"), "Payloads received and not committed yet."),
    Gauge(
        "messages",
        "messages",
        _sum_of("committed", "rejected", "in_flight"),
        "Messages received: committed, rejected and in flight. A payload in flight counts as one message, "
        "so the number shrinks if the payload holds none.",
    ),
)

_REST = (
    Counter("fetch_cycles", "cycles", LIVE, "Fetches of all symbols (cycles) completed."),
    Gauge("fetch_cycle_ns", "nanoseconds", LIVE, "Duration of the last cycle.", is_internal=True),
    Gauge("fetch_cycle_s", "seconds", _seconds_of("fetch_cycle_ns"), "Duration of the last cycle."),
    Counter("fetch_requests", "requests", LIVE, "REST requests sent."),
    Word("fetch_payloads_received", "payloads", LIVE, "REST bodies received."),
    Word("fetch_payloads_committed", "payloads", COMMITTED, "REST bodies of committed batches."),
    Counter("fetch_committed", "messages", COMMITTED, "Fetched messages with rows in the frames."),
    Counter("fetch_rejected", "messages", COMMITTED, "Fetched messages that could not become rows."),
    Gauge(
        "fetch_in_flight",
        "payloads",
        _in_flight_of("fetch_payloads"),
        "REST bodies received and not committed yet.",
    ),
    Gauge(
        "fetch_messages",
        "messages",
        _sum_of("fetch_committed", "fetch_rejected", "fetch_in_flight"),
        "Fetched messages: committed, rejected and in flight, where a body counts as one.",
    ),
)

_BATCHES = (
    Word("sequence", "batches", LIVE, "Sequence number of the last committed batch."),
    Counter("batches", "batches", COMMITTED, "Batches committed."),
    Counter("quarantined", "batches", COMMITTED, "Batches that were given up and kept with the rejects."),
    Counter("stalls", "stalls", LIVE, "Times that receiving paused because no slab was free."),
    Gauge("slabs", "slabs", LIVE, "Slabs in shared memory."),
    Gauge("pool_size", "workers", LIVE, "Workers of the stream; 0 while its feed decodes."),
    Gauge("pool_busy", "workers", LIVE, "Workers that decode a batch."),
    Gauge("pool_queue", "batches", LIVE, "Batches that wait for a worker."),
    Counter("pool_changes", "changes", LIVE, "Times that the load changed the number of workers."),
    Counter("pool_rebuilds", "rebuilds", LIVE, "Times that the pool was replaced."),
    Histogram("latency", "nanoseconds", BUCKETS, "Time from receipt until readers see a message."),
    Histogram("feed_delay", "nanoseconds", BUCKETS, "Time from a message's event to its receipt."),
    *_percentiles("latency", "Time from receipt until readers see a message"),
    *_percentiles("feed_delay", "Time from a message's event to its receipt"),
)

_ROWS = (
    Counter("rows", "rows", HEADS, "Rows of all frames of the stream, dropped ones too."),
    Word("trade_rows", "rows", LENGTH, "Rows of the trades frame at the last commit."),
    Word("midpoint_rows", "rows", LENGTH, "Rows at the last commit of the frame with midpoints."),
    Word("correction_rows", "rows", LENGTH, "Rows of the corrections frame at the last commit."),
    Word("cancel_rows", "rows", LENGTH, "Rows of the cancels frame at the last commit."),
    Counter("bars_late_trades", "trades", LIVE, "Trades that came too late for any bar."),
    Counter("bars_unmatched", "messages", LIVE, "Corrections and cancels without their trade."),
)

_LOSSES = (
    Loss("levels_dropped", "levels", LIVE, "Order-book levels dropped beyond the best 1,000 of a side."),
    Loss("updates_untracked", "updates", LIVE, "Updates of symbols for which a keyed frame has no room."),
    Loss("rejects_lost", "messages", LIVE, "Rejected messages that could not be kept on disk."),
    Loss("journal_missed", "payloads", LIVE, "Payloads that the journal lacks: not written, or removed."),
    Word("journal_sequence", "batches", LIVE, "Sequence number of the last batch in the journal."),
    Word("journal_payloads", "payloads", LIVE, "Payloads in the journal, marks too."),
    Word("journal_in_segment", "payloads", LIVE, "Those of them that are in its last segment."),
    Loss("batch_rows_lost", "rows", LIVE, "Rows of telemetry.batches for which memory had no room."),
)

STREAM = (*_LIFE, *_CONNECTION, *_WEBSOCKET, *_REST, *_BATCHES, *_ROWS, *_LOSSES)
"""Metrics of one stream: a row a second in `telemetry.streams`."""

PROCESS = (
    Gauge("cpu_percent", "percent", SAMPLE, "CPU time since the last sample; 100 is one core."),
    Counter("cpu_user_s", "seconds", SAMPLE, "CPU time in user mode."),
    Counter("cpu_system_s", "seconds", SAMPLE, "CPU time in the kernel."),
    Gauge("rss_bytes", "bytes", SAMPLE, "Resident memory, shared pages included."),
    Gauge("threads", "threads", SAMPLE, "Threads."),
    Counter("voluntary_switches", "switches", SAMPLE, "Context switches because the process waited."),
    Counter("involuntary_switches", "switches", SAMPLE, "Context switches forced by the kernel."),
)
"""Metrics of one process of the run: a row a second in `telemetry.processes`."""

CORE = (
    Gauge(
        "busy_percent",
        "percent",
        SAMPLE,
        "Time that the core was not idle, with interrupts and stolen time.",
    ),
    Gauge("user_percent", "percent", SAMPLE, "Time in user mode."),
    Gauge("system_percent", "percent", SAMPLE, "Time in the kernel."),
)
"""Metrics of one core, with everything that runs on the machine: a row a second in `telemetry.cores`."""

MACHINE = (
    Gauge("memory_used_bytes", "bytes", SAMPLE, "Memory in use on the machine."),
    Gauge("shm_bytes", "bytes", SAMPLE, "Shared memory of this run."),
    Counter("net_sent_bytes", "bytes", SAMPLE, "Bytes sent by all network interfaces since boot."),
    Counter("net_recv_bytes", "bytes", SAMPLE, "Bytes received by all interfaces since boot."),
    Counter("switches", "switches", SAMPLE, "Context switches of the machine since boot."),
    Loss("telemetry_rows_lost", "rows", SUPERVISOR, "Rows of telemetry for which memory had no room."),
)
"""Metrics of the machine and of the run as a whole: a row a second in `telemetry.machine`."""


def group_values(values: Values) -> dict[str, Any]:
    """Return the values of a stream as in the report, where each group is a dictionary of its own."""
    found: dict[str, Any] = {}
    for metric in STREAM:
        if metric.is_column:
            group, key = metric.place
            (found.setdefault(group, {}) if group else found)[key] = values[metric.name]
    return found


def find_losses(report: Values) -> list[str]:
    """Return one sentence for each loss that is not 0 in `report` (of a stream, or of the run)."""
    return [
        f"{report[metric.name]:,} {metric.help[0].lower()}{metric.help[1:-1]}"
        for metric in (*STREAM, *MACHINE)
        if metric.is_loss and report.get(metric.name)
    ]
