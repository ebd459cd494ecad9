"""What does the pool bring: decoding and aggregating inline, or handed to workers?

The same payloads go through the same pipeline of the engine (slabs, tickets, commit in order, frames, last
values, bars) with nothing but the number of workers changed; 0 decodes in the feed's own process. Receiving
is not in it: the payloads are there when the clock starts.

    payloads   WebSocket payloads of stocks, 1 to 100 messages each, JSON and msgpack; 30 or 1,000 symbols
    batches    the same, by the size of the slabs: from where on a pool pays
    one core   the same, with feed and worker bound to one core
    pages      gzip'd pages of history, 10,000 trades each
    books      crypto order books
    apart      payloads and pages again, inline in as many processes as there are cores, which share
               nothing: the most that this machine gives
    quiet      one payload at a time, as on a quiet stream: what the hand-off adds to it

`feed_ns` is the CPU time of the feed's process a message, `loop_ns` that of its loop's thread alone, which
nothing else can take over, and `worker_ns` that of all workers.
Each number of workers is a process of its own, and all take turns; medians are shown.
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
from benchmarks.harness import Answer, Case, Plan, Record, Subject, Table, cell
from benchmarks.scaling import APART, break_even, by_case, ceiling, fitted, gains, parallel_fraction
from mdstream.config import usable_cores

TAKES_S = (165.0, 12.0)
"""Seconds on 2 cores: all of it, and the quick part."""

TURNS = 3
PER_PAYLOAD = (1, 2, 20, 100)
SLABS_KB = (4, 16, 64, 256, 1024)
"""From one payload of 20 messages a batch to 8,000 messages."""
USUAL = {
    "what": "payloads",
    "traffic": "quotes",
    "codec": "json",
    "symbols": SYMBOLS,
    "per_payload": 20,
    "slab_kb": USUAL_KB,
}
ONE_CORE = {**USUAL, "cores": 1}
"""Feed and worker bound to one core: what a pool brings where there is no other."""
_MOST_APART = 16


def worker_counts() -> list[int]:
    """Inline, and then up to one worker a core."""
    cores = usable_cores()
    return [0, *sorted({n for n in (1, 2, 4, 8, 16, 32, 64) if n < cores} | {cores})]


# -- the comparison


def cases(plan: Plan) -> list[Case]:
    """Everything that is asked of every number of workers."""
    sizes = plan.of(PER_PAYLOAD, (20,))
    asked: list[dict[str, Any]] = [
        {**USUAL, "codec": c, "per_payload": n}
        for c in plan.of(("json", "msgpack"), ("json",))
        for n in sizes
    ]
    if not plan.quick:
        asked += [{**USUAL, "symbols": MANY_SYMBOLS}, {**USUAL, "traffic": "books"}]
        asked += [{**USUAL, "slab_kb": size} for size in SLABS_KB if size != USUAL_KB]
        asked += [ONE_CORE]
    asked += [{"what": "pages"}, {"what": "quiet"}]
    names = [*map(_name, plan.of(worker_counts(), (0, 1)))]
    if not plan.quick:
        names.append(APART)
    return [Case("handoff", name, params) for params in asked for name in names if _is_asked(name, params)]


def _name(workers: int) -> str:
    return f"{workers} worker{'s' if workers > 1 else ''}" if workers else "inline"


def _is_asked(name: str, params: Mapping[str, Any]) -> bool:
    if name == APART:
        return params == USUAL or params["what"] == "pages"
    return params != ONE_CORE or name in (_name(0), _name(1))


def run(plan: Plan) -> list[Record]:
    """Measure everything."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:

        def subject(workers: int) -> Subject:
            return stack.enter_context(Subject("benchmarks.handoff_line", str(workers), folder))

        wanted = cases(plan)
        names = {case.subject for case in wanted}
        subjects = {_name(n): subject(n) for n in worker_counts() if _name(n) in names}
        cores = min(_MOST_APART, usable_cores())
        apart = [subject(0) for _ in range(cores if APART in names else 0)]

        def measure(case: Case) -> Answer:
            if case.subject != APART:
                return subjects[case.subject].ask(**case.params)
            with ThreadPoolExecutor(len(apart)) as threads:
                answers = list(threads.map(lambda each: each.ask(**case.params), apart))
            return {"messages_per_s": sum(found["messages_per_s"] for found in answers)}

        return plan.in_turns("handoff", wanted, measure, plan.of(TURNS, 1))


def tables(records: Sequence[Record]) -> list[Table]:
    """What to show of the records: a row for each case and number of workers."""
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
                described(record["params"]),
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
        Table("One message at a time: offered → in the frame", ("", "p50 µs", "p99 µs"), quiet),
    ]


def _is_rough(records: Sequence[Record]) -> bool:
    """Whether all was measured but once: too little for laws."""
    return all(r["turns"] == 1 for r in records)


def _scaling(records: Sequence[Record], cores: int) -> Table:
    """How each case scales, and what Amdahl's law and the costs of one worker make of it."""
    rows = []
    for case in by_case(records):
        if case[0]["params"] == ONE_CORE:
            continue
        workers, best = max(gains(case).items(), key=itemgetter(1))
        used = min(workers + 1, cores)
        share, model = parallel_fraction(case, cores), fitted(case)
        most = ceiling(records, case[0]["params"])
        rows.append(
            (
                described(case[0]["params"]),
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
        "Amdahl's fit, all workers: parallel",
        "by it at most, ×",
        "model: M/s with 1 worker",
        "4",
        "16",
    )
    title = f"Scaling on {cores} cores, and a model: a core a process, by what one worker cost"
    return Table(title, headings, rows)


def findings(records: Sequence[Record]) -> list[str]:
    """What the records say, in sentences."""
    found, cores = [], _cores(records)
    if _is_rough(records):
        found.append("Each case was measured once: these figures are rough, and ratios of them rougher.")
    cases = {str(case[0]["params"]): case for case in by_case(records)}
    sweep = [case for case in cases.values() if {**case[0]["params"], "slab_kb": USUAL_KB} == USUAL]
    if (even := break_even(sweep)) is not None:
        smallest = min(case[0]["messages_per_batch"] for case in sweep)
        found.append(_where_it_pays(*even, smallest))
    found += _alone(records)
    found += _on_one_core(cases.get(str(ONE_CORE)))
    for params in (USUAL, {"what": "pages"}):
        if (case := cases.get(str(params))) is None:
            continue
        workers, best = max(gains(case).items(), key=itemgetter(1))
        told = f"{described(params)}: {best:.2f} times inline with {_name(workers)}"
        if most := ceiling(records, params):
            told += f", where {cores} processes that share nothing reach {most:.2f} times one"
        theirs = next(r for r in case if r["workers"] == workers)
        found.append(
            f"{told}. The feed spends {theirs['feed_ns']:.0f} ns a message, workers "
            f"{theirs['worker_ns']:.0f}."
        )
    return found


def _cores(records: Sequence[Record]) -> int:
    """The cores of the machine that was measured: the most workers that were asked for."""
    return int(max(r.get("workers", 0) for r in records))


def _alone(records: Sequence[Record]) -> list[str]:
    """What handing over costs a message that comes alone."""
    quiet = {r["subject"]: r["p50_us"] for r in records if r["params"]["what"] == "quiet"}
    if not {"inline", "1 worker"} <= quiet.keys():
        return []
    inline, handed = quiet["inline"], quiet["1 worker"]
    slower = "later" if handed > inline else "sooner"
    return [
        f"A message that comes alone is in its frame {abs(handed - inline):.0f} µs {slower} with a worker: "
        f"after {handed:.0f} µs, inline after {inline:.0f}. On a quiet stream `workers = 0` is cheaper."
    ]


def _on_one_core(case: Sequence[Record] | None) -> list[str]:
    """What a worker brings where it shares the feed's core."""
    if case is None or len(case) < 2:
        return []
    inline, handed = (record["messages_per_s"] for record in case)
    return [
        f"On one core a worker only takes turns with its feed: {handed / inline:.2f} times inline "
        f"({handed / 1e6:.2f} and {inline / 1e6:.2f} million messages/s); `workers = 0` is right there."
    ]


def _where_it_pays(slower: float, faster: float, smallest: float) -> str:
    if math.isinf(faster):
        return f"One worker is surely faster for no batch, and slower for all up to {slower:,.0f} messages."
    if not slower:
        least = "the smallest that was measured" if faster == smallest else "slower for none"
        return (
            "At full load, JSON, 20 a payload and 30 symbols, one worker is faster than inline in every "
            f"turn from batches of {faster:,.0f} messages on, {least}. Where turns overlap in the table, "
            "nothing is certain."
        )
    return (
        f"Break-even, at 20 messages a payload: one worker pays somewhere between {slower:,.0f} messages "
        f"a batch (slower than inline in every turn) and {faster:,.0f} (faster in every turn)."
    )


def described(params: Mapping[str, Any]) -> str:
    """A case in words."""
    match params:
        case {"what": "pages"}:
            return f"gzip'd pages of {traffic.ROWS_A_PAGE:,} trades"
        case {"traffic": "books"}:
            return f"order books, {params['per_payload']} a payload"
        case {"what": "payloads", "codec": codec, "per_payload": per, "cores": 1}:
            return f"{codec}, {per} a payload, all on one core"
        case {"what": "payloads", "codec": codec, "per_payload": per, "symbols": symbols}:
            return f"{codec}, {per} a payload, {symbols:,} symbols, slabs of {params['slab_kb']} kB"
    return "single messages"
