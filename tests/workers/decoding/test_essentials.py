"""Values without which a row says nothing: without one, the message is a reject, and its neighbours are rows."""

from __future__ import annotations

from typing import Any

import msgpack
import orjson
import pytest

from mdstream.streams import STREAMS
from mdstream.streams.spec import PayloadKind
from tests.decoding import decode, rows
from tests.workers.decoding.pair import Pair

TIME = "2026-01-05T14:30:00Z"
TRADE = {"t": TIME, "p": 1.5, "s": 2}
BAR = {"t": TIME, "o": 1, "h": 2, "l": 1, "c": 2, "v": 10, "n": 3, "vw": 1.5}
QUOTE = {"t": TIME, "bp": 1, "bs": 2, "ap": 3, "as": 4}
BOOK = {"t": TIME, "b": [{"p": 1, "s": 2}], "a": [{"p": 3, "s": 0}]}
STREAM_MESSAGES = [
    *(
        (stream, wire_type, record, key)
        for stream in STREAMS
        for wire_type, record, keys in (("t", TRADE, "ps"), ("b", BAR, "ohlcv"))
        if wire_type in STREAMS[stream].by_type
        for key in keys
    ),
    ("crypto", "o", BOOK, "p"),
    ("crypto", "o", BOOK, "s"),
]


def without(record: dict[str, Any], key: str, how: str) -> dict[str, Any]:
    """Return a record without a value, or a book of which the last level is without it."""
    if "b" in record:
        return {**record, "a": [without(record["a"][0], key, how)]}
    return {**record, key: None} if how == "null" else {k: v for k, v in record.items() if k != key}


@pytest.mark.parametrize("how", ["null", "missing"])
@pytest.mark.parametrize("codec", ["json", "msgpack"])
@pytest.mark.parametrize(("stream", "wire_type", "record", "key"), STREAM_MESSAGES)
def test_a_message_without_an_essential_value_is_a_reject(
    stream: str, wire_type: str, record: dict[str, Any], key: str, codec: str, how: str
) -> None:
    good = {"T": wire_type, "S": "A", **record}
    bad = {"T": wire_type, "S": "A", **without(record, key, how)}
    kind, pack = PayloadKind.JSON, orjson.dumps
    if codec == "msgpack":
        at = msgpack.Timestamp(1_767_623_400, 0)
        good, bad, kind, pack = {**good, "t": at}, {**bad, "t": at}, PayloadKind.MSGPACK, msgpack.packb
    name = STREAMS[stream].by_type[wire_type].name
    each = 2 if "b" in record else 1  # levels
    pair = Pair(stream)
    pair.decode([pack([good, good])], kind)
    for _ in range(2):
        decoded = pair.decode([pack([good]), pack([good, bad, good]), pack([bad])], kind)
        assert [(r.payload, r.message, r.reason) for r in sorted(decoded.rejects)] == [
            (1, 1, f"{key}: missing"),
            (2, 0, f"{key}: missing"),
        ]
        of_bad = each - 1  # the other levels of its book
        assert len(decoded.columns[name][0].values) == 3 * each + 2 * of_bad
        assert decoded.counts == [1, 3 + of_bad, 1 + of_bad]
        assert decoded.lost_levels == ([(1 << 32 | 1, "A"), (2 << 32, "A")] if wire_type == "o" else [])


@pytest.mark.parametrize("key", "ps")
@pytest.mark.parametrize("how", ["null", "missing"])
def test_a_record_of_history_without_an_essential_value_is_a_reject(key: str, how: str) -> None:
    bad = without(TRADE, key, how)
    body = orjson.dumps({"trades": {"A": [TRADE, bad, TRADE], "B": [TRADE]}})
    pair = Pair("stocks")
    for _ in range(2):
        decoded = pair.decode([body], PayloadKind.TRADES)
        [reject] = decoded.rejects
        assert (reject.message, reject.reason, reject.data) == (1, f"{key}: missing", orjson.dumps(bad))
        assert len(decoded.columns["trades"][0].values) == 3


PARTS = {"latestTrade": TRADE, "latestQuote": QUOTE, "minuteBar": BAR, "dailyBar": BAR, "prevDailyBar": BAR}
ESSENTIAL_IN_PARTS = [
    (part, key)
    for part, keys in (("latestTrade", "tps"), ("latestQuote", "t"), ("dailyBar", "tohlcv"))
    for key in keys
]


@pytest.mark.parametrize(("part", "key"), ESSENTIAL_IN_PARTS)
@pytest.mark.parametrize("how", ["null", "missing"])
@pytest.mark.parametrize("stream", ["stocks", "options", "crypto"])
def test_a_part_of_a_snapshot_without_an_essential_value_is_a_reject(
    stream: str, part: str, key: str, how: str
) -> None:
    bad = {**PARTS, part: without(PARTS[part], key, how)}
    whole, body = orjson.dumps({"A": PARTS}), orjson.dumps({"A": PARTS, "B": bad})
    pair = Pair(stream)
    for _ in range(2):
        decoded = pair.decode([whole, body], PayloadKind.SNAPSHOTS)
        [reject] = decoded.rejects
        assert (reject.part, reject.reason) == (part, f"{part}.{key}: missing")
        assert reject.data == orjson.dumps({part: bad[part]})
        assert decoded.bodies[1].symbols == {"A", "B"}
    [_, row] = rows(stream, decode(stream, body, kind=PayloadKind.SNAPSHOTS))["snapshots"]
    absent = {name: v for name, v in PARTS.items() if name != part}
    [expected] = rows(stream, decode(stream, orjson.dumps({"B": absent}), kind=PayloadKind.SNAPSHOTS))[
        "snapshots"
    ]
    assert row == expected


@pytest.mark.parametrize("empty", [None, {}, {"unknown": 1}, {"p": None, "t": None}])
@pytest.mark.parametrize("part", PARTS)
def test_an_absent_part_lacks_nothing(part: str, empty: Any) -> None:
    pair = Pair("stocks")
    whole = orjson.dumps({"A": PARTS, "B": {**PARTS, part: empty}})
    for _ in range(2):
        decoded = pair.decode([whole], PayloadKind.SNAPSHOTS)
        assert decoded.rejects == []
        assert decoded.bodies[0].symbols == {"A", "B"}


def test_a_side_of_a_quote_and_the_level_of_an_empty_reset_may_be_absent() -> None:
    quote = {"T": "q", "S": "A", **QUOTE, "bp": None, "bs": None}
    assert Pair("stocks").decode([orjson.dumps([quote])], PayloadKind.JSON).rejects == []
    reset = {"T": "o", "S": "A", "t": TIME, "b": [], "a": [], "r": True}
    assert Pair("crypto").decode([orjson.dumps([reset])], PayloadKind.JSON).rejects == []


NOTHING = [
    {"unknown": 1},
    dict.fromkeys(PARTS),
    {part: {} for part in PARTS},
    {part: {"t": "0001-01-01T00:00:00Z", "p": 0, "s": 0} for part in PARTS},
    {"latestTrade": {"t": None, "p": None}, "latestQuote": None},
]


@pytest.mark.parametrize("nothing", NOTHING)
@pytest.mark.parametrize("stream", ["stocks", "options", "crypto"])
def test_a_snapshot_whose_parts_are_all_absent_is_neither_a_row_nor_a_reject(
    stream: str, nothing: Any
) -> None:
    pair = Pair(stream)
    body = orjson.dumps({"A": PARTS, "B": nothing, "C": PARTS})
    for _ in range(2):
        decoded = pair.decode([body, orjson.dumps({"B": nothing})], PayloadKind.SNAPSHOTS)
        assert decoded.rejects == []
        assert (decoded.bodies[0].symbols, decoded.bodies[0].refused) == ({"A", "C"}, {})
        assert decoded.bodies[1].is_empty
        assert len(decoded.columns["snapshots"][0].values) == 2
        assert decoded.counts == [3, 1]
        assert "B" not in pair.kernels.known("symbols")


@pytest.mark.parametrize("rest", [{}, {"unknown": 1}, {"minuteBar": None}, {"latestQuote": {}}])
def test_a_snapshot_whose_parts_are_absent_or_rejected_is_one_reject(rest: dict[str, Any]) -> None:
    bad = {"latestTrade": {**TRADE, "p": "bad"}, **rest}
    pair = Pair("stocks")
    for _ in range(2):
        body = orjson.dumps({"A": PARTS, "B": bad})
        decoded = pair.decode([body], PayloadKind.SNAPSHOTS)
        why = "latestTrade.p: expected a number, got text"
        assert [(r.reason, r.data) for r in decoded.rejects] == [(why, orjson.dumps(bad))]
        assert (decoded.bodies[0].symbols, decoded.bodies[0].refused) == ({"A"}, {"B": why})
        single = orjson.dumps({"symbol": "B", **bad})
        decoded = pair.decode([single], PayloadKind.SNAPSHOTS)
        assert [(r.reason, r.data, r.place) for r in decoded.rejects] == [(why, single, "whole body")]
        assert decoded.columns == {}
