"""How fast does one core decode payloads into columns, or into the reader's own result?

All readers get the same stock trades and quotes, each in the encoding that it accepts:

    memcpy         one copy of the bytes: the lower bound
    kernel-json, kernel-msgpack     our compiled decoder: typed columns, codes, times
    orjson, msgpack                 our fallback decoder: the same columns through Python objects
    orjson-polars  orjson, then a Polars frame for trades and one for quotes
    polars         Polars' NDJSON reader, on one thread: one line per message; times and codes stay text
    pyarrow        pyarrow.json's reader, on one thread, on the same lines
    msgspec        typed structs; no columns
    duckdb         its JSON reader, on one thread, on the same lines in a file; into an Arrow table
    alpaca-py-raw, alpaca-py        its live dispatch on msgpack: dicts, or its models
    cryptofeed     its live dispatch: only the trades, in Kraken's format, into its objects

Each subject is a separate process, and all take turns; the tables show medians.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from types import GenericAlias
from typing import Any

from benchmarks import traffic
from benchmarks.harness import Answer, Case, Plan, Record, Table, cell, select_installed
from benchmarks.subjects import Subject, answer, read_requests

TAKES_S = (66.0, 13.0)
"""Seconds on 2 cores: in full, and with `--quick`."""

MESSAGES = 20_000
PER_PAYLOAD = (1, 2, 20, 100)
TURNS = 3

SUBJECTS = (
    "memcpy",
    "kernel-json",
    "kernel-msgpack",
    "orjson",
    "msgpack",
    "orjson-polars",
    "polars",
    "pyarrow",
    "duckdb",
    "msgspec",
    "alpaca-py-raw",
    "alpaca-py",
    "cryptofeed",
)
_MODULES = {
    "duckdb": "duckdb",
    "alpaca-py-raw": "alpaca",
    "alpaca-py": "alpaca",
    "cryptofeed": "cryptofeed",
}
_TURN_S = 0.15
"""Least duration of a turn: a process that has slept needs some milliseconds to warm up."""

Work = tuple[Callable[[], object], int, int]
"""The function to time, its number of messages, and its number of bytes."""


# -- the subjects


def ours(payloads: list[bytes], codec: str, kernels: bool) -> Callable[[], object]:
    from benchmarks.decoding import Decoding, batches
    from mdstream.streams.spec import PayloadKind

    decoding, prepared = Decoding(kernels), batches(payloads, PayloadKind[codec.upper()])

    def work() -> None:
        for batch in prepared:
            decoding.run(batch)

    return work


def orjson_polars(payloads: list[bytes]) -> Callable[[], object]:
    import orjson
    import polars as pl

    def work() -> None:
        records: dict[str, list[Any]] = {"t": [], "q": []}
        for payload in payloads:
            for message in orjson.loads(payload):
                records[message["T"]].append(message)
        for rows in records.values():
            pl.DataFrame(rows, infer_schema_length=100)

    return work


def msgspec_structs(payloads: list[bytes]) -> Callable[[], object]:
    import msgspec

    def struct(name: str, tag: str, **fields: Any) -> Any:
        rename = {"size": "as"}  # a keyword in Python
        return msgspec.defstruct(
            name, list(fields.items()), tag_field="T", tag=tag, rename=rename if tag == "q" else None
        )

    trade = struct("Trade", "t", S=str, i=int, x=str, p=float, s=int, c=list[str], z=str, t=str)
    quote = struct(
        "Quote", "q", S=str, bx=str, bp=float, bs=int, ax=str, ap=float, size=int, c=list[str], z=str, t=str
    )
    decode = msgspec.json.Decoder(GenericAlias(list, (trade | quote,))).decode
    return lambda: [decode(payload) for payload in payloads]


def alpaca_py(payloads: list[bytes], raw: bool) -> Callable[[], object]:
    import msgpack
    from alpaca.data.live import StockDataStream

    stream = StockDataStream("key", "secret", raw_data=raw)

    async def handler(message: Any) -> None:
        pass

    stream._handlers["trades"]["*"] = stream._handlers["quotes"]["*"] = handler

    async def every() -> None:
        for payload in payloads:
            for message in msgpack.unpackb(payload, timestamp=0):
                await stream._dispatch(message)

    return lambda: asyncio.run(every())


def duckdb_lines(lines: bytes) -> Callable[[], object]:
    import duckdb

    database = duckdb.connect()
    database.execute("SET threads = 1")
    file = tempfile.NamedTemporaryFile(suffix=".json")  # noqa: SIM115  # `work` keeps it open
    file.write(lines)
    file.flush()

    def work(path: str = file.name, kept: object = file) -> object:
        form = "format = 'newline_delimited'"
        return database.sql(f"FROM read_json('{path}', {form})").to_arrow_table()

    return work


def cryptofeed(trades: list[dict[str, Any]], per: int) -> Work:
    """Return the work on trades by symbol, `per` in a payload: a payload of Kraken has one pair."""
    from cryptofeed.defines import TRADES
    from cryptofeed.exchanges import Kraken
    from cryptofeed.symbols import Symbols

    by_symbol: dict[str, list[Any]] = {}
    for trade in trades:
        fields = [f"{trade['p']:.5f}", f"{trade['s']:.8f}", f"{trade['t'] / 1e9:.6f}", "b", "l", ""]
        by_symbol.setdefault(trade["S"], []).append(fields)
    payloads = [
        json.dumps([1, rows[i : i + per], "trade", f"{symbol}/USD"])
        for symbol, rows in by_symbol.items()
        for i in range(0, len(rows), per)
    ]
    Symbols.set("KRAKEN", {f"{symbol}-USD": f"{symbol}/USD" for symbol in by_symbol}, {})

    async def handler(trade: object, received: float) -> None:
        pass

    symbols = [f"{symbol}-USD" for symbol in by_symbol]
    feed = Kraken(symbols=symbols, channels=[TRADES], callbacks={TRADES: handler})

    async def every() -> None:
        for payload in payloads:
            await feed.message_handler(payload, None, 1.0)

    return lambda: asyncio.run(every()), len(trades), sum(map(len, payloads))


def prepare(subject: str, source: str, per: int) -> Work:
    """Return the work of a subject on payloads of `per` messages."""
    messages = traffic.messages(source, MESSAGES)
    codec = "msgpack" if "msgpack" in subject or subject.startswith("alpaca") else "json"
    payloads = traffic.payloads(codec, messages, per)
    size = sum(map(len, payloads))
    lines = b"\n".join(traffic.payloads("json", messages, 1)).replace(b"]\n[", b"\n")[1:-1]
    whole = bytearray(b"".join(payloads))
    match subject:
        case "memcpy":
            work: Callable[[], object] = lambda: bytes(whole)  # noqa: E731
        case "kernel-json" | "kernel-msgpack":
            work = ours(payloads, codec, kernels=True)
        case "orjson" | "msgpack":
            work = ours(payloads, codec, kernels=False)
        case "orjson-polars":
            work = orjson_polars(payloads)
        case "polars":
            import polars as pl

            work = lambda: pl.read_ndjson(lines, infer_schema_length=100)  # noqa: E731
        case "pyarrow":
            from pyarrow import json as arrow_json

            once = arrow_json.ReadOptions(use_threads=False, block_size=1 << 24)
            work = lambda: arrow_json.read_json(io.BytesIO(lines), once)  # noqa: E731
        case "msgspec":
            work = msgspec_structs(payloads)
        case "duckdb":
            work = duckdb_lines(lines)
        case "cryptofeed":
            return cryptofeed([m for m in messages if m["T"] == "t"], per)
        case _:
            work = alpaca_py(payloads, subject.endswith("raw"))
    return work, len(messages), size


def serve(subject: str, source: str) -> None:
    """Run a subject: decode all messages on each request, which gives the messages per payload."""
    prepared: dict[int, Work] = {}
    for wanted in read_requests():
        per = wanted["messages_per_payload"]
        if per not in prepared:
            prepared[per] = prepare(subject, source, per)
            prepared[per][0]()  # the first call also loads and learns
        work, messages, size = prepared[per]
        turns, start, seconds = 0, time.perf_counter(), 0.0
        while seconds < _TURN_S:
            work()
            turns += 1
            seconds = time.perf_counter() - start
        rate = turns / seconds
        answer(
            {
                "messages_per_s": messages * rate,
                "bytes_per_s": size * rate,
                "ns_per_message": 1e9 / (messages * rate),
            }
        )


# -- the comparison


def run(plan: Plan) -> list[Record]:
    """Measure every subject with every payload size; return one record each."""
    sources = plan.choose(("simulator", "ibm-day"), ("simulator",))
    if not traffic.TICKS.exists() and "ibm-day" in sources:
        plan.print(f"ibm-day: skipped, no {traffic.TICKS.name}")
        sources = ("simulator",)
    subjects_here = select_installed(plan, SUBJECTS, _MODULES)
    cases = [
        Case("decode", subject, {"source": source, "messages_per_payload": per})
        for source in sources
        for per in (plan.choose(PER_PAYLOAD, (20,)) if source == "simulator" else (20,))
        for subject in subjects_here
    ]
    environment = {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1"}
    with contextlib.ExitStack() as stack:
        subjects = {
            (subject, source): stack.enter_context(
                Subject("benchmarks.bench_decode", subject, source, environment=environment)
            )
            for subject in subjects_here
            for source in sources
        }

        def measure(case: Case) -> Answer:
            return subjects[case.subject, case.params["source"]].ask(**case.params)

        return plan.in_turns("decode", cases, measure, plan.choose(TURNS, 1))


def tables(records: Sequence[Record]) -> list[Table]:
    """Return the tables of the records: million messages/s by messages per payload."""
    found = []
    for source in dict.fromkeys(r["params"]["source"] for r in records):
        mine = [r for r in records if r["params"]["source"] == source]
        sizes = sorted({r["params"]["messages_per_payload"] for r in mine})
        rows = []
        for subject in dict.fromkeys(r["subject"] for r in mine):
            by_size = {r["params"]["messages_per_payload"]: r for r in mine if r["subject"] == subject}
            last = by_size[sizes[-1]]
            rows.append(
                (
                    subject,
                    *(cell(by_size[size], "messages_per_s", 1e6, 2) for size in sizes),
                    f"{last['ns_per_message']:,.0f}",
                    f"{last['bytes_per_s'] / 1e6:,.0f}",
                )
            )
        headings = ("M messages/s", *(f"{n} per payload" for n in sizes), "ns per message", "MB/s")
        found.append(Table(f"Decoding on one core, {source}", headings, rows))
    return found


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2])
