"""How fast does one core turn pages of history into tables?

The pages are those of the service: gzip'd JSON of 10,000 trades of one symbol. Each reader makes its own
result of them:

    zlib, isal     decompression only: the lower bound
    mdstream       isal, then our compiled decoder: typed columns, codes, times
    library        isal, then our fallback decoder: the same columns through Python objects
    orjson-polars  isal, orjson, a Polars frame; Polars parses the times
    polars         isal, Polars' JSON reader, on one thread; parsed times
    pyarrow        isal, pyarrow.json's reader, on one thread; parsed times
    duckdb         its JSON reader on gzip'd files, on one thread; parsed times, an Arrow table
    msgspec        isal, then typed structs; no columns
    alpaca-py-raw  zlib and json, as `requests` does it: dictionaries
    alpaca-py      the same, its models, and `.df`

Each subject is a separate process, and all take turns; the tables show medians.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import GenericAlias
from typing import Any

from benchmarks import traffic
from benchmarks.harness import Answer, Case, Plan, Record, Table, cell, select_installed
from benchmarks.subjects import Subject, answer, read_requests

TAKES_S = (18.0, 8.0)
"""Seconds on 2 cores: in full, and with `--quick`."""

TURNS = 5
PAGES = 20
_MODULES = {"duckdb": "duckdb", "alpaca-py-raw": "alpaca", "alpaca-py": "alpaca"}
_TURN_S = 0.2
_TIMES = "%Y-%m-%dT%H:%M:%S%.fZ"

SUBJECTS = (
    "zlib",
    "isal",
    "mdstream",
    "library",
    "orjson-polars",
    "polars",
    "pyarrow",
    "duckdb",
    "msgspec",
    "alpaca-py-raw",
    "alpaca-py",
)

Reader = Callable[[bytes], object]


def _unpack(page: bytes) -> bytes:
    from isal import igzip

    data: bytes = igzip.decompress(page)  # type: ignore[no-untyped-call]
    return data


# -- the subjects: each returns a reader of one page


def ours(kernels: bool) -> Reader:
    from benchmarks.decoding import Decoding
    from mdstream.streams.spec import PayloadKind

    decoding = Decoding(kernels)
    return lambda page: decoding.decode([_unpack(page)], PayloadKind.TRADES)


def by_orjson_and_polars() -> Reader:
    import orjson
    import polars as pl

    def read(page: bytes) -> Any:
        (rows,) = orjson.loads(_unpack(page))["trades"].values()
        return pl.DataFrame(rows).with_columns(pl.col("t").str.to_datetime(_TIMES, time_unit="ns"))

    return read


def by_polars() -> Reader:
    import polars as pl

    def read(page: bytes) -> Any:
        found = pl.read_json(_unpack(page)).select("trades").unnest("trades")
        rows = found.select(pl.first().explode()).unnest(found.columns[0])
        return rows.with_columns(pl.col("t").str.to_datetime(_TIMES, time_unit="ns"))

    return read


def by_pyarrow() -> Reader:
    import pyarrow as pa
    from pyarrow import compute
    from pyarrow import json as arrow_json

    once = arrow_json.ReadOptions(use_threads=False, block_size=1 << 24)

    def read(page: bytes) -> Any:
        (trades,) = arrow_json.read_json(pa.BufferReader(_unpack(page)), once)["trades"].chunks
        rows = pa.Table.from_batches([pa.RecordBatch.from_struct_array(trades.field(0).flatten())])
        times = compute.cast(rows["t"], pa.timestamp("ns", "UTC"))
        return rows.set_column(rows.schema.get_field_index("t"), "t", times)

    return read


def by_duckdb(folder: str) -> Reader:
    import duckdb

    database = duckdb.connect()
    database.execute("SET threads = 1")
    path = Path(folder) / "page.json.gz"

    trade = "STRUCT(t VARCHAR, x VARCHAR, p DOUBLE, s BIGINT, c VARCHAR[], i BIGINT, z VARCHAR)"
    form = f"maximum_object_size = 16777216, columns = {{trades: 'MAP(VARCHAR, {trade}[])'}}"
    rows = f"SELECT unnest(map_values(trades)[1]) AS r FROM read_json(?, {form})"
    query = f"SELECT r.* REPLACE (r.t::TIMESTAMP_NS AS t) FROM ({rows})"

    def read(page: bytes) -> Any:
        path.write_bytes(page)
        return database.sql(query, params=[str(path)]).to_arrow_table()

    return read


def by_msgspec() -> Reader:
    import msgspec

    trade: Any = msgspec.defstruct(
        "Trade",
        [("t", str), ("x", str), ("p", float), ("s", int), ("c", list[str]), ("i", int), ("z", str)],
    )
    page_type = msgspec.defstruct("Page", [("trades", GenericAlias(dict, (str, list[trade])))])
    decode = msgspec.json.Decoder(page_type).decode
    return lambda page: decode(_unpack(page))


def by_alpaca_py(raw: bool) -> Reader:
    from alpaca.data.models import TradeSet

    def read(page: bytes) -> Any:
        found = json.loads(zlib.decompress(page, 31))["trades"]
        return found if raw else TradeSet(found).df

    return read


def prepare(subject: str, folder: str) -> Reader:
    match subject:
        case "zlib":
            return lambda page: zlib.decompress(page, 31)
        case "isal":
            return _unpack
        case "mdstream" | "library":
            return ours(kernels=subject == "mdstream")
        case "orjson-polars":
            return by_orjson_and_polars()
        case "polars":
            return by_polars()
        case "pyarrow":
            return by_pyarrow()
        case "duckdb":
            return by_duckdb(folder)
        case "msgspec":
            return by_msgspec()
    return by_alpaca_py(raw=subject.endswith("raw"))


def serve(subject: str, folder: str) -> None:
    """Run a subject: read pages on each request, for `_TURN_S`."""
    read = prepare(subject, folder)
    pages = pickle.loads((Path(folder) / "pages").read_bytes())
    read(pages[0])
    for _ in read_requests():
        done, start, spent, seconds = 0, time.perf_counter(), time.process_time(), 0.0
        while seconds < _TURN_S:
            read(pages[done % PAGES])
            done += 1
            seconds = time.perf_counter() - start
        rows = done * traffic.ROWS_A_PAGE
        answer(
            {
                "messages_per_s": rows / seconds,
                "ms_per_page": seconds / done * 1e3,
                "cpu_ms_per_page": (time.process_time() - spent) / done * 1e3,
            }
        )


# -- the comparison


def run(plan: Plan) -> list[Record]:
    """Measure every subject."""
    here = select_installed(plan, SUBJECTS, _MODULES)
    cases = [Case("pages", subject, {"rows_per_page": traffic.ROWS_A_PAGE}) for subject in here]
    environment = {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        (Path(folder) / "pages").write_bytes(pickle.dumps(traffic.pages(PAGES)))
        subjects = {
            name: stack.enter_context(
                Subject("benchmarks.bench_pages", name, folder, environment=environment)
            )
            for name in here
        }

        def measure(case: Case) -> Answer:
            return subjects[case.subject].ask()

        return plan.in_turns("pages", cases, measure, plan.choose(TURNS, 1))


def tables(records: Sequence[Record]) -> list[Table]:
    """Return the tables of the records."""
    last = records[-1]["messages_per_s"]
    rows = [
        (
            r["subject"],
            cell(r, "messages_per_s", 1e6, 2),
            cell(r, "ms_per_page", digits=2),
            cell(r, "cpu_ms_per_page", digits=2),
            f"{r['messages_per_s'] / last:.0f}×",
        )
        for r in records
    ]
    headings = ("", "M rows/s", "ms per page", "CPU ms per page", f"× {records[-1]['subject']}")
    return [Table(f"Gzip'd pages of {traffic.ROWS_A_PAGE:,} trades, on one core", headings, rows)]


def findings(records: Sequence[Record]) -> list[str]:
    """Return sentences that summarize the records."""
    rate = {r["subject"]: r["messages_per_s"] for r in records}
    best = max(set(rate) - {"zlib", "isal", "mdstream", "library"}, key=lambda name: rate[name])
    ours = rate["mdstream"]
    sentence = f"mdstream decodes {ours / 1e6:.1f} million rows/s into columns: "
    sentence += f"{ours / rate[best]:.1f} times {best}"
    if "alpaca-py" in rate:
        sentence += f", {ours / rate['alpaca-py']:.0f} times alpaca-py's `.df`"
    return [f"{sentence}."]


if __name__ == "__main__":
    serve(*sys.argv[1:])
