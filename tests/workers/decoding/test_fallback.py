"""The fallback decoder: every message type, unusual forms of it, and payloads that are not messages."""

from __future__ import annotations

import itertools
import json
from typing import Any

import msgpack
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdstream.handoff.ticket import BodyContents
from mdstream.simulator.encode import ENCODINGS
from mdstream.simulator.markets import MARKETS
from mdstream.simulator.traffic import generate
from mdstream.streams import STREAMS
from mdstream.streams.bar_rules import join_conditions, split_conditions
from mdstream.streams.spec import PayloadKind
from tests import expected
from tests.decoding import RECV_NS, Dictionaries, decode, rows
from tests.fuzzing import examples
from tests.workers.decoding.pair import Pair
from workers.decoding.fallback import FallbackDecoder
from workers.decoding.payloads import Payloads

CONTRACTS = ["AAPL261218C00200000", "SPY261218P00590000"]
SYMBOLS = {
    "options": CONTRACTS,
    **{s: list(MARKETS[s].universe[:4]) for s in ("stocks", "crypto", "news", "perps")},
}


def make_messages(stream: str, count: int, seed: int = 1) -> list[dict[str, Any]]:
    subscription = dict.fromkeys(STREAMS[stream].subscriptions, SYMBOLS[stream])
    return list(itertools.islice(generate(stream, seed, subscription), count))


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
@pytest.mark.parametrize("stream", STREAMS)
def test_generated_traffic_decodes_to_what_the_plain_model_says(stream: str, encoding: str) -> None:
    traffic = make_messages(stream, 3000)
    form = ENCODINGS[encoding]
    kind = PayloadKind.MSGPACK if encoding == "msgpack" else PayloadKind.JSON
    payloads = [form.payload([form.message(m) for m in traffic[i : i + 7]]) for i in range(0, 3000, 7)]
    decoded = decode(stream, *payloads, kind=kind)
    assert decoded.rejects == []
    assert sum(decoded.counts) == 3000
    assert rows(stream, decoded) == expected.rows(stream, traffic)


@pytest.mark.parametrize("stream", STREAMS)
@given(cuts=st.lists(st.integers(1, 300), min_size=1, max_size=12), per=st.sampled_from([1, 3, 50]))
@settings(max_examples=examples(25), deadline=None)
def test_codes_do_not_depend_on_how_the_stream_was_cut(stream: str, cuts: list[int], per: int) -> None:
    traffic = make_messages(stream, 400)
    form = ENCODINGS["json"]
    payloads = [form.payload([form.message(m) for m in traffic[i : i + per]]) for i in range(0, 400, per)]

    def codes(sizes: list[int]) -> dict[str, list[str]]:
        dictionaries = Dictionaries()
        decoder = FallbackDecoder(STREAMS[stream], dictionaries.known)
        left = list(payloads)
        for size in itertools.cycle(sizes):
            batch, left = left[:size], left[size:]
            dictionaries.take(decoder.decode(Payloads.of([(p, PayloadKind.JSON, 0) for p in batch])))
            if not left:
                return dictionaries.texts
        raise AssertionError

    assert codes(cuts) == codes([len(payloads)])


def decode_one(stream: str, message: dict[str, Any]) -> dict[str, Any]:
    """Return the only row of one message."""
    decoded = decode(stream, orjson.dumps([message]))
    assert decoded.rejects == []
    [channel_rows] = rows(stream, decoded).values()
    [row] = channel_rows
    return row


TRADE = {
    "T": "t",
    "S": "AAPL",
    "i": 628,
    "x": "K",
    "p": 162.92,
    "s": 3,
    "c": ["@", "F", "T", "I"],
    "z": "C",
    "t": "2023-04-06T11:54:26.838232225Z",
}


def test_key_order_unknown_keys_and_whitespace_do_not_matter() -> None:
    shuffled = {"new": {"a": [1]}, **dict(reversed(TRADE.items()))}
    decoded = decode("stocks", json.dumps([shuffled], indent=3).encode())
    assert rows("stocks", decoded) == {"trades": [decode_one("stocks", TRADE)]}


def test_ids_beyond_2_to_the_53_stay_whole() -> None:
    for number in (2**53 + 1, 3447222699101865076, 2**64 - 1):
        assert decode_one("stocks", {**TRADE, "i": number})["id"] == number
    crypto = {"T": "t", "S": "BTC/USD", "p": 1.0, "s": 1, "t": TRADE["t"], "i": -5, "tks": "B"}
    assert decode_one("crypto", crypto)["id"] == -5
    assert decode_one("crypto", {**crypto, "i": 3447222699101865076})["id"] == 3447222699101865076


def test_whole_numbers_are_taken_where_fractions_are_due_and_the_other_way_round() -> None:
    row = decode_one("stocks", {**TRADE, "p": 163, "s": 3.0})
    assert (row["price"], row["size"]) == (163.0, 3)
    assert type(row["price"]) is float


def test_missing_keys_are_null() -> None:
    row = decode_one("stocks", {"T": "t", "S": "A", "p": 1, "s": 2, "t": "2023-04-06T11:54:26Z"})
    assert [k for k, v in row.items() if v is None] == ["exchange", "conditions", "tape", "id", "update"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (["@", "F"], "@F"),
        ([" "], " "),
        ([], ""),
        ("R", "R"),
        ("", ""),
        (None, None),
        (["AB", "C"], '["AB","C"]'),
        (["["], '["["]'),
    ],
)
def test_conditions_keep_every_code(value: Any, shown: str | None) -> None:
    assert decode_one("stocks", {**TRADE, "c": value})["conditions"] == shown


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=3), max_size=5))
def test_joined_conditions_come_apart_again(codes: list[str]) -> None:
    assert split_conditions(join_conditions(codes)) == codes


@given(st.lists(st.lists(st.text('@FTI[",\\', max_size=2), max_size=3), max_size=20))
def test_different_conditions_never_look_identical(lists: list[list[str]]) -> None:
    assert len({join_conditions(c) for c in lists}) == len({tuple(c) for c in lists})


def test_an_absent_side_of_a_quote_is_null_and_not_zero() -> None:
    quote = {
        "T": "q",
        "S": "A",
        "bx": "K",
        "bp": 9.5,
        "bs": 2,
        "ax": " ",
        "ap": 0,
        "as": 0,
        "c": ["R"],
        "z": "C",
        "t": TRADE["t"],
    }
    row = decode_one("stocks", quote)
    assert (row["ask_price"], row["ask_size"], row["ask_exchange"]) == (None, None, None)
    assert (row["bid_price"], row["bid_size"], row["bid_exchange"]) == (9.5, 2, "K")
    partial = decode_one("stocks", {**quote, "as": 5, "ax": "Q"})  # no price, but the other values are kept
    assert (partial["ask_price"], partial["ask_size"], partial["ask_exchange"]) == (None, 5, "Q")
    crypto = {"T": "q", "S": "BTC/USD", "bp": 0, "bs": 0, "ap": 5, "as": 1.5, "t": TRADE["t"]}
    row = decode_one("crypto", crypto)
    assert (row["bid_price"], row["bid_size"], row["ask_price"]) == (None, None, 5.0)


def test_a_zero_price_of_a_trade_is_a_price() -> None:
    assert decode_one("stocks", {**TRADE, "p": 0})["price"] == 0.0


def test_books_become_a_row_a_level() -> None:
    book = {
        "T": "o",
        "S": "BTC/USD",
        "t": TRADE["t"],
        "b": [{"p": 71859.53, "s": 0.27994}],
        "a": [{"p": 71939, "s": 0}],
        "r": True,
    }
    [bid, ask] = rows("crypto", decode("crypto", orjson.dumps([book])))["orderbooks"]
    assert (bid["side"], bid["price"], bid["size"], bid["reset"]) == ("bid", 71859.53, 0.27994, True)
    assert (ask["side"], ask["price"], ask["size"], ask["reset"]) == ("ask", 71939.0, 0.0, True)


def test_a_reset_without_levels_and_an_empty_change_lose_nothing() -> None:
    empty = {"T": "o", "S": "X/USD", "t": TRADE["t"], "b": [], "a": []}
    decoded = decode("crypto", orjson.dumps([empty, {**empty, "r": True}]))
    assert decoded.counts == [2]
    [row] = rows("crypto", decoded)["orderbooks"]
    assert (row["reset"], row["side"], row["price"]) == (True, None, None)


def test_news_keeps_html_and_unicode_and_an_empty_list_of_symbols() -> None:
    article = {
        "T": "n",
        "id": 24918784,
        "headline": "€ <b>&</b> 📈",
        "summary": "",
        "author": "Ü",
        "created_at": "2022-01-05T22:00:37Z",
        "updated_at": "2022-01-05T22:00:38Z",
        "url": "https://x",
        "content": "<p>\u003ca\u003e</p>",
        "symbols": [],
        "source": "benzinga",
    }
    row = decode_one("news", article)
    assert (row["headline"], row["content"], row["symbols"]) == ("€ <b>&</b> 📈", "<p><a></p>", [])
    escaped = json.dumps([article]).replace("<", "\\u003c").encode()
    assert rows("news", decode("news", escaped))["articles"] == [row]


BAD_MESSAGES = [
    ({**TRADE, "p": "162.92"}, "p: expected a number, got text"),
    ({**TRADE, "p": True}, "p: expected a number, got bool"),
    ({**TRADE, "i": 1.5}, "i: expected a whole number, got 1.5"),
    ({"T": "b", "S": "AAPL", "t": TRADE["t"], "n": 2**63}, "n: does not fit into int64"),
    ({**TRADE, "i": -1}, "i: does not fit into uint64"),
    ({**TRADE, "i": 2**64}, "i: does not fit into uint64"),
    ({**TRADE, "t": "yesterday"}, "t: not an RFC 3339 time: 'yesterday'"),
    ({**TRADE, "t": 5}, "t: expected a time, got 5"),
    ({k: v for k, v in TRADE.items() if k != "t"}, "t: missing"),
    ({k: v for k, v in TRADE.items() if k != "S"}, "S: missing"),
    ({**TRADE, "p": None}, "p: missing"),
    ({k: v for k, v in TRADE.items() if k != "s"}, "s: missing"),
    ({**TRADE, "S": ""}, "S: missing"),
    ({**TRADE, "S": 5}, "S: expected text"),
    ({**TRADE, "x": ["K"]}, "x: expected text"),
    ({**TRADE, "c": [1]}, "c: a condition is not text"),
    ({**TRADE, "c": {"a": 1}}, "c: expected a list of conditions"),
    ({**TRADE, "x": "K" * 2000}, "x: text of over 1024 characters"),
    ({**TRADE, "T": "zz"}, "T: unknown message type 'zz'"),
    ({**TRADE, "T": 5}, "T: unknown message type '5'"),
    ({"S": "A"}, "T: missing"),
    (5, "expected an object, got int"),
    (None, "expected an object, got null"),
    ([], "expected an object, got an array"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD_MESSAGES)
def test_a_bad_message_is_rejected_with_its_reason_and_its_neighbours_are_kept(
    bad: Any, reason: str
) -> None:
    decoded = decode("stocks", json.dumps([TRADE, bad, {**TRADE, "S": "B"}]).encode())
    assert decoded.counts == [3]
    [reject] = decoded.rejects
    assert (reject.payload, reject.message, reject.reason) == (0, 1, reason)
    assert [r["symbol"] for r in rows("stocks", decoded)["trades"]] == ["AAPL", "B"]


@pytest.mark.parametrize(
    ("payload", "kind", "reason"),
    [
        (b"", PayloadKind.JSON, "not JSON: "),
        (b"{", PayloadKind.JSON, "not JSON: "),
        (b'{"T":"t"}', PayloadKind.JSON, "expected an array of messages, got an object"),
        (b"null", PayloadKind.JSON, "expected an array of messages, got null"),
        (b'[{"T":"t","S":"\xff"}]', PayloadKind.JSON, "not JSON: "),
        (b'[{"p":NaN}]', PayloadKind.JSON, "not JSON: "),
        (b"[" * 100_000, PayloadKind.JSON, "not JSON: "),
        (b"", PayloadKind.MSGPACK, "not msgpack: Unpack failed: incomplete input (byte 0)"),
        (b"\x91\x82\xa1T", PayloadKind.MSGPACK, "not msgpack: Unpack failed: incomplete input (byte 4)"),
        (b"\x91" * 100_000, PayloadKind.MSGPACK, "not msgpack: StackError (byte 1)"),
        (b"\x91\x81\x91\x01\x01", PayloadKind.MSGPACK, "not msgpack: unhashable type: 'list' (byte 2)"),
        (b"\xdf\xff\xff\xff\xff", PayloadKind.MSGPACK, "not msgpack: "),
        (b"\x91\x82\xa1T\xa1t\xa1S\xc1", PayloadKind.MSGPACK, "not msgpack: FormatError (byte 8)"),
        (b"\x90\x00", PayloadKind.MSGPACK, "not msgpack: unpack(b) received extra data. (byte 1)"),
        (b"\xde\x00\x01\xa1T\xa1t", PayloadKind.MSGPACK, "expected an array"),
        (
            b"\x91\xde\x00\x01\xa1T\xa2t",
            PayloadKind.MSGPACK,
            "not msgpack: Unpack failed: incomplete input (byte 6)",
        ),
        (
            b'[{"T":"t","S":',
            PayloadKind.JSON,
            "not JSON: unexpected end of data: line 1 column 15 (char 14)",
        ),
        (b"[]", PayloadKind.SNAPSHOTS, "expected an object, got an array"),
        (b'{"bars":[1,2]}', PayloadKind.BARS, "bars: expected an object by symbol, got an array"),
        (b'{"news":{}}', PayloadKind.LISTED, "news: expected an array, got an object"),
    ],
)
def test_a_payload_that_cannot_be_split_is_one_reject(
    payload: bytes, kind: PayloadKind, reason: str
) -> None:
    stream = "news" if kind is PayloadKind.LISTED else "stocks"
    decoded = decode(stream, payload, kind=kind)
    assert decoded.counts == [1]
    [reject] = decoded.rejects
    assert (reject.payload, reject.message) == (0, -1)
    assert reject.reason.startswith(reason)


JSON_TRADE = orjson.dumps(TRADE)


@pytest.mark.cases("V7")
@pytest.mark.parametrize(
    "bad",
    [
        JSON_TRADE.replace(b'"K"', b'"cut \\ud83d"'),
        JSON_TRADE.replace(b'"K"', b'"\\udc00"'),
        JSON_TRADE.replace(b'"K"', b'"\xff"'),
        JSON_TRADE.replace(b'"K"', b'"\xed\xa0\x80"'),
        JSON_TRADE.replace(b'"K"', b'"a\x00"'),
        JSON_TRADE.replace(b'"K"', b'"\\x"'),
        JSON_TRADE.replace(b'"K"', b'"K'),
        JSON_TRADE.replace(b'"K"', b'"K]"'),
        JSON_TRADE.replace(b'"K"', b"K}"),
        JSON_TRADE.replace(b'"K"', b"[1"),
        JSON_TRADE.replace(b"162.92", b"NaN"),
        JSON_TRADE.replace(b"162.92", b"-Infinity"),
        JSON_TRADE.replace(b"162.92", b"1e999"),
        JSON_TRADE.replace(b"162.92", b"01"),
        JSON_TRADE.replace(b"162.92", b""),
        JSON_TRADE.replace(b'"p":', b'"p"'),
        JSON_TRADE.replace(b'"}', b'",}'),
        b"",
        b"nul",
        b"<html>",
    ],
)
def test_one_message_that_is_not_json_costs_no_other(bad: bytes) -> None:
    good = [orjson.dumps({**TRADE, "S": symbol, "x": '[{,\\"'}) for symbol in "ABC"]
    payload = b"[" + b",".join([good[0], bad, good[1], good[2]]) + b"]"
    decoded = decode("stocks", payload)
    assert decoded.counts == [4]
    if b'"K]"' in bad:
        assert not decoded.rejects, "a bracket in a text is text"
        return
    assert [(r.payload, r.message, r.data) for r in decoded.rejects] == [(0, 1, bad)]
    assert decoded.rejects[0].reason.startswith("not JSON: ")
    assert [r["symbol"] for r in rows("stocks", decoded)["trades"]] == ["A", "B", "C"]


@pytest.mark.cases("V7")
@pytest.mark.parametrize("rest", [b"\0", b"]", b"}", b",", b"<html>", b'{"T":"t"}', b"\xff"])
def test_bytes_behind_the_messages_are_one_reject(rest: bytes) -> None:
    payload = b"[" + JSON_TRADE + b"," + JSON_TRADE + b"]\r\n" + rest
    decoded = decode("stocks", payload)
    assert (decoded.counts, len(rows("stocks", decoded)["trades"])) == ([3], 2)
    assert [(r.message, r.data) for r in decoded.rejects] == [(2, rest)]
    packed = msgpack.packb([{**TRADE, "t": msgpack.Timestamp(1)}] * 2) + rest
    decoded = decode("stocks", packed, kind=PayloadKind.MSGPACK)
    assert (decoded.counts, len(rows("stocks", decoded)["trades"])) == ([3], 2)
    assert [(r.message, r.data) for r in decoded.rejects] == [(2, rest)]


@pytest.mark.cases("V7")
def test_a_byte_order_mark_costs_nothing_and_neither_does_another_array() -> None:
    whole = b"[" + JSON_TRADE + b"]"
    closed_early = whole + b"," + JSON_TRADE + b"]"
    decoded = decode("stocks", b"\xef\xbb\xbf" + whole, whole + whole, closed_early)
    assert (decoded.counts, decoded.rejects) == ([1, 2, 2], [])
    assert len(rows("stocks", decoded)["trades"]) == 5


@pytest.mark.cases("V7")
@pytest.mark.parametrize("bad", [b"\x81\xa1S\xa1\xff", b"\x81\x91\x01\x01", b"\x81\xa1S\xd5\xff\x00\x00"])
def test_one_message_that_is_not_msgpack_costs_no_other(bad: bytes) -> None:
    good = msgpack.packb({**TRADE, "t": msgpack.Timestamp(1)})
    decoded = decode("stocks", b"\x93" + good + bad + good, kind=PayloadKind.MSGPACK)
    assert (decoded.counts, len(rows("stocks", decoded)["trades"])) == ([3], 2)
    assert [(r.message, r.data) for r in decoded.rejects] == [(1, bad)]
    assert decoded.rejects[0].reason.startswith("not msgpack: ")


@pytest.mark.cases("V7")
def test_each_bad_article_counts() -> None:
    article = orjson.dumps({"T": "n", "id": 1, "headline": "h", "created_at": TRADE["t"], "symbols": ["A"]})
    bad = article.replace(b'"h"', b'"cut \\ud83d"')
    decoded = decode("news", b"[" + b",".join([bad, article, bad]) + b"]")
    assert decoded.counts == [3]
    assert [(r.message, r.data) for r in decoded.rejects] == [(0, bad), (2, bad)]
    listed = b'{"news":[' + b",".join([bad, article, bad]) + b'],"next_page_token":"t"}'
    decoded = decode("news", listed, kind=PayloadKind.LISTED)
    assert decoded.counts == [3]
    assert [(r.message, r.data) for r in decoded.rejects] == [(0, bad), (2, bad)]
    assert decoded.bodies[0].page_token == "t"


@pytest.mark.cases("V5")
@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("key", ["p", "s"])
def test_a_number_that_is_not_finite_is_rejected(number: float, key: str) -> None:
    good = {**TRADE, "t": msgpack.Timestamp(1)}
    for single in (False, True):
        payload = msgpack.packb([good, {**good, key: number}, good], use_single_float=single)
        decoded = decode("stocks", payload, kind=PayloadKind.MSGPACK)
        assert len(rows("stocks", decoded)["trades"]) == 2
        [reject] = decoded.rejects
        assert (reject.message, key in reject.reason, str(number) in reject.reason) == (1, True, True)


@pytest.mark.parametrize("value", [b"raw", msgpack.Timestamp(1), msgpack.ExtType(5, b"x"), {1: {2: b"x"}}])
def test_what_json_has_no_form_for_is_rejected(value: Any) -> None:
    article = {"T": "n", "id": 1, "headline": "h", "created_at": msgpack.Timestamp(1), "symbols": ["A"]}
    payload = msgpack.packb([article, {**article, "images": value}, article])
    decoded = decode("news", payload, kind=PayloadKind.MSGPACK)
    assert decoded.counts == [3]
    assert [r.message for r in decoded.rejects] in ([1], [])


ZERO_TIMES = [
    "0001-01-01T00:00:00Z",
    "0001-01-01T00:00:00.000Z",
    "0001-01-01T00:00:00+00:00",
    "0001-01-01T00:00:00.000000000Z",
]


@pytest.mark.cases("V6")
@pytest.mark.parametrize("time", ZERO_TIMES)
def test_a_part_of_a_snapshot_with_the_zero_time_is_absent_and_the_rest_counts(time: str) -> None:
    nothing = {"t": time, "o": 0, "h": 0, "l": 0, "c": 0, "v": 0, "n": 0, "vw": 0}
    trade = {"t": TRADE["t"], "p": 1.5, "s": 1, "x": "V", "i": 1, "c": [], "z": "A"}
    without = {"latestTrade": trade}
    zero = {
        **without,
        "minuteBar": nothing,
        "dailyBar": nothing,
        "latestQuote": {"t": time, "bp": 0, "bs": 0},
    }
    body = orjson.dumps(
        {"AAPL": zero, "MSFT": {**zero, "latestTrade": {**trade, "t": time}}, "SPY": without}
    )
    decoded = decode("stocks", body, kind=PayloadKind.SNAPSHOTS)
    assert decoded.rejects == []
    apple, spy = rows("stocks", decoded)["snapshots"]
    assert {**apple, "symbol": "SPY"} == spy
    assert decoded.bodies[0] == BodyContents(frozenset({"AAPL", "SPY"}), {}, ""), "nothing of MSFT"


@pytest.mark.cases("V7")
@pytest.mark.parametrize("encoding", ["json", "msgpack"])
def test_a_payload_cut_at_any_byte_keeps_the_messages_before_the_cut(encoding: str) -> None:
    form = ENCODINGS[encoding]
    kind = PayloadKind.MSGPACK if encoding == "msgpack" else PayloadKind.JSON
    messages = [form.message(m) for m in make_messages("stocks", 3)]
    whole = form.payload(messages)
    ends = [whole.index(message) + len(message) for message in messages]
    for cut in range(len(whole) - (encoding == "msgpack")):
        decoded = decode("stocks", whole[:cut], kind=kind)
        complete = sum(end <= cut for end in ends)
        assert (decoded.counts, len(decoded.rejects)) == ([complete + 1], 1), cut
        assert sum(map(len, rows("stocks", decoded).values())) == complete, cut


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["t", "q", "b", "o", "n", "2023-04-06T11:54:26Z", "AAPL"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("TSptbaxrc", max_size=2), inner, max_size=5)
    ),
    max_leaves=12,
)
KEYS = st.sampled_from(
    ["T", "S", "t", "p", "s", "c", "x", "z", "i", "bp", "bs", "b", "a", "r", "id", "symbols"]
)
MESSAGE = st.dictionaries(KEYS, VALUES, max_size=10)


@pytest.mark.parametrize("stream", STREAMS)
@given(batch=st.lists(st.lists(MESSAGE | VALUES, max_size=6), max_size=4))
@settings(max_examples=examples(150), deadline=None)
def test_whatever_comes_every_message_is_a_row_or_a_reject(stream: str, batch: list[list[Any]]) -> None:
    payloads = [json.dumps(p).encode() for p in batch]
    decoded = decode(stream, *payloads)
    accounted: dict[tuple[int, int], str] = {}
    for reject in decoded.rejects:
        assert (reject.payload, reject.message) not in accounted
        accounted[reject.payload, reject.message] = "reject"
    for channel in decoded.rows.values():
        for position in channel.positions:
            assert accounted.setdefault(position, "row") == "row"
    for columns in decoded.columns.values():
        assert len({len(c.values) for c in columns}) == 1
        for c in columns:
            assert c.mask is None or len(c.mask) == len(c.values)
    assert sum(decoded.counts) >= len(decoded.rejects)
    rows(stream, decoded)  # every code has its text


@given(st.binary(max_size=200), st.sampled_from([kind for kind in PayloadKind if kind < PayloadKind.MARK]))
@settings(max_examples=examples(300))
def test_random_bytes_are_rejected_or_hold_nothing(data: bytes, kind: PayloadKind) -> None:
    decoded = decode("news" if kind is PayloadKind.LISTED else "crypto", data, kind=kind)
    assert len(decoded.counts) == 1
    assert len(decoded.rejects) <= sum(decoded.counts)


def test_a_full_dictionary_rejects_new_texts_and_takes_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    import workers.decoding.codes
    from mdstream.streams.spec import Kind

    monkeypatch.setitem(workers.decoding.codes.DICTIONARY_LIMIT, Kind.CODE, 2)
    decoded = decode("stocks", orjson.dumps([{**TRADE, "x": x} for x in "KQKPQ"]))
    assert [r.reason for r in decoded.rejects] == ["x: the dictionary 'exchanges' is full"]
    assert [r["exchange"] for r in rows("stocks", decoded)["trades"]] == ["K", "Q", "K", "Q"]


def test_control_messages_mixed_with_data_are_passed_on() -> None:
    control = {"T": "error", "code": 407, "msg": "slow client"}
    decoded = decode("stocks", orjson.dumps([TRADE, control]))
    assert decoded.control == [control]
    assert decoded.counts == [1]
    assert decoded.rejects == []


def test_msgpack_numbers_of_every_width_and_all_forms_of_text() -> None:
    base = {"T": "t", "S": "AAPL", "x": "K", "c": ["@"], "z": "C"}
    time = msgpack.packb(msgpack.Timestamp(1_700_000_000, 5))

    def payload(p: bytes, s: bytes, i: bytes) -> bytes:
        fields = b"".join(msgpack.packb(k) + msgpack.packb(v) for k, v in base.items())
        fields += b"\xa1t" + time + b"\xa1p" + p + b"\xa1s" + s + b"\xd9\x01i" + i
        return b"\x91" + bytes([0x80 | 9]) + fields

    for p, price in (
        (b"\xca\x41\x20\x00\x00", 10.0),
        (b"\xcb" + bytes.fromhex("4024000000000000"), 10.0),
        (b"\x0a", 10.0),
    ):
        for s in (b"\x64", b"\xcc\x64", b"\xcd\x00\x64", b"\xce\x00\x00\x00\x64", b"\xd0\x64"):
            for i in (b"\xcf" + (2**63).to_bytes(8, "big"), b"\xd3" + (2**62).to_bytes(8, "big")):
                decoded = decode("stocks", payload(p, s, i), kind=PayloadKind.MSGPACK)
                [row] = rows("stocks", decoded)["trades"]
                assert (row["price"], row["size"]) == (price, 100)
                assert row["id"] == int.from_bytes(i[1:], "big")
                assert row["ts"] == 1_700_000_000_000_000_005


def test_one_batch_may_mix_stream_payloads_and_rest_bodies() -> None:
    decoder = FallbackDecoder(STREAMS["stocks"], Dictionaries().known)
    snapshot = {"AAPL": {"latestTrade": {"p": 5, "s": 1, "t": "2023-04-06T11:54:26Z"}}, "NONE": None}
    batch = [
        (orjson.dumps([TRADE]), PayloadKind.JSON, RECV_NS),
        (orjson.dumps(snapshot), PayloadKind.SNAPSHOTS, RECV_NS),
    ]
    decoded = decoder.decode(Payloads.of(batch))
    assert decoded.counts == [1, 1]
    assert decoded.bodies == {1: BodyContents(frozenset({"AAPL"}), {}, "")}
    [row] = rows("stocks", decoded)["snapshots"]
    assert (row["symbol"], row["trade_price"], row["quote_ts"]) == ("AAPL", 5.0, None)


@pytest.mark.cases("S8")
def test_a_short_acknowledgement_behind_data_is_passed_on() -> None:
    trade = msgpack.packb({**TRADE, "t": msgpack.Timestamp(1)})
    short = b"\x88" + msgpack.packb({"T": "subscription", "trades": ["AAPL"], "quotes": []})[1:]
    decoded = decode("stocks", b"\x92" + trade + short, kind=PayloadKind.MSGPACK)
    assert decoded.control == [{"T": "subscription", "trades": ["AAPL"], "quotes": []}]
    assert (decoded.counts, decoded.rejects, len(rows("stocks", decoded)["trades"])) == ([1], [], 1)


@pytest.mark.cases("V6", "V7")
@pytest.mark.parametrize(
    ("part", "bad", "reason"),
    [
        ("latestQuote", {"t": "0001-01-02T00:00:00Z", "bp": 1}, "latestQuote.t: "),
        ("dailyBar", {"t": "1970-01-01", "o": "x"}, "dailyBar."),
        ("minuteBar", 5, "minuteBar"),
        ("prevDailyBar", {"t": "2026-01-05T14:30:00Z", "n": 1.5}, "prevDailyBar.n: "),
    ],
)
def test_a_bad_part_of_a_snapshot_costs_no_other_part(part: str, bad: Any, reason: str) -> None:
    trade = {"t": "2026-01-05T14:30:00Z", "x": "D", "p": 1.5, "s": 0.5, "i": 1, "c": ["@"], "z": "C"}
    body = json.dumps({"A": {"latestTrade": trade, part: bad}, "B": {"latestTrade": trade}}).encode()
    Pair("stocks").decode([body], PayloadKind.SNAPSHOTS)
    decoded = decode("stocks", body, kind=PayloadKind.SNAPSHOTS)
    assert [row["trade_price"] for row in rows("stocks", decoded)["snapshots"]] == [1.5, 1.5]
    [reject] = decoded.rejects
    assert reject.reason.startswith(reason)
    assert json.loads(reject.data) == {part: bad}
    assert decoded.counts == [3], "the part counts as a message"
    assert decoded.bodies[0].symbols == {"A", "B"}


@pytest.mark.cases("V6", "V7")
@pytest.mark.parametrize("bad", [b"01", b"tru", b"{", b'"\x00"', b""])
@pytest.mark.parametrize("symbol", [b"A", b""])
def test_an_unreadable_part_of_a_snapshot_costs_no_other_part(bad: bytes, symbol: bytes) -> None:
    trade = b'{"t":"2026-01-05T14:30:00Z","x":"D","p":1.5,"s":0.5,"i":1,"c":["@"],"z":"C"}'
    body = b'{"symbol":"%b","latestQuote":%b,"latestTrade":%b}' % (symbol, bad, trade)
    decoded = Pair("stocks").decode([body], PayloadKind.SNAPSHOTS)
    if symbol and bad != b"{":  # an object that does not end takes what follows it along
        [reject] = decode("stocks", body, kind=PayloadKind.SNAPSHOTS).rejects
        assert reject.data == b'{"latestQuote":%b}' % bad
        assert reject.reason.startswith("not JSON: ")
        assert decoded.bodies[0].symbols == {"A"}
    else:
        assert decoded.rejects


@pytest.mark.cases("V6", "V7")
@pytest.mark.parametrize("bad", [{"t": " 026-01-05T14:30:00Z"}, {"fr": "x"}, {"ft": 5}, {"x": 1}])
def test_a_snapshot_without_parts_is_one_message(bad: dict[str, Any]) -> None:
    """A value that does not fit costs that message, and neither its neighbours nor those of other payloads."""
    good = {"t": "2026-01-05T14:30:00Z", "x": "PERP", "fr": 0.5, "ft": "2026-01-05T16:00:00Z"}
    clean = json.dumps({"A": good, "B": good}).encode()
    bodies = [clean, json.dumps({"A": {**good, **bad}, "B": good}).encode(), clean]
    decoded = Pair("perps").decode(bodies, PayloadKind.SNAPSHOTS)
    assert decoded.counts == [2, 2, 2]
    [reject] = decoded.rejects
    assert (reject.payload, reject.message) == (1, 0)
    assert json.loads(reject.data) == {**good, **bad}
    assert [found.symbols for _, found in sorted(decoded.bodies.items())] == [{"A", "B"}, {"B"}, {"A", "B"}]


@pytest.mark.cases("V7")
def test_a_message_of_msgpack_that_claims_too_much_costs_no_other() -> None:
    at = msgpack.Timestamp(1_767_623_400, 0)
    good = msgpack.packb({**TRADE, "t": at})
    for bad in (bytes([good[0] + 1]) + good[1:], b"\x83\xa1T\xa1t\xa1S\xc1"):
        decoded = decode("stocks", b"\x93" + good + bad + good, kind=PayloadKind.MSGPACK)
        assert (decoded.counts, len(decoded.rejects)) == ([3], 1), bad
        assert len(rows("stocks", decoded)["trades"]) == 2
