"""How fast do trades become 1-second and 1-minute bars, with the rules for trade conditions?

The input is a million stock trades of 10 or 1,000 symbols over ten minutes, as decoded columns in batches
of 4,000:

    mdstream       a worker folds partial bars; the feed joins and publishes them (measured separately)
    polars         group_by on the same columns, all at once, without the rules, once for each bar length
    pandas         the same with groupby
    python         a loop over the trades with a dict of bars, with the rules

Only mdstream updates bars while trades arrive; the others get all trades at once. Each subject is a
separate process, and all take turns; the tables show medians.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.harness import Case, Plan, Record, Table, cell
from benchmarks.subjects import Subject, answer, read_requests

TAKES_S = (17.0, 5.0)
"""Seconds on 2 cores: in full, and with `--quick`."""

TRADES = 1_000_000
SYMBOLS = (10, 1_000)
SPAN_S = 600
BATCH = 4_000
TURNS = 3
_START = 1_767_623_400_000_000_000
_SECOND = 1_000_000_000


def trades(symbols: int) -> dict[str, Any]:
    """Return seeded columns of `TRADES` trades, sorted by time; condition 0 is `@`, 1 is `@I`."""
    import numpy as np

    random = np.random.default_rng(1)
    ts = _START + np.sort(random.integers(0, SPAN_S * _SECOND, TRADES))
    return {
        "symbol": random.integers(0, symbols, TRADES).astype(np.uint32),
        "ts": ts,
        "price": np.round(100 + random.normal(0, 0.5, TRADES).cumsum() / 100, 2),
        "size": random.integers(1, 500, TRADES),
        "conditions": (random.random(TRADES) < 0.3).astype(np.uint16),
    }


# -- the subjects: each returns its seconds and number of bars


def _mdstream(given: dict[str, Any]) -> Record:
    import numpy as np

    from mdstream.frames.frame_columns import FrameColumns
    from mdstream.frames.rundir import RunDirectory, frame_path
    from mdstream.frames.writer import FrameWriter, Limits
    from mdstream.handoff.columns import ColumnData
    from mdstream.streams import STREAMS
    from mdstream.streams.storage import DTYPE
    from workers.aggregation.aggregate import Effects, events_of_trades, fold
    from workers.aggregation.bars import Bars

    spec = STREAMS["stocks"]
    rules = spec.bar_rules
    assert rules is not None
    channel, effects, texts = spec.by_name["trades"], Effects(rules), ("@", "@I")

    def columns(start: int) -> list[ColumnData]:
        part = {name: values[start : start + BATCH] for name, values in given.items()}
        part["recv_ts"] = part["ts"]
        rows = len(part["ts"])
        return [
            ColumnData(part[column.name])
            if column.name in part
            else ColumnData(np.zeros(rows, DTYPE[column.kind]), np.zeros(rows, np.bool_))
            for column in channel.columns
        ]

    with RunDirectory() as run:
        frames = {
            name: FrameColumns(
                FrameWriter(frame_path(run.path, f"stocks.{name}"), c.columns, Limits(1 << 28, 1 << 24))
            )
            for name, c in {"trades": channel, **{c.name: c for c in spec.built_bars}}.items()
        }
        builder = Bars(spec, frames, lambda column, code: texts[code])
        batches = [columns(start) for start in range(0, TRADES, BATCH)]
        for column in batches[0]:
            column.values = column.values.copy()
        folding = joining = 0.0
        bars = 0
        for batch in batches:
            start = time.perf_counter()
            partials = fold(events_of_trades(channel, batch, effects, lambda column, code: texts[code]))
            folded = time.perf_counter()
            published = builder.join(partials, 0, {})
            joining += time.perf_counter() - folded
            folding += folded - start
            bars += sum(len(rows[0].values) for rows in published.values())
        start = time.perf_counter()
        bars += sum(len(rows[0].values) for rows in builder.finish().values())
        joining += time.perf_counter() - start
    return {
        "seconds": folding + joining,
        "bars": bars,
        "worker_ns": folding / TRADES * 1e9,
        "feed_ns": joining / TRADES * 1e9,
    }


def _polars(given: dict[str, Any]) -> Record:
    import polars as pl

    frame = pl.DataFrame(given)
    start, bars = time.perf_counter(), 0
    for length in (_SECOND, 60 * _SECOND):
        price, size = pl.col("price"), pl.col("size")
        found = frame.group_by("symbol", pl.col("ts") // length, maintain_order=True).agg(
            price.first().alias("open"),
            price.max().alias("high"),
            price.min().alias("low"),
            price.last().alias("close"),
            size.sum().alias("volume"),
            pl.len(),
            ((price * size).sum() / size.sum()).alias("vwap"),
        )
        bars += found.height
    return {"seconds": time.perf_counter() - start, "bars": bars}


def _pandas(given: dict[str, Any]) -> Record:
    import pandas

    frame = pandas.DataFrame(given)
    frame["worth"] = frame["price"] * frame["size"]
    start, bars = time.perf_counter(), 0
    for length in (_SECOND, 60 * _SECOND):
        found = frame.groupby(["symbol", frame["ts"] // length]).agg(
            open=("price", "first"),
            high=("price", "max"),
            low=("price", "min"),
            close=("price", "last"),
            volume=("size", "sum"),
            count=("size", "size"),
            worth=("worth", "sum"),
        )
        found["vwap"] = found["worth"] / found["volume"]
        bars += len(found)
    return {"seconds": time.perf_counter() - start, "bars": bars}


def _python(given: dict[str, Any]) -> Record:
    rows = list(zip(*(given[name].tolist() for name in given), strict=True))
    start, bars = time.perf_counter(), 0
    for length in (_SECOND, 60 * _SECOND):
        found: dict[tuple[int, int], list[float]] = {}
        for symbol, ts, price, size, condition in rows:
            key = symbol, ts // length
            bar = found.get(key)
            if bar is None:
                bar = found[key] = [0.0, 0.0, 1e300, 0.0, 0, 0, 0.0, 0]
            bar[4] += size
            bar[5] += 1
            if condition == 0:
                bar[0] = bar[0] or price
                bar[1] = max(bar[1], price)
                bar[2] = min(bar[2], price)
                bar[3] = price
                bar[6] += price * size
                bar[7] += size
        bars += len(found)
    return {"seconds": time.perf_counter() - start, "bars": bars}


WORK: dict[str, Callable[[dict[str, Any]], Record]] = {
    "mdstream": _mdstream,
    "polars": _polars,
    "pandas": _pandas,
    "python": _python,
}


def serve(subject: str) -> None:
    """Run a subject: make bars on each request."""
    given: dict[int, dict[str, Any]] = {}
    for wanted in read_requests():
        symbols = wanted["symbols"]
        if symbols not in given:
            given[symbols] = trades(symbols)
            if subject == "mdstream":
                WORK[subject](given[symbols])  # to load the kernels from disk
        answer(WORK[subject](given[symbols]))


# -- the comparison


def run(plan: Plan) -> list[Record]:
    """Measure all subjects in turn."""
    cases = [
        Case("bars", subject, {"symbols": symbols, "trades": TRADES})
        for symbols in SYMBOLS
        for subject in WORK
        if not plan.quick or subject != "python"
    ]
    with contextlib.ExitStack() as stack:
        subjects = {name: stack.enter_context(Subject("benchmarks.bench_bars", name)) for name in WORK}

        def measure(case: Case) -> dict[str, float]:
            found = subjects[case.subject].ask(symbols=case.params["symbols"])
            seconds = found.pop("seconds")
            rates = {"messages_per_s": TRADES / seconds, "bars_per_s": found["bars"] / seconds}
            return {**rates, **found}

        return plan.in_turns("bars", cases, measure, plan.choose(TURNS, 2))


def tables(records: Sequence[Record]) -> list[Table]:
    """Return the tables of the records."""
    rows = [
        (
            r["subject"],
            f"{r['params']['symbols']:,}",
            cell(r, "messages_per_s", 1e6, 2),
            cell(r, "bars_per_s", 1e6, 3),
            cell(r, "worker_ns"),
            cell(r, "feed_ns"),
        )
        for r in records
    ]
    headings = ("subject", "symbols", "M trades/s", "M bars/s", "worker ns", "feed ns")
    return [Table(f"Bars of {TRADES:,} trades", headings, rows)]


def findings(records: Sequence[Record]) -> list[str]:
    """Return sentences that summarize the records."""
    rates = {(r["subject"], r["params"]["symbols"]): r["messages_per_s"] for r in records}
    ratios = []
    for symbols in SYMBOLS:
        ratio = rates["mdstream", symbols] / rates["polars", symbols]
        ratios.append(f"{ratio:.1f} times with {symbols:,} symbols")
    return [
        f"Trades/s, compared with Polars: {', '.join(ratios)}. Polars makes all bars at once, after the "
        "last trade."
    ]


if __name__ == "__main__":
    serve(sys.argv[1])
