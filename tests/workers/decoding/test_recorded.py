"""Recorded bodies and frames of the real service decode into the right rows, with every field."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import orjson
import pytest

from mdstream.streams.spec import PayloadKind
from tests.decoding import decode, find_stream_and_kind, rows
from tests.running import SHARED

DATA = SHARED / "data" / "alpaca"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data/alpaca")

INDEX: list[dict[str, Any]] = (
    json.loads((DATA / "rest" / "index.json").read_text()) if DATA.is_dir() else []
)


def to_nanoseconds(text: str) -> int:
    """Convert an RFC 3339 time to nanoseconds, from its whole seconds and its digits."""
    head, _, tail = text.rstrip("Z").partition(".")
    seconds = int(datetime.fromisoformat(head + "+00:00").timestamp())
    return seconds * 10**9 + int(tail.ljust(9, "0") or 0)


TRADE = {
    "t": "ts",
    "p": "price",
    "s": "size",
    "x": "exchange",
    "c": "conditions",
    "z": "tape",
    "i": "id",
    "tks": "taker_side",
}
QUOTE = {
    "t": "ts",
    "bp": "bid_price",
    "bs": "bid_size",
    "bx": "bid_exchange",
    "ap": "ask_price",
    "as": "ask_size",
    "ax": "ask_exchange",
    "c": "conditions",
    "z": "tape",
}
BAR = {
    "t": "ts",
    "o": "open",
    "h": "high",
    "l": "low",
    "c": "close",
    "v": "volume",
    "n": "trade_count",
    "vw": "vwap",
}
MEMBERS = {
    "latestTrade": ("trade_", TRADE),
    "latestQuote": ("quote_", QUOTE),
    "minuteBar": ("minute_", BAR),
    "dailyBar": ("daily_", BAR),
    "prevDailyBar": ("prev_daily_", BAR),
}


def check(record: dict[str, Any], names: dict[str, str], row: dict[str, Any], prefix: str = "") -> int:
    """Check that `row` has every field of `record`; return the number of fields."""
    for key, value in record.items():
        shown = row[prefix + names[key]]
        if key == "t":
            value = to_nanoseconds(value)
        elif key == "c" and isinstance(value, list):
            value = "".join(value)
        assert shown == value, (key, shown, value)
    return len(record)


@pytest.mark.parametrize("entry", INDEX, ids=lambda e: e["file"])
def test_a_rest_body_keeps_every_field(entry: dict[str, Any]) -> None:
    stream, kind = find_stream_and_kind(entry["path"])
    text = (DATA / "rest" / entry["file"]).read_bytes()
    body = json.loads(text)
    decoded = decode(stream, text, kind=kind)
    assert decoded.rejects == []
    found = rows(stream, decoded)
    if body.get("next_page_token"):
        assert decoded.bodies[0].page_token == body["next_page_token"]
    if kind is PayloadKind.LISTED:
        for record, row in zip(body["news"], found["snapshots"], strict=True):
            assert json.loads(row.pop("images")) == record.pop("images")
            times = {k: to_nanoseconds(record.pop(k)) for k in ("created_at", "updated_at")}
            assert row == {**record, **times}
        return
    channel = kind.name.lower()
    content = body.get(channel, body.get(channel[:-1], {} if channel != "snapshots" else body))
    records = [
        (symbol, record)
        for symbol, value in content.items()
        for record in (value if isinstance(value, list) else [value])
    ]
    assert len(records) == sum(decoded.counts)
    assert len(records) == len(found.get(channel, []))
    compared = 0
    for (symbol, record), row in zip(records, found.get(channel, []), strict=True):
        assert row["symbol"] == symbol
        if kind is PayloadKind.SNAPSHOTS:
            for member, (prefix, names) in MEMBERS.items():
                compared += check(record.pop(member, {}), names, row, prefix)
            greeks = record.pop("greeks", {})
            assert {k: row[k] for k in greeks} == greeks
            if "impliedVolatility" in record:
                assert row["implied_volatility"] == record.pop("impliedVolatility")
            assert record == {}, "a column exists for every member"
        else:
            names = {"trades": TRADE, "quotes": QUOTE, "bars": BAR}[channel]
            compared += check(record, names, row)
    assert compared > 0 or not records
    assert decoded.bodies[0].symbols == {symbol for symbol, _ in records}


STREAM_NAMES = {
    "t": TRADE,
    "q": QUOTE,
    "b": BAR,
    "c": {
        "t": "ts",
        "x": "exchange",
        "oi": "original_id",
        "op": "original_price",
        "os": "original_size",
        "oc": "original_conditions",
        "ci": "corrected_id",
        "cp": "corrected_price",
        "cs": "corrected_size",
        "cc": "corrected_conditions",
        "z": "tape",
    },
    "x": {"t": "ts", "i": "id", "x": "exchange", "p": "price", "s": "size", "a": "action", "z": "tape"},
    "l": {"t": "ts", "u": "limit_up_price", "d": "limit_down_price", "i": "indicator", "z": "tape"},
    "s": {
        "t": "ts",
        "sc": "status_code",
        "sm": "status_message",
        "rc": "reason_code",
        "rm": "reason_message",
        "z": "tape",
    },
    "i": {"t": "ts", "p": "price", "z": "tape"},
}
CHANNELS = {
    "t": "trades",
    "q": "quotes",
    "b": "bars",
    "c": "corrections",
    "x": "cancels",
    "l": "lulds",
    "s": "statuses",
    "i": "imbalances",
    "o": "orderbooks",
}


def read_recorded_frames() -> list[tuple[str, bytes]]:
    if not DATA.is_dir():
        return []
    return [
        (path.stem, line)
        for path in sorted((DATA / "stream").glob("*.jsonl"))
        for line in path.read_bytes().splitlines()
    ]


@pytest.mark.parametrize(("stream", "payload"), read_recorded_frames(), ids=lambda v: str(v)[:24])
def test_a_stream_frame_keeps_every_field(stream: str, payload: bytes) -> None:
    decoded = decode(stream, payload)
    assert decoded.rejects == []
    [message] = orjson.loads(payload)
    wire_type = message.pop("T")
    [(channel, found)] = rows(stream, decoded).items()
    assert channel == CHANNELS[wire_type]
    assert {row["symbol"] for row in found} == {message.pop("S")}
    if wire_type == "o":
        assert [row["reset"] for row in found] == [message.get("r", False)] * len(found)
        levels = [(s, x["p"], x["s"]) for s, k in (("bid", "b"), ("ask", "a")) for x in message[k]]
        assert [(r["side"], r["price"], r["size"]) for r in found] == levels
        assert {r["ts"] for r in found} == {to_nanoseconds(message["t"])}
        return
    [row] = found
    for key in [k for k in ("oc", "cc") if k in message]:
        message[key] = "".join(message[key])
    check(message, STREAM_NAMES[wire_type], row)
