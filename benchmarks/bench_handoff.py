"""What does a pool gain: decoding and aggregating inline, or in workers?

The same payloads go through the engine's pipeline (slabs, tickets, commit in order, frames, last values,
bars), and only the number of workers changes; with 0 the feed's process decodes. Receiving is not included:
the payloads are in memory when the clock starts.

    payloads   WebSocket payloads of stocks, 1 to 100 messages each, JSON and msgpack; 30 or 1,000 symbols
    batches    the same, by slab size: the smallest batch for which a pool is faster
    one core   the same, with feed and worker pinned to one core
    pages      gzip'd pages of history, 10,000 trades each
    books      crypto order books
    apart      payloads and pages inline, in as many independent processes as cores: the machine's limit
    quiet      one payload at a time, as on a quiet stream: the time that the hand-off adds

Per message, `feed_ns` is the CPU time of the feed's process, `loop_ns` that of its event loop's thread
alone, which cannot be shared out, and `worker_ns` that of all workers.
Each number of workers is a separate process, and all take turns; the tables show medians.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter
from typing import Any

from benchmarks import traffic
from benchmarks.handoff_line import MANY_SYMBOLS, SYMBOLS, USUAL_KB
from benchmarks.harness import Answer, Case, Plan, Record, Table, cell
from benchmarks.scaling import (
    APART,
    break_even,
    ceiling,
    fit_model,
    gains,
    group_by_case,
    parallel_fraction,
)
from benchmarks.subjects import Subject
from mdstream.config import usable_cores

TAKES_S = (165.0, 12.0)
"""Seconds on 2 cores: in full, and with `--quick`."""

TURNS = 3
PER_PAYLOAD = (1, 2, 20, 100)
SLABS_KB = (4, 16, 64, 256, 1024)
"""From 20 messages (one payload) to 8,000 messages per batch."""
USUAL = {
    "what": "payloads",
    "traffic": "quotes",
    "codec": "json",
    "symbols": SYMBOLS,
    "per_payload": 20,
    "slab_kb": USUAL_KB,
}
ONE_CORE = {**USUAL, "cores": 1}
"""Feed and worker pinned to one core: what a pool gains on a machine with one core."""
_MAX_APART = 16


def worker_counts() -> list[int]:
    """Return the numbers of workers: 0 (inline) up to one per core."""
    cores = usable_cores()
    return [0, *sorted({n for n in (1, 2, 4, 8, 16, 32, 64) if n < cores} | {cores})]


# -- the comparison


def cases(plan: Plan) -> list[Case]:
    """Return the cases of every number of workers."""
    sizes = plan.choose(PER_PAYLOAD, (20,))
    wanted: list[dict[str, Any]] = [
        {**USUAL, "codec": c, "per_payload": n}
        for c in plan.choose(("json", "msgpack"), ("json",))
        for n in sizes
    ]
    if not plan.quick:
        wanted += [{**USUAL, "symbols": MANY_SYMBOLS}, {**USUAL, "traffic": "books"}]
        wanted += [{**USUAL, "slab_kb": size} for size in SLABS_KB if size != USUAL_KB]
        wanted += [ONE_CORE]
    wanted += [{"what": "pages"}, {"what": "quiet"}]
    names = [*map(_name_subject, plan.choose(worker_counts(), (0, 1)))]
    if not plan.quick:
        names.append(APART)
    return [
        Case("handoff", name, params) for params in wanted for name in names if _is_measured(name, params)
    ]


def _name_subject(workers: int) -> str:
    return f"{workers} worker{'s' if workers > 1 else ''}" if workers else "inline"


def _is_measured(name: str, params: Mapping[str, Any]) -> bool:
    if name == APART:
        return params == USUAL or params["what"] == "pages"
    return params != ONE_CORE or name in (_name_subject(0), _name_subject(1))


def run(plan: Plan) -> list[Record]:
    """Measure everything."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:

        def subject(workers: int) -> Subject:
            return stack.enter_context(Subject("benchmarks.handoff_line", str(workers), folder))

        wanted = cases(plan)
        names = {case.subject for case in wanted}
        subjects = {_name_subject(n): subject(n) for n in worker_counts() if _name_subject(n) in names}
        cores = min(_MAX_APART, usable_cores())
        apart = [subject(0) for _ in range(cores if APART in names else 0)]

        def measure(case: Case) -> Answer:
            if case.subject != APART:
                return subjects[case.subject].ask(**case.params)
            with ThreadPoolExecutor(len(apart)) as threads:
                answers = list(threads.map(lambda each: each.ask(**case.params), apart))
            return {"messages_per_s": sum(found["messages_per_s"] for found in answers)}

        return plan.in_turns("handoff", wanted, measure, plan.choose(TURNS, 1))


def tables(records: Sequence[Record]) -> list[Table]:
    """Return the tables of the records: one row for each case and number of workers."""
    rows, quiet = [], []
    for record in records:
        if record["params"]["what"] == "quiet":
            cells = (cell(record, "p50_us", digits=0), cell(record, "p99_us", digits=0))
            quiet.append((record["subject"], *cells))
            continue
        inline = next(r for r in records if r["params"] == record["params"])
        ratio = record["messages_per_s"] / inline["messages_per_s"]
        rows.append(
            (
                describe_case(record["params"]),
                record["subject"],
                cell(record, "messages_per_s", 1e6, 2),
                f"{ratio:.2f}",
                cell(record, "feed_ns", digits=0),
                cell(record, "loop_ns", digits=0),
                cell(record, "worker_ns", digits=0),
            )
        )
    headings = ("", "", "M messages/s", "× inline", "feed ns", "its loop ns", "workers ns")
    scaling = [] if _is_rough(records) else [_scaling(records, _cores(records))]
    return [
        Table("Decode, aggregate and commit, by the number of workers", headings, rows),
        *scaling,
        Table("One message at a time, from payload to frame", ("", "p50 µs", "p99 µs"), quiet),
    ]


def _is_rough(records: Sequence[Record]) -> bool:
    """Return whether every case was measured only once, which is too little for a model."""
    return all(r["turns"] == 1 for r in records)


def _scaling(records: Sequence[Record], cores: int) -> Table:
    """Return how each case scales, with a fit of Amdahl's law and a model from the costs of one worker."""
    rows = []
    for case in group_by_case(records):
        if case[0]["params"] == ONE_CORE:
            continue
        workers, best = max(gains(case).items(), key=itemgetter(1))
        used = min(workers + 1, cores)
        share, model = parallel_fraction(case, cores), fit_model(case)
        most = ceiling(records, case[0]["params"])
        rows.append(
            (
                describe_case(case[0]["params"]),
                f"{best:.2f}",
                str(workers),
                f"{best / used:.0%}",
                f"{most:.2f}" if most else "",
                f"{share:.0%}",
                f"{1 / (1 - share):.1f}" if share < 1 else "∞",
                *(f"{model(n) / 1e6:.1f}" if model else "" for n in (1, 4, 16)),
            )
        )
    headings = (
        "",
        "best, × inline",
        "workers",
        "efficiency",
        "apart, ×",
        "Amdahl's fit: parallel share",
        "its limit, ×",
        "model: M/s with 1 worker",
        "4",
        "16",
    )
    title = f"Scaling on {cores} cores, and a model from the costs of one worker (a core for each process)"
    return Table(title, headings, rows)


def findings(records: Sequence[Record]) -> list[str]:
    """Return sentences that summarize the records."""
    found, cores = [], _cores(records)
    if _is_rough(records):
        found.append("Each case was measured once, so these figures are rough, and their ratios rougher.")
    cases = {str(case[0]["params"]): case for case in group_by_case(records)}
    sweep = [case for case in cases.values() if {**case[0]["params"], "slab_kb": USUAL_KB} == USUAL]
    if (even := break_even(sweep)) is not None:
        smallest = min(case[0]["messages_per_batch"] for case in sweep)
        found.append(_describe_break_even(*even, smallest))
    found += _describe_quiet(records)
    found += _describe_one_core(cases.get(str(ONE_CORE)))
    for params in (USUAL, {"what": "pages"}):
        if (case := cases.get(str(params))) is None:
            continue
        workers, best = max(gains(case).items(), key=itemgetter(1))
        sentence = f"{describe_case(params)}: {best:.2f} times inline with {_name_subject(workers)}"
        if most := ceiling(records, params):
            sentence += f"; {cores} independent processes reach {most:.2f} times one"
        fastest = next(r for r in case if r["workers"] == workers)
        found.append(
            f"{sentence}. CPU time per message: {fastest['feed_ns']:.0f} ns in the feed, "
            f"{fastest['worker_ns']:.0f} ns in the workers."
        )
    return found


def _cores(records: Sequence[Record]) -> int:
    """Return the cores of the measured machine, which is the largest number of workers."""
    return int(max(r.get("workers", 0) for r in records))


def _describe_quiet(records: Sequence[Record]) -> list[str]:
    """Return what the hand-off costs a single message."""
    quiet = {r["subject"]: r["p50_us"] for r in records if r["params"]["what"] == "quiet"}
    if not {"inline", "1 worker"} <= quiet.keys():
        return []
    inline, handed = quiet["inline"], quiet["1 worker"]
    slower = "later" if handed > inline else "sooner"
    return [
        f"A single message is in its frame {abs(handed - inline):.0f} µs {slower} with a worker: after "
        f"{handed:.0f} µs, inline after {inline:.0f}. On a quiet stream `workers = 0` is cheaper."
    ]


def _describe_one_core(case: Sequence[Record] | None) -> list[str]:
    """Return what a worker gains when it shares the feed's core."""
    if case is None or len(case) < 2:
        return []
    inline, handed = (record["messages_per_s"] for record in case)
    return [
        f"On one core, feed and worker share it: {handed / inline:.2f} times inline ({handed / 1e6:.2f} "
        f"and {inline / 1e6:.2f} million messages/s). Use `workers = 0` there."
    ]


def _describe_break_even(slower: float, faster: float, smallest: float) -> str:
    if math.isinf(faster):
        return f"One worker is certainly faster for no batch size, and slower up to {slower:,.0f} messages."
    if not slower:
        rest = "the smallest measured" if faster == smallest else "and slower for no batch size"
        return (
            "At full load (JSON, 20 per payload, 30 symbols), one worker is faster than inline in every "
            f"turn from batches of {faster:,.0f} messages, {rest}. If turns overlap in the table, neither "
            "is certainly faster."
        )
    return (
        f"Break-even at 20 messages per payload: between batches of {slower:,.0f} messages (one worker is "
        f"slower than inline in every turn) and {faster:,.0f} (faster in every turn)."
    )


def describe_case(params: Mapping[str, Any]) -> str:
    """Describe a case."""
    match params:
        case {"what": "pages"}:
            return f"gzip'd pages of {traffic.ROWS_A_PAGE:,} trades"
        case {"traffic": "books"}:
            return f"order books, {params['per_payload']} per payload"
        case {"what": "payloads", "codec": codec, "per_payload": per, "cores": 1}:
            return f"{codec}, {per} per payload, all on one core"
        case {"what": "payloads", "codec": codec, "per_payload": per, "symbols": symbols}:
            return f"{codec}, {per} per payload, {symbols:,} symbols, slabs of {params['slab_kb']} kB"
    return "single messages"
