"""JSON messages that the kernels match by their keys, without parsing them step by step."""

from __future__ import annotations

import orjson
import pytest

from mdstream.streams import STREAMS
from workers.decoding.layouts import Layouts, assign_slots
from workers.decoding.learn_json import learn_message
from workers.kernels import keys, ops

TRADE = {"T": "t", "S": "AAPL", "p": 1.5, "t": "2024-03-12T10:38:50Z", "c": ["@"], "z": "C"}
BAR = {"T": "b", "S": "AAPL", "o": 1, "h": 1, "l": 1, "c": 1, "v": 1, "t": "2024-03-12T10:38:50Z"}


def learn(message: bytes, stream: str = "stocks") -> tuple[Layouts, dict[str, int]]:
    spec = STREAMS[stream]
    layouts = Layouts(spec, assign_slots(spec.channels))
    learn_message(layouts, message)
    names = ("ENTRIES", "BETWEEN", "MORE", "KEYS", "LEAD")
    return layouts, {n: int(layouts.layouts[0, getattr(ops, n)]) for n in names}


@pytest.mark.parametrize(
    ("message", "between", "key_count"),
    [
        (orjson.dumps(TRADE), 4, 6),
        (orjson.dumps(BAR), 6, 8),  # the type of a bar is also a column
        (orjson.dumps({**TRADE, "r": "unknown", "n": None, "q": 2}), 7, 9),
        (orjson.dumps({"S": "A", "z": "C", "T": "t", "t": "2024-03-12T10:38:50Z"}), 2, 4),
        (b'{"T": "t", "S": "A", "t": "2024-03-12T10:38:50Z"}', 1, 3),
    ],
)
def test_messages_without_levels_are_matched_by_their_keys(
    message: bytes, between: int, key_count: int
) -> None:
    _, found = learn(message)
    assert found["ENTRIES"] >= 0
    assert (found["BETWEEN"], found["KEYS"]) == (between, key_count)
    assert found["LEAD"] == message.index(b'":')


def test_every_literal_is_compared_to_its_last_byte() -> None:
    message = orjson.dumps({**TRADE, "a_key_of_many_words_that_nobody_wants": 5})
    layouts, found = learn(message)
    flat = layouts.entries[found["ENTRIES"] :].view("u8").tolist()
    literals = (found["BETWEEN"] + 2) * keys.ENTRY_WIDTH
    masks = flat[keys.MASK : literals : keys.ENTRY_WIDTH]
    more = flat[literals : literals + found["MORE"] * keys.MORE_WIDTH]
    masks += more[keys.MORE_MASK :: keys.MORE_WIDTH]
    values = b'"AAPL" 1.5 "2024-03-12T10:38:50Z" ["@"] "C" 5'.split()
    quoted = 4  # their first byte is counted in both
    compared = sum(mask.bit_count() // 8 for mask in masks)
    assert compared == len(message) - sum(map(len, values)) + quoted


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        ("crypto", b'{"T":"o","S":"BTC/USD","t":"2024-03-12T10:38:50Z","b":[{"p":1,"s":2}],"a":[]}'),
        ("stocks", orjson.dumps(dict(reversed(TRADE.items())))),  # the type comes last
        ("stocks", b'{"T":"t","S":"A","t":"2024-03-12T10:38:50Z","' + b"long" * 20 + b'":1}'),
    ],
)
def test_others_are_followed_step_by_step(stream: str, message: bytes) -> None:
    _, found = learn(message, stream)
    assert found["ENTRIES"] < 0
