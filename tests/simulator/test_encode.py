from __future__ import annotations

import json
import math
from typing import Any

import msgpack
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdstream.simulator.encode import ENCODINGS, Time, rfc3339, to_json


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (1710239930_796132210, "2024-03-12T10:38:50.79613221Z"),
        (1710239931_000000000, "2024-03-12T10:38:51Z"),
        (1710239930_800000000, "2024-03-12T10:38:50.8Z"),
        (1, "1970-01-01T00:00:00.000000001Z"),
    ],
)
def test_times_look_as_go_writes_them(ns: int, text: str) -> None:
    assert rfc3339(ns) == text


def test_json_looks_as_go_writes_it() -> None:
    value = {"p": 174.0, "h": "<b>&", "t": Time(1), "x": [1.5, {"a": 2.0}], "r": True}
    assert to_json(value) == (
        b'{"p":174,"h":"\\u003cb\\u003e\\u0026","t":"1970-01-01T00:00:00.000000001Z","x":[1.5,{"a":2}],"r":true}'
    )


@pytest.mark.parametrize(
    ("ns", "size"), [(0, 6), (1_700_000_000_000_000_000, 6), (1_700_000_000_000_000_001, 10)]
)
def test_msgpack_times_are_the_timestamp_extension_in_its_shortest_form(ns: int, size: int) -> None:
    packed = ENCODINGS["msgpack"].message(Time(ns))
    assert len(packed) == size
    assert msgpack.unpackb(packed).to_unix_nano() == ns


MESSAGES = st.lists(
    st.dictionaries(
        st.text(max_size=4),
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**63 - 1)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=8),
        max_size=5,
    ),
    max_size=40,
)


@given(MESSAGES)
def test_payloads_put_together_from_parts_are_whole(messages: list[dict[str, Any]]) -> None:
    for name, decode in (("json", orjson.loads), ("msgpack", msgpack.unpackb)):
        form = ENCODINGS[name]
        decoded = decode(form.payload([form.message(m) for m in messages]))
        assert len(decoded) == len(messages)
        for found, message in zip(decoded, messages, strict=True):
            assert list(found) == list(message)
            for key, value in message.items():
                same = math.isclose(found[key], value) if isinstance(value, float) else found[key] == value
                assert same


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_frames_are_whole_websocket_messages(size: int) -> None:
    from websockets.frames import Frame
    from websockets.streams import StreamReader

    payload = b"x" * size
    reader = StreamReader()
    reader.feed_data(ENCODINGS["json"].wrap(payload))
    parser = Frame.parse(reader.read_exact, mask=False)
    with pytest.raises(StopIteration) as done:
        next(parser)
    frame = done.value.value
    assert (bytes(frame.data), frame.fin, frame.opcode) == (payload, True, 1)


def test_html_survives_its_escapes() -> None:
    text = "<p>Tom & Jerry > Itchy</p>"
    assert json.loads(to_json({"content": text})) == {"content": text}
