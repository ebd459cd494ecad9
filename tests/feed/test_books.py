"""The current order books, compared with plain dicts that apply the messages one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from mdstream.feed import books
from mdstream.reading.attach import Attachment, attach
from mdstream.streams.books import BOOK_DEPTH
from mdstream.streams.spec import PayloadKind
from tests import traffic
from tests.fuzzing import examples
from tests.piping import rig

RECV_NS = 1_700_000_000_000_000_000
SIDES = {"b": "bid", "a": "ask"}

Message = dict[str, Any]
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
        book = self.books.setdefault(symbol, {"bid": {}, "ask": {}})
        if message.get("r"):
            self.complete.add(symbol)
            book["bid"], book["ask"] = {}, {}
        for key, side in SIDES.items():
            for level in message[key]:
                book[side][level["p"]] = level["s"]
                if level["s"] == 0:
                    del book[side][level["p"]]
        self.ts[symbol] = int(message["t"])

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
LEVELS = st.lists(st.fixed_dictionaries({"p": PRICE, "s": st.sampled_from([0, 1.0, 2.5])}), max_size=4)
MESSAGE = st.fixed_dictionaries(
    {"S": st.sampled_from(["BTC/USD", "ETH/USD", "X"]), "b": LEVELS, "a": LEVELS},
    optional={"r": st.just(True)},
)


@given(st.lists(MESSAGE, max_size=40), st.data())
@settings(max_examples=examples(60), deadline=None)
def test_books_equal_a_plain_dict_wherever_batches_are_cut(
    messages: list[Message], data: st.DataObject
) -> None:
    model = Model()
    for number, message in enumerate(messages):
        message["t"] = number * 1000
    cuts = data.draw(st.lists(st.integers(0, len(messages)), max_size=5).map(sorted))

    async def go() -> None:
        async with rig("crypto", 0, Path("/nowhere")) as r:
            run = attach(str(r.run))
            for start, stop in zip([0, *cuts], [*cuts, len(messages)], strict=True):
                if start < stop:
                    await r.feed([(encode(messages[start:stop]), PayloadKind.JSON, RECV_NS)])
                    await r.pipeline.drain()
                for message in messages[start:stop]:
                    model.take({**message, "t": START + message["t"]})
                assert_equal(run, model)
            await r.drain()

    uvloop.run(go())


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
    monkeypatch.setattr(books, "MOST_LEVELS", 50)
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
