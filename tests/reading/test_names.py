"""Unknown names are errors that say what is known; what is yet to come, or has ended, is not an error."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from mdstream.errors import ConfigError, NoRunError, UnknownNameError
from mdstream.frames.dictionary import DictionaryWriter
from mdstream.frames.rundir import RunDirectory, dictionary_path, frame_path
from mdstream.frames.writer import FrameWriter, Limits
from mdstream.handoff.columns import ColumnData
from mdstream.reading.attach import Attachment, attach
from mdstream.reading.tail import Tails
from mdstream.streams import STREAMS
from mdstream.text.nearest import find_nearest, suggest
from tests.reading.test_reading import NAMES, START, Market, get_prices

pytestmark = pytest.mark.cases("N10")
CONTRACTS = ["AAPL261218C00230000", "AAPL261218P00230000", "AAPL1261218C00230000", "BRKB261218C00500000"]
FOLLOWED = {
    "stocks": ["AAPL", "MSFT", "IBM", "TSLA"],
    "options": ["AAPL", "BRK.B", "SPY"],
    "crypto": ["BTC/USD", "ETH/USD"],
    "news": ["*"],
}


@pytest.fixture
def directory() -> Iterator[RunDirectory]:
    with RunDirectory() as run:
        run.describe(streams=list(FOLLOWED), symbols=FOLLOWED)
        yield run


@pytest.fixture
def market(directory: RunDirectory) -> Market:
    DictionaryWriter(dictionary_path(directory.path, "options", "symbols")).add(CONTRACTS)
    return Market(directory, Limits(64_000_000, 4_000_000))


@pytest.mark.parametrize(
    ("name", "known", "nearest"),
    [
        ("BTCUSD", ["ETH/USD", "BTC/USD"], ["BTC/USD", "ETH/USD"]),
        ("aapl", ["MSFT", "AAPL"], ["AAPL"]),
        ("BRKB", ["BRK.A", "BRK.B"], ["BRK.B", "BRK.A"]),
        ("stocks.trade", ["stocks.trades", "stocks.quotes"], ["stocks.trades", "stocks.quotes"]),
        ("AAPL", ["AAPL261218C00230000"], ["AAPL261218C00230000"]),
        ("GOOG*", ["MSFT", "GOOGL", "GOOG"], ["GOOGL", "GOOG"]),
        ("GOOGX*", ["MSFT", "GOOGL"], ["GOOGL"]),
        ("AAPL2701*C*", ["IBM261218C00230000", "AAPL261218C00230000"], ["AAPL261218C00230000"]),
        ("*Q", ["AAPL"], []),
        ("ZZZZ", ["AAPL"], []),
        ("", ["AAPL"], []),
    ],
)
def test_the_nearest_names_differ_least(name: str, known: list[str], nearest: list[str]) -> None:
    assert find_nearest(name, known)[: len(nearest)] == nearest
    assert bool(find_nearest(name, known)) == bool(nearest)


def test_without_a_near_name_some_known_ones_are_listed() -> None:
    assert suggest("x", []) == "there are none"
    assert suggest("??", ["A", "B"]) == "choose from A, B"
    assert suggest("!?", [f"S{i}" for i in range(1008)]).endswith("S7 and 1,000 more")


@pytest.mark.parametrize(
    ("look", "nearest"),
    [
        (lambda run: run.frame("stocks.trades", symbols=["AAPL", "MSTF"]), "MSFT"),
        (lambda run: run.frame("stocks.trades", symbols="aapl"), "AAPL"),
        (lambda run: run.latest("stocks", symbols="AAPLE"), "AAPL"),
        (lambda run: run.latest("stock"), "stocks.latest"),
        (lambda run: run.bars("stocks", "5m", symbols="TSL"), "TSLA"),
        (lambda run: run.bars("stock", "5m"), "stocks"),
        (lambda run: run.bars("stocks", "100 trades", symbols="TSL"), "TSLA"),
        (lambda run: run.frame("stocks.trades", symbols="AAP*"), "AAPL"),
        (lambda run: run.frame("stocks.quotes", symbols=["AAPL", "MSF?"]), "MSFT"),
        (lambda run: run.bars("stocks", "5m", symbols="[IT]BM"), "IBM"),
        (lambda run: run.tail("stocks.trades", symbols="TSL*"), "TSLA"),
        (lambda run: run.tail("stocks.trades", symbols="MSTF"), "MSFT"),
        (lambda run: run.tail("stocks.trade"), "stocks.trades"),
        (lambda run: run.tail(["stocks.trades", "crypto.trade"]), "crypto.trades"),
        (lambda run: run.wait_for("stocks.trades", symbols="MSTF", timeout=1), "MSFT"),
        (lambda run: run.book("BTCUSD"), "BTC/USD"),
        (lambda run: run.chain("SPYY"), "SPY"),
        (lambda run: run.frame("options.quotes", symbols="AAPL"), CONTRACTS[0]),
        (lambda run: run.frame("options.quotes", symbols="AAPL261218C00240000"), CONTRACTS[0]),
        (lambda run: run.frame("options.chain"), "options.chains"),
        (lambda run: run.frame("telemetry.stream"), "telemetry.streams"),
    ],
)
def test_what_is_unknown_is_an_error_that_names_the_nearest(
    market: Market, look: Any, nearest: str
) -> None:
    with pytest.raises(UnknownNameError) as raised:
        look(market.run)
    assert nearest in raised.value.nearest
    assert f"{nearest!r}" in str(raised.value)
    assert isinstance(raised.value, KeyError)


@pytest.mark.parametrize(
    "look",
    [
        lambda run: run.frame("stocks.trades", symbols="ZZZZ"),
        lambda run: run.chain("TSLA"),
        lambda run: run.book("XYZ"),
        lambda run: run.frame("perps.trades"),
    ],
)
def test_what_is_like_nothing_is_an_error_too(market: Market, look: Any) -> None:
    with pytest.raises(UnknownNameError, match=r"choose from|did you mean"):
        look(market.run)


def test_books_and_chains_of_a_run_without_them_are_names_that_are_unknown(directory: RunDirectory) -> None:
    directory.describe(streams=["stocks"], symbols={"stocks": ["AAPL"]})
    run = Market(directory, Limits(64_000_000, 4_000_000)).run
    with pytest.raises(UnknownNameError, match=r"no order books in run .*has stocks; add crypto"):
        run.book("BTC/USD")
    with pytest.raises(UnknownNameError, match=r"no option chains in run .*has stocks; add options"):
        run.chain("AAPL")


def test_sql_over_a_frame_that_is_yet_to_come_has_no_rows(market: Market) -> None:
    assert market.run.sql("select symbol from crypto.trades").rows() == []


def test_an_underlying_among_the_symbols_of_contracts_is_explained(market: Market) -> None:
    with pytest.raises(UnknownNameError, match=r"'AAPL' .* is an underlying.*chain\('AAPL'\)"):
        market.run.frame("options.trades", symbols="AAPL")


@pytest.mark.parametrize(
    "look",
    [
        lambda run: run.frame("stocks.trades", symbols="TSLA"),  # followed, and never received
        lambda run: run.frame("news.articles", symbols="ZZZZ"),  # all are followed
        lambda run: run.frame("options.quotes", symbols="SPY261218C00500000"),  # its chain is not fetched
        lambda run: run.frame("options.quotes", symbols=CONTRACTS[2]),
        lambda run: run.book("BTC/USD"),
        lambda run: run.chain("SPY"),
        lambda run: run.chain("BRK.B"),
        lambda run: run.chain("BRKB"),
        lambda run: run.chain("AAPL1"),
    ],
)
def test_what_may_still_come_is_empty(market: Market, look: Any) -> None:
    assert look(market.run).height == 0


def test_a_stream_that_follows_all_symbols_still_knows_how_one_is_written(directory: RunDirectory) -> None:
    directory.describe(streams=["crypto"], symbols={"crypto": ["*"]})
    DictionaryWriter(dictionary_path(directory.path, "crypto", "symbols")).add(["BTC/USD"])
    run = attach(directory.run)
    assert run.frame("crypto.trades", symbols="NEW/USD").height == 0
    with pytest.raises(UnknownNameError, match="did you mean 'BTC/USD'"):
        run.frame("crypto.trades", symbols="btcusd")


def test_symbols_that_are_subscribed_later_are_known(market: Market, directory: RunDirectory) -> None:
    with pytest.raises(UnknownNameError):
        market.run.frame("stocks.trades", symbols="GME")
    directory.describe(streams=list(FOLLOWED), symbols=FOLLOWED | {"stocks": ["GME"]})
    assert market.run.frame("stocks.trades", symbols="GME").height == 0
    market.run.expect("stocks", ["AMC"])
    assert market.run.frame("stocks.trades", symbols="AMC").height == 0


def test_an_engine_that_has_said_nothing_yet_knows_every_name(directory: RunDirectory) -> None:
    directory.describe()
    run = attach(directory.run)
    assert run.frame("stocks.trades", symbols="ZZZZ").height == 0
    assert run.frame("perps.trades").height == 0
    with pytest.raises(UnknownNameError):
        run.frame("bonds.trades")


@pytest.mark.parametrize("stream", STREAMS)
def test_a_frame_that_is_not_there_yet_is_empty_with_its_columns(
    directory: RunDirectory, stream: str
) -> None:
    directory.describe(streams=[stream], symbols={})
    run = attach(directory.run)
    spec = STREAMS[stream]
    for channel in (*spec.received_channels, *spec.built_bars):
        frame = run.frame(f"{stream}.{channel.name}")
        assert frame.columns == [column.name for column in channel.columns]
        assert frame.height == run.rows(f"{stream}.{channel.name}") == 0
        # The same types as later, when the frame exists.
        writer = FrameWriter(
            frame_path(directory.path, f"{stream}.{channel.name}"),
            channel.columns,
            Limits(64_000_000, 4_000_000),
        )
        assert run.frame(f"{stream}.{channel.name}").schema == frame.schema
        writer.close()
    if spec.latest:
        assert run.latest(stream).columns[0] == "symbol"
    assert run.frame("telemetry.streams").height == 0
    assert run.frame("telemetry.batches").height == 0


def test_a_book_that_is_not_there_yet_has_its_columns(directory: RunDirectory) -> None:
    book = attach(directory.run).book("BTC/USD")
    assert book.columns[:4] == ["symbol", "level", "bid_price", "bid_size"]


def test_a_tail_waits_for_a_frame_that_is_not_there_yet(directory: RunDirectory) -> None:
    run = attach(directory.run)
    tail = run.tail("stocks.trades")
    assert tail.poll() is None
    market = Market(directory, Limits(64_000_000, 4_000_000))
    market.trade(3)
    assert get_prices(next(iter(tail))) == [0, 1, 2]


def test_a_tail_of_several_frames_says_which_one_has_new_rows(
    market: Market, directory: RunDirectory
) -> None:
    DictionaryWriter(dictionary_path(directory.path, "crypto", "symbols")).add(NAMES)
    columns = [
        c for c in STREAMS["crypto"].by_name["trades"].columns if c.name in ("symbol", "ts", "price")
    ]
    crypto = FrameWriter(
        frame_path(directory.path, "crypto.trades"), columns, Limits(64_000_000, 4_000_000)
    )
    tail = market.run.tail(["stocks.trades", "crypto.trades"])
    assert tail.poll() == {}
    market.trade(2)
    crypto.append(
        [ColumnData(np.zeros(1, np.uint32)), ColumnData(np.array([START])), ColumnData(np.array([7.0]))]
    )
    assert {name: get_prices(new) for name, new in tail.poll().items()} == {
        "stocks.trades": [0, 1],
        "crypto.trades": [7],
    }
    market.trade(1)
    market.writer.close()
    crypto.close()
    assert [(name, get_prices(new)) for name, new in tail] == [("stocks.trades", [2])]
    assert tail.missed == 0


@pytest.mark.parametrize("since", ["5m", "300s", "5 min", "0.1h", "1h30m", "2d"])
def test_a_time_before_now_may_be_text(market: Market, since: str) -> None:
    market.trade(3)
    assert market.run.frame("stocks.trades", since=since).height == 0
    far = market.run.frame("stocks.trades", since="5200w")
    assert get_prices(far) == [0, 1, 2]
    assert market.run.frame("stocks.trades", since=timedelta(weeks=5200)).equals(far)


def test_after_the_end_what_was_opened_can_be_looked_at(market: Market, directory: RunDirectory) -> None:
    market.trade(10)
    before = market.run.frame("stocks.trades")
    market.trade(5)  # into the chunk that is mapped already
    directory.close()
    after = market.run.frame("stocks.trades")
    assert get_prices(after) == list(range(15))
    assert before.equals(after.head(10))
    assert market.run.frames == ["stocks.trades"]
    assert market.run.rows("stocks.trades") == 15
    assert market.run.sql("select count(*) as n from stocks.trades").item() == 15
    assert get_prices(market.run.frame("stocks.trades", symbols="MSFT")) == [1, 4, 7, 10, 13]
    assert not market.run.alive
    assert "(ended)" in repr(market.run)
    with pytest.raises(NoRunError, match=r"has ended.*opened were stocks.trades"):
        market.run.frame("stocks.quotes")


def test_after_the_end_rows_that_were_not_opened_are_counted(
    directory: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    market = Market(directory, Limits(64_000_000, 64_000))
    market.trade(10)
    market.run.frame("stocks.trades")
    market.trade(10_000)  # into new chunks
    directory.close()
    with caplog.at_level(logging.WARNING):
        rows = get_prices(market.run.frame("stocks.trades"))
    assert rows == list(range(len(rows)))
    assert 10 <= len(rows) < 10_010
    assert f"the first {len(rows)} of its 10010 rows" in caplog.text


def test_all_frames_can_be_kept_beyond_the_end(market: Market, directory: RunDirectory) -> None:
    market.trade(100)
    market.run.keep()
    directory.close()
    assert get_prices(market.run.frame("stocks.trades")) == list(range(100))
    assert market.run.frame("stocks.trades")["symbol"].cast(pl.String).to_list()[:3] == NAMES


def test_with_several_runs_it_is_said_which_one_was_taken(
    market: Market, directory: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    root = directory.path.parent
    with caplog.at_level(logging.WARNING), RunDirectory() as other:
        other.describe()
        found = attach(directory=root)
        assert f"this is the newest, run {found.run}" in caplog.text
        assert min(directory.run, other.run) in caplog.text
        caplog.clear()
        attach(directory.run)
        assert not caplog.text
    with pytest.raises(NoRunError, match=f"did you mean .*{directory.run}"):
        attach(directory.run[:-1])


def test_a_run_shows_its_name_in_a_terminal(market: Market, directory: RunDirectory) -> None:
    assert repr(market.run) == f"<mdstream run {directory.run}: stocks.trades>"
    assert repr(Attachment(directory.path)).startswith("<mdstream run")


def test_a_pattern_is_no_symbol_even_if_all_symbols_are_followed(market: Market) -> None:
    with pytest.raises(UnknownNameError, match=r"'GOO\*' is a pattern, and a frame takes whole symbols"):
        market.run.frame("news.articles", symbols="GOO*")


@pytest.mark.parametrize("name", [None, 5, b"stocks.trades"])
def test_a_name_that_is_not_a_text_is_an_error_of_one_sentence(market: Market, name: Any) -> None:
    for look in (market.run.frame, market.run.lazy, market.run.rows):
        with pytest.raises(ConfigError, match=r"frame: .* is not a name, such as 'stocks\.trades'"):
            look(name)


WRONG = [None, 5, True, b"AAPL", ["AAPL"], {"AAPL"}, {}, timedelta(1)]


@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_an_argument_that_must_be_a_text_is_an_error_of_one_sentence(market: Market, value: Any) -> None:
    run = market.run
    looks = {"symbol": run.book, "underlying": run.chain, "stream": run.bars, "query": run.sql}
    for name, look in looks.items():
        with pytest.raises(ConfigError, match=rf"^{name}: .* is not a string$"):
            look(value)
    for look in (run.latest, run.compare_bars):
        with pytest.raises(ConfigError, match=r"^stream: .* is not a string$"):
            look(value)


@pytest.mark.parametrize("value", [5, "no", None, ["x"]])
def test_a_flag_is_true_or_false(market: Market, value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^from_start: .* is not True or False$"):
        market.run.tail("stocks.trades", from_start=value)


def test_a_tail_of_any_collection_of_frames_follows_them(market: Market) -> None:
    names: Any = {"stocks.trades": 1, "stocks.quotes": 2}.keys()
    assert isinstance(market.run.tail(names), Tails)
    for value in ({5}, [None], [["stocks.trades"]], 5):
        with pytest.raises(ConfigError, match=r"^tail: .* is neither a frame nor a list of frames"):
            market.run.tail(value)  # type: ignore[call-overload]
