"""Built bars equal bars of plain loops over the received rows, for any batches, and after kills."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdstream.feed.commit import Committer
from mdstream.frames.direct_path import no_direct_path
from mdstream.frames.rundir import RunDirectory, frame_path, slabs_path, state_path
from mdstream.frames.writer import Limits
from mdstream.handoff.slab import Slab
from mdstream.handoff.ticket import Ticket
from mdstream.reading.reader import FrameReader
from mdstream.simulator.encode import rfc3339
from mdstream.store.rejects import RejectFile
from mdstream.streams import STREAMS
from mdstream.streams.bar_rules import BAR_INTERVALS
from mdstream.streams.spec import Mark, PayloadKind
from mdstream.system.clock import Moment, Span
from mdstream.telemetry.state import FeedState
from tests.fuzzing import examples
from tests.workers.aggregation.bar_model import MINUTE, SECOND, Model, Row
from workers import boot, job, python_mode

START = 1_700_000_040_000_000_000 - 1_700_000_040_000_000_000 % MINUTE

Event = tuple[str, Row]

_numbers = itertools.count()


@pytest.fixture(autouse=True, scope="module", params=["machine code", "python"])
def mode(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run all tests with compiled kernels, and with the same kernels as Python functions."""
    if request.param == "python":
        python_mode.enter()
    yield
    python_mode.leave()


class Bench:
    """The committer of a stream, to which tests give events in batches."""

    def __init__(self, run: Path, stream: str, retention: int = 64_000_000) -> None:
        self.run, self.stream = run, stream
        path = state_path(run, stream)
        self.state = FeedState(path, write=True) if path.exists() else FeedState.create(path)
        limits = Limits(retention, 4_000_000)
        rejects = RejectFile(run / "rejects.jsonl")
        self.committer = Committer(run, STREAMS[stream], self.state, limits, rejects, boot, no_direct_path)
        name = f"{stream}-{next(_numbers)}"
        self.slab = Slab.create(slabs_path(run) / name, 1 << 20)

    def batch(self, events: Sequence[Event], kernels: bool = False) -> None:
        sequence = self.state["sequence"] + 1
        self.slab.begin(sequence)
        for what, it in events:
            if what in ("gap", "tick"):
                self.slab.append(Mark[what.upper()].value, PayloadKind.MARK, it["recv"])
            else:
                payload = orjson.dumps([make_message(self.stream, what, it)])
                self.slab.append(payload, PayloadKind.JSON, it["recv"])
        self.slab.seal()
        receipt = job.run(
            Ticket(str(self.run), self.stream, str(self.slab.path), sequence, kernels=kernels)
        )
        assert not any(receipt.rejected)
        self.committer.commit(self.slab, receipt, Span.at(Moment.now()))

    def rows(self, name: str) -> list[Row]:
        _, frame = FrameReader(frame_path(self.run, f"{self.stream}.{name}")).read()
        times = {c: frame[c].to_physical() for c in ("ts", "recv_ts")}
        return frame.with_columns(symbol=frame["symbol"].to_physical(), **times).to_dicts()


def get_amended(it: Row) -> dict[str, Any]:
    """Return the price and size that an amendment names; without them, it means the last trade of the id."""
    return {"p": it.get("old_price"), "s": it.get("old_size")}


def make_message(stream: str, what: str, it: Row) -> dict[str, Any]:
    at = {"S": f"S{it['symbol']}", "t": rfc3339(it.get("ts", it["recv"]))}
    if stream == "crypto":
        if what == "trade":
            return {"T": "t", **at, "p": it["price"], "s": it["size"], "i": it["id"], "tks": "B"}
        return {"T": "q", **at, "bp": it["price"] - 0.25, "bs": 1.0, "ap": it["price"] + 0.25, "as": 2.0}
    if what == "trade":
        return {
            "T": "t",
            **at,
            "p": it["price"],
            "s": it["size"],
            "c": it["conditions"],
            "z": it["tape"],
            "i": it["id"],
            "x": it["exchange"],
            **({"u": it["update"]} if "update" in it else {}),
        }
    if what == "cancel":
        return {"T": "x", **at, "i": it["id"], "x": it["exchange"], **get_amended(it), "a": "C", "z": "A"}
    return {
        "T": "c",
        **at,
        "x": it["exchange"],
        "oi": it["id"],
        "op": it.get("old_price"),
        "os": it.get("old_size"),
        "oc": ["@"],
        "ci": it["new_id"],
        "cp": it["price"],
        "cs": it["size"],
        "cc": it["conditions"],
        "z": it["tape"],
    }


@contextmanager
def open_bench(stream: str, **more: Any) -> Iterator[Bench]:
    with RunDirectory() as run:
        yield Bench(run.path, stream, **more)


def build_bars(stream: str, events: Sequence[Event], cuts: Sequence[int]) -> dict[str, list[Row]]:
    """Return the bars of each length from events in batches. The sizes in `cuts` repeat."""
    with open_bench(stream) as made:
        left = list(events)
        for size in itertools.cycle(cuts):
            if not left:
                break
            made.batch(left[:size])
            left = left[size:]
        made.committer.close()
        return {name: made.rows(name) for name in BAR_INTERVALS}


def get_effect(trade: Row) -> str:
    if "Q" in trade["conditions"]:
        return "nothing"
    if "I" in trade["conditions"] or ("B" in trade["conditions"] and trade["tape"] in "AB"):
        return "volume"
    return "all"


def run_models(stream: str, events: Sequence[Event]) -> dict[str, Model]:
    """Return the expected bars by plain loops. Symbols get numbers in order of their first event."""
    codes: dict[int, int] = {}
    models = {
        "bars_1s": Model(SECOND, SECOND, MINUTE, get_effect),
        "bars_1m": Model(MINUTE, MINUTE // 2, 60 * MINUTE, get_effect),
    }
    for model in models.values():
        if stream == "crypto":
            model.midpoints, model.effect = True, lambda trade: "all"
        for what, it in events:
            named = {"symbol": codes.setdefault(it["symbol"], len(codes))} if "symbol" in it else {}
            model.take(what, {**it, **named})
        model.finish()
    return models


def assert_expected(stream: str, events: Sequence[Event], found: dict[str, list[Row]]) -> None:
    for name, model in run_models(stream, events).items():
        for row in model.rows:
            if stream != "crypto":
                row |= {"volume": int(row["volume"]), "vwap_volume": int(row["vwap_volume"])}
        vwaps = [row.pop("vwap") for row in model.rows], [row.pop("vwap") for row in found[name]]
        assert found[name] == model.rows, name
        for wanted, vwap in zip(*vwaps, strict=True):
            assert vwap == (wanted and pytest.approx(wanted, rel=1e-15)), name


PRICES = st.sampled_from([100.0, 100.01, 99.99, 0.1, 3.3, 7.77])


@st.composite
def stocks(draw: st.DrawFn) -> list[Event]:
    """Draw trades (some late, some with future times), corrections, cancels, gaps and ticks."""
    events: list[Event] = []
    recv = START
    for _ in range(draw(st.integers(0, 40))):
        recv += draw(st.sampled_from([1000, SECOND // 10, SECOND // 10, SECOND, 7 * SECOND, 40 * SECOND]))
        what = draw(st.sampled_from(["trade"] * 8 + ["cancel", "correction", "correction", "gap", "tick"]))
        if what in ("gap", "tick"):
            events.append((what, {"recv": recv}))
            continue
        delay = draw(
            st.sampled_from([0, 0, 0, 0, SECOND, 20 * SECOND, 90 * SECOND, 2 * 60 * MINUTE, -2 * MINUTE])
        )
        it = {
            "symbol": draw(st.integers(0, 2)),
            "recv": recv,
            "price": draw(PRICES),
            "size": draw(st.integers(1, 500)),
            "tape": draw(st.sampled_from("ABC")),
            "conditions": draw(st.sampled_from([["@"], ["@"], ["@", "I"], ["Q"], [" "], ["B"]])),
            "exchange": "V",
            "id": len(events),
        }
        if what == "trade":
            it["ts"] = recv - delay
        else:
            earlier = [e for w, e in events if w in ("trade", "correction")]
            if earlier:
                meant = draw(st.sampled_from(earlier))
                it |= {"symbol": meant["symbol"], "id": meant.get("new_id", meant["id"])}
            it["new_id"] = 1000 + len(events)
        events.append((what, it))
    return events


@given(stocks(), st.lists(st.integers(1, 20), min_size=1, max_size=4))
@settings(max_examples=examples(80), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_bars_of_stocks_equal_plain_loops_however_they_were_cut(
    events: list[Event], cuts: list[int]
) -> None:
    whole = build_bars("stocks", events, [max(1, len(events))])
    assert whole == build_bars("stocks", events, [1]) == build_bars("stocks", events, cuts)
    assert_expected("stocks", events, whole)


@st.composite
def crypto(draw: st.DrawFn) -> list[Event]:
    """Draw trades and quotes."""
    events: list[Event] = []
    recv = START
    for number in range(draw(st.integers(0, 40))):
        recv += draw(st.sampled_from([0, SECOND // 10, SECOND, 7 * SECOND, 40 * SECOND]))
        it = {
            "symbol": draw(st.integers(0, 2)),
            "recv": recv,
            "ts": recv,
            "price": draw(PRICES),
            "size": draw(st.sampled_from([0.125, 1.5, 3.0])),
            "id": number,
            "exchange": None,
        }
        events.append((draw(st.sampled_from(["trade", "quote", "quote", "tick"])), it))
    return [(what, it if what != "tick" else {"recv": it["recv"]}) for what, it in events]


@given(crypto(), st.lists(st.integers(1, 20), min_size=1, max_size=4))
@settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_bars_of_crypto_have_the_midpoints_of_quotes(events: list[Event], cuts: list[int]) -> None:
    events = [(what, {**it, "price": it["price"] + 1} if "price" in it else it) for what, it in events]
    whole = build_bars("crypto", events, [max(1, len(events))])
    assert whole == build_bars("crypto", events, cuts)
    assert_expected("crypto", events, whole)


def make_successor(run: Path, killed: Bench) -> Bench:
    """Return the successor of a killed feed of stocks."""
    again = boot.rebuild_partials(str(run), "stocks", killed.committer.committed_rows)
    made = Bench(run, "stocks")
    made.committer.restore_bars(again)
    return made


@given(stocks(), st.integers(0, 40), st.integers(1, 20))
@settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_successor_of_a_killed_feed_gets_the_same_bars(
    events: list[Event], killed: int, size: int
) -> None:
    # A killed feed loses the time that passed without data. Events that depend on it are left out.
    events = [(w, it) for w, it in events if w != "tick" and it["recv"] - it.get("ts", it["recv"]) < MINUTE]
    batches = [events[i : i + size] for i in range(0, len(events), size)]
    with RunDirectory() as run:
        made = Bench(run.path, "stocks")
        for index, batch in enumerate(batches):
            if index * size <= killed < (index + 1) * size:
                made = make_successor(run.path, made)
            made.batch(batch)
        made.committer.close()
        for name, model in run_models("stocks", events).items():
            last = {(row["symbol"], row["ts"]): row for row in made.rows(name)}
            expected = {(row["symbol"], row["ts"]): row for row in model.rows}
            assert last.keys() == expected.keys()
            for key, row in expected.items():
                for column in ("open", "high", "low", "close", "volume", "trade_count"):
                    assert last[key][column] == row[column]


def test_bars_that_the_clock_ended_are_not_published_again_by_a_successor() -> None:
    tick = ("tick", {"recv": START + 5 * SECOND})
    batches = [[trade(0, 0), trade(1, 0.5)], [tick], [trade(0, 9)], [trade(0, 70)]]
    with RunDirectory() as run:
        made = Bench(run.path, "stocks")
        for index, batch in enumerate(batches):
            if index == 2:  # a kill after the tick published both bars of the first second
                assert len(made.rows("bars_1s")) == 2
                made = make_successor(run.path, made)
            made.batch(batch)
        made.committer.close()
        rows = [(r["symbol"], (r["ts"] - START) // SECOND) for r in made.rows("bars_1s")]
        assert rows == [(0, 0), (1, 0), (0, 9), (0, 70)]


def test_bars_that_were_revised_are_not_published_again_by_a_successor() -> None:
    cancel = {"symbol": 0, "id": 7, "exchange": "V", "recv": START + 6 * SECOND}
    batches = [
        [trade(0, 0, id=7), trade(0, 0.5, id=8, price=101.0), trade(1, 0, id=9)],
        [trade(0, 5, id=10)],
        [("cancel", cancel)],
        [trade(0, 40, id=11)],
        [trade(0, 80, id=12)],
    ]
    found = {}
    for killed in (None, 3, 4):
        with RunDirectory() as run:
            made = Bench(run.path, "stocks")
            for index, batch in enumerate(batches):
                for _ in range(2 if index == killed else 0):  # its successor is killed at once too
                    made = make_successor(run.path, made)
                made.batch(batch)
            made.committer.close()
            found[killed] = {name: made.rows(name) for name in ("bars_1s", "bars_1m")}
    assert any(row["revised"] for row in found[None]["bars_1s"])
    assert found[3] == found[None]
    assert found[4] == found[None]


def trade(symbol: int, second: float, **more: Any) -> Event:
    at = START + int(second * SECOND)
    it = {
        "symbol": symbol,
        "recv": at,
        "ts": at,
        "price": 100.0,
        "size": 10,
        "tape": "A",
        "exchange": "V",
        "conditions": ["@"],
        "id": 1,
    }
    return "trade", {**it, **more}


def summarize(rows: Sequence[Row]) -> list[tuple[Any, ...]]:
    return [
        (r["symbol"], (r["ts"] - START) // MINUTE, r["trade_count"], r["revised"], r["complete"])
        for r in rows
    ]


def test_minutes_are_published_when_over_and_revised_at_half_minutes() -> None:
    events = [
        trade(0, 0),
        trade(1, 59),
        trade(0, 60),  # the first minute is over for all symbols
        trade(1, 62, ts=START + 58 * SECOND),  # late
        trade(0, 89),
        trade(0, 90),  # the revision comes half a minute later
        trade(0, 121),
    ]
    rows = build_bars("stocks", events, [1])["bars_1m"]
    assert summarize(rows) == [
        (0, 0, 1, False, False),  # the stream began in this minute
        (1, 0, 1, False, False),
        (1, 0, 2, True, False),
        (0, 1, 3, False, True),
        (0, 2, 1, False, False),  # and it ended in this minute
    ]


def test_minutes_with_a_lost_connection_are_not_complete() -> None:
    gap = ("gap", {"recv": START + 130 * SECOND})
    events = [trade(0, s) for s in (0, 60, 120)] + [gap] + [trade(0, s) for s in (200, 240, 300, 360)]
    complete = [
        (minute, whole)
        for _, minute, _, _, whole in summarize(build_bars("stocks", events, [3])["bars_1m"])
    ]
    assert complete == [(0, False), (1, True), (2, False), (3, False), (4, True), (5, True), (6, False)]


def test_time_alone_ends_bars_of_a_quiet_stream() -> None:
    with open_bench("stocks") as made:
        made.batch([trade(0, 1.5)])
        assert made.committer.bars_wait
        for number in range(1, 70):
            recv = START + int((1.5 + 1.001 * number) * SECOND)
            made.batch([("tick", {"recv": recv})])
            if made.rows("bars_1m"):
                break
        assert recv <= START + 62.5 * SECOND
        assert summarize(made.rows("bars_1m")) == [(0, 0, 1, False, False)]
        assert not made.committer.bars_wait
        made.committer.close()


def find_complete_minutes(events: Sequence[Event]) -> dict[int, bool]:
    return {
        minute: whole for _, minute, _, _, whole in summarize(build_bars("stocks", events, [1])["bars_1m"])
    }


def test_what_comes_first_may_be_late_and_says_nothing_of_its_minute() -> None:
    first = trade(0, 65, ts=START + 58 * SECOND)
    assert find_complete_minutes([first, *(trade(0, s) for s in (70, 121, 181))])[1] is False


def test_bars_that_time_ended_while_the_connection_was_dead_are_revised() -> None:
    def at(what: str, second: int) -> Event:
        return what, {"recv": START + second * SECOND}

    events = [trade(0, 0), trade(0, 70), at("tick", 125), at("gap", 130), trade(0, 190), trade(0, 250)]
    rows = summarize(build_bars("stocks", events, [1])["bars_1m"])
    assert (0, 1, 1, False, True) in rows  # the bar as published at its end
    assert (0, 1, 1, True, False) in rows


def test_a_batch_that_is_given_up_leaves_its_bars_incomplete() -> None:
    with open_bench("stocks") as made:
        made.batch([trade(0, 0), trade(0, 60), trade(0, 120)])
        made.slab.begin(made.state["sequence"] + 1)
        made.slab.append(b"poison", PayloadKind.JSON, START + 121 * SECOND)
        made.committer.quarantine(made.slab, made.state["sequence"] + 1, "poison", Span.at(Moment.now()))
        made.batch([trade(0, s) for s in (125, 180, 240, 300)])
        complete = {minute: whole for _, minute, _, _, whole in summarize(made.rows("bars_1m"))}
        assert complete == {0: False, 1: True, 2: False, 3: True, 4: True}
        made.committer.close()


def test_what_a_killed_feed_never_received_is_a_gap() -> None:
    """The gap also affects the minutes of batches that the successor finds in slabs."""
    with RunDirectory() as run:
        made = Bench(run.path, "stocks")
        made.batch([trade(0, s) for s in (0, 60, 120)])
        again = boot.rebuild_partials(str(run.path), "stocks", made.committer.committed_rows)
        made = Bench(run.path, "stocks")
        made.committer.restore_bars(again)
        made.batch([trade(0, 130)])  # the killed feed received this batch
        made.batch([("gap", {"recv": START + 135 * SECOND}), *(trade(0, s) for s in (190, 240, 300))])
        complete = {minute: whole for _, minute, _, _, whole in summarize(made.rows("bars_1m"))}
        assert complete == {0: False, 1: True, 2: False, 3: False, 4: True}
        made.committer.close()


@pytest.mark.parametrize(
    ("price", "size", "left"),
    [
        (100.0, 10, [(0, 0, None), (1, 1, 200.0)]),
        (200.0, 20, [(0, 1, 100.0), (1, 0, None)]),
        (None, None, [(0, 1, 100.0), (1, 0, None)]),  # it names neither: the last one of the id
    ],
)
@pytest.mark.cases("I2")
def test_of_two_trades_with_one_id_an_amendment_means_that_of_its_price_and_size(
    price: float | None, size: int | None, left: list[Any]
) -> None:
    cancel = {"symbol": 0, "id": 7, "exchange": "D", "recv": START + 3 * SECOND}
    with open_bench("stocks") as made:
        made.batch([trade(0, 0, id=7, exchange="D", price=100.0, size=10)])
        made.batch([trade(0, 1, id=7, exchange="D", price=200.0, size=20)])
        made.batch([trade(1, 2.5)])
        made.batch([("cancel", {**cancel, "old_price": price, "old_size": size}), trade(1, 30)])
        rows = {r["ts"]: r for r in made.rows("bars_1s") if r["symbol"] == 0}
        assert [((ts - START) // SECOND, r["trade_count"], r["open"]) for ts, r in rows.items()] == left
        made.committer.close()


@pytest.mark.cases("I2")
@pytest.mark.parametrize("what", ["cancel", "correction"])
@pytest.mark.parametrize(("price", "size"), [(100.0, 20), (200.0, 10), (150.0, 15)])
def test_an_amendment_of_another_price_or_size_than_the_trades_have_changes_nothing(
    what: str, price: float, size: int
) -> None:
    names = {"symbol": 0, "id": 7, "exchange": "D", "old_price": price, "old_size": size}
    new = {"new_id": 8, "price": 1.0, "size": 1, "conditions": ["@"], "tape": "A"}
    with open_bench("stocks") as made:
        made.batch([trade(0, 0, id=7, exchange="D", price=100.0, size=10)])
        made.batch([trade(0, 1, id=7, exchange="D", price=200.0, size=20), trade(1, 2.5)])
        made.batch([(what, {**names, **new, "recv": START + 3 * SECOND}), trade(1, 30)])
        rows = [(r["trade_count"], r["open"]) for r in made.rows("bars_1s") if r["symbol"] == 0]
        assert rows == [(1, 100.0), (1, 200.0)]
        assert made.state["bars_unmatched"] == 1
        made.committer.close()


@pytest.mark.cases("I2")
@pytest.mark.parametrize("new_id", [7, 8])
def test_of_two_trades_with_one_id_the_corrected_one_is_found_by_its_new_values(new_id: int) -> None:
    names = {"symbol": 0, "exchange": "D"}
    old = {"id": 7, "old_price": 100.0, "old_size": 10, "recv": START + 2 * SECOND}
    new = {"new_id": new_id, "price": 101.0, "size": 11, "conditions": ["@"], "tape": "A"}
    again = {"id": new_id, "old_price": 101.0, "old_size": 11, "recv": START + 3 * SECOND}
    with open_bench("stocks") as made:
        made.batch([trade(0, 0, id=7, exchange="D", price=100.0, size=10)])
        made.batch([trade(0, 1, id=7, exchange="D", price=200.0, size=20)])
        made.batch([("correction", {**names, **old, **new}), trade(1, 2.5)])
        last = {r["ts"]: r for r in made.rows("bars_1s") if r["symbol"] == 0}
        assert [(r["open"], r["volume"]) for r in last.values()] == [(101.0, 11), (200.0, 20)]
        made.batch([("cancel", {**names, **again}), trade(1, 30)])
        last = {r["ts"]: r for r in made.rows("bars_1s") if r["symbol"] == 0}
        assert [r["open"] for r in last.values()] == [None, 200.0]
        assert made.state["bars_unmatched"] == 0
        made.committer.close()


@pytest.mark.cases("V3")
@pytest.mark.parametrize("kernels", [True, False])
def test_a_trade_that_is_marked_as_amended_counts_in_no_bar(kernels: bool) -> None:
    marks = ["canceled", "corrected", "incorrect", "Canceled", "another"]
    with open_bench("stocks") as made:
        marked = [trade(0, 1 + n, price=900.0 + n, update=mark) for n, mark in enumerate(marks)]
        made.batch([trade(0, 0), *marked, trade(0, 30, update="")], kernels=kernels)
        made.batch([trade(0, 61)], kernels=kernels)
        assert [(r["high"], r["trade_count"]) for r in made.rows("bars_1m")] == [(100.0, 2)]
        made.committer.close()


def test_amendments_of_trades_that_are_gone_are_counted_and_change_nothing() -> None:
    cancel = {"symbol": 0, "id": 7, "exchange": "V", "recv": START + 61 * SECOND}
    with open_bench("stocks") as made:
        made.batch(
            [trade(0, 0, id=7), ("cancel", {**cancel, "id": 8}), ("cancel", {**cancel, "exchange": "N"})]
        )
        assert made.state["bars_unmatched"] == 2
        made.batch([trade(0, 60, id=9), trade(0, 61, ts=START - 120 * MINUTE)])
        assert made.state["bars_late_trades"] == 1
        made.batch([("cancel", cancel), trade(0, 90, id=10)])
        last = made.rows("bars_1m")[-1]
        assert (last["open"], last["volume"], last["trade_count"], last["revised"]) == (None, 0, 0, True)
        made.committer.close()


def test_bars_whose_trades_retention_has_dropped_stay_as_they_are() -> None:
    with open_bench("stocks", retention=300_000) as made:
        made.batch([trade(0, 0, id=7), trade(0, 1, id=8)])
        made.batch([trade(0, 61, id=9)])
        before = made.rows("bars_1m")
        for start in range(0, 24000, 2000):
            made.batch([trade(0, 62, id=100 + start + i) for i in range(2000)])
        assert made.committer.frames["trades"].head.first_row
        made.batch([("cancel", {"symbol": 0, "id": 8, "exchange": "V", "recv": START + 63 * SECOND})])
        made.batch([trade(0, 90, id=10)])
        assert made.rows("bars_1m") == before
        assert made.state["bars_unmatched"] == 1
        made.committer.close()
