"""Rejects of REST bodies: each has exactly the bytes of its own record, and says where it was."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdstream.handoff.rejects import place_of
from mdstream.handoff.ticket import Reject
from mdstream.streams.spec import PayloadKind
from tests.decoding import decode, rows
from tests.fuzzing import examples
from tests.workers.decoding.pair import Pair

TIME = b'"2026-01-05T14:30:00Z"'
EMPTY = [b"null", b"{}", b"[]", b"{ }", b"[ ]", b'""', b"0", b"false"]
GOOD, BAD, UNREADABLE, NO_RECORD = "good", "bad", "unreadable", "no record"


def make_record(kind: PayloadKind, what: str, mark: int) -> bytes:
    """Return a record that no other has the bytes of, so that `mark` tells which one it is."""
    if what == NO_RECORD:
        return [b"%d" % mark, b'"text %d"' % mark, b"%d.5" % mark, b"true"][mark % 4]
    price = {GOOD: b"%d", BAD: b'"bad %d"', UNREADABLE: b"0%d"}[what] % mark
    part = b'{"t":%b,"p":%b,"s":1,"x":"V","i":1,"c":["@"],"z":"C"}' % (TIME, price)
    if kind is PayloadKind.LISTED:
        number = {GOOD: b"%d", BAD: b'"%d"', UNREADABLE: b"0%d"}[what] % mark
        return b'{"id":%b,"created_at":%b,"headline":"h","symbols":["A"]}' % (number, TIME)
    return b'{"latestTrade":%b}' % part if kind is PayloadKind.SNAPSHOTS else part


WHAT = st.sampled_from([GOOD, GOOD, BAD, UNREADABLE, NO_RECORD, "empty"])


@st.composite
def values(draw: st.DrawFn, kind: PayloadKind, mark: Any, in_list: bool = False) -> tuple[bytes, list[Any]]:
    """Draw the value of a symbol or an item, and what becomes of its records: (what, bytes) of each."""
    what = draw(WHAT)
    if what == "empty":
        raw = draw(st.sampled_from(EMPTY))
        return raw, [(BAD, raw)] if in_list and raw not in (b"{}", b"{ }") else []
    raw = make_record(kind, what, next(mark))
    return raw, [(what, raw)]


FORMS = [
    (PayloadKind.SNAPSHOTS, "bare"),
    (PayloadKind.SNAPSHOTS, "bare beside null"),
    (PayloadKind.SNAPSHOTS, "by symbol"),
    (PayloadKind.TRADES, "by symbol"),
    (PayloadKind.TRADES, "lists"),
    (PayloadKind.TRADES, "one symbol"),
    (PayloadKind.LISTED, "listed"),
]


@pytest.mark.cases("V6", "V7")
@pytest.mark.parametrize(("kind", "form"), FORMS)
@given(data=st.data())
@settings(max_examples=examples(150), deadline=None)
def test_each_reject_has_the_bytes_of_its_own_record(
    kind: PayloadKind, form: str, data: st.DataObject
) -> None:
    mark = iter(range(1, 1000))
    listed = form in ("lists", "one symbol", "listed")
    expected: list[tuple[str, bytes]] = []

    def draw_list(least: int) -> bytes:
        items = []
        for _ in range(data.draw(st.integers(least, 4))):
            raw, found = data.draw(values(kind, mark, in_list=True))
            if raw in (b"{}", b"{ }"):
                continue  # a record without values: tested with those that lack a value
            items.append(raw)
            expected.extend(found)
        return b"[" + b", ".join(items) + b"]"

    def draw_members() -> bytes:
        members = []
        for index in range(data.draw(st.integers(1, 6))):
            if listed:
                raw = draw_list(0)
            else:
                raw, found = data.draw(values(kind, mark))
                expected.extend(found)
            members.append(b'"A%d": %b' % (index, raw))
        return b"{" + b",".join(members) + b"}"

    name = {PayloadKind.LISTED: b"news"}.get(kind, kind.name.lower().encode())
    match form:
        case "bare":
            body = draw_members()
        case "bare beside null":
            body = b'{"snapshots":null,' + draw_members()[1:]
        case "one symbol":
            body = b'{"%b":%b,"symbol":"A"}' % (name, draw_list(1))
        case "listed":
            body = b'{"%b":%b,"next_page_token":null}' % (name, draw_list(1))
        case _:
            body = b'{"%b":%b}' % (name, draw_members())
    stream = "news" if kind is PayloadKind.LISTED else "stocks"
    decoded = decode(stream, body, kind=kind)
    bad = [raw for what, raw in expected if what != GOOD]
    assert sorted(reject.data for reject in decoded.rejects) == sorted(bad), body
    assert decoded.counts == [len(expected)]
    kept = sum(map(len, rows(stream, decoded).values()))
    assert kept == len(expected) - len(bad)
    Pair(stream).decode([body], kind)


TRADE = '{"t":"2026-01-05T14:30:00Z","p":%s,"s":1,"x":"V","i":1,"c":["@"],"z":"C"}'
GOOD_TRADE, BAD_TRADE = TRADE % "1.5", TRADE % '"bad"'


def find_places(kind: PayloadKind, body: str) -> list[tuple[str, str]]:
    Pair("stocks").decode([body.encode()], kind)
    rejects = decode("stocks", body.encode(), kind=kind).rejects
    return [(place_of(kind, reject), reject.data.decode()) for reject in rejects]


@pytest.mark.parametrize("empty", ["{}", "null", "[]", ""])
def test_the_place_of_a_reject_is_the_path_to_its_record(empty: str) -> None:
    none = f'"B1":{empty},' if empty else ""
    bad = f'{{"latestTrade":{BAD_TRADE}}}'
    bare = f'{{"A1":{{"latestTrade":{GOOD_TRADE}}},{none}"C1":{bad},"E1":5}}'
    assert find_places(PayloadKind.SNAPSHOTS, bare) == [("record E1", "5"), ("record C1", bad)]
    part = f'{{"A1":5,{none}"C1":{{"latestTrade":{GOOD_TRADE}, "minuteBar": {{"t": 7}}}}}}'
    assert find_places(PayloadKind.SNAPSHOTS, f'{{"snapshots":{part}}}') == [
        ("record snapshots.A1", "5"),
        ("record snapshots.C1.minuteBar", '{"minuteBar":{"t": 7}}'),
    ]
    lists = f'{{"trades":{{"A1":[{GOOD_TRADE}],{none}"C1":[{GOOD_TRADE},{BAD_TRADE}]}}}}'
    assert find_places(PayloadKind.TRADES, lists) == [("record trades.C1[1]", BAD_TRADE)]
    one = f'{{"trades":[{GOOD_TRADE},{BAD_TRADE}],"symbol":"A1"}}'
    assert find_places(PayloadKind.TRADES, one) == [("record trades[1]", BAD_TRADE)]


def test_bytes_after_a_body_have_a_place_of_their_own() -> None:
    body = f'{{"trades":{{"A1":[{GOOD_TRADE}]}}}} <html>'
    assert find_places(PayloadKind.TRADES, body) == [("end of the body", "<html>")]


def test_a_reject_of_a_part_does_not_refuse_its_symbol() -> None:
    body = orjson.dumps({"A1": {"latestTrade": orjson.loads(GOOD_TRADE), "minuteBar": 5}})
    decoded = decode("stocks", body, kind=PayloadKind.SNAPSHOTS)
    [reject] = decoded.rejects
    assert reject._replace(reason="") == Reject(
        0, 0, "", b'{"minuteBar":5}', "minuteBar", "record A1.minuteBar"
    )
    assert decoded.bodies[0].symbols == {"A1"}
    assert decoded.bodies[0].refused == {}
