"""Kernels compared with the fallback decoder on REST bodies: both give the same results for any bytes."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdstream.simulator.encode import ENCODINGS
from mdstream.streams import STREAMS
from mdstream.streams.spec import PayloadKind
from tests import traffic
from tests.decoding import find_stream_and_kind
from tests.fuzzing import examples
from tests.running import SHARED
from tests.workers.decoding.pair import UNUSUAL_VALUES, Pair

TYPES = {
    PayloadKind.TRADES: "t",
    PayloadKind.QUOTES: "q",
    PayloadKind.BARS: "b",
    PayloadKind.ORDERBOOKS: "o",
}
KINDS = [
    ("stocks", PayloadKind.TRADES),
    ("stocks", PayloadKind.QUOTES),
    ("stocks", PayloadKind.BARS),
    ("crypto", PayloadKind.TRADES),
    ("crypto", PayloadKind.QUOTES),
    ("crypto", PayloadKind.ORDERBOOKS),
    ("options", PayloadKind.TRADES),
    ("stocks", PayloadKind.SNAPSHOTS),
    ("crypto", PayloadKind.SNAPSHOTS),
    ("options", PayloadKind.SNAPSHOTS),
    ("perps", PayloadKind.SNAPSHOTS),
]


def make_records(stream: str, kind: PayloadKind, count: int) -> list[Any]:
    """Return records in the form of a history or snapshot of `kind`."""
    form = ENCODINGS["json"]

    def of(wire_type: str) -> list[Any]:
        found = (m for m in traffic.messages(stream, 4000) if m["T"] == wire_type)
        parsed = [orjson.loads(form.message(m)) for _, m in zip(range(count), found, strict=False)]
        return [{k: v for k, v in m.items() if k not in ("T", "S")} for m in parsed]

    if kind is not PayloadKind.SNAPSHOTS:
        return of(TYPES[kind])
    if stream == "perps":
        return of("p")
    parts = {"latestTrade": of("t"), "latestQuote": of("q"), "minuteBar": of("b")}
    shortest = min(len(p) for p in parts.values() if p)
    made = [{k: p[i] for k, p in parts.items() if p} for i in range(shortest)]
    if stream == "options":
        greeks = {"delta": 0.5, "gamma": 1e-05, "rho": -0.25, "theta": -0.1, "vega": 0.125}
        made = [{**m, "greeks": greeks, "impliedVolatility": 0.2372} for m in made]
    return made


def make_page(
    kind: PayloadKind, by_symbol: dict[str, Any], token: str | None = None, stream: str = "stocks"
) -> bytes:
    return orjson.dumps({STREAMS[stream].member_of(kind): by_symbol, "next_page_token": token})


@pytest.mark.parametrize(("stream", "kind"), KINDS)
def test_generated_bodies_decode_identically_and_do_not_fall_back(stream: str, kind: PayloadKind) -> None:
    some, name = make_records(stream, kind, 40), STREAMS[stream].member_of(kind)
    assert some
    single = kind in (PayloadKind.SNAPSHOTS, PayloadKind.ORDERBOOKS)
    one: list[Any] = some[:3] if single else [some[:7], some[7:20], []]
    names = ["AAPL", "BRK.B", "BTC/USD"]
    by_symbol = dict(zip(names, one, strict=False))
    bodies = [
        make_page(kind, by_symbol, "QUFQTHxN", stream),
        make_page(kind, {}, None, stream),
        make_page(kind, {"AAPL": None, **by_symbol}, None, stream),
        json.dumps({"next_page_token": None, name: by_symbol}, indent=1).encode(),
    ]
    if kind is PayloadKind.SNAPSHOTS:
        bodies += [orjson.dumps(by_symbol), orjson.dumps({**by_symbol, "NONE": None})]
    else:
        bodies += [
            orjson.dumps({"symbol": "AAPL", name: some, "next_page_token": None}),
            orjson.dumps({name: some, "next_page_token": "x", "symbol": "AAPL"}),
            orjson.dumps({name[:-1]: some[0], "symbol": "AAPL"}),
            orjson.dumps({"symbol": "AAPL", "currency": "USD", name[:-1]: some[0]}),
        ]
    pair = Pair(stream)
    for _ in range(2):
        decoded = pair.decode(bodies, kind)
        assert pair.fell_back == 0
        assert decoded.bodies[0].page_token == "QUFQTHxN"
    pair.decode(bodies[::-1], kind)
    assert pair.fell_back == 0


@pytest.mark.cases("S13")
@pytest.mark.parametrize("text", ["null", "Null", "none", "", "  "])
@pytest.mark.parametrize("is_empty", [False, True])
def test_a_text_that_says_that_there_is_no_token_is_none(text: str, is_empty: bool) -> None:
    records = {} if is_empty else {"AAPL": make_records("stocks", PayloadKind.TRADES, 40)}
    pair = Pair("stocks")
    for _ in range(2):  # the second time, kernels know the layout
        decoded = pair.decode([make_page(PayloadKind.TRADES, records, text)], PayloadKind.TRADES)
        assert decoded.bodies[0].page_token == ""
        assert decoded.bodies[0].fault == ""


@pytest.mark.parametrize(("stream", "kind"), KINDS)
def test_bodies_that_end_with_their_records_do_not_fall_back(stream: str, kind: PayloadKind) -> None:
    some = make_records(stream, kind, 30)
    latest = {f"S{i}": record for i, record in enumerate(some)}
    name = STREAMS[stream].member_of(kind)
    bodies = [orjson.dumps({name: latest})]
    if kind is PayloadKind.SNAPSHOTS:
        bodies.append(orjson.dumps(latest))
    else:
        bodies.append(orjson.dumps({name: {"A": some[:9], "B": some[9:]}}))
    pair = Pair(stream)
    for _ in range(2):
        pair.decode(bodies, kind)
        assert pair.fell_back == 0


def test_kinds_may_come_mixed_and_rows_keep_the_order_in_which_they_came() -> None:
    trades = make_records("stocks", PayloadKind.TRADES, 30)
    stream = ENCODINGS["json"].payload(
        [ENCODINGS["json"].message(m) for m in traffic.messages("stocks", 40)]
    )
    malformed = orjson.dumps({"trades": {"AAPL": [trades[0], {"p": "odd"}, trades[1]]}})
    pair = Pair("stocks")
    pair.decode_mixed(
        [
            (stream, PayloadKind.JSON),
            (make_page(PayloadKind.TRADES, {"AAPL": trades[:9]}), PayloadKind.TRADES),
            (ENCODINGS["msgpack"].payload([]), PayloadKind.MSGPACK),
            (stream, PayloadKind.JSON),
            (malformed, PayloadKind.TRADES),
            (make_page(PayloadKind.TRADES, {"MSFT": trades[9:]}), PayloadKind.TRADES),
            (b'{"news": []}', PayloadKind.ORDERBOOKS),
        ][:-1]
    )
    assert pair.fell_back == 1


A, B, C = (b'{"t":"2026-01-05T15:00:0%dZ","p":%d,"s":1,"i":%d}' % (n, n, n) for n in (1, 2, 3))
REPEATED = {
    "symbol": b'{"trades":{"AAPL":[%b],"MSFT":[%b],"AAPL":[%b]},"next_page_token":null}' % (A, B, C),
    "member": b'{"trades":{"AAPL":[%b]},"next_page_token":null,"trades":{"MSFT":[%b],"AAPL":[%b]}}'
    % (A, B, C),
    "escaped": b'{"trades":{"AAPL":[%b],"MSFT":[%b],"\\u0041APL":[%b]}}' % (A, B, C),
    "empty": b'{"trades":{"AAPL":[%b,%b],"AAPL":[],"MSFT":null,"AAPL":null,"MSFT":[%b]}}' % (A, C, B),
    "null": b'{"trades":{"AAPL":[%b,%b],"MSFT":[%b]},"trades":null}' % (A, C, B),
    "single": b'{"trades":{"AAPL":%b,"MSFT":%b,"AAPL":%b}}' % (A, B, C),
    "cut off": b'{"trades":{"AAPL":[%b],"MSFT":[%b],"AAPL":[%b]}} tail' % (A, B, C),
}


@pytest.mark.parametrize("form", REPEATED)
def test_all_records_of_a_repeated_name_count(form: str) -> None:
    pair = Pair("stocks")
    plain = b'{"trades":{"AAPL":[%b],"MSFT":[%b]}}' % (A, B)
    for _ in range(2):  # the second time, kernels know the layout
        decoded = pair.decode([plain, REPEATED[form]], PayloadKind.TRADES)
        assert decoded.bodies[1].symbols == {"AAPL", "MSFT"}
        prices = next(
            data.values
            for column, data in zip(
                STREAMS["stocks"].by_name["trades"].columns, decoded.columns["trades"], strict=True
            )
            if column.name == "price"
        )
        assert sorted(prices.tolist()) == [1, 1, 2, 2, 3]
        assert len(decoded.rejects) == (form == "cut off")


def test_a_reject_among_repeated_names_has_its_own_bytes() -> None:
    bad = b'{"t":"2026-01-05T15:00:02Z","p":"odd","s":1,"i":4}'
    body = b'{"trades":{"AAPL":[%b],"AAPL":[%b,%b]}}' % (A, bad, C)
    decoded = Pair("stocks").decode([body], PayloadKind.TRADES)
    (reject,) = decoded.rejects
    assert (reject.data, reject.place) == (bad, "record trades.AAPL[1]")
    assert decoded.counts == [3]


def test_a_listed_member_that_is_repeated_has_all_its_records() -> None:
    article = b'{"id":%d,"headline":"a \\": b","created_at":"2026-01-05T15:00:00Z","symbols":["AAPL"]}'
    body = b'{"news":[%b],"news":[%b]}' % (article % 1, article % 2)
    assert Pair("news").decode([body], PayloadKind.LISTED).counts == [2]


def test_a_body_with_two_page_tokens_or_two_symbols_is_a_fault() -> None:
    pair = Pair("stocks")
    bodies = [
        b'{"trades":{"AAPL":[%b]},"next_page_token":"x","next_page_token":"y"}' % A,
        b'{"trades":[%b],"symbol":"AAPL","symbol":"MSFT"}' % A,
        b'{"trades":{"AAPL":[%b]},"next_page_token":"x","next_page_token":"x"}' % A,
    ]
    faults = [
        contents.fault for _, contents in sorted(pair.decode(bodies, PayloadKind.TRADES).bodies.items())
    ]
    assert faults == ["next_page_token: the body has several", "symbol: the body has several", ""]


@pytest.mark.parametrize("form", ["bare", "by symbol"])
def test_both_snapshots_of_a_repeated_symbol_count(form: str) -> None:
    inside = b'{"AAPL":{"latestTrade":%b},"MSFT":{"latestTrade":%b},"AAPL":{"latestTrade":%b}}' % (A, B, C)
    body = inside if form == "bare" else b'{"snapshots":%b}' % inside
    decoded = Pair("stocks").decode([body], PayloadKind.SNAPSHOTS)
    assert (decoded.counts, decoded.rejects, decoded.bodies[0].symbols) == ([3], [], {"AAPL", "MSFT"})


def test_within_a_record_the_last_of_equal_names_counts() -> None:
    twice = A.replace(b'"p":1', b'"p":7,"p":1')
    pair = Pair("stocks")
    for records in ([A, twice], [twice, A]):
        body = b'{"trades":{"AAPL":[%b,%b]}}' % tuple(records)
        decoded = pair.decode([body], PayloadKind.TRADES)
        assert (decoded.counts, decoded.rejects) == ([2], [])
        live = b"[%b]" % b",".join(b'{"T":"t","S":"AAPL",' + record[1:] for record in records)
        decoded = pair.decode([live], PayloadKind.JSON)
        assert (decoded.counts, decoded.rejects) == ([2], [])


PUT, CALL, OTHER = "SPY261218P00590000", "SPXW261218C06000000", "AAPL261218C00200000"


@pytest.mark.parametrize(
    ("stream", "requested", "records", "kept"),
    [
        ("stocks", ["A"], ["A", "B"], ["A"]),
        ("stocks", ["A", "B"], ["B", "A"], ["B", "A"]),
        ("stocks", ["A", "B"], ["C"], []),
        ("crypto", ["BTC/USD"], ["BTC/USD", "ETH/USD"], ["BTC/USD"]),
        ("options", [PUT], [PUT, CALL], [PUT]),
        ("options", ["SPX"], [PUT, CALL, "SPX", "X", OTHER], [PUT, CALL, OTHER]),
    ],
)
@pytest.mark.parametrize("form", ["bare", "by symbol"])
def test_a_record_that_was_not_requested_is_a_reject(
    stream: str, requested: list[str], records: list[str], kept: list[str], form: str
) -> None:
    trade = {"p": 1, "s": 2, "t": "2024-01-01T00:00:00Z"}
    every = {symbol: {"latestTrade": trade} for symbol in records}
    body = orjson.dumps(every if form == "bare" else {"snapshots": every, "next_page_token": None})
    names = orjson.dumps(requested)
    pair = Pair(stream)
    whole = (body, PayloadKind.SNAPSHOTS)
    for _ in range(2):
        decoded = pair.decode_mixed([whole, (names, PayloadKind.REQUESTED), whole, whole])
        others = [symbol for symbol in records if symbol not in kept]
        assert {reject.reason for reject in decoded.rejects} <= {"its symbol was not requested"}
        assert [(r.payload, r.place.rpartition(".")[2].split()[-1]) for r in decoded.rejects] == [
            (2, symbol) for symbol in others
        ]
        assert decoded.counts == [len(records), 0, len(records), len(records)]
        assert decoded.bodies[2].symbols == set(kept)
        assert decoded.bodies[3].symbols == set(records)
        assert len(decoded.columns["snapshots"][0].values) == 2 * len(records) + len(kept)


@pytest.mark.parametrize(("stream", "kind"), [KINDS[0], KINDS[5], KINDS[7], KINDS[9]], ids=lambda v: str(v))
def test_bodies_cut_at_every_byte_are_the_same_rejects(stream: str, kind: PayloadKind) -> None:
    some = make_records(stream, kind, 2)
    single = kind in (PayloadKind.SNAPSHOTS, PayloadKind.ORDERBOOKS)
    whole = make_page(kind, {"AAPL": some[0] if single else some, "MSFT": None}, "abc")
    pair = Pair(stream)
    for cut in range(len(whole)):
        pair.decode([whole, whole[:cut], whole], kind)


@pytest.mark.parametrize(("stream", "kind"), KINDS)
@given(data=st.data())
@settings(max_examples=examples(60), deadline=None)
def test_bodies_with_flipped_bytes_decode_identically(
    stream: str, kind: PayloadKind, data: st.DataObject
) -> None:
    some = make_records(stream, kind, 3)
    single = kind in (PayloadKind.SNAPSHOTS, PayloadKind.ORDERBOOKS)
    by_symbol = {"AAPL": some[0] if single else some[:2], "MSFT": some[-1] if single else some[2:]}
    whole = make_page(kind, by_symbol, "abc", stream)
    if kind is PayloadKind.SNAPSHOTS and data.draw(st.booleans()):
        whole = orjson.dumps(by_symbol)
    bent = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        bent[data.draw(st.integers(0, len(whole) - 1))] = data.draw(
            st.integers(0, 255) | st.sampled_from(b'0123456789-+.eE"[]{},:\\ \x00\x80\xc0\xff')
        )
    pair = Pair(stream)
    pair.decode([whole, bytes(bent), whole], kind)


@pytest.mark.parametrize(("stream", "kind"), KINDS)
def test_a_record_of_a_body_has_neither_type_nor_symbol_of_its_own(stream: str, kind: PayloadKind) -> None:
    record = make_records(stream, kind, 1)[0]
    one = kind in (PayloadKind.SNAPSHOTS, PayloadKind.ORDERBOOKS)
    pair = Pair(stream)
    for own in [{}, *({key: value} for key in "TS" for value in ("b", "d", "x", 5, None, []))]:
        whole = {**own, **record}
        page = make_page(kind, {"AAPL": whole if one else [whole]}, stream=stream)
        decoded = pair.decode([page], kind)
        assert (decoded.counts, decoded.rejects) == ([1], [])
        assert decoded.bodies[0].symbols == {"AAPL"}


NAMES = [
    "trades",
    "trade",
    "snapshots",
    "snapshot",
    "symbol",
    "next_page_token",
    "currency",
    "AAPL",
    "MSFT",
    "\\u0041",
    "",
    "a.b",
]
SPACE = st.sampled_from([b"", b"", b"", b" ", b"\n\t"])


@st.composite
def make_unusual_body(draw: st.DrawFn, some: list[Any]) -> bytes:
    """Draw a body of any shape, with usual members in unexpected places."""
    record = st.sampled_from([orjson.dumps(r) for r in some])
    bare = record | st.sampled_from(UNUSUAL_VALUES)
    listed = st.lists(bare, max_size=3).map(lambda v: b"[" + b",".join(v) + b"]")

    def members(value: Any, names: list[str]) -> Any:
        pairs = st.lists(st.tuples(st.sampled_from(names), value), max_size=4)

        def joined(items: list[tuple[str, bytes]]) -> bytes:
            space = draw(SPACE)
            inside = (space + b'"' + n.encode() + b'"' + space + b":" + space + v for n, v in items)
            return b"{" + (space + b",").join(inside) + space + b"}"

        return pairs.map(joined)

    by_symbol = members(bare | listed, ["AAPL", "MSFT", "X"])
    return bytes(draw(members(bare | listed | by_symbol | by_symbol, NAMES)))


@pytest.mark.parametrize(("stream", "kind"), [KINDS[0], KINDS[7], KINDS[5]])
@given(data=st.data())
@settings(max_examples=examples(200), deadline=None)
def test_bodies_of_any_shape_decode_identically(
    stream: str, kind: PayloadKind, data: st.DataObject
) -> None:
    some = make_records(stream, kind, 3)
    bodies = data.draw(st.lists(make_unusual_body(some), min_size=1, max_size=3))
    whole = make_page(kind, {"AAPL": some[0]})
    pair = Pair(stream)
    pair.decode([*bodies, whole], kind)
    pair.decode([whole, *bodies], kind)


@pytest.mark.parametrize("kind", [PayloadKind.SNAPSHOTS, PayloadKind.TRADES])
@given(data=st.data())
@settings(max_examples=examples(150), deadline=None)
def test_records_with_unexpected_values_decode_identically(kind: PayloadKind, data: st.DataObject) -> None:
    some = make_records("stocks", kind, 3)
    flat = [
        (path, key)
        for path in (("latestTrade", "latestQuote", "minuteBar") if "latestTrade" in some[0] else ("",))
        for key in (some[0][path] if path else some[0])
    ]
    whole = orjson.dumps(some[0])
    for path, key in data.draw(st.lists(st.sampled_from(flat), min_size=1, max_size=2)):
        inner = some[0][path] if path else some[0]
        old = orjson.dumps({key: inner[key]})[1:-1]
        whole = whole.replace(old, f'"{key}":'.encode() + data.draw(st.sampled_from(UNUSUAL_VALUES)), 1)
    body = b'{"' + kind.name.lower().encode() + b'":{"AAPL":' + whole + b"}}"
    pair = Pair("stocks")
    pair.decode([make_page(kind, {"AAPL": some[1]}), body, make_page(kind, {"AAPL": some[2]})], kind)


DATA = SHARED / "data" / "alpaca"
INDEX: list[dict[str, Any]] = (
    json.loads((DATA / "rest" / "index.json").read_text()) if DATA.is_dir() else []
)


@pytest.mark.skipif(not INDEX, reason="needs ../shared/data/alpaca")
@pytest.mark.parametrize("entry", INDEX, ids=lambda e: e["file"])
def test_recorded_bodies_decode_identically(entry: dict[str, Any]) -> None:
    stream, kind = find_stream_and_kind(entry["path"])
    body = (DATA / "rest" / entry["file"]).read_bytes()
    pair = Pair(stream)
    pair.decode([body, body, body.strip()], kind)
    if stream != "news":
        assert pair.fell_back == 0, "kernels decode all recorded bodies"


@pytest.mark.cases("V6")
def test_both_decoders_take_a_part_with_the_zero_time_for_absent() -> None:
    pair, kind = Pair("stocks"), PayloadKind.SNAPSHOTS
    records = make_records("stocks", kind, 8)
    good = {f"S{number}": record for number, record in enumerate(records)}
    pair.decode([orjson.dumps(good)], kind)
    nothing = {"t": "0001-01-01T00:00:00Z", "o": 0, "h": 0, "l": 0, "c": 0, "v": 0, "n": 0, "vw": 0}
    for part in ("minuteBar", "dailyBar", "latestTrade"):
        some = {name: {**record, part: nothing} for name, record in list(good.items())[::3]}
        decoded = pair.decode([orjson.dumps(good | some)] * 2, kind)
        assert decoded.rejects == []
        assert decoded.bodies[0].symbols == frozenset(good)
