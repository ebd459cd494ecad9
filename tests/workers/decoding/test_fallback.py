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
from mdstream.streams.spec import PayloadKind, join_conditions, split_conditions
from tests import expected
from tests.decoding import RECV_NS, Dictionaries, decode, rows
from tests.fuzzing import examples
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
    row = decode_one("stocks", {"T": "t", "S": "A", "t": "2023-04-06T11:54:26Z"})
    assert [k for k, v in row.items() if v is None] == [
        "price",
        "size",
        "exchange",
        "conditions",
        "tape",
        "id",
    ]


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
        (b"\x92\x05\x81\x91\x01\x01", PayloadKind.MSGPACK, "not msgpack: unhashable type: 'list' (byte 3)"),
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


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
def test_a_payload_cut_at_any_byte_is_rejected_and_never_half_taken(encoding: str) -> None:
    form = ENCODINGS[encoding]
    kind = PayloadKind.MSGPACK if encoding == "msgpack" else PayloadKind.JSON
    whole = form.payload([form.message(m) for m in make_messages("stocks", 3)])
    for cut in range(len(whole)):
        decoded = decode("stocks", whole[:cut], kind=kind)
        assert (decoded.counts, len(decoded.rejects), decoded.columns) == ([1], 1, {}), cut


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


@given(st.binary(max_size=200), st.sampled_from(list(PayloadKind)))
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
    snapshot = {"AAPL": {"latestTrade": {"p": 5, "t": "2023-04-06T11:54:26Z"}}, "NONE": None}
    batch = [
        (orjson.dumps([TRADE]), PayloadKind.JSON, RECV_NS),
        (orjson.dumps(snapshot), PayloadKind.SNAPSHOTS, RECV_NS),
    ]
    decoded = decoder.decode(Payloads.of(batch))
    assert decoded.counts == [1, 1]
    assert decoded.bodies == {1: BodyContents(frozenset({"AAPL"}), {}, "")}
    [row] = rows("stocks", decoded)["snapshots"]
    assert (row["symbol"], row["trade_price"], row["quote_ts"]) == ("AAPL", 5.0, None)
