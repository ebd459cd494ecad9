"""Do memory, descriptors, shared memory and latency of the engine stay flat under a steady load?

    simulator ──► engine (`mdstream.Engine`, all four streams) ──► a reader that follows stocks.quotes
                        ▲ one sample per second, a JSON line in samples.jsonl

1. Start the simulator with `--rate` messages/s over the four streams, and the engine, with frames so small
   that they reach their retention within minutes.
2. Sample every second, and print a line every ten seconds.
3. Unsubscribe from everything, so that the simulator stops sending, and wait until all messages have
   arrived. The counts of sent and received messages must then be equal.
4. Stop the engine, write the verdict (`soak_verdict`) and the picture (`soak_plot`). The exit code is 1 if
   the run was not flat, or if messages are missing.

Ctrl-C skips to step 3.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any
from urllib.request import urlopen

import numpy as np
import polars as pl
import psutil

import mdstream
from benchmarks import soak_plot, soak_verdict
from benchmarks.harness import describe_machine
from mdstream.config import Config
from mdstream.errors import NoRunError
from mdstream.simulator.markets import MARKETS
from mdstream.system import children
from mdstream.telemetry.histogram import BUCKETS, percentile_ms

PER_PAYLOAD = 20
"""Messages in each WebSocket message."""
CONTRACTS = 20
FRAMES = {"retention_mb": 24, "stream_mb": 32, "chunk_mb": 4}
"""Quotes and a stream of 1 MB/s fill theirs in half a minute, news (0.3 MB/s) in two minutes."""
REPORT_EVERY_S = 10
_LAST_MESSAGES_S = 30.0
"""Timeout for the last messages to arrive."""
_COUNTS = (
    "payloads",
    "messages",
    "bytes",
    "committed",
    "rejected",
    "in_flight",
    "rows",
    "reconnects",
    "stalls",
)
_SUPERVISORS_OWN = ("telemetry.streams", "telemetry.processes", "telemetry.cores")
"""Frames that grow slowly until each has 32 MB; counted separately."""


@dataclass(frozen=True, slots=True)
class Options:
    """The command line's options."""

    minutes: float
    rate: float
    out: Path


def main() -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=50_000.0, help="messages/s, all streams")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/soak"), metavar="FOLDER")
    parser.add_argument("--reader", metavar="RUN", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.reader:
        return follow(options.reader)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        return soak(Options(options.minutes, options.rate, options.out))
    except KeyboardInterrupt:  # before there was an engine to stop
        return 130


def soak(options: Options) -> int:
    """Run the soak, write its verdict and picture; return the exit code."""
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "samples.jsonl").open("w") as file:
        samples, end = measure(options, file)
    verdict = soak_verdict.judge(samples, end)
    (options.out / "verdict.json").write_text(json.dumps(verdict, indent=2) + "\n")
    print("\n" + soak_verdict.describe(verdict))
    try:
        soak_plot.draw(samples, verdict, end["title"], options.out / "soak.png")
    except ModuleNotFoundError as error:
        print(f"no picture: {error.name} is not installed (pip install -r requirements/bench.txt)")
    print(f"written to {options.out}/: {', '.join(sorted(p.name for p in options.out.iterdir()))}")
    return 0 if verdict["flat"] and verdict["complete"] else 1


# -- the run


def measure(options: Options, file: IO[str]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Run the engine; write each sample to `file`; return the samples and the final accounts."""
    samples: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        simulator = stack.enter_context(Simulator(options.rate))
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        log = stack.enter_context((options.out / "engine.log").open("w"))
        engine = mdstream.Engine(_settings(simulator.url, folder), log=log)
        with engine, _reader(engine.run) as reader:
            title = f"{options.rate:,.0f} messages/s, {describe_machine().partition(';')[0]}"
            print(f"soak: {options.minutes:g} minutes at {title}\nrun {engine.run}, frames {FRAMES}")
            sampler = Sampler(engine, {simulator.process.pid: "simulator", reader.pid: "reader"})
            with contextlib.suppress(KeyboardInterrupt, NoRunError):
                for sample in _sample_each_second(options.minutes * 60, sampler, simulator):
                    samples.append(sample)
                    file.write(json.dumps(sample) + "\n")
            with _ignore_interrupts():
                sent = _stop_traffic(engine, simulator)
        if engine.report is None:
            raise RuntimeError(f"the engine wrote no report: see {options.out}/engine.log")
        streams = {
            name: {
                "sent": sent[name],
                **{k: row[k] for k in ("messages", "committed", "rejected", "in_flight", "restarts")},
                "reconnects": row["reconnects"],
            }
            for name, row in engine.report["streams"].items()
        }
    return samples, {"title": title, "wanted_rate": options.rate, "streams": streams}


def _settings(url: str, rejects: str) -> dict[str, Any]:
    return {
        "data_url": url,
        "credentials": {"key_id": "soak", "secret_key": "soak"},
        "rejects": rejects,
        "frames": FRAMES,
        # Contracts, not an underlying: they can be unsubscribed by name.
        "options": {"symbols": MARKETS["options"].chain("AAPL")[:CONTRACTS]},
    }


class Simulator:
    """The simulator in a separate process."""

    def __init__(self, rate: float) -> None:
        stream_rate = rate / sum(MARKETS[name].share for name in Config().streams)
        command = [
            sys.executable,
            "-m",
            "mdstream",
            "simulate",
            "--port",
            "0",
            "--rate",
            str(stream_rate),
            "--messages-per-payload",
            str(PER_PAYLOAD),
        ]
        with children.protect_start():
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        found = re.search(r"and (http://\S+) ", self.process.stdout.readline())
        if found is None:
            raise RuntimeError("the simulator did not start")
        self.url = found[1]

    def sent(self) -> dict[str, int]:
        """Return the messages sent so far, by stream."""
        with urlopen(f"{self.url}/simulator/stats", timeout=10) as answer:
            streams = json.load(answer)["streams"]
        return {name: content["messages"] for name, content in streams.items()}

    def __enter__(self) -> Simulator:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.communicate()


@contextlib.contextmanager
def _reader(run: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program that follows a frame as long as the engine runs."""
    with children.protect_start():
        process = subprocess.Popen([sys.executable, "-m", "benchmarks.soak", "--reader", run])
    try:
        yield process
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1)  # it checks twice a second whether the engine runs
        process.terminate()
        process.wait()


def follow(run: str) -> int:
    """Read every new quote of a run."""
    total = 0.0
    for new in mdstream.attach(run).tail("stocks.quotes"):
        total += float(new["bid_price"].sum())
    return 0


def _sample_each_second(seconds: float, sampler: Sampler, simulator: Simulator) -> Iterator[dict[str, Any]]:
    start = time.monotonic()
    last: dict[str, Any] = sampler.sample(0.0, simulator.sent())
    reported = last
    for second in range(1, int(seconds) + 1):
        while (left := start + second - time.monotonic()) > 0:
            time.sleep(left)
        if sampler.engine.wait(0):
            print("the engine stopped early: see engine.log")
            return
        now = time.monotonic() - start
        if now - second > 1:
            continue  # the machine was suspended or overloaded for more than a second
        sample = sampler.sample(now, simulator.sent())
        yield sample
        if second % REPORT_EVERY_S == 0:
            print(_format_progress(reported, sample), flush=True)
            reported = sample


def _format_progress(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Return a line of progress."""
    seconds = now["t_s"] - before["t_s"]
    rate = (soak_verdict.received(now) - soak_verdict.received(before)) / seconds
    p50, p99 = (_format_ms(now["latency_ms"][q]) for q in ("p50", "p99"))
    note = "" if now["retention_reached"] else "  (frames are still filling)"
    return (
        f"{int(now['t_s']) // 60:3}:{int(now['t_s']) % 60:02}  {rate:8,.0f} messages/s  "
        f"rows {sum(s['rows'] for s in now['streams'].values()):12,}  "
        f"rss {soak_verdict.of_engine(now, 'rss') / 1e6:6,.0f} MB  "
        f"fds {soak_verdict.of_engine(now, 'fds'):4,}  shm {now['shm']['total'] / 1e6:5,.0f} MB  "
        f"in flight {sum(s['in_flight'] for s in now['streams'].values()):4}  "
        f"p50 {p50}, p99 {p99} ms{note}"
    )


def _format_ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _stop_traffic(engine: mdstream.Engine, simulator: Simulator) -> dict[str, int]:
    """Unsubscribe, wait for the last messages, and return the number of sent ones by stream."""
    for stream in engine.config.streams:
        with contextlib.suppress(mdstream.MdstreamError):
            engine.unsubscribe(stream, engine.config.stream(stream).symbols)
    deadline = time.monotonic() + _LAST_MESSAGES_S
    before: object = None
    while time.monotonic() < deadline and not engine.wait(0):
        time.sleep(1.0)
        sent = simulator.sent()
        metrics = engine.attachment.metrics()
        arrived = all(metrics[n]["messages"] >= sent[n] for n in sent)
        if arrived and not any(m["in_flight"] for m in metrics.values()) and sent == before:
            break
        before = sent
    return simulator.sent()


@contextlib.contextmanager
def _ignore_interrupts() -> Iterator[None]:
    """Ignore Ctrl-C within the block, so that the final counts are complete."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


# -- the samples


@dataclass(frozen=True, slots=True)
class ProcessSample:
    """One process. `rss`, `pss` (with its share of shared pages) and `anonymous` are in bytes."""

    role: str
    stream: str
    pid: int
    rss: int
    pss: int
    anonymous: int
    fds: int
    threads: int


class Sampler:
    """A sampler of the engine from outside."""

    _before: dict[str, Any]
    """The latency histograms of the last sample, by stream."""
    _reached: set[str]
    """Streams at their retention."""

    def __init__(self, engine: mdstream.Engine, others: dict[int, str]) -> None:
        self.engine = engine
        self._run = engine.attachment
        self._others = others
        self._before = {name: metrics["latency"] for name, metrics in self._run.metrics().items()}
        self._reached = set()

    def sample(self, t_s: float, sent: dict[str, int]) -> dict[str, Any]:
        latency = np.zeros(BUCKETS, np.uint64)
        streams = {}
        for name, metrics in self._run.metrics().items():
            counts = metrics["latency"]
            new, self._before[name] = counts - self._before[name], counts
            latency += new
            streams[name] = {
                "sent": sent[name],
                **{key: metrics[key] for key in _COUNTS},
                "latency_ms": _quantiles(new),
            }
        return {
            "t_s": round(t_s, 3),
            "processes": [asdict(p) for p in self._processes()],
            "shm": self._shared_memory(),
            "retention_reached": self._retention_reached(),
            "latency_ms": _quantiles(latency),
            "streams": streams,
        }

    def _frames(self, stream: str) -> list[str]:
        return [name for name in self._run.frames if name.startswith(stream + ".")]

    def _processes(self) -> Iterator[ProcessSample]:
        roles = {pid: (role, "") for pid, role in self._others.items()}
        frame = self._run.frame("telemetry.processes").filter(pl.col("ts") == pl.col("ts").last())
        for pid, role, stream in frame.select("pid", "role", "stream").iter_rows():
            roles[pid] = (role, stream)
        for pid, (role, stream) in roles.items():
            with contextlib.suppress(psutil.Error, OSError):
                process = psutil.Process(pid)
                memory = _rollup(pid)
                yield ProcessSample(
                    role,
                    stream,
                    pid,
                    memory["Rss"],
                    memory["Pss"],
                    memory["Anonymous"],
                    process.num_fds(),
                    process.num_threads(),
                )

    def _shared_memory(self) -> dict[str, int]:
        """Return the bytes of the run in `/dev/shm`: frames, slabs, and the supervisor's frames."""
        found = {"frames": 0, "slabs": 0, "supervisor": 0, "other": 0}
        for path in self._run.path.rglob("*"):
            with contextlib.suppress(OSError):
                stat = path.lstat()
                part, *rest = path.relative_to(self._run.path).parts
                if part == "frames" and rest and rest[0] in _SUPERVISORS_OWN:
                    part = "supervisor"
                found[part if part in found else "other"] += stat.st_blocks * 512
        return {**found, "total": sum(found.values())}

    def _retention_reached(self) -> bool:
        """Return whether every stream has started to drop its oldest rows."""
        for stream in self._before:
            if stream not in self._reached:
                with self._run.lock:
                    parts = [
                        p
                        for name in self._frames(stream)
                        if not name.endswith((".latest", ".books", ".chains", ".by_symbol"))
                        for p in self._run.parts(name)
                    ]
                    if any(part.first_row for part in parts):
                        self._reached.add(stream)
        return len(self._reached) == len(self._before)


def _quantiles(counts: Any) -> dict[str, float | None]:
    return {"p50": percentile_ms(counts, 0.5), "p99": percentile_ms(counts, 0.99)}


def _rollup(pid: int) -> dict[str, int]:
    """Return the memory of one process by kind, in bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}


if __name__ == "__main__":
    sys.exit(main())
