"""Sizes and volumes are fractions in every stream: each is kept whole, by kernels and by the fallback."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from mdstream.simulator.encode import ENCODINGS, Time
from mdstream.streams import STREAMS
from mdstream.streams.spec import Kind, PayloadKind
from tests.decoding import decode, rows
from tests.workers.decoding.pair import Pair

AT = Time(1_767_623_400_000_000_000)

SIZES = [0.4213, 0.5, 1043.37, 3, 0, 12_345_678.000001, 2.5e-7]

MESSAGES: list[tuple[str, str, str, str, dict[str, Any]]] = [
    (
        "stocks",
        "trades",
        "size",
        "s",
        {"T": "t", "S": "A", "i": 1, "x": "D", "p": 1.5, "c": ["@"], "z": "C"},
    ),
    ("stocks", "quotes", "bid_size", "bs", {"T": "q", "S": "A", "bp": 1.5, "bx": "V", "ap": 1.6, "as": 1}),
    ("stocks", "quotes", "ask_size", "as", {"T": "q", "S": "A", "bp": 1.5, "bx": "V", "ap": 1.6, "bs": 1}),
    (
        "stocks",
        "bars",
        "volume",
        "v",
        {"T": "b", "S": "A", "o": 1, "h": 2, "l": 1, "c": 2, "n": 3, "vw": 1.5},
    ),
    (
        "stocks",
        "corrections",
        "original_size",
        "os",
        {"T": "c", "S": "A", "x": "D", "oi": 1, "op": 1, "cs": 1},
    ),
    (
        "stocks",
        "corrections",
        "corrected_size",
        "cs",
        {"T": "c", "S": "A", "x": "D", "oi": 1, "op": 1, "os": 1},
    ),
    (
        "stocks",
        "cancels",
        "size",
        "s",
        {"T": "x", "S": "A", "i": 1, "x": "D", "p": 1.5, "a": "C", "z": "C"},
    ),
    ("options", "trades", "size", "s", {"T": "t", "S": "A260116C00001000", "x": "C", "p": 1.5, "c": "I"}),
    (
        "options",
        "quotes",
        "bid_size",
        "bs",
        {"T": "q", "S": "A260116C00001000", "bp": 1.5, "ap": 1.6, "as": 1},
    ),
    ("crypto", "trades", "size", "s", {"T": "t", "S": "BTC/USD", "i": 1, "p": 1.5, "tks": "B"}),
    ("perps", "trades", "size", "s", {"T": "t", "S": "BTC-PERP", "i": 1, "p": 1.5, "tks": "B"}),
]


@pytest.mark.cases("V2")
@pytest.mark.parametrize("codec", ["json", "msgpack"])
@pytest.mark.parametrize(("stream", "channel", "column", "key", "message"), MESSAGES)
def test_a_fractional_size_is_kept_whole(
    stream: str, channel: str, column: str, key: str, message: dict[str, Any], codec: str
) -> None:
    form = ENCODINGS[codec]
    kind = PayloadKind.JSON if codec == "json" else PayloadKind.MSGPACK
    payload = form.payload([form.message({**message, "t": AT, key: size}) for size in SIZES])
    Pair(stream).decode([payload], kind)  # kernels and fallback agree
    decoded = decode(stream, payload, kind=kind)
    assert not decoded.rejects
    assert [row[column] for row in rows(stream, decoded)[channel]] == SIZES


@pytest.mark.cases("V2")
def test_a_snapshot_with_fractional_sizes_keeps_its_symbol() -> None:
    t = "2026-01-05T14:30:00Z"
    bar = {"o": 1, "h": 2, "l": 1, "c": 2, "v": 1043.37, "n": 3, "vw": 1.5, "t": t}
    body = orjson.dumps(
        {
            "A": {
                "latestTrade": {"t": t, "x": "D", "p": 1.5, "s": 0.4213, "c": ["@"], "i": 1, "z": "C"},
                "latestQuote": {"t": t, "ax": "V", "ap": 1.6, "as": 0.25, "bx": "V", "bp": 1.5, "bs": 0.5},
                "minuteBar": bar,
                "dailyBar": bar,
                "prevDailyBar": bar,
            }
        }
    )
    Pair("stocks").decode([body], PayloadKind.SNAPSHOTS)
    decoded = decode("stocks", body, kind=PayloadKind.SNAPSHOTS)
    assert not decoded.rejects
    [row] = rows("stocks", decoded)["snapshots"]
    assert (row["trade_size"], row["quote_bid_size"], row["quote_ask_size"]) == (0.4213, 0.5, 0.25)
    assert (row["minute_volume"], row["daily_volume"], row["prev_daily_volume"]) == (1043.37,) * 3


@pytest.mark.parametrize("stream", STREAMS)
def test_no_size_and_no_volume_is_declared_as_a_whole_number(stream: str) -> None:
    for channel in STREAMS[stream].row_channels.values():
        for column in channel.columns:
            if column.name.endswith(("size", "volume")) or "_size_" in column.name:
                assert column.kind is Kind.FLOAT, f"{stream}.{channel.name}.{column.name}"
