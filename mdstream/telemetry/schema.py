"""The frames of `telemetry.*`, declared like those of any stream."""

from __future__ import annotations

from mdstream.streams.spec import Channel, Column, Kind


def _time(name: str) -> Column:
    return Column(name, Kind.TIME, required=True)


def _int(name: str) -> Column:
    return Column(name, Kind.INT, required=True)


def _float(name: str) -> Column:
    return Column(name, Kind.FLOAT, required=True)


def _code(name: str, dictionary: str) -> Column:
    return Column(name, Kind.CODE, required=True, dictionary=dictionary)


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
"""A row a batch: how much, by which worker, and when it passed each station. `fell_back`: payloads that
the kernels began and left to the fallback decoder. `cpu_ns`: CPU time of decoding and aggregating."""

STREAMS = Channel(
    "streams",
    (
        _time("ts"),
        _code("stream", "streams"),
        _code("state", "states"),
        _int("pid"),
        _int("generation"),
        _int("payloads"),
        _int("messages"),
        _int("bytes"),
        _int("committed"),
        _int("rejected"),
        _int("in_flight"),
        _int("fetch_messages"),
        _int("fetch_rejected"),
        _int("reconnects"),
        _int("cycles"),
        _int("requests"),
        _int("symbols_ok"),
        _int("symbols_failed"),
        _float("t_stream_s"),
        _int("pool_size"),
        _int("pool_busy"),
        _int("pool_queue"),
        _int("pool_rebuilds"),
        _int("stalls"),
        _int("rows"),
        Column("latency_p50_ms", Kind.FLOAT),
        Column("latency_p99_ms", Kind.FLOAT),
        Column("latency_p999_ms", Kind.FLOAT),
        Column("feed_delay_p50_ms", Kind.FLOAT),
        Column("feed_delay_p99_ms", Kind.FLOAT),
        Column("feed_delay_p999_ms", Kind.FLOAT),
    ),
)
"""A row a stream and second: its counters since the start of the run."""

PROCESSES = Channel(
    "processes",
    (
        _time("ts"),
        _int("pid"),
        _code("role", "roles"),
        _code("stream", "streams"),
        _float("cpu_percent"),
        _float("cpu_user_s"),
        _float("cpu_system_s"),
        _int("rss_bytes"),
        _int("threads"),
        _int("voluntary_switches"),
        _int("involuntary_switches"),
    ),
)
"""A row a process and second; 100 percent is one core."""

CORES = Channel(
    "cores",
    (_time("ts"), _int("core"), _float("busy_percent"), _float("user_percent"), _float("system_percent")),
)
"""A row a core and second: how busy it was, with everything that runs on this machine. What is busy and
neither user's nor system's is interrupts, and what the host of a virtual machine took.
"""

MACHINE = Channel(
    "machine",
    (
        _time("ts"),
        _int("memory_used_bytes"),
        _int("shm_bytes"),
        _int("net_sent_bytes"),
        _int("net_recv_bytes"),
        _int("switches"),
    ),
)
"""A row a second: memory in use on this machine, shared memory of this run, and since the machine's start
bytes of all network interfaces (loopback too) and context switches.
"""
