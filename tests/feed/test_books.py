"""The current order books, compared with plain dicts that apply the messages one by one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import orjson
import polars as pl
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from mdstream.errors import PoisonedBatchError
from mdstream.handoff.ticket import Receipt
from mdstream.reading.attach import Attachment, attach
from mdstream.streams.books import BOOK_DEPTH
from mdstream.streams.spec import PayloadKind
from tests import traffic
from tests.fuzzing import examples
from tests.piping import rig
from tests.workers.decoding.pair import Pair
from workers.aggregation import ladders

RECV_NS = 1_700_000_000_000_000_000
SIDES = {"b": "bid", "a": "ask"}

Message = dict[str, Any]


class Fault(NamedTuple):
    """Bytes in the place of a message that are rejected, and the books that lack something then."""

    data: bytes
    of: set[str] | None
    """None: all."""


FAULTS = {
    "gap": Fault(b"", None),
    "text": Fault(b'"text"', None),
    "no type": Fault(b'{"S":"X"}', {"X"}),
    "no symbol": Fault(b'{"T":"o","t":"2024-01-01T00:00:00Z","b":[{"p":1,"s":1}],"a":[]}', None),
    "no time": Fault(b'{"T":"o","S":"X","b":[{"p":1,"s":1}],"a":[]}', {"X"}),
    "not JSON": Fault(b'{"T":"o","S":"X","t":"2024-01-01T00:00:00Z","b":[{"p":NaN,"s":1}],"a":[]}', {"X"}),
    "not JSON, no symbol": Fault(b'{"T":"o","b":[{"p":NaN}]}', None),
    "of no book": Fault(b'{"T":"t","S":"X","p":NaN}', set()),
    "of another type": Fault(b'{"T":"z","S":"X"}', set()),
    "a trade": Fault(b'{"T":"t","S":"X"}', set()),
}


def fits(level: Any) -> bool:
    return type(level) is dict and type(level.get("p")) is float and type(level.get("s")) in (int, float)


Book = dict[str, dict[float, float]]


class Model:
    """Books by a plain loop over messages: symbol → side → price → size."""

    def __init__(self) -> None:
        self.books: dict[str, Book] = {}
        self.complete: set[str] = set()
        self.ts: dict[str, int] = {}

    def take(self, message: Message) -> None:
        symbol = message["S"]
        if not (message["b"] or message["a"] or message.get("r")):
            return  # an empty update
        good = {key: [level for level in message[key] if fits(level)] for key in SIDES}
        bad = sum(len(message[key]) for key in SIDES) - sum(map(len, good.values()))
        if bad:
            self.complete.discard(symbol)
            if not any(good.values()):
                return  # rejected as a whole
        book = self.books.setdefault(symbol, {"bid": {}, "ask": {}})
        if message.get("r"):
            book["bid"], book["ask"] = {}, {}
            if not bad:
                self.complete.add(symbol)
        for key, side in SIDES.items():
            for level in good[key]:
                book[side][level["p"]] = level["s"]
                if level["s"] == 0:
                    del book[side][level["p"]]
        self.ts[symbol] = int(message["t"])

    def lose(self, what: str) -> None:
        """Lose a message of the kind `what`."""
        if FAULTS[what].of is None:
            self.complete.clear()
        else:
            self.complete -= FAULTS[what].of

    def best(self, symbol: str) -> dict[str, list[tuple[float, float]]]:
        book = self.books[symbol]
        return {
            "bid": sorted(book["bid"].items(), reverse=True)[:BOOK_DEPTH],
            "ask": sorted(book["ask"].items())[:BOOK_DEPTH],
        }


def read_book(run: Attachment, symbol: str) -> dict[str, list[tuple[float, float]]]:
    frame = run.book(symbol)
    assert frame["level"].to_list() == list(range(1, frame.height + 1))
    return {
        side: [
            (price, size)
            for price, size in frame.select(f"{side}_price", f"{side}_size").iter_rows()
            if price is not None
        ]
        for side in ("bid", "ask")
    }


def assert_equal(run: Attachment, model: Model) -> None:
    for symbol, book in model.books.items():
        assert read_book(run, symbol) == model.best(symbol), symbol
        frame = run.book(symbol)
        if frame.height:
            assert set(frame["bid_levels"]) == {len(book["bid"])}
            assert set(frame["ask_levels"]) == {len(book["ask"])}
            assert set(frame["complete"]) == {symbol in model.complete}
            assert set(frame["ts"].to_physical()) == {model.ts[symbol]}


def encode(messages: list[Message]) -> bytes:
    def wire(message: Message) -> Message:
        seconds, nanoseconds = divmod(int(message["t"]), 1_000_000_000)
        time = f"2024-01-01T00:{seconds // 60:02d}:{seconds % 60:02d}.{nanoseconds:09d}Z"
        return {**message, "T": "o", "t": time}

    return orjson.dumps([wire(m) for m in messages])


START = 1_704_067_200_000_000_000  # 2024-01-01
PRICE = st.sampled_from([1.0, 2.0, 2.5, 3.0, 4.0, 71_859.53, 0.000012])
LEVEL = st.fixed_dictionaries({"p": PRICE, "s": st.sampled_from([0, 1.0, 2.5])})
BAD_LEVEL = st.sampled_from([{"p": 1.0}, {"s": 2.5}, {"p": "1", "s": 1.0}, {"p": None, "s": 0}, {}, 5, []])
MESSAGE = st.fixed_dictionaries(
    {
        "S": st.sampled_from(["BTC/USD", "ETH/USD", "X"]),
        "b": st.lists(LEVEL, max_size=4),
        "a": st.lists(LEVEL | BAD_LEVEL, max_size=4) | st.lists(LEVEL, max_size=4),
        "t": st.integers(0, 3).map(lambda t: t * 1000),
    },
    optional={"r": st.just(True)},
)


def join(items: list[Message | str]) -> bytes:
    parts = [FAULTS[item].data if isinstance(item, str) else encode([item])[1:-1] for item in items]
    return b"[" + b",".join(parts) + b"]"


def split_at_gaps(items: list[Message | str]) -> Iterator[list[Message | str]]:
    """Yield payloads. A gap is between two of them, and ends its payload."""
    payload: list[Message | str] = []
    for item in items:
        payload.append(item)
        if item == "gap":
            yield payload
            payload = []
    yield payload


@given(st.lists(MESSAGE | st.sampled_from([*FAULTS]), max_size=40), st.data())
@settings(max_examples=examples(60), deadline=None)
def test_books_equal_a_plain_dict_wherever_batches_are_cut(
    items: list[Message | str], data: st.DataObject
) -> None:
    model = Model()
    cuts = data.draw(st.lists(st.integers(0, len(items)), max_size=5).map(sorted))
    is_drained, alone = data.draw(st.booleans()), data.draw(st.booleans())

    async def go() -> None:
        with TemporaryDirectory() as rejects:
            await check(Path(rejects))

    async def check(rejects: Path) -> None:
        async with rig("crypto", 0, rejects, alone=alone) as r:
            run = attach(str(r.run))
            for start, stop in zip([0, *cuts], [*cuts, len(items)], strict=True):
                for payload in split_at_gaps(items[start:stop]):
                    if sent := [item for item in payload if item != "gap"]:
                        await r.feed([(join(sent), PayloadKind.JSON, RECV_NS)])
                    if len(sent) < len(payload):
                        r.pipeline.mark_gap()
                if is_drained:
                    await r.pipeline.drain()
                for item in items[start:stop]:
                    if isinstance(item, str):
                        model.lose(item)
                    else:
                        model.take({**item, "t": START + item["t"]})
                if is_drained and "gap" not in items[:stop][-1:]:  # it is marked with the next payload
                    assert_equal(run, model)
            await r.feed([(b"[]", PayloadKind.JSON, RECV_NS)])
            await r.drain()
            assert_equal(run, model)

    uvloop.run(go())


@pytest.mark.parametrize(
    ("payload", "symbols"),
    [
        (b'[{"T":"o","S":"X","b":[{"p":NaN}]}]', {"X"}),
        (b'[{"T":"t","S":"X","p":NaN}]', set()),
        (b'[{"T":"o","S":"X","b":[NaN],{"T":"t","S":"Y"}]', {"X"}),
        (b'[{"T":"q","S":"X","x":[NaN],{"S":"Y","T":"o"}]', {"X", "Y"}),
        (b'[{"T":"o","S":"X","b":[', {""}),
        (b'[{"T":"t","S":"X"},{"T":"t","S":"Y","p":', {""}),
        (b'[{"T":"o","S":"\xff"}]', {""}),
        (b'{"T":"o","S":"X"}', {""}),
        (b"5", {""}),
        (b"", {""}),
    ],
)
def test_a_payload_that_cannot_be_parsed_names_the_books_that_it_may_be_of(
    payload: bytes, symbols: set[str]
) -> None:
    decoded = Pair("crypto").decode([payload], PayloadKind.JSON)
    assert {symbol for _, symbol in decoded.lost_levels} == symbols
    assert Pair("stocks").decode([payload], PayloadKind.JSON).lost_levels == []


def test_a_message_with_many_bad_levels_is_one_reject() -> None:
    levels: list[Any] = [{"p": 1.0, "s": 1.0}] * 100
    few, many = ([*levels, *[5] * count] for count in (64, 65))
    message = {"S": "X", "t": 0, "a": levels}
    decoded = Pair("crypto").decode([encode([{**message, "b": b}]) for b in (few, many)], PayloadKind.JSON)
    assert [(r.payload, r.part, r.reason) for r in decoded.rejects] == [
        (0, "b", "b: expected an object, got int"),
        (1, "", "b: expected an object, got int"),
    ]
    assert len(decoded.columns["orderbooks"][0].values) == 200
    assert decoded.lost_levels == [(0, "X"), (1 << 32, "X")]


def test_after_a_quarantined_batch_no_book_is_complete(tmp_path: Path) -> None:
    messages = [{"S": s, "b": [{"p": 1.0, "s": 2.0}], "a": [], "r": True, "t": 5} for s in ("X", "Y")]

    async def go() -> None:
        async with rig("crypto", 0, tmp_path) as r:
            run = attach(str(r.run))
            await r.feed([(encode(messages), PayloadKind.JSON, RECV_NS)])
            await r.pipeline.drain()
            assert run.frame("crypto.books")["complete"].to_list() == [True, True]
            r.committer._direct = None
            r.pool.run = refuse
            await r.feed([(encode(messages), PayloadKind.JSON, RECV_NS)])
            await r.pipeline.drain()
            assert run.frame("crypto.books")["complete"].to_list() == [False, False]
            del r.pool.run
            await r.feed([(encode(messages[1:]), PayloadKind.JSON, RECV_NS)])
            await r.drain()
            assert run.frame("crypto.books")["complete"].to_list() == [False, True]

    uvloop.run(go())


async def refuse(_: Any) -> Receipt:
    raise PoisonedBatchError("it killed two workers")


@pytest.mark.parametrize("workers", [0, 2])
def test_the_simulators_books_come_out_right(tmp_path: Path, workers: int) -> None:
    from tests.feed.test_latest import payloads

    model = Model()
    for message in traffic.messages("crypto", 3000):
        if message["T"] == "o":
            model.take(message)

    async def go() -> None:
        async with rig("crypto", workers, tmp_path, slab_kb=16) as r:
            await r.feed(payloads("crypto", 7))
            await r.drain()
            assert_equal(attach(str(r.run)), model)

    uvloop.run(go())
    assert model.books


def test_a_side_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladders, "MOST_LEVELS", 50)
    levels = [{"p": float(p), "s": 1.0} for p in range(1, 201)]
    message = {"S": "BTC/USD", "b": levels, "a": levels, "r": True, "t": 0}

    async def go() -> None:
        async with rig("crypto", 0, tmp_path) as r:
            await r.feed([(encode([message]), PayloadKind.JSON, RECV_NS)])
            await r.drain()
            frame = attach(str(r.run)).book("BTC/USD")
            assert set(frame["bid_levels"]) == set(frame["ask_levels"]) == {50}
            assert frame["bid_price"].to_list() == [200.0 - i for i in range(BOOK_DEPTH)]
            assert frame["ask_price"].to_list() == [1.0 + i for i in range(BOOK_DEPTH)]

    uvloop.run(go())


def book_after(messages: list[Message], bound: int, cuts: int) -> pl.DataFrame:
    """Return the book after `messages` of BTC/USD, `cuts` of them in each payload; no rows if it is empty.

    The direct path makes the same book.
    """
    usual, direct = (make_book(messages, bound, cuts, alone) for alone in (False, True))
    assert usual.drop("symbol").equals(direct.drop("symbol"))
    return usual


def make_book(messages: list[Message], bound: int, cuts: int, alone: bool) -> pl.DataFrame:
    async def go(folder: Path) -> pl.DataFrame:
        async with rig("crypto", 0, folder, alone=alone) as r:
            if not alone:
                r.committer._direct = None
            levels = [{"p": 1.0, "s": 1.0}]
            for n in range(3):  # it learns this form of message
                known = {"S": "ETH/USD", "b": levels * n, "a": levels * n, "t": 0}
                await r.feed(
                    [(encode([known | reset]), PayloadKind.JSON, RECV_NS) for reset in ({}, {"r": True})]
                )
            for start in range(0, len(messages), cuts):
                await r.feed([(encode(messages[start : start + cuts]), PayloadKind.JSON, RECV_NS)])
                await r.pipeline.drain()  # what is dropped depends on what is in a batch
            await r.drain()
            return attach(str(r.run)).book("BTC/USD")

    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        patch.setattr(ladders, "MOST_LEVELS", bound)
        return uvloop.run(go(Path(folder)))


@settings(max_examples=examples(25))
@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from("ba"), st.integers(1, 60), st.integers(0, 1)), max_size=25),
        min_size=1,
        max_size=8,
    ),
    st.integers(BOOK_DEPTH, 30),
    st.integers(1, 3),
)
def test_a_book_that_is_complete_shows_the_best_levels_although_others_were_dropped(
    changes: list[list[tuple[str, int, int]]], bound: int, cuts: int
) -> None:
    model = Model()
    messages = []
    for number, levels in enumerate([[], *changes]):
        message: Message = {"S": "BTC/USD", "t": number, "b": [], "a": []}
        if not number:
            message |= {"r": True, "b": [{"p": float(p), "s": 1.0} for p in range(20, 60)]}
        for side, price, size in levels:
            message[side].append({"p": float(price), "s": float(size)})
        messages.append(message)
        model.take(message)
    frame = book_after(messages, bound, cuts)
    if frame["complete"].any():
        for key, name in SIDES.items():
            held = model.books["BTC/USD"][name]
            best = sorted(held, reverse=key == "b")[:BOOK_DEPTH]
            assert frame[f"{name}_price"].drop_nulls().to_list() == best


@pytest.mark.parametrize(("removed", "complete"), [(0, True), (40, True), (41, False), (50, False)])
def test_a_book_is_incomplete_while_a_dropped_level_could_be_among_its_best(
    removed: int, complete: bool
) -> None:
    reset = {
        "S": "BTC/USD",
        "b": [{"p": float(p), "s": 1.0} for p in range(1, 101)],
        "a": [],
        "r": True,
        "t": 0,
    }
    change = {"S": "BTC/USD", "b": [{"p": 100.0 - n, "s": 0.0} for n in range(removed)], "a": [], "t": 1}
    again = {"S": "BTC/USD", "b": [{"p": 5.0, "s": 1.0}], "a": [], "r": True, "t": 2}
    assert book_after([reset, change], 50, 1)["complete"].any() == complete
    assert book_after([reset, change, again], 50, 1)["complete"].all()


def test_the_frame_of_books_has_a_row_a_level_of_every_symbol(tmp_path: Path) -> None:
    messages = [
        {
            "S": symbol,
            "b": [{"p": 1.0, "s": 2.0}],
            "a": [{"p": 2.0, "s": 1.0}, {"p": 3.0, "s": 1.0}],
            "r": True,
            "t": 5,
        }
        for symbol in ("BTC/USD", "ETH/USD")
    ]

    async def go() -> pl.DataFrame:
        async with rig("crypto", 0, tmp_path) as r:
            run = attach(str(r.run))
            assert run.frame("crypto.books").height == 0
            await r.feed([(encode(messages), PayloadKind.JSON, RECV_NS)])
            await r.drain()
            return run.frame("crypto.books")

    frame = uvloop.run(go())
    assert frame.columns == [
        "symbol",
        "level",
        "bid_price",
        "bid_size",
        "ask_price",
        "ask_size",
        "ts",
        "recv_ts",
        "complete",
        "bid_levels",
        "ask_levels",
    ]
    rows = frame.select(pl.col("symbol").cast(pl.String), "level", "bid_price", "ask_price").rows()
    assert rows == [
        ("BTC/USD", 1, 1.0, 2.0),
        ("BTC/USD", 2, None, 3.0),
        ("ETH/USD", 1, 1.0, 2.0),
        ("ETH/USD", 2, None, 3.0),
    ]
