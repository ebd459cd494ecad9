"""Kernels against the library: whatever the bytes, they must make the same of them."""

from __future__ import annotations

import itertools
import os
import re
from typing import Any

import msgpack
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdstream.simulator import flow
from mdstream.simulator.encode import ENCODINGS
from mdstream.streams import STREAMS
from mdstream.streams.spec import PayloadKind
from tests import traffic
from tests.running import SHARED
from tests.workers.pair import ODD_VALUES, Pair

COUNT = 3000
FUZZ = int(os.environ.get("FUZZ", "1"))  # `make fuzz` tries more, with every access checked
KINDS = {"json": PayloadKind.JSON, "msgpack": PayloadKind.MSGPACK}


def batches(stream: str, codec: str, per: int, count: int = COUNT, size: int = 40) -> Any:
    form = ENCODINGS[codec]
    messages = traffic.messages(stream, count)
    payloads = [
        form.payload([form.message(m) for m in messages[i : i + per]]) for i in range(0, count, per)
    ]
    return [payloads[i : i + size] for i in range(0, len(payloads), size)]


@pytest.mark.parametrize("per", [1, 3, 50])
@pytest.mark.parametrize(
    ("stream", "codec"),
    [(s, c) for s in STREAMS for c in ("json", "msgpack") if s != "options" or c == "msgpack"],
)
def test_generated_traffic_decodes_alike(stream: str, codec: str, per: int) -> None:
    pair = Pair(stream)
    for batch in batches(stream, codec, per):
        pair.decode(batch, KINDS[codec])
    assert stream == "news" or pair.gave_way < pair.payloads / 4


def small(stream: str, codec: str, per: int) -> bytes:
    """A payload with a message of every type that the stream has, as far as they go."""
    form = ENCODINGS[codec]
    first = {m["T"]: m for m in reversed(traffic.messages(stream, COUNT))}
    return form.payload([form.message(m) for m in list(first.values())[:per]])


CODED_STREAMS = [
    ("stocks", "json"),
    ("stocks", "msgpack"),
    ("crypto", "json"),
    ("options", "msgpack"),
]


@pytest.mark.parametrize(("stream", "codec"), CODED_STREAMS)
def test_payloads_cut_at_every_byte_are_the_same_rejects(stream: str, codec: str) -> None:
    pair, whole = Pair(stream), small(stream, codec, 3)
    pair.decode([whole], KINDS[codec])
    for cut in range(len(whole)):
        pair.decode([whole, whole[:cut], whole], KINDS[codec])


@pytest.mark.parametrize(("stream", "codec"), CODED_STREAMS)
@given(data=st.data())
@settings(max_examples=150 * FUZZ, deadline=None)
def test_flipped_bytes_decode_alike(stream: str, codec: str, data: st.DataObject) -> None:
    pair, whole = Pair(stream), small(stream, codec, 4)
    pair.decode([whole], KINDS[codec])
    bent = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        bent[data.draw(st.integers(0, len(whole) - 1))] = data.draw(
            st.integers(0, 255) | st.sampled_from(b'0123456789-+.eE"[]{},:\\ \x00\x80\xc0\xff')
        )
    pair.decode([whole, bytes(bent), whole], KINDS[codec])


SPACES = st.sampled_from([b"", b"", b"", b" ", b"\n\t", b"\r"])


@st.composite
def json_message(draw: st.DrawFn, stream: str) -> bytes:
    """A message of any shape: usual keys with odd values, in any order, spaced at will."""
    form = ENCODINGS["json"]
    usual = draw(st.sampled_from(traffic.messages(stream, 400)))
    members = {k: form.message({k: v})[len(k) + 4 : -1] for k, v in usual.items()}
    for _ in range(draw(st.integers(0, 3))):
        key = draw(st.sampled_from([*members, "zz", "p", "s", "side", "", "T"]))
        members[key] = draw(st.sampled_from(ODD_VALUES))
    for key in draw(st.lists(st.sampled_from(list(members)), max_size=2, unique=True)):
        del members[key]
    items = list(members.items())
    if draw(st.booleans()):
        items = draw(st.permutations(items))
    if draw(st.integers(0, 9)) == 0 and items:
        items.append(items[0])
    space = draw(SPACES)
    inside = b",".join(
        space + b'"' + k.encode() + b'"' + space + b":" + space + v + space for k, v in items
    )
    return b"{" + inside + b"}"


@pytest.mark.parametrize("stream", ["stocks", "crypto"])
@given(data=st.data())
@settings(max_examples=300 * FUZZ, deadline=None)
def test_messages_of_any_shape_decode_alike(stream: str, data: st.DataObject) -> None:
    messages = data.draw(st.lists(json_message(stream), min_size=1, max_size=6))
    per = data.draw(st.integers(1, 3))
    space = data.draw(SPACES)
    payloads = [
        space + b"[" + space + (space + b"," + space).join(messages[i : i + per]) + b"]" + space
        for i in range(0, len(messages), per)
    ]
    pair = Pair(stream)
    pair.decode(payloads, PayloadKind.JSON)
    pair.decode(payloads[::-1], PayloadKind.JSON)


ODD_OBJECTS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.integers(-200, 200),
    st.floats(width=32),
    st.text(max_size=40),
    st.binary(max_size=8),
    st.lists(st.text(max_size=3), max_size=3),
    st.builds(msgpack.Timestamp, st.integers(-(2**40), 2**40), st.integers(0, 10**9 - 1)),
    st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=4)),
    st.dictionaries(st.sampled_from("ps"), st.floats(width=32), max_size=2),
    st.lists(st.fixed_dictionaries({"p": st.floats(width=32), "s": st.integers(0, 9)}), max_size=3),
    st.just("2024-03-12T10:38:50.7Z"),
)


@pytest.mark.parametrize("stream", ["stocks", "crypto", "options"])
@given(data=st.data())
@settings(max_examples=300 * FUZZ, deadline=None)
def test_msgpack_of_any_shape_decodes_alike(stream: str, data: st.DataObject) -> None:
    form = ENCODINGS["msgpack"]
    bodies = []
    for _ in range(data.draw(st.integers(1, 5))):
        usual = data.draw(st.sampled_from(traffic.messages(stream, 400)))
        message = msgpack.unpackb(form.message(usual))
        for key in data.draw(st.lists(st.sampled_from([*message, "zz", "p"]), max_size=3)):
            message[key] = data.draw(ODD_OBJECTS)
        single = usual["T"] == "t" and data.draw(st.booleans())
        bodies.append(msgpack.packb(message, use_single_float=single, strict_types=False))
    payload = form.payload(bodies)
    pair = Pair(stream)
    pair.decode([payload, payload], PayloadKind.MSGPACK)
    pair.decode([payload], PayloadKind.MSGPACK)


@pytest.mark.parametrize(
    ("codec", "payload"),
    [
        ("msgpack", b"\x91\x81\xa1T\xa1\x80"),
        ("msgpack", b"\xdd\xff\xff\xff\xff\x81\xa1T\xa1t"),
        ("json", b'[{"T":"t","x":' + b"[" * 100_000),
        ("json", small("stocks", "json", 1).replace(b'"p":', b'"p":,"p":', 1)),
        ("json", small("stocks", "json", 1).replace(b'"S":"', b'"S":"' + b"A" * 600, 1)),
        ("json", small("stocks", "json", 1).replace(b'"S":"', b'"S":"' + b"A" * 1100, 1)),
        ("msgpack", msgpack.packb([{"T": "q", "S": "A" * 600, "t": msgpack.Timestamp(1, 1)}])),
        ("json", re.sub(rb'("[bap]+":)[0-9.]+', rb"\1", small("stocks", "json", 1), count=1)),
    ],
)
def test_what_fuzzing_found(codec: str, payload: bytes) -> None:
    pair = Pair("stocks")
    pair.decode([small("stocks", codec, 2), payload, small("stocks", codec, 2)], KINDS[codec])


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="needs ../shared/data")
@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_a_recorded_day_decodes_alike(codec: str) -> None:
    day = SHARED / "data" / "ticks" / "ibm-2013-10-07.csv.gz"
    form, pair = ENCODINGS[codec], Pair("stocks")
    pair.room = 8 << 20
    events = flow.recorded(day, {"trades": ["*"], "quotes": ["*"]})
    count = 0
    while part := [form.message(m) for m in itertools.islice(events, 8000)]:
        pair.decode([form.payload(part[i : i + 20]) for i in range(0, len(part), 20)], KINDS[codec])
        count += len(part)
    assert count == 133_360
    assert pair.gave_way == 0


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="needs ../shared/data")
@pytest.mark.parametrize("stream", ["stocks", "crypto", "options", "news"])
def test_recorded_frames_decode_alike(stream: str) -> None:
    pair = Pair(stream)
    for path in sorted((SHARED / "data" / "alpaca" / "stream").glob(f"{stream}*.jsonl")):
        lines = path.read_bytes().splitlines()
        for batch in (lines, lines * 3, lines[::-1]):
            pair.decode(batch, PayloadKind.JSON)
        as_msgpack = [msgpack.packb(orjson.loads(line)) for line in lines]
        pair.decode(as_msgpack * 2, PayloadKind.MSGPACK)
