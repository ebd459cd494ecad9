"""How fast do payloads become columns (or what each reader makes of them), on one core?

The same stock trades and quotes for all, in the encoding each reader takes:

    memcpy         the bytes copied once: the floor
    kernel-json, kernel-msgpack     our compiled decoder: typed columns, codes, times
    orjson, msgpack                 our library decoder: the same columns through Python objects
    orjson-polars  orjson, then a Polars frame for trades and one for quotes
    polars         Polars' NDJSON reader, on one thread: a line a message, times and codes left as text
    pyarrow        pyarrow.json's reader, on one thread, on the same lines
    msgspec        typed structs; no columns
    alpaca-py-raw, alpaca-py        its live dispatch on msgpack: dicts, or its models

Each subject is a process of its own, and all take turns; medians are shown.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import GenericAlias
from typing import Any

from benchmarks.harness import Answer, Case, Plan, Record, Subject, Table, answer, asked, cell

TAKES_S = (130.0, 20.0)
"""Seconds on 2 cores: all of it, and the quick part."""

MESSAGES = 20_000
PER_PAYLOAD = (1, 2, 20, 100)
TURNS = 5
TICKS = Path(__file__).resolve().parents[2] / "shared" / "data" / "ticks" / "ibm-2013-10-07.csv.gz"

SUBJECTS = (
    "memcpy", "kernel-json", "kernel-msgpack", "orjson", "msgpack", "orjson-polars", "polars",
    "pyarrow", "msgspec", "alpaca-py-raw", "alpaca-py",
)  # fmt: skip
_TURN_S = 0.15
"""What a subject's turn takes at least: a process that has slept needs some milliseconds to get warm."""

Work = tuple[Callable[[], object], int, int]
"""What is timed, how many messages it takes, and how many bytes."""


# -- the traffic


def traffic(source: str, count: int) -> list[dict[str, Any]]:
    """The first trades and quotes of the seeded simulator, or of the recorded day."""
    from mdstream.simulator import flow

    if source == "ibm-day":
        messages: Iterable[Any] = flow.recorded(str(TICKS), {"trades": ["*"], "quotes": ["*"]})
    else:
        symbols = ["AAPL", "MSFT", "NVDA", "AMZN", "GOOGL", "META", "TSLA", "AMD", "SPY", "QQQ"]
        messages = flow.generated("stocks", 1, {"trades": symbols, "quotes": symbols})
    return list(itertools.islice((m for m in messages if m["T"] in "tq"), count))


def encoded(codec: str, messages: list[dict[str, Any]], per: int) -> list[bytes]:
    from mdstream.simulator.encode import ENCODINGS

    form = ENCODINGS[codec]
    single = [form.message(m) for m in messages]
    return [form.payload(single[i : i + per]) for i in range(0, len(single), per)]


# -- the subjects


def ours(payloads: list[bytes], codec: str, kernels: bool) -> Callable[[], object]:
    from mdstream.handoff.columns import ResultArea
    from mdstream.streams import STREAMS
    from mdstream.streams.spec import PayloadKind
    from workers.decoder import Decoder
    from workers.payloads import Payloads

    codes: dict[str, dict[str, int]] = {}
    least_bytes = 0 if kernels else sys.maxsize
    decoder = Decoder(STREAMS["stocks"], lambda name: codes.setdefault(name, {}), least_bytes)
    memory = memoryview(bytearray(8_000_000))  # as the result area of a slab
    kind = PayloadKind.JSON if codec == "json" else PayloadKind.MSGPACK
    # Slabs of some 1 MB, as the engine fills them under load.
    size = max(1, 1_000_000 * len(payloads) // sum(map(len, payloads)))
    batches = [
        Payloads.of([(p, kind, 0) for p in payloads[i : i + size]])
        for i in range(0, len(payloads), size)
    ]

    def work() -> None:
        for batch in batches:
            for name, texts in decoder.decode(batch, ResultArea(memory)).new.items():
                for text in texts:
                    codes[name].setdefault(text, len(codes[name]))

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
            name,
            list(fields.items()),
            tag_field="T",
            tag=tag,
            rename=rename if tag == "q" else None,
        )

    trade = struct("Trade", "t", S=str, i=int, x=str, p=float, s=int, c=list[str], z=str, t=str)
    quote = struct(
        "Quote",
        "q",
        S=str,
        bx=str,
        bp=float,
        bs=int,
        ax=str,
        ap=float,
        size=int,
        c=list[str],
        z=str,
        t=str,
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


def prepare(subject: str, source: str, per: int) -> Work:
    """The work of a subject on `per` messages a payload."""
    messages = traffic(source, MESSAGES)
    codec = "msgpack" if "msgpack" in subject or subject.startswith("alpaca") else "json"
    payloads = encoded(codec, messages, per)
    size = sum(map(len, payloads))
    lines = b"\n".join(encoded("json", messages, 1)).replace(b"]\n[", b"\n")[1:-1]
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
        case _:
            work = alpaca_py(payloads, subject.endswith("raw"))
    return work, len(messages), size


def serve(subject: str, source: str) -> None:
    """A subject: it works through the messages whenever it is asked, with so many a payload."""
    prepared: dict[int, Work] = {}
    for wanted in asked():
        per = wanted["messages_per_payload"]
        if per not in prepared:
            prepared[per] = prepare(subject, source, per)
            prepared[per][0]()  # what is done once is not what is asked
        work, messages, size = prepared[per]
        turns, started, seconds = 0, time.perf_counter(), 0.0
        while seconds < _TURN_S:
            work()
            turns += 1
            seconds = time.perf_counter() - started
        rate = turns / seconds
        answer({
            "messages_per_s": messages * rate, "bytes_per_s": size * rate,
            "ns_per_message": 1e9 / (messages * rate),
        })  # fmt: skip


# -- the comparison


def run(plan: Plan) -> list[Record]:
    """Measure every subject at every size of payloads; one record each."""
    sources = plan.of(("simulator", "ibm-day"), ("simulator",))
    if not TICKS.exists() and "ibm-day" in sources:
        plan.print(f"ibm-day: skipped, no {TICKS.name}")
        sources = ("simulator",)
    cases = [
        Case("decode", subject, {"source": source, "messages_per_payload": per})
        for source in sources
        for per in plan.of(PER_PAYLOAD, (1, 20))
        for subject in SUBJECTS
    ]
    environment = {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1"}
    with contextlib.ExitStack() as stack:
        subjects = {
            (subject, source): stack.enter_context(
                Subject("benchmarks.bench_decode", subject, source, environment=environment)
            )
            for subject in SUBJECTS
            for source in sources
        }

        def measure(case: Case) -> Answer:
            return subjects[case.subject, case.params["source"]].ask(**case.params)

        return plan.in_turns("decode", cases, measure, plan.of(TURNS, 2))


def tables(records: Sequence[Record]) -> list[Table]:
    """What to show of the records: million messages a second by their number in a payload."""
    found = []
    for source in dict.fromkeys(r["params"]["source"] for r in records):
        mine = [r for r in records if r["params"]["source"] == source]
        sizes = sorted({r["params"]["messages_per_payload"] for r in mine})
        rows = []
        for subject in dict.fromkeys(r["subject"] for r in mine):
            by_size = {
                r["params"]["messages_per_payload"]: r for r in mine if r["subject"] == subject
            }
            last = by_size[sizes[-1]]
            rows.append(
                (
                    subject, *(cell(by_size[size], "messages_per_s", 1e6, 2) for size in sizes),
                    f"{last['ns_per_message']:,.0f}", f"{last['bytes_per_s'] / 1e6:,.0f}",
                )
            )  # fmt: skip
        headings = ("M messages/s", *(f"{n} a payload" for n in sizes), "ns a message", "MB/s")
        found.append(Table(f"Decoding on one core, {source}", headings, rows))
    return found


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2])
