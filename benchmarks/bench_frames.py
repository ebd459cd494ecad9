"""What does it cost to write a row into a frame, and how soon can another process read it?

    commit   ns per row to append decoded columns to stocks trades or quotes, which drop old chunks
    access   attach() and frame() in a new process, on 1 and 10 million rows, while more are written
    memory   shared memory per million rows, and how much a reader's process grows when it reads them all
    read     the last 100,000 trades as a DataFrame in another process: mdstream and common alternatives
    tail     time from just before a commit of 10 rows until another process has them as a DataFrame

Every subject is a separate process, and all take turns; the tables show medians, with best and worst.
The rows are messages of the seeded simulator, decoded by our decoder (`frames_rows`). The alternatives
are listed in `frames_peers`; the benchmark names those that are not installed and skips them.
"""

from __future__ import annotations

import contextlib
import json
import select
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import Case, Plan, Record, Table, cell
from benchmarks.subjects import Subject, answer, run_once

TAKES_S = (85.0, 6.0)
"""Seconds on 2 cores: in full, and with `--quick` (which skips `read` and `tail`)."""

TURNS = 2
BATCHES = (100, 1_000, 4_000)
COMMITTED = 2_000_000
"""Rows per turn of `commit`."""
SIZES = (1_000_000, 10_000_000)
SYMBOL = "AAPL"
"""One of ten symbols."""
RATES = (100, 1_000)
TAILED_S = 2.0
FOLLOW_TURNS = 2

_THIS = "benchmarks.bench_frames"


# -- the whole benchmark


def run(plan: Plan) -> list[Record]:
    """Measure everything."""
    turns = plan.choose(TURNS, 1)
    records = [*commit(plan, turns), *access(plan, turns), *memory(plan, turns)]
    return records if plan.quick else [*records, *peers(plan, turns)]


# -- commit


def commit(plan: Plan, turns: int) -> list[Record]:
    cases = [
        Case("commit", f"stocks.{channel}", {"batch": size, "rows": COMMITTED})
        for size in BATCHES
        for channel in ("trades", "quotes")
    ]
    with contextlib.ExitStack() as stack:
        subjects = {
            f"stocks.{channel}": stack.enter_context(Subject("benchmarks.bench_frames", "commit", channel))
            for channel in ("trades", "quotes")
        }

        def measure(case: Case) -> dict[str, float]:
            found = subjects[case.subject].ask(batch=case.params["batch"])
            return {
                "ns_per_row": found["seconds"] / COMMITTED * 1e9,
                "longest_ms": found["longest_ms"],
                "dropped_rows": found["dropped"],
            }

        return plan.in_turns("frames", cases, measure, turns, (0.0, 0.2))


def commit_process(channel: str) -> None:
    from benchmarks.frames_rows import DEFAULT, open_frame, prepare_rows

    rows = prepare_rows(channel, 4_000)
    with open_frame(rows, DEFAULT) as (_, writer):
        whole = rows.batches(4_000)[0]
        while not writer.head.first_row:
            writer.append(whole)
        answer({"rows": writer.rows})
        for line in sys.stdin:
            size = json.loads(line)["batch"]
            batches = rows.batches(size)
            before, longest = writer.head.first_row, 0.0
            start = last = time.perf_counter()
            for _ in range(COMMITTED // 4_000):
                for batch in batches:
                    writer.append(batch)
                    now = time.perf_counter()
                    longest, last = max(longest, now - last), now
            dropped = writer.head.first_row - before
            seconds = last - start
            answer({"seconds": seconds, "longest_ms": longest * 1e3, "dropped": dropped})


# -- access


def access(plan: Plan, turns: int) -> list[Record]:
    sizes = plan.choose(SIZES, SIZES[:1])
    with contextlib.ExitStack() as stack:
        holders = {
            size: stack.enter_context(
                Subject("benchmarks.bench_frames", "hold", "trades", str(size), "growing")
            )
            for size in sizes
        }
        return plan.in_turns(
            "frames",
            [Case("access", "stocks.trades", {"rows": size}) for size in sizes],
            lambda case: run_once(_THIS, "access", holders[case.params["rows"]].first["run"]),
            turns,
            (0.2, 0.4),
        )


def access_process(run: str) -> None:
    times: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        times.setdefault(name, []).append((time.perf_counter() - start) * 1e3)
        return result

    def load() -> Callable[[str], Any]:
        import mdstream

        return mdstream.attach

    attach = timed("import_ms", load)
    attached = timed("attach_ms", lambda: attach(run))
    frame = timed("first_frame_ms", lambda: attached.frame("stocks.trades"))
    timed("first_sum_ms", frame["price"].sum)
    for _ in range(100):
        time.sleep(0.005)  # rows arrive meanwhile, as in a program that reads at intervals
        timed("warm_frame_ms", lambda: attached.frame("stocks.trades"))
    for _ in range(5):
        timed("warm_sum_ms", frame["price"].sum)
    for name in ("first_symbol_ms", *["warm_symbol_ms"] * 5):
        timed(name, lambda: attached.frame("stocks.trades", symbols=SYMBOL))
    answer({name: statistics.median(values) for name, values in times.items()})


def hold_process(channel: str, count: int, growing: bool) -> None:
    """Hold a run with a frame of `count` rows; if `growing`, append 100 rows 100 times a second."""
    from benchmarks.frames_rows import ROOMY, fill, open_frame, prepare_rows, slice_rows

    rows = prepare_rows(channel, 4_000)
    with open_frame(rows, ROOMY) as (run, writer):
        fill(writer, rows, count)
        head = writer.head
        sealed = range(head.first, head.end - 1)
        taken = sum(head.chunk_path(n).stat().st_blocks * 512 for n in sealed)
        per_row = taken / head.entry(head.end - 1).start_row
        answer({"run": run.run, "bytes_per_row": per_row})
        few = slice_rows(rows.rows, 0, 100)
        while not select.select([sys.stdin], [], [], 0.01)[0]:
            if growing:
                writer.append(few)


# -- memory


def memory(plan: Plan, turns: int) -> list[Record]:
    with contextlib.ExitStack() as stack:
        holders = {
            channel: stack.enter_context(
                Subject("benchmarks.bench_frames", "hold", channel, "1000000", "still")
            )
            for channel in ("trades", "quotes")
        }

        def measure(case: Case) -> dict[str, float]:
            holder = holders[case.subject.removeprefix("stocks.")]
            grown = run_once(_THIS, "memory", holder.first["run"], case.subject.removeprefix("stocks."))
            return {"shared_bytes": holder.first["bytes_per_row"] * 1e6, **grown}

        return plan.in_turns(
            "frames",
            [Case("memory", f"stocks.{channel}", {"rows": 1_000_000}) for channel in holders],
            measure,
            turns,
            (0.4, 0.5),
        )


def memory_process(run: str, channel: str) -> None:
    import polars as pl

    import mdstream

    def now() -> dict[str, int]:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
        kb = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        return {"rss": kb["Rss"], "pss": kb["Pss"], "anonymous": kb["Anonymous"]}

    attached = mdstream.attach(run)
    # The first use of a frame loads libraries, which has nothing to do with its number of rows.
    attached.frame(f"stocks.{channel}").select(pl.all().head(1).to_physical().max())
    attached = mdstream.attach(run)
    before = now()
    frame = attached.frame(f"stocks.{channel}")
    got = now()
    frame.select(pl.all().to_physical().max())
    after = now()
    grown = {name: (after[name] - before[name]) * 1024 for name in after}
    answer({"rss_got": (got["rss"] - before["rss"]) * 1024, **grown})


# -- mdstream and the alternatives


def peers(plan: Plan, turns: int) -> list[Record]:
    from benchmarks import frames_peers

    with contextlib.ExitStack() as stack:
        subjects: dict[str, Subject] = {}
        for name in frames_peers.SUBJECTS:
            plan.show_progress("frames", 0.5, f"starting {name}")
            subject = stack.enter_context(Subject("benchmarks.frames_peers", name))
            if missing := subject.first.get("missing"):
                plan.print(f"\n{name}: skipped, {missing}")
                continue
            subjects[name] = subject
        read = {n: s for n, s in subjects.items() if n in frames_peers.READ}
        tailed = {n: s for n, s in subjects.items() if n in frames_peers.TAILED}
        return [*_measure_reads(plan, read, turns), *_measure_tails(plan, tailed)]


def _measure_reads(plan: Plan, subjects: dict[str, Subject], turns: int) -> list[Record]:
    from benchmarks.frames_sides import BATCH, ROWS

    def measure(case: Case) -> dict[str, float]:
        found = subjects[case.subject].ask()
        measured = {
            "write_ns_per_row": found["write_s"] / ROWS * 1e9,
            "write_cpu_ns_per_row": found["write_cpu_s"] / ROWS * 1e9,
            "read_ms": found["read_s"] * 1e3,
        }
        if found["stored"] is not None:
            measured["stored_bytes_per_row"] = found["stored"] / ROWS
        return measured

    cases = [
        Case("read", name, {"rows": ROWS, "batch": BATCH, "with": subject.first.get("version", "")})
        for name, subject in subjects.items()
    ]
    for case in cases:
        measure(case)  # warm-up
    return plan.in_turns("frames", cases, measure, turns, (0.55, 0.75))


def _measure_tails(plan: Plan, subjects: dict[str, Subject]) -> list[Record]:
    from benchmarks.frames_peers import SKIPPED
    from benchmarks.frames_sides import COMMIT

    def measure(case: Case) -> dict[str, float]:
        rate = case.params["commits_per_s"]
        found = subjects[case.subject].ask(rate=rate, commits=int(rate * TAILED_S) + SKIPPED)
        ages = sorted(found["ages_ns"])
        return {
            "p50_us": ages[int(len(ages) * 0.5)] / 1e3,
            "p99_us": ages[int(len(ages) * 0.99)] / 1e3,
            "achieved_per_s": found["rate"],
        }

    cases = [
        Case("tail", name, {"commits_per_s": rate, "rows": COMMIT, "with": s.first.get("version", "")})
        for rate in RATES
        for name, s in subjects.items()
    ]
    return plan.in_turns("frames", cases, measure, FOLLOW_TURNS, (0.75, 1.0))


# -- tables


def tables(records: Sequence[Record]) -> list[Table]:
    """Return the tables of the records: one for each of the five questions that has any."""
    found = {
        question: [r for r in records if r["question"] == question]
        for question in ("commit", "access", "memory", "read", "tail")
    }
    makers = (_commits, _accesses, _memories, _reads, _tails)
    pairs = zip(makers, found.values(), strict=True)
    return [make(mine) for make, mine in pairs if mine]


def _commits(records: Sequence[Record]) -> Table:
    rows = [
        (r["subject"], f"{r['params']['batch']:,}", cell(r, "ns_per_row"), cell(r, "longest_ms"))
        for r in records
    ]
    headings = ("frame", "batch", "ns per row", "longest append, ms")
    return Table(f"Commit: {COMMITTED:,} rows each, 256 MB kept", headings, rows)


def _accesses(records: Sequence[Record]) -> Table:
    shown = {
        "import_ms": "`import mdstream`",
        "attach_ms": "`attach()`",
        "first_frame_ms": "first `frame()`",
        "warm_frame_ms": "`frame()` again",
        "first_sum_ms": "first sum of a column",
        "warm_sum_ms": "again",
        "first_symbol_ms": f"first `frame(symbols={SYMBOL!r})`",
        "warm_symbol_ms": "again",
    }
    return Table(
        "Access from a new process while 10,000 rows/s are written",
        ("ms", *(f"{r['params']['rows']:,} rows" for r in records)),
        [(text, *(cell(r, name, digits=2) for r in records)) for name, text in shown.items()],
    )


def _memories(records: Sequence[Record]) -> Table:
    headings = ("MB", "shared memory", "RSS, frame()", "RSS, all read", "PSS, all read", "anonymous")
    names = ("rss_got", "rss", "pss", "anonymous")
    rows = [
        (r["subject"], f"{r['shared_bytes'] / 1e6:.1f}", *(cell(r, name, 1e6) for name in names))
        for r in records
    ]
    return Table("Memory of a million rows, and growth of a reader's process", headings, rows)


def _reads(records: Sequence[Record]) -> Table:
    headings = ("", "write, ns per row", "its CPU, ns per row", "read, ms", "bytes per row")
    rows = [
        (
            r["subject"],
            cell(r, "write_ns_per_row", digits=0),
            cell(r, "write_cpu_ns_per_row", digits=0),
            cell(r, "read_ms"),
            f"{r['stored_bytes_per_row']:.0f}" if "stored_bytes_per_row" in r else "-",
        )
        for r in records
    ]
    sizes = records[0]["params"]
    title = f"Read: {sizes['rows']:,} trades in batches of {sizes['batch']:,}"
    return Table(title, headings, rows)


def _tails(records: Sequence[Record]) -> Table:
    headings = ("µs", "commits/s", "achieved", "p50", "p99")
    rows = [
        (
            r["subject"],
            f"{r['params']['commits_per_s']:,}",
            f"{r['achieved_per_s']:,.0f}",
            cell(r, "p50_us", digits=0),
            cell(r, "p99_us", digits=0),
        )
        for r in records
    ]
    rows_each = records[0]["params"]["rows"]
    return Table(f"Tail: from a commit of {rows_each} rows until a reader has them", headings, rows)


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
