"""What does ordinary traffic cost: 10 to 2,000 messages/s, one message a payload, as most accounts have it?

    mdstream        the engine as it is: frames, latest values, bars, telemetry
    alpaca-py       its stream classes, one thread for each: a model for each message, an empty handler
    alpaca-py-raw   the same with `raw_data`: dictionaries

The result is the CPU time (user and system) of all processes of the subject, divided by the messages that
it received. It is measured over `STRETCH_S` seconds, after `WARM_S` seconds. The simulator is a process of
its own, whose time is not counted. It sends each stream at the given rate, to every subject.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import Any

import psutil

from benchmarks.harness import Case, Plan, Record, Table, cell, select_installed
from benchmarks.subjects import SubjectError, answer, exit_on_sigterm, run_once, start_simulator

TAKES_S = (1000.0, 30.0)
"""Seconds on 2 cores: in full, and with `--quick`."""

TURNS = 3
WARM_S = 4.0
STRETCH_S = 6.0
QUICK_S = 4.0
RATES = (10, 100, 500, 2000)
SUBJECTS = ("mdstream", "alpaca-py-raw", "alpaca-py")
PEERS = {"alpaca-py-raw": "alpaca", "alpaca-py": "alpaca"}
PAIR = "stocks + crypto"
"""The streams that are measured at every rate."""
OTHERS = ("options", "news", "crypto books")
"""Streams that are measured alone, at `OTHERS_RATE`."""
OTHERS_RATE = 500
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


def _cpu_s(processes: Sequence[psutil.Process]) -> float:
    """Return the CPU seconds that `processes` and all their descendants have used."""
    total = 0.0
    for process in {p for each in processes for p in (each, *each.children(recursive=True))}:
        times = process.cpu_times()
        total += times.user + times.system
    return total


def _pss_mb(processes: Sequence[psutil.Process]) -> float:
    """Return the memory of `processes` and all their descendants; shared pages are divided (PSS)."""
    found = {p for each in processes for p in (each, *each.children(recursive=True))}
    return sum(p.memory_full_info().pss for p in found) / 1e6


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

            _wait_for(received)
            found = _measure(processes, received, stretch_s)
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


def _measure(processes: Sequence[psutil.Process], received: Any, stretch_s: float) -> dict[str, float]:
    """Measure the CPU time of `processes` and their descendants over `stretch_s`."""
    time.sleep(WARM_S)
    start, cpu, first = time.monotonic(), _cpu_s(processes), received()
    time.sleep(stretch_s)
    seconds, cpu, messages = time.monotonic() - start, _cpu_s(processes) - cpu, received() - first
    if not messages:
        raise SubjectError("no message arrived while it was measured")
    tree = {p for each in processes for p in (each, *each.children(recursive=True))}
    return {
        "cpu_percent": 100 * cpu / seconds,
        "us_per_message": 1e6 * cpu / messages,
        "messages_per_s": messages / seconds,
        "pss_mb": _pss_mb(processes),
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
    stretch_s = plan.choose(STRETCH_S, QUICK_S)

    def measure(case: Case) -> dict[str, float]:
        traffic, rate = case.params["traffic"], case.params["rate"]
        # The simulator sends a fiftieth of the rate as news.
        rate *= 50 if traffic == "news" else 1
        with start_simulator("--rate", str(rate), "--streams", ",".join(_streams(traffic))) as (url, *_):
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
        rows.append((title, *(cell(found[name], "us_per_message", digits=0) for name in subjects)))
        if (ours := found.get(SUBJECTS[0])) is not None:
            sizes.append(
                (
                    title,
                    cell(ours, "cpu_percent"),
                    cell(ours, "p50_ms", digits=2),
                    cell(ours, "p99_ms", digits=2),
                    cell(ours, "processes", digits=0),
                    cell(ours, "pss_mb", digits=0),
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
