"""Declared channels: for any columns, kernels and the fallback decoder give the same results."""

from __future__ import annotations

from typing import Any

import msgpack
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdstream.streams.rest_spec import Fetch
from mdstream.streams.spec import RECV_TS, Channel, Column, Kind, PayloadKind, StreamSpec
from tests.fuzzing import examples
from tests.workers.decoding.pair import Pair

KEYS = ["S", "t", "px", "qty", "venue_of_execution", "c", "seq", "flag", "x", "a_key_of_more_than_one_word"]
VALUES: dict[Kind, Any] = {
    Kind.SYMBOL: st.sampled_from(["AAPL", "BTC/USD", "A", "AAPL240426C00162500"]),
    Kind.TIME: st.sampled_from(["2024-03-12T10:38:50.79613221Z", "2024-03-12T10:39:00Z"]),
    Kind.FLOAT: st.floats(-1e9, 1e9) | st.integers(0, 10**6) | st.decimals(0, 999, places=2).map(float),
    Kind.INT: st.integers(-(2**63), 2**63 - 1) | st.integers(0, 99),
    Kind.UINT: st.integers(0, 2**64 - 1) | st.integers(0, 99),
    Kind.BOOL: st.booleans(),
    Kind.CODE: st.sampled_from(["N", "Q", "XNAS", " ", ""]),
    Kind.CONDITIONS: st.lists(st.sampled_from(["@", "F", "T", "odd"]), max_size=3),
}
WORKS = [PayloadKind.JSON, PayloadKind.MSGPACK]


@st.composite
def channels(draw: st.DrawFn, wire_type: str) -> Channel:
    """Draw a channel with any columns, and its keys in any order."""
    keys = draw(st.lists(st.sampled_from(KEYS), min_size=1, max_size=8, unique=True))
    columns = []
    for key in keys:
        kind = draw(st.sampled_from(list(VALUES)))
        coded = kind in (Kind.SYMBOL, Kind.CODE, Kind.CONDITIONS)
        columns.append(
            Column(
                f"col_{key}",
                kind,
                key,
                required=draw(st.booleans()),
                essential=draw(st.booleans()),
                default=False if kind is Kind.BOOL and draw(st.booleans()) else None,
                dictionary=f"texts_{kind.value}" if coded else "",
            )
        )
    return Channel(f"channel_{wire_type}", (*columns, RECV_TS), (wire_type,), ())


@st.composite
def vendors(draw: st.DrawFn) -> StreamSpec:
    """Draw a stream with one or two channels."""
    types = draw(st.sampled_from([("k",), ("k", "longer_type")]))
    return StreamSpec(
        name="vendor",
        channels=tuple(draw(channels(t)) for t in types),
        feeds={"all": "/all"},
        default_feed="all",
        codec="json",
        codecs=("json", "msgpack"),
        symbols=(),
        fetch=Fetch("/x"),
        mute_after_s={},
        always_open=True,
    )


def draw_messages(draw: Any, spec: StreamSpec) -> list[dict[str, Any]]:
    made = []
    for _ in range(draw(st.integers(1, 12))):
        channel = draw(st.sampled_from(spec.channels))
        message = {"T": channel.types[0]}
        for column in channel.columns[:-1]:
            if column.required or draw(st.integers(0, 4)):
                message[column.key] = draw(VALUES[column.kind])
        if draw(st.integers(0, 3)) == 0:
            message["unknown"] = draw(st.sampled_from([1.5, "text", None, True, [1], {"a": 1}]))
        made.append(message)
    return made


@pytest.mark.parametrize("kind", WORKS, ids=lambda kind: kind.name)
@given(data=st.data())
@settings(max_examples=examples(150), deadline=None)
def test_any_declaration_decodes_identically(kind: PayloadKind, data: st.DataObject) -> None:
    spec = data.draw(vendors())
    pack: Any = orjson.dumps if kind is PayloadKind.JSON else msgpack.packb
    payloads = [pack(draw_messages(data.draw, spec)) for _ in range(data.draw(st.integers(1, 3)))]
    pair = Pair(spec)
    pair.decode(payloads, kind)
    pair.decode(payloads * 2, kind)


@pytest.mark.parametrize("kind", WORKS, ids=lambda kind: kind.name)
def test_a_new_channel_is_decoded_by_kernels(kind: PayloadKind) -> None:
    columns = (
        Column("symbol", Kind.SYMBOL, "sym", required=True, dictionary="symbols"),
        Column("ts", Kind.TIME, "when", required=True),
        Column("funding_rate", Kind.FLOAT, "fr"),
        Column("open_interest", Kind.UINT, "oi"),
        RECV_TS,
    )
    channel = Channel("pricing", columns, ("p",), ("pricing",))
    spec = StreamSpec(
        "perps",
        (channel,),
        {"global": "/perps"},
        "global",
        "json",
        ("json",),
        (),
        Fetch("/perps"),
        {},
        True,
    )
    when: Any = "2024-03-12T10:38:50.5Z" if kind is PayloadKind.JSON else msgpack.Timestamp(1, 5)
    message = {"T": "p", "sym": "BTC-PERP", "when": when, "fr": 1.25e-05, "oi": 2**64 - 1}
    pack: Any = orjson.dumps if kind is PayloadKind.JSON else msgpack.packb
    pair = Pair(spec)
    decoded = pair.decode([pack([message, message])] * 3, kind)
    assert pair.fell_back == 0
    assert decoded.columns["pricing"][3].values.tolist() == [2**64 - 1] * 6
