"""What does a row cost on its way into a frame, and how soon has another process what is there?

    commit   ns a row to append ready columns to stocks trades or quotes, old chunks being dropped
    access   attach() and frame() in a fresh process, of 1 and 10 million rows, while more are written
    memory   shared memory a million rows, and what a reader's process grows by when it has seen them all
    read     the last 100,000 trades as a DataFrame in another process: ours, and what is used today
    tail     from just before a commit of 10 rows until another process has them as a DataFrame

Every subject is a process of its own, and all take turns; medians are shown, with best and worst.
The rows are the seeded simulator's messages as our own decoder leaves them (`frames_rows`); the peers
are in `frames_peers`. Those that are not installed are named and left out.
"""

from __future__ import annotations

import contextlib
import json
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

REPEATS = 5
BATCHES = (100, 1_000, 4_000)
COMMITTED = 2_000_000
"""Rows of a turn of `commit`."""
SIZES = (1_000_000, 10_000_000)
SYMBOL = "AAPL"
"""One of ten symbols."""
RATES = (100, 1_000)
FOLLOWED_S = 3.0
FOLLOW_REPEATS = 3

Record = dict[str, Any]


# -- the orchestra


class Process:
    """A subject's process, which answers a JSON line for each one it is sent."""

    def __init__(self, *command: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        self._name = " ".join(command)
        self.first = self._answer()

    def ask(self, **what: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._name} ended: see above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()


def run() -> list[Record]:
    """Measure everything, print tables, and return the records."""
    return [*commit(), *access(), *memory(), *peers()]


def _record(question: str, subject: str, params: Record, values: dict[str, list[float]]) -> Record:
    measures = {
        name: {"median": statistics.median(v), "best": min(v), "worst": max(v), "values": v}
        for name, v in values.items()
    }
    return {"question": question, "subject": subject, "params": params, "measures": measures}


def _cell(record: Record, name: str, scale: float = 1.0, digits: int = 1) -> str:
    found = record["measures"].get(name)
    if found is None:
        return ""
    median, best, worst = (f"{found[k] / scale:,.{digits}f}" for k in ("median", "best", "worst"))
    return f"{median} ({best}–{worst})"


def _table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[i]) for row in (headings, *rows)) for i in range(len(headings))]
    print(f"\n{title}")
    for row in (headings, *rows):
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        print("  " + "  ".join([row[0].ljust(len(first)), *others]))


def _told(what: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{what:60}", end="\r", file=sys.stderr, flush=True)


# -- commit


def commit() -> list[Record]:
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    with contextlib.ExitStack() as stack:
        subjects = {
            channel: stack.enter_context(Process("benchmarks.bench_frames", "commit", channel))
            for channel in ("trades", "quotes")
        }
        for turn in range(REPEATS):
            for size in BATCHES:
                for channel, process in subjects.items():
                    _told(f"commit: turn {turn + 1} of {REPEATS}, {channel}")
                    found.setdefault((channel, size), []).append(process.ask(batch=size))
    records = [
        _record(
            "commit",
            f"stocks.{channel}",
            {"batch": size, "rows": COMMITTED, "dropped": min(a["dropped"] for a in answers)},
            {
                "ns_per_row": [a["seconds"] / COMMITTED * 1e9 for a in answers],
                "longest_ms": [a["longest_ms"] for a in answers],
            },
        )
        for (channel, size), answers in found.items()
    ]
    _table(
        f"commit: medians of {REPEATS} (best–worst), {COMMITTED:,} rows each, 256 MB kept",
        ("frame", "batch", "ns a row", "longest append, ms"),
        [
            (r["subject"], f"{r['params']['batch']:,}", _cell(r, "ns_per_row"),
             _cell(r, "longest_ms"))
            for r in records
        ],
    )  # fmt: skip
    return records


def commit_process(channel: str) -> None:
    from benchmarks.frames_rows import DEFAULT, live, ready

    rows = ready(channel, 4_000)
    with live(rows, DEFAULT) as (_, writer):
        whole = rows.batches(4_000)[0]
        while not writer.dropped_rows:
            writer.append(whole)
        print(json.dumps({"rows": writer.rows}), flush=True)
        for line in sys.stdin:
            size = json.loads(line)["batch"]
            batches = rows.batches(size)
            before, longest = writer.dropped_rows, 0.0
            started = last = time.perf_counter()
            for _ in range(COMMITTED // 4_000):
                for batch in batches:
                    writer.append(batch)
                    now = time.perf_counter()
                    longest, last = max(longest, now - last), now
            dropped = writer.dropped_rows - before
            seconds = last - started
            print(
                json.dumps({"seconds": seconds, "longest_ms": longest * 1e3, "dropped": dropped}),
                flush=True,
            )


# -- access


def access() -> list[Record]:
    found: dict[int, list[dict[str, Any]]] = {}
    with contextlib.ExitStack() as stack:
        holders = {
            size: stack.enter_context(
                Process("benchmarks.bench_frames", "hold", "trades", str(size), "growing")
            )
            for size in SIZES
        }
        for turn in range(REPEATS):
            for size, holder in holders.items():
                _told(f"access: turn {turn + 1} of {REPEATS}, {size:,} rows")
                found.setdefault(size, []).append(_once("access", holder.first["run"]))
    records = [
        _record(
            "access",
            "stocks.trades",
            {"rows": size},
            {name: [a[name] for a in answers] for name in answers[0]},
        )
        for size, answers in found.items()
    ]
    shown = {
        "import_ms": "import mdstream, ms",
        "attach_ms": "attach(), ms",
        "first_frame_ms": "first frame(), ms",
        "warm_frame_ms": "frame() again, ms",
        "first_sum_ms": "first sum of a column, ms",
        "warm_sum_ms": "the same again, ms",
        "first_symbol_ms": f"first frame(symbols={SYMBOL!r}), ms",
        "warm_symbol_ms": "the same again, ms",
    }
    _table(
        f"access: fresh processes, medians of {REPEATS} (best–worst), 10,000 rows/s being written",
        ("", *(f"{size:,} rows" for size in SIZES)),
        [(text, *(_cell(r, name, digits=2) for r in records)) for name, text in shown.items()],
    )
    return records


def _once(*command: str) -> dict[str, Any]:
    """What a process prints that does one thing and ends."""
    arguments = [sys.executable, "-m", "benchmarks.bench_frames", *command]
    done = subprocess.run(arguments, stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def access_process(run: str) -> None:
    times: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = work()
        times.setdefault(name, []).append((time.perf_counter() - started) * 1e3)
        return result

    def load() -> Callable[[str], Any]:
        import mdstream

        return mdstream.attach

    attach = timed("import_ms", load)
    attached = timed("attach_ms", lambda: attach(run))
    frame = timed("first_frame_ms", lambda: attached.frame("stocks.trades"))
    timed("first_sum_ms", frame["price"].sum)
    for _ in range(100):
        time.sleep(0.005)  # rows come in between, as in a program that looks now and then
        timed("warm_frame_ms", lambda: attached.frame("stocks.trades"))
    for _ in range(5):
        timed("warm_sum_ms", frame["price"].sum)
    for name in ("first_symbol_ms", *["warm_symbol_ms"] * 5):
        timed(name, lambda: attached.frame("stocks.trades", symbols=SYMBOL))
    print(json.dumps({name: statistics.median(values) for name, values in times.items()}))


def hold_process(channel: str, count: int, growing: bool) -> None:
    """Keep a run with a frame of `count` rows; if `growing`, 100 rows are added 100 times a second."""
    from benchmarks.frames_rows import ROOMY, fill, live, part, ready

    rows = ready(channel, 4_000)
    with live(rows, ROOMY) as (run, writer):
        fill(writer, rows, count)
        head = writer.head
        sealed = range(head.first, head.end - 1)
        taken = sum(head.chunk_path(n).stat().st_blocks * 512 for n in sealed)
        per_row = taken / head.entry(head.end - 1).start_row
        print(json.dumps({"run": run.run, "bytes_per_row": per_row}), flush=True)
        few = part(rows.rows, 0, 100)
        while not select.select([sys.stdin], [], [], 0.01)[0]:
            if growing:
                writer.append(few)


# -- memory


def memory() -> list[Record]:
    found: dict[str, list[dict[str, Any]]] = {}
    per_row = {}
    with contextlib.ExitStack() as stack:
        holders = {
            channel: stack.enter_context(
                Process("benchmarks.bench_frames", "hold", channel, "1000000", "still")
            )
            for channel in ("trades", "quotes")
        }
        for turn in range(REPEATS):
            for channel, holder in holders.items():
                _told(f"memory: turn {turn + 1} of {REPEATS}, {channel}")
                per_row[channel] = holder.first["bytes_per_row"]
                answer = _once("memory", holder.first["run"], channel)
                found.setdefault(channel, []).append(answer)
    records = [
        _record(
            "memory",
            f"stocks.{channel}",
            {"rows": 1_000_000},
            {
                "shared_bytes": [per_row[channel] * 1e6],
                **{name: [a[name] for a in answers] for name in answers[0]},
            },
        )
        for channel, answers in found.items()
    ]
    _table(
        f"memory of a million rows, MB: medians of {REPEATS} (best–worst); what a reader grows by",
        ("frame", "shared memory", "RSS, frame()", "RSS, all seen", "PSS, all seen", "anonymous"),
        [
            (
                r["subject"],
                f"{r['measures']['shared_bytes']['median'] / 1e6:.1f}",
                *(_cell(r, name, 1e6) for name in ("rss_got", "rss", "pss", "anonymous")),
            )
            for r in records
        ],
    )
    return records


def memory_process(run: str, channel: str) -> None:
    import polars as pl

    import mdstream

    def now() -> dict[str, int]:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
        kb = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        return {"rss": kb["Rss"], "pss": kb["Pss"], "anonymous": kb["Anonymous"]}

    attached = mdstream.attach(run)
    # What the first use of a frame loads and starts has nothing to do with the number of its rows.
    attached.frame(f"stocks.{channel}").select(pl.all().head(1).to_physical().max())
    attached = mdstream.attach(run)
    before = now()
    frame = attached.frame(f"stocks.{channel}")
    got = now()
    frame.select(pl.all().to_physical().max())
    after = now()
    grown = {name: (after[name] - before[name]) * 1024 for name in after}
    print(json.dumps({"rss_got": (got["rss"] - before["rss"]) * 1024, **grown}))


# -- ours and the peers


def peers() -> list[Record]:
    from benchmarks import frames_peers

    with contextlib.ExitStack() as stack:
        subjects: dict[str, Process] = {}
        for name in frames_peers.SUBJECTS:
            _told(f"starting {name}")
            process = stack.enter_context(Process("benchmarks.frames_peers", name))
            if missing := process.first.get("missing"):
                print(f"\n{name}: not available here, {missing}")
                continue
            subjects[name] = process
        read = {n: p for n, p in subjects.items() if n in frames_peers.READ}
        followed = {n: p for n, p in subjects.items() if n in frames_peers.FOLLOWED}
        versions = {n: p.first["version"] for n, p in subjects.items() if "version" in p.first}
        return [*_reading(read, versions), *_following(followed, versions)]


def _reading(subjects: dict[str, Process], versions: dict[str, str]) -> list[Record]:
    from benchmarks.frames_peers import BATCH, ROWS

    found: dict[str, list[dict[str, Any]]] = {}
    for turn in range(-1, REPEATS):  # the first turn is for getting warm
        for name, process in subjects.items():
            _told(f"read: turn {turn + 1} of {REPEATS}, {name}")
            answer = process.ask()
            if turn >= 0:
                found.setdefault(name, []).append(answer)
    records = []
    for name, answers in found.items():
        params = {"rows": ROWS, "batch": BATCH, "with": versions.get(name, "")}
        values = {
            "write_ns_per_row": [a["write_s"] / ROWS * 1e9 for a in answers],
            "write_cpu_ns_per_row": [a["write_cpu_s"] / ROWS * 1e9 for a in answers],
            "read_ms": [a["read_s"] * 1e3 for a in answers],
        }
        if answers[0]["stored"] is not None:
            values["stored_bytes_per_row"] = [a["stored"] / ROWS for a in answers]
        records.append(_record("read", name, params, values))
    _table(
        f"read: {ROWS:,} trades in batches of {BATCH:,}, medians of {REPEATS} (best–worst)",
        ("subject", "write, ns a row", "its CPU, ns a row", "a reader has them, ms", "bytes a row"),
        [
            (
                r["subject"], _cell(r, "write_ns_per_row", digits=0),
                _cell(r, "write_cpu_ns_per_row", digits=0), _cell(r, "read_ms"),
                f"{r['measures']['stored_bytes_per_row']['median']:.0f}"
                if "stored_bytes_per_row" in r["measures"] else "-",
            )
            for r in records
        ],
    )  # fmt: skip
    return records


def _following(subjects: dict[str, Process], versions: dict[str, str]) -> list[Record]:
    from benchmarks.frames_peers import COMMIT, SKIPPED

    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for turn in range(FOLLOW_REPEATS):
        for rate in RATES:
            for name, process in subjects.items():
                _told(f"tail: turn {turn + 1} of {FOLLOW_REPEATS}, {name} at {rate}/s")
                answer = process.ask(rate=rate, commits=int(rate * FOLLOWED_S) + SKIPPED)
                found.setdefault((name, rate), []).append(answer)
    records = []
    for (name, rate), answers in found.items():
        ages = [sorted(a["ages_ns"]) for a in answers]
        params = {"commits_per_s": rate, "rows": COMMIT, "with": versions.get(name, "")}
        values = {
            label: [every[int(len(every) * quantile)] / 1e3 for every in ages]
            for label, quantile in (("p50_us", 0.5), ("p99_us", 0.99))
        }
        values["achieved_per_s"] = [a["rate"] for a in answers]
        records.append(_record("tail", name, params, values))
    _table(
        f"tail: commits of {COMMIT} rows, µs until a reader has them, medians of {FOLLOW_REPEATS} "
        "(best–worst)",
        ("subject", "commits/s", "achieved", "p50", "p99"),
        [
            (
                r["subject"], f"{r['params']['commits_per_s']:,}",
                f"{r['measures']['achieved_per_s']['median']:,.0f}",
                _cell(r, "p50_us", digits=0), _cell(r, "p99_us", digits=0),
            )
            for r in records
        ],
    )  # fmt: skip
    return records


def main(arguments: Iterator[str]) -> None:
    match [*arguments]:
        case ["commit", channel]:
            commit_process(channel)
        case ["hold", channel, count, how]:
            hold_process(channel, int(count), how == "growing")
        case ["access", run]:
            access_process(run)
        case ["memory", run, channel]:
            memory_process(run, channel)


if __name__ == "__main__":
    main(iter(sys.argv[1:]))
