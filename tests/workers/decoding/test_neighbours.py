"""Messages decoded together: each becomes what it becomes alone, whatever is beside it."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdstream.simulator.encode import ENCODINGS
from mdstream.streams import STREAMS
from mdstream.streams.spec import PayloadKind
from tests.decoding import decode, rows
from tests.fuzzing import examples
from tests.workers.decoding.pair import Pair
from tests.workers.decoding.test_fallback import make_messages
from workers.decoding import fallback
from workers.decoding.columns import ColumnMaker

_FORM = ENCODINGS["json"]
_TRAFFIC = {
    stream: [orjson.loads(_FORM.message(m)) for m in make_messages(stream, 60)] for stream in STREAMS
}
_VALUES: list[Any] = [
    None, [], {}, "", 0, -1, 1, 0.5, 1e300, 2**63, 2**64 - 1, True, False, "x", "ZZA", "a" * 1025,
    [None], [[]], ["a", None], ["", ""], ["A"], ["ZZZ", "AAPL"], {"p": 1}, [{"p": 1, "s": 2}],
    "2026-01-05T14:30:00Z", "0001-01-01T00:00:00Z",
]  # fmt: skip


@st.composite
def changed_messages(draw: st.DrawFn, stream: str) -> list[dict[str, Any]]:
    """Return messages of a stream in which some members have other values, or none."""
    messages = copy.deepcopy(draw(st.lists(st.sampled_from(_TRAFFIC[stream]), min_size=1, max_size=5)))
    for message in messages:
        for key in draw(st.lists(st.sampled_from(sorted(message.keys() - {"T"})), max_size=2)):
            message[key] = draw(st.sampled_from(_VALUES))
    return messages


def _summary(stream: str, *payloads: bytes) -> tuple[Counter[bytes], Counter[str]]:
    """Return the rows and the reasons of rejects, each payload decoded alone."""
    found, reasons = Counter[bytes](), Counter[str]()
    for payload in payloads:
        decoded = decode(stream, payload)
        assert not decoded.fault
        for channel, values in rows(stream, decoded).items():
            found.update(channel.encode() + orjson.dumps(row, default=str) for row in values)
        reasons.update(reject.reason for reject in decoded.rejects)
    return found, reasons


@pytest.mark.parametrize("stream", STREAMS)
@given(data=st.data())
@settings(max_examples=examples(120), deadline=None)
def test_a_message_is_decoded_beside_others_as_it_is_alone(stream: str, data: st.DataObject) -> None:
    messages = data.draw(changed_messages(stream))
    together = _summary(stream, orjson.dumps(messages))
    assert together == _summary(stream, *(orjson.dumps([message]) for message in messages))


@pytest.mark.parametrize("symbols", [[], None])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_article_without_symbols_stands_beside_others(symbols: Any, place: int) -> None:
    base = _TRAFFIC["news"][0]
    articles = [{**base, "id": number, "symbols": [f"NEW{number}"]} for number in range(3)]
    articles[place]["symbols"] = symbols
    for payloads in ([orjson.dumps(articles)], [orjson.dumps([article]) for article in articles]):
        decoded = Pair("news").decode(payloads, PayloadKind.JSON)
        assert not decoded.rejects
        assert len(decoded.columns["articles"][0].values) == 3
    found = rows("news", decode("news", orjson.dumps(articles)))["articles"]
    assert [row["symbols"] for row in found] == [article["symbols"] for article in articles]


def test_an_error_in_our_code_costs_one_message_and_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = ColumnMaker.columns

    def fail(self: ColumnMaker, channel: Any, flat: Any) -> Any:
        if any(record.get("S") == "BAD" for record in flat.records):
            raise TypeError("unhashable type: 'list'")
        return columns(self, channel, flat)

    monkeypatch.setattr(fallback.ColumnMaker, "columns", fail)
    trades = [m for m in _TRAFFIC["stocks"] if m["T"] == "t"][:3]
    trades[1] = {**trades[1], "S": "BAD"}
    decoded = decode("stocks", orjson.dumps(trades))
    assert len(rows("stocks", decoded)["trades"]) == 2
    [reject] = decoded.rejects
    assert (reject.message, reject.data) == (1, orjson.dumps(trades[1]))
    assert reject.reason.startswith("error in the fallback decoder: TypeError: unhashable type")
    assert decoded.fault == reject.reason
