"""Pages become staged columns, and then joined files, with the same values as the JSON of the pages."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdstream.handoff.compression import Compression
from mdstream.handoff.page_ticket import JoinTicket, PageReceipt, PageTicket
from mdstream.streams.spec import PayloadKind
from tests.fuzzing import examples
from workers import history, repeats

BASE = 1_767_623_400 * 10**9


def stage(
    body: Any,
    path: Path,
    kind: PayloadKind = PayloadKind.TRADES,
    stream: str = "stocks",
    channel: str = "trades",
    span: tuple[int, int] = (0, 2**63 - 1),
    queried: tuple[int, int] | None = None,
) -> PageReceipt:
    data = body if isinstance(body, bytes) else gzip.compress(orjson.dumps(body))
    ticket = PageTicket(
        stream, channel, kind, data, Compression.GZIP, BASE, str(path), span, queried or span
    )
    return history.stage(ticket)


def format_time(ns: int) -> str:
    return f"{pl.Series([ns // 10**9 * 10**6]).cast(pl.Datetime('us'))[0].isoformat()}.{ns % 10**9:09d}Z"


def read_file(path: Path) -> pl.DataFrame:
    """Read a stored file, with its times as nanoseconds."""
    frame = pl.read_parquet(path)
    return frame.with_columns(ns=pl.col("ts").dt.epoch("us") * 1000 + pl.col("ts_ns"))


TRADE = st.fixed_dictionaries(
    {
        "t": st.integers(0, 10**15).map(lambda ns: format_time(BASE + ns)),
        "p": st.floats(0, 1e6, allow_subnormal=False),
        "s": st.integers(0, 2**53),
        "x": st.sampled_from(["V", "D", "é", ""]),
        "c": st.lists(st.sampled_from(["@", "F", "I", "MX"]), max_size=3),
        "i": st.integers(0, 2**63 - 1),
        "z": st.sampled_from("ABC"),
    }
)


@settings(deadline=None, max_examples=examples(40))
@given(st.lists(st.lists(TRADE, min_size=1, max_size=30), min_size=1, max_size=4))
def test_what_is_joined_is_what_the_pages_say(
    tmp_path_factory: pytest.TempPathFactory, pages: list[list[dict[str, Any]]]
) -> None:
    folder, paths = tmp_path_factory.mktemp("pages"), []
    for number, records in enumerate(pages):
        path = folder / f"{number}.arrow"
        body = {"trades": {f"S{number}": records}, "next_page_token": f"token{number}"}
        receipt = stage(body, path)
        assert (receipt.rows, receipt.page_token, receipt.fault) == (len(records), f"token{number}", "")
        paths.append(str(path))
    joined = history.join(JoinTicket("stocks", "trades", tuple(paths), str(folder / "a" / "b.parquet")))
    frame = read_file(folder / "a" / "b.parquet")
    every = [(f"S{n}", record) for n, records in enumerate(pages) for record in records]
    truth = [row for at, row in enumerate(every) if row not in every[:at]]
    assert joined.rows == frame.height == len(truth) == len(every) - joined.repeated
    assert frame["symbol"].to_list() == [symbol for symbol, _ in truth]
    assert [format_time(ns) for ns in frame["ns"]] == [record["t"] for _, record in truth]
    for name, key in {"price": "p", "size": "s", "exchange": "x", "id": "i", "tape": "z"}.items():
        assert frame[name].to_list() == [record[key] for _, record in truth], name
    assert joined.first == {"symbol": "S0", "ts": min(frame["ts"].dt.epoch("us"))}
    assert joined.last == {"symbol": f"S{len(pages) - 1}", "ts": max(frame["ts"].dt.epoch("us"))}


def test_an_absent_side_of_a_quote_is_null(tmp_path: Path) -> None:
    quote = {
        "t": format_time(BASE),
        "bx": " ",
        "bp": 0,
        "bs": 0,
        "ax": "V",
        "ap": 1.5,
        "as": 3,
        "c": ["R"],
        "z": "C",
    }
    body = {"quotes": {"AAPL": [quote]}, "next_page_token": None}
    assert stage(body, tmp_path / "q.arrow", PayloadKind.QUOTES, channel="quotes").rows == 1
    history.join(JoinTicket("stocks", "quotes", (str(tmp_path / "q.arrow"),), str(tmp_path / "q.parquet")))
    (row,) = pl.read_parquet(tmp_path / "q.parquet").rows(named=True)
    assert (row["bid_price"], row["bid_size"], row["bid_exchange"]) == (None, None, None)
    assert (row["ask_price"], row["ask_size"], row["ask_exchange"]) == (1.5, 3, "V")


def test_rows_of_another_shard_are_left_to_it(tmp_path: Path) -> None:
    records = [
        {"t": format_time(BASE + ns), "p": 1.5, "s": 1, "x": "V", "c": [], "i": ns, "z": "A"}
        for ns in (0, 1, 2, 3)
    ]
    body = {"trades": {"A": records}, "next_page_token": None}
    path = tmp_path / "x.arrow"
    outside = stage(body, path, span=(BASE + 4, BASE + 9))
    assert (outside.rows, outside.other_times) == (0, 4)
    assert not path.exists()
    wider = stage(body, path, span=(BASE + 1, BASE + 2), queried=(BASE, BASE + 3))
    assert (wider.rows, wider.other_times) == (1, 1)
    inside = stage(body, path, span=(BASE + 1, BASE + 3))
    assert (inside.rows, inside.other_times) == (2, 2)
    history.join(JoinTicket("stocks", "trades", (str(path),), str(tmp_path / "x.parquet")))
    assert read_file(tmp_path / "x.parquet")["id"].to_list() == [1, 2]


def join_pages(
    folder: Path, pages: list[Any], channel: str = "trades", stream: str = "stocks"
) -> tuple[pl.DataFrame, int]:
    """Return the stored rows of pages, and the number of repeated ones."""
    paths = []
    for number, records in enumerate(pages):
        path = folder / f"{number}.arrow"
        body = {channel: {"A": records}, "next_page_token": "more"}
        if stage(body, path, PayloadKind[channel.upper()], stream, channel).rows:
            paths.append(str(path))
    joined = history.join(JoinTicket(stream, channel, tuple(paths), str(folder / "x.parquet")))
    return read_file(folder / "x.parquet"), joined.repeated


def trade_at(second: int, **more: Any) -> dict[str, Any]:
    same = {"p": 1.5, "s": 1, "x": "V", "c": [], "i": second, "z": "A"}
    return {**same, "t": format_time(BASE + second * 10**9), **more}


A, B, C = (trade_at(second) for second in (1, 2, 3))
REPEATS = [
    [[A, A, B]],
    [[A, B], [B, C]],
    [[A, B], [A, B], [C]],
    [[A, B], [], [B], [B, C]],
    [[B, A, B, C, A]],
]


@pytest.mark.cases("I4")
@pytest.mark.parametrize(
    ("pages", "rows_a_group"),
    # Pages in the wrong order are compared only within a row group.
    [*((pages, 100_000) for pages in REPEATS), *((pages, 1) for pages in REPEATS if pages != REPEATS[2])],
)
def test_rows_that_pages_repeat_are_stored_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pages: list[Any], rows_a_group: int
) -> None:
    monkeypatch.setattr(repeats, "_ROWS_A_GROUP", rows_a_group)
    rows, repeated = join_pages(tmp_path, pages)
    every = [record for page in pages for record in page]
    wanted = {record["i"] for record in every}
    assert sorted(rows["id"]) == sorted(wanted)
    assert repeated == len(every) - len(wanted)


@pytest.mark.cases("I1", "I4")
def test_rows_with_one_time_or_one_id_that_differ_are_all_stored(tmp_path: Path) -> None:
    differing = [
        A,
        {**A, "c": ["@"]},
        {**A, "i": 9},
        {**A, "p": 2.5},
        {**A, "s": 2},
        {**A, "x": "D"},
        {**B, "i": 1},
    ]
    rows, repeated = join_pages(tmp_path, [differing])
    assert (rows.height, repeated) == (len(differing), 0)


def bar_at(minute: int, price: float) -> dict[str, Any]:
    prices = dict.fromkeys(("o", "h", "l", "c", "vw"), price)
    return {"t": format_time(BASE + minute * 60 * 10**9), **prices, "v": 1, "n": 1}


@pytest.mark.cases("I4")
@pytest.mark.parametrize("rows_a_group", [1, 100_000])
@pytest.mark.parametrize("stream", ["stocks", "crypto"])
@pytest.mark.parametrize("without", [{"i": None}, {}])
def test_equal_trades_without_an_id_are_all_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: str, without: Any, rows_a_group: int
) -> None:
    monkeypatch.setattr(repeats, "_ROWS_A_GROUP", rows_a_group)
    bare = {name: value for name, value in A.items() if name != "i"} | without
    rows, repeated = join_pages(tmp_path, [[A, bare, bare], [bare, A]], stream=stream)
    assert (rows.height, repeated) == (4, 1)
    assert rows["id"].null_count() == 3


@pytest.mark.cases("I4")
@pytest.mark.parametrize("rows_a_group", [1, 100_000])
@pytest.mark.parametrize("stream", ["stocks", "crypto", "options"])
@pytest.mark.parametrize(
    ("pages", "prices", "differing"),
    [
        ([[bar_at(0, 1), bar_at(0, 2), bar_at(1, 3)]], [1, 3], 1),
        ([[bar_at(0, 1)], [bar_at(0, 2), bar_at(1, 3)]], [1, 3], 1),
        ([[bar_at(0, 1), bar_at(0, 1)], [bar_at(0, 1)]], [1], 0),
        ([[bar_at(0, 1), bar_at(1, 3), bar_at(0, 2)]], [1, 3], 1),
    ],
)
def test_there_is_one_bar_of_each_start(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stream: str,
    pages: list[Any],
    prices: list[float],
    differing: int,
    rows_a_group: int,
) -> None:
    """The first one is kept."""
    monkeypatch.setattr(repeats, "_ROWS_A_GROUP", rows_a_group)
    paths = []
    for number, records in enumerate(pages):
        paths.append(str(tmp_path / f"{number}.arrow"))
        stage({"bars": {"A": records}}, Path(paths[-1]), PayloadKind.BARS, stream, "bars")
    joined = history.join(JoinTicket(stream, "bars", tuple(paths), str(tmp_path / "x.parquet")))
    assert read_file(tmp_path / "x.parquet")["close"].to_list() == prices
    assert joined.rows + joined.repeated == sum(map(len, pages))
    assert joined.differing == differing


@pytest.mark.cases("I3", "I4")
def test_what_has_no_identity_of_its_own_is_stored_as_often_as_pages_have_it(tmp_path: Path) -> None:
    """Options have no id: equal prints of a sweep are different trades."""
    record = {"t": A["t"], "p": 1.5, "s": 1, "x": "A", "c": "I"}
    rows, repeated = join_pages(tmp_path, [[record] * 3], stream="options")
    assert (rows.height, repeated) == (3, 0)


@pytest.mark.cases("I4")
def test_rows_of_symbols_that_were_not_requested_are_left_out(tmp_path: Path) -> None:
    body = {"trades": {"MSFT": [A, B], "AAPL": [A]}, "next_page_token": None}
    ticket = PageTicket(
        "stocks",
        "trades",
        PayloadKind.TRADES,
        gzip.compress(orjson.dumps(body)),
        Compression.GZIP,
        BASE,
        str(tmp_path / "x.arrow"),
        (0, 2**63 - 1),
        (0, 2**63 - 1),
        ("AAPL",),
    )
    receipt = history.stage(ticket)
    assert (receipt.rows, receipt.other_symbols) == (1, 2)
    other = history.stage(ticket._replace(symbols=("SPY",), path=str(tmp_path / "y.arrow")))
    assert (other.rows, other.other_symbols) == (0, 3)
    late = history.stage(ticket._replace(span=(BASE, BASE + 1), queried=(BASE, BASE + 1)))
    assert (late.rows, late.other_symbols, late.other_times) == (0, 2, 1), "each row counts once"


@pytest.mark.cases("V3")
def test_marks_of_trades_are_stored(tmp_path: Path) -> None:
    marks = ["canceled", "corrected", "incorrect", "another"]
    rows, _ = join_pages(tmp_path, [[A, *({**trade_at(5 + n), "u": mark} for n, mark in enumerate(marks))]])
    assert rows["update"].to_list() == [None, *marks]


@pytest.mark.cases("V3")
def test_pages_that_an_earlier_version_staged_are_joined(tmp_path: Path) -> None:
    path = tmp_path / "0.arrow"
    stage({"trades": {"A": [A]}, "next_page_token": None}, path)
    old = pa.ipc.open_file(path.read_bytes()).read_all().drop_columns(["update"])
    history._write(old, path)
    history.join(JoinTicket("stocks", "trades", (str(path),), str(tmp_path / "x.parquet")))
    assert read_file(tmp_path / "x.parquet")["update"].to_list() == [None]


def test_a_page_that_is_none_says_why_and_stages_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.arrow"
    whole_page = gzip.compress(b'{"trades":{},"next_page_token":null}')
    assert "bad gzip" in stage(b"no gzip", path).fault
    assert "too early" in stage(whole_page[:-9], path).fault
    assert stage(gzip.compress(b'{"trades":'), path).fault
    assert stage(gzip.compress(b'{"message":"malformed"}'), path).fault == "it has no trades"
    assert not path.exists()


def test_an_empty_page_has_no_rows_and_no_fault(tmp_path: Path) -> None:
    receipt = stage({"trades": {}, "next_page_token": None}, tmp_path / "x.arrow")
    assert (receipt.rows, receipt.page_token, receipt.fault) == (0, "", "")
    assert not (tmp_path / "x.arrow").exists()


def test_a_record_that_fits_nowhere_is_rejected_and_kept(tmp_path: Path) -> None:
    good = {"t": format_time(BASE), "p": 1.5, "s": 1, "x": "V", "c": [], "i": 1, "z": "A"}
    body = {"trades": {"A": [good, {**good, "p": "high"}, good]}, "next_page_token": None}
    receipt = stage(body, tmp_path / "x.arrow")
    assert receipt.rows == 2
    [reject] = receipt.rejects
    assert reject.message == 1
    assert orjson.loads(reject.data) == {**good, "p": "high"}


@pytest.mark.cases("V1")
@pytest.mark.parametrize("number", [2**63, 2**64 - 1])
def test_an_id_beyond_what_tables_hold_costs_its_record_alone(tmp_path: Path, number: int) -> None:
    good = {"t": format_time(BASE), "p": 1.5, "s": 1, "x": "V", "c": [], "i": 1, "z": "A"}
    bad = {**good, "i": number}
    body = {"trades": {"A": [good, bad, good], "B": [bad], "C": [good]}, "next_page_token": "next"}
    receipt = stage(body, tmp_path / "x.arrow")
    assert (receipt.rows, receipt.page_token, receipt.fault) == (3, "next", "")
    assert [(each.message, orjson.loads(each.data)) for each in receipt.rejects] == [(1, bad), (3, bad)]
    assert f"id {number} is more than a signed 64-bit integer holds" in receipt.rejects[0].reason
    staged = pa.ipc.open_file(tmp_path / "x.arrow").read_all()
    assert staged["symbol"].to_pylist() == ["A", "A", "C"]
    assert staged["id"].to_pylist() == [1, 1, 1]


PAGE = {"t": format_time(BASE), "p": 1.5, "s": 1, "x": "V", "c": [], "i": 1, "z": "A"}
RECORD = orjson.dumps(PAGE)


@pytest.mark.cases("V7")
@pytest.mark.parametrize(
    ("bad", "after"),
    [
        (RECORD.replace(b'"V"', b'"cut \\ud83d"'), b""),
        (RECORD.replace(b"1.5", b"NaN"), b""),
        (RECORD.replace(b"1.5", b"1e999"), b""),
        (RECORD.replace(b'"V"', b'"\xff"'), b""),
        (RECORD.replace(b'"V"', b'"a\nb"'), b""),
        (RECORD.replace(b"}", b",}"), b""),
        (b"nul", b""),
        (None, b"\0\0"),
        (None, b"<html>"),
    ],
)
def test_a_record_that_cannot_be_parsed_costs_a_page_nothing_else(
    tmp_path: Path, bad: bytes | None, after: bytes
) -> None:
    records = [RECORD, *([bad] if bad else []), RECORD]
    body = b'\xef\xbb\xbf{"trades":{"A":[' + b",".join(records) + b']},"next_page_token":"next"}' + after
    receipt = stage(gzip.compress(body), tmp_path / "x.arrow")
    assert (receipt.rows, receipt.page_token, receipt.fault) == (2, "next", "")
    assert [(each.message, each.data) for each in receipt.rejects] == [(1, bad) if bad else (2, after)]


def test_a_page_without_a_readable_token_is_fetched_again(tmp_path: Path) -> None:
    body = b'{"trades":{"A":[' + RECORD + b']},"next_page_token":"\xff"}'
    assert stage(gzip.compress(body), tmp_path / "x.arrow").fault.startswith("next_page_token: not JSON")
    assert not (tmp_path / "x.arrow").exists()


PIECES = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12)), min_size=1, max_size=8)


@pytest.mark.cases("I4")
@settings(deadline=None, max_examples=examples(40))
@given(first=PIECES, second=PIECES, size=st.integers(1, 30), files=st.sets(st.integers(1, 15), max_size=4))
def test_pages_that_repeat_earlier_ones_bring_no_row_twice(
    tmp_path_factory: pytest.TempPathFactory,
    first: list[tuple[int, int]],
    second: list[tuple[int, int]],
    size: int,
    files: set[int],
) -> None:
    """Each page is a piece of the same trades, also one that an earlier page, row group or file had."""
    folder, paths, names = tmp_path_factory.mktemp("pages"), [], set()
    for symbol, pieces in (("A", first), ("B", second)):
        for number, (begin, count) in enumerate(pieces):
            numbers = range(begin, begin + count)
            records = [
                {"t": format_time(BASE + n // 2 * 300), "p": 1.5, "s": n, "x": "V", "i": n} for n in numbers
            ]
            path = folder / f"{symbol}{number}.arrow"
            stage({"trades": {symbol: records}, "next_page_token": None}, path)
            names |= {(symbol, n) for n in numbers}
            paths.append(str(path))
    cuts = sorted({0, *(min(cut, len(paths)) for cut in files), len(paths)})
    rows, joined = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repeats, "_ROWS_A_GROUP", size)
        for begin, end in itertools.pairwise(cuts):
            symbol = Path(paths[begin]).name[0]
            before = tuple(path for path in paths[:begin] if Path(path).name[0] == symbol)
            into = folder / f"{begin}.parquet"
            ticket = JoinTicket("stocks", "trades", tuple(paths[begin:end]), str(into), before)
            joined.append(history.join(ticket))
            rows += read_file(into).select("symbol", "id").rows()
    assert sorted(rows) == sorted(names)
    assert sum(each.rows for each in joined) == len(names)
    repeated = sum(count for _, count in (*first, *second)) - len(names)
    assert sum(each.repeated for each in joined) == repeated
