"""What does ordinary traffic cost: 10 to 2,000 messages/s, one message a payload, as most accounts have it?

    mdstream        the engine as it is: frames, latest values, bars, telemetry
    alpaca-py       its stream classes, one thread for each: a model for each message, an empty handler
    alpaca-py-raw   the same with `raw_data`: dictionaries

The result is the CPU time of all processes of the subject over `STRETCH_S` seconds, after `WARM_S` seconds,
divided by the messages that it received in that time. It is the time that the scheduler gave to its threads
(`schedstat`), as the ticks of 10 ms that the system counts otherwise are too coarse for quiet streams. The
simulator is a process of its own, whose time is not counted. It sends each stream at the given rate, to
every subject.

The engine alone is measured at `ENDS`, too: four streams that are connected and silent, and full streams.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from benchmarks.harness import Case, Plan, Record, Table, cell, select_installed
from benchmarks.subjects import SubjectError, answer, exit_on_sigterm, run_once, start_simulator

TAKES_S = (1500.0, 40.0)
"""Seconds on 2 cores: in full, and with `--quick`."""

TURNS = 3
WARM_S = 8.0
STRETCH_S = 8.0
QUICK_S = 4.0
RATES = (10, 100, 500, 2000)
SUBJECTS = ("mdstream", "alpaca-py-raw", "alpaca-py")
PEERS = {"alpaca-py-raw": "alpaca", "alpaca-py": "alpaca"}
PAIR = "stocks + crypto"
"""The streams that are measured at every rate."""
OTHERS = ("options", "news", "crypto books")
"""Streams that are measured alone, at `OTHERS_RATE`."""
OTHERS_RATE = 500
ENDS = (("stocks + crypto + options + news", 0), (PAIR, 20_000))
"""Silence, and full streams, for the engine alone."""
_SILENT = "0.001"
"""The rate of silent streams, in messages a second."""
_START_S = 60.0

_SYMBOLS = {
    "stocks": ["AAPL", "MSFT", "TSLA", "NVDA", "SPY"],
    "crypto": ["BTC/USD", "ETH/USD"],
    "options": ["AAPL261218C00230000", "SPY261218C00595000"],
    "news": ["*"],
}
_CHANNELS = {
    "stocks": ["trades", "quotes"],
    "crypto": ["trades", "quotes"],
    "options": ["trades", "quotes"],
    "news": ["news"],
}


def _streams(traffic: str) -> dict[str, list[str]]:
    """Return the streams of a kind of traffic, each with its channels."""
    if traffic == "crypto books":
        return {"crypto": ["orderbooks"]}
    return {name: _CHANNELS[name] for name in traffic.split(" + ")}


class _Used(NamedTuple):
    """What processes have used since their start, without threads that have ended."""

    cpu_s: float
    switches: int
    """Context switches."""


def _tree(processes: Sequence[psutil.Process]) -> set[psutil.Process]:
    """Return `processes` and all their descendants."""
    return {p for each in processes for p in (each, *each.children(recursive=True))}


def _read_used(processes: Sequence[psutil.Process]) -> _Used:
    """Return what `processes` and all their descendants have used."""
    run_ns, switches = 0, 0
    for process in _tree(processes):
        for thread in Path(f"/proc/{process.pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                run_ns += int((thread / "schedstat").read_text().split()[0])
                status = (thread / "status").read_text()
                switches += sum(map(int, re.findall(r"ctxt_switches:\s+(\d+)", status)))
    return _Used(run_ns / 1e9, switches)


def engine(url: str, traffic: str, stretch_s: float) -> dict[str, float]:
    """Measure the engine."""
    import mdstream
    from mdstream.frames.rundir import state_path
    from mdstream.telemetry.state import FeedState

    streams = _streams(traffic)
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as silent:
        settings: dict[str, Any] = {
            "streams": list(streams),
            "stream_url": url,
            "data_url": url.replace("ws", "http", 1),
            "credentials": {"key_id": "benchmark", "secret_key": "benchmark"},
            "rejects": folder,
            "fetch": {"interval_s": 0},
            **{name: {"channels": c, "symbols": _SYMBOLS[name]} for name, c in streams.items()},
        }
        with mdstream.Engine(settings, log=silent) as running:
            states = [FeedState(state_path(running.attachment.path, name)) for name in streams]
            processes = psutil.Process().children()

            def received() -> int:
                return sum(int(state.read_committed()["committed"]) for state in states)

            is_silent = len(streams) == len(_CHANNELS)
            if not is_silent:
                _wait_for(received)
            found = _measure(processes, received, stretch_s, is_silent)
            latency: Any = sum(state.histograms["latency"].astype("int64") for state in states)
        assert running.report is not None
        lost = sum(
            s["messages"] - s["committed"] + s["in_flight"] for s in running.report["streams"].values()
        )
    from mdstream.telemetry.histogram import percentile_ms

    quantiles = {f"p{share}_ms": percentile_ms(latency, share / 100) or 0.0 for share in (50, 99)}
    return {**found, **quantiles, "lost": float(lost)}


def alpaca_py(url: str, traffic: str, raw: bool, stretch_s: float) -> dict[str, float]:
    """Measure alpaca-py's streams, each in a thread of its own."""
    from alpaca.data.live import CryptoDataStream, NewsDataStream, OptionDataStream, StockDataStream

    kinds = {
        "stocks": (StockDataStream, "/v2/iex"),
        "crypto": (CryptoDataStream, "/v1beta3/crypto/us"),
        "options": (OptionDataStream, "/v1beta1/indicative"),
        "news": (NewsDataStream, "/v1beta1/news"),
    }
    counts = dict.fromkeys(kinds, 0)
    clients = []
    for name, channels in _streams(traffic).items():
        kind, path = kinds[name]
        client = kind("benchmark", "benchmark", raw_data=raw, url_override=url + path)

        async def handle(message: Any, name: str = name) -> None:
            counts[name] += 1

        for channel in channels:
            getattr(client, f"subscribe_{channel}")(handle, *_SYMBOLS[name])
        threading.Thread(target=client.run, daemon=True).start()
        clients.append(client)

    def received() -> int:
        return sum(counts.values())

    _wait_for(received)
    return _measure([psutil.Process()], received, stretch_s)


def _wait_for(received: Any) -> None:
    """Wait until messages come."""
    deadline = time.monotonic() + _START_S
    while not received():
        if time.monotonic() > deadline:
            raise SubjectError(f"no data after {_START_S:.0f} s")
        time.sleep(0.05)


def _measure(
    processes: Sequence[psutil.Process], received: Any, stretch_s: float, is_silent: bool = False
) -> dict[str, float]:
    """Measure what `processes` and their descendants use over `stretch_s`."""
    time.sleep(WARM_S)
    start, before, first = time.monotonic(), _read_used(processes), received()
    time.sleep(stretch_s)
    seconds, after, messages = time.monotonic() - start, _read_used(processes), received() - first
    if not messages and not is_silent:
        raise SubjectError("no message arrived while it was measured")
    cpu_s, tree = after.cpu_s - before.cpu_s, _tree(processes)
    return {
        "cpu_percent": 100 * cpu_s / seconds,
        **({"us_per_message": 1e6 * cpu_s / messages} if not is_silent else {}),
        "messages_per_s": messages / seconds,
        "switches_per_s": (after.switches - before.switches) / seconds,
        "pss_mb": sum(p.memory_full_info().pss for p in tree) / 1e6,
        "processes": float(len(tree)),
    }


# -- the comparison


def run(plan: Plan) -> list[Record]:
    """Measure everything."""
    subjects = select_installed(plan, plan.choose(SUBJECTS, SUBJECTS[:2]), PEERS)
    traffics = [(PAIR, rate) for rate in plan.choose(RATES, RATES[1:2])]
    traffics += [(name, OTHERS_RATE) for name in plan.choose(OTHERS, ())]
    cases = [
        Case("ordinary", subject, {"traffic": traffic, "rate": rate})
        for traffic, rate in traffics
        for subject in subjects
    ]
    cases += [
        Case("ordinary", SUBJECTS[0], {"traffic": traffic, "rate": rate})
        for traffic, rate in plan.choose(ENDS, ENDS[:1])
    ]
    stretch_s = plan.choose(STRETCH_S, QUICK_S)

    def measure(case: Case) -> dict[str, float]:
        traffic, rate = case.params["traffic"], case.params["rate"]
        # The simulator sends a fiftieth of the rate as news.
        rate *= 50 if traffic == "news" else 1
        streams = ",".join(_streams(traffic))
        with start_simulator("--rate", str(rate or _SILENT), "--streams", streams) as (url, *_):
            return run_once("benchmarks.bench_ordinary", case.subject, url, traffic, str(stretch_s))

    return plan.in_turns("ordinary", cases, measure, plan.choose(TURNS, 1))


def tables(records: Sequence[Record]) -> list[Table]:
    """Return the tables of the records."""
    subjects = list(dict.fromkeys(r["subject"] for r in records))
    traffics = list(dict.fromkeys((r["params"]["traffic"], r["params"]["rate"]) for r in records))
    rows, sizes = [], []
    for traffic, rate in traffics:
        found = {
            r["subject"]: r
            for r in records
            if (r["params"]["traffic"], r["params"]["rate"]) == (traffic, rate)
        }
        title = f"{traffic}, {rate:,}/s"
        if len(found) > 1:
            rows.append((title, *(cell(found[name], "us_per_message", digits=0) for name in subjects)))
        if (ours := found.get(SUBJECTS[0])) is not None:
            sizes.append(
                (
                    title,
                    cell(ours, "cpu_percent", digits=2),
                    cell(ours, "p50_ms", digits=2),
                    cell(ours, "p99_ms", digits=2),
                    cell(ours, "processes", digits=0),
                    cell(ours, "pss_mb", digits=0),
                    cell(ours, "switches_per_s", digits=0),
                    f"{ours['lost']:.0f}",
                )
            )
    headings = (
        "messages/s of each stream",
        "% of a core",
        "p50 ms",
        "p99 ms",
        "processes",
        "PSS, MB",
        "context switches/s",
        "lost",
    )
    return [
        Table("CPU µs per message, one message a payload", ("messages/s of each stream", *subjects), rows),
        Table("The engine at these rates", headings, sizes),
    ]


def findings(records: Sequence[Record]) -> list[str]:
    """Return sentences that summarize the records."""
    sentences = []
    for rate in RATES:
        cost = {
            r["subject"]: r["us_per_message"]
            for r in records
            if r["params"]["traffic"] == PAIR and r["params"]["rate"] == rate
        }
        if cost.get(SUBJECTS[0]) and cost.get("alpaca-py-raw"):
            share = cost[SUBJECTS[0]] / cost["alpaca-py-raw"]
            sentences.append(
                f"At {rate:,}/s the engine takes {share:.2f} times the CPU time of alpaca-py-raw."
            )
    return sentences


if __name__ == "__main__":
    exit_on_sigterm()
    subject, address, what, seconds = sys.argv[1:]
    if subject.startswith("alpaca-py"):
        answer(alpaca_py(address, what, subject.endswith("raw"), float(seconds)))
        os._exit(0)  # its threads do not end by themselves
    answer(engine(address, what, float(seconds)))
