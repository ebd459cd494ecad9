"""The frames of `telemetry.*`, declared like those of any stream."""

from __future__ import annotations

from mdstream.streams.spec import Channel, Column, Kind
from mdstream.telemetry import metrics
from mdstream.telemetry.metrics import Metric, Source


def _time(name: str) -> Column:
    return Column(name, Kind.TIME, required=True)


def _int(name: str) -> Column:
    return Column(name, Kind.INT, required=True)


def _code(name: str, dictionary: str) -> Column:
    return Column(name, Kind.CODE, required=True, dictionary=dictionary)


def _columns(rows: tuple[Metric, ...]) -> tuple[Column, ...]:
    """Return the columns of `rows`, in their order. A column with a formula may be null."""
    return tuple(
        Column(m.name, Kind.FLOAT if m.is_float else Kind.INT, required=isinstance(m.source, Source))
        for m in rows
        if m.is_column
    )


BATCHES = Channel(
    "batches",
    (
        _int("sequence"),
        _int("worker"),
        _int("payloads"),
        _int("bytes"),
        _int("messages"),
        _int("rejected"),
        _int("fell_back"),
        _time("first_recv_ts"),
        _time("last_recv_ts"),
        _time("submit_ts"),
        _time("start_ts"),
        _time("end_ts"),
        _time("commit_ts"),
        _int("cpu_ns"),
    ),
)
"""A row per batch: its size, its worker, and when it passed each stage.

`fell_back`: payloads that the kernels began and left to the fallback decoder. `cpu_ns`: CPU time of
decoding and aggregating.
"""

STREAMS = Channel(
    "streams",
    (_time("ts"), _code("stream", "streams"), _code("state", "states"), *_columns(metrics.STREAM)),
)
"""A row per stream and second: the metrics of the stream since the start of the run."""

PROCESSES = Channel(
    "processes",
    (
        _time("ts"),
        _int("pid"),
        _code("role", "roles"),
        _code("stream", "streams"),
        *_columns(metrics.PROCESS),
    ),
)
"""A row per process and second; 100 percent is one core."""

CORES = Channel("cores", (_time("ts"), _int("core"), *_columns(metrics.CORE)))
"""A row per core and second: how busy it was, with everything that runs on this machine.

Busy time that is neither user's nor system's is interrupts, and time that the host of a virtual machine
took.
"""

EVENTS = Channel(
    "events",
    (
        _time("ts"),
        _code("stream", "sources"),
        _code("kind", "event_kinds"),
        _code("severity", "severities"),
        Column("text", Kind.TEXT, required=True),
        Column("fields", Kind.JSON, required=True),
    ),
)
"""A row per event (`telemetry.events`).

`stream` may also be `recorder` or `simulator`. `fields` is a JSON object with the numbers and names behind
the text.
"""

SYMBOLS = Channel(
    "symbols",
    (
        _time("ts"),
        _code("stream", "streams"),
        Column("symbol", Kind.SYMBOL, required=True, dictionary="symbols"),
        _code("state", "symbol_states"),
        Column("reason", Kind.TEXT),
    ),
)
"""A row whenever a symbol changes its state (`ok`, `failed`, `dropped`) or the reason for it.

The last row of each symbol is the current one.
"""

MACHINE = Channel("machine", (_time("ts"), *_columns(metrics.MACHINE)))
"""A row per second: memory in use on this machine, and shared memory of this run.

Also, since the machine was booted: bytes of all network interfaces (loopback too) and context switches.
"""
