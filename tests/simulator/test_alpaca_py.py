"""The real alpaca-py client with the simulator: it receives every message, and reads the REST API."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from mdstream.simulator.traffic import generate
from tests import traffic
from tests.running import HANGING_S, RunningSimulator, simulator, until

pytest.importorskip("alpaca", reason="needs alpaca-py")

COUNT = 3000
KEYS = ("key", "secret")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def make_client(name: str, sim: RunningSimulator, raw: bool) -> tuple[Any, dict[str, Callable[..., None]]]:
    """Return alpaca-py's client of a stream, and its subscribe method for each channel."""
    from alpaca.data.live import CryptoDataStream, NewsDataStream, OptionDataStream, StockDataStream

    paths = {
        "stocks": "/v2/iex",
        "options": "/v1beta1/indicative",
        "crypto": "/v1beta3/crypto/us",
        "news": "/v1beta1/news",
    }
    kinds = {
        "stocks": StockDataStream,
        "options": OptionDataStream,
        "crypto": CryptoDataStream,
        "news": NewsDataStream,
    }
    client = kinds[name](*KEYS, raw_data=raw, url_override=sim.stream_url + paths[name])
    if name == "news":
        return client, {"news": client.subscribe_news}
    channels = {"trades": client.subscribe_trades, "quotes": client.subscribe_quotes}
    if name != "options":
        channels |= {
            "bars": client.subscribe_bars,
            "updatedBars": client.subscribe_updated_bars,
            "dailyBars": client.subscribe_daily_bars,
        }
    if name == "stocks":
        channels["statuses"] = client.subscribe_trading_statuses
    if name == "crypto":
        channels["orderbooks"] = client.subscribe_orderbooks
    return client, channels


class Listener:
    """A client of alpaca-py in its own thread, as its users run it."""

    def __init__(self, name: str, sim: RunningSimulator, raw: bool) -> None:
        self.name = name
        self.got: list[Any] = []
        self._client, channels = make_client(name, sim, raw)

        async def handler(message: Any) -> None:
            self.got.append(message)

        symbols = traffic.SYMBOLS[name]
        for subscribe in channels.values():
            subscribe(handler, *symbols)
        if name == "stocks":
            self._client.register_trade_corrections(handler)
            self._client.register_trade_cancels(handler)
        self.subscription = {channel: list(symbols) for channel in channels}
        self._thread = threading.Thread(target=self._client.run, daemon=True)
        self._thread.start()

    def settle(self) -> None:
        """Wait until no more messages arrive."""
        seen, quiet = len(self.got), time.monotonic()
        while time.monotonic() - quiet < 1.0:
            time.sleep(0.05)
            if len(self.got) != seen:
                seen, quiet = len(self.got), time.monotonic()

    def stop(self) -> None:
        self._client.stop()

    def join(self) -> None:
        self._thread.join(HANGING_S)
        assert not self._thread.is_alive()


def listen(raw: bool) -> list[tuple[Listener, list[dict[str, Any]]]]:
    """Run all four clients at the same time; return each with the messages that the simulator sent."""
    flags = ("--rate", "0", "--messages", str(COUNT), "--messages-per-payload", "3")
    with simulator(*flags) as sim:
        listeners = [Listener(name, sim, raw) for name in ("stocks", "options", "crypto", "news")]
        for listener in listeners:
            until(lambda n=listener.name: sim.sent(n) >= COUNT)
        for listener in listeners:
            listener.settle()
            assert sim.sent(listener.name) == COUNT
            listener.stop()
        for listener in listeners:
            listener.join()
    return [
        (one, list(itertools.islice(generate(one.name, 1, one.subscription), COUNT))) for one in listeners
    ]


def test_it_gets_every_message_the_simulator_says_it_sent() -> None:
    for listener, sent in listen(raw=True):
        got = listener.got
        if listener.name == "news":  # the client calls the handler once per subscribed symbol of an article
            got = list({m["id"]: m for m in got}.values())
            sent = list({m["id"]: m for m in sent}.values())
        assert len(got) == len(sent)
        for received, message in zip(got, sent, strict=True):
            assert list(received) == list(message)
            for key, value in message.items():
                if key in ("t", "created_at", "updated_at"):
                    assert received[key].to_unix_nano() == value
                else:
                    assert received[key] == value


def test_its_models_take_every_message() -> None:
    for listener, sent in listen(raw=False):
        if listener.name == "news":
            assert {m.id for m in listener.got} == {m["id"] for m in sent}
        else:
            assert [m.symbol for m in listener.got] == [m["S"] for m in sent]


def test_a_refused_key_is_refused_for_it_too() -> None:
    from alpaca.data.live import StockDataStream

    with simulator("--fault", "auth=402") as sim:
        client = StockDataStream(*KEYS, url_override=sim.stream_url + "/v2/iex")
        import asyncio

        async def connect() -> None:
            try:
                await client._start_ws()
            finally:
                await client.close()

        with pytest.raises(ValueError, match="auth failed"):
            asyncio.run(connect())


START = datetime(2026, 1, 5, 14, 30, tzinfo=UTC)


def test_its_rest_clients_read_stocks() -> None:
    from alpaca.data.historical import StockHistoricalDataClient
    from alpaca.data.requests import (
        StockBarsRequest,
        StockLatestBarRequest,
        StockLatestQuoteRequest,
        StockLatestTradeRequest,
        StockQuotesRequest,
        StockSnapshotRequest,
        StockTradesRequest,
    )
    from alpaca.data.timeframe import TimeFrame

    with simulator() as sim:
        client = StockHistoricalDataClient(*KEYS, url_override=sim.data_url)
        both = ["AAPL", "MSFT"]
        snapshots = client.get_stock_snapshot(StockSnapshotRequest(symbol_or_symbols=both))
        assert set(snapshots) == set(both)
        assert snapshots["AAPL"].latest_trade.price > 0
        assert snapshots["MSFT"].previous_daily_bar.volume > 0
        assert set(client.get_stock_latest_trade(StockLatestTradeRequest(symbol_or_symbols=both))) == set(
            both
        )
        assert set(client.get_stock_latest_quote(StockLatestQuoteRequest(symbol_or_symbols=both))) == set(
            both
        )
        assert set(client.get_stock_latest_bar(StockLatestBarRequest(symbol_or_symbols=both))) == set(both)

        # 25,000 trades per symbol: several pages of 10,000, one of which has both symbols.
        end = datetime.fromtimestamp(START.timestamp() + 24_999, UTC)
        trades = client.get_stock_trades(StockTradesRequest(symbol_or_symbols=both, start=START, end=end))
        for symbol in both:
            times = [t.timestamp for t in trades[symbol]]
            assert len(times) == 25_000 or len(times) == 24_999
            assert times == sorted(times)
            assert START <= times[0] <= times[-1] <= end
            assert len({t.id for t in trades[symbol]}) == len(times)
        bars = client.get_stock_bars(
            StockBarsRequest(symbol_or_symbols="AAPL", start=START, timeframe=TimeFrame.Minute, limit=50)
        )
        assert len(bars["AAPL"]) == 50
        assert bars["AAPL"][0].timestamp == START
        quotes = client.get_stock_quotes(
            StockQuotesRequest(symbol_or_symbols="AAPL", start=START, limit=20)
        )
        assert all(q.bid_price < q.ask_price for q in quotes["AAPL"])


def test_its_rest_clients_read_options_crypto_and_news() -> None:
    from alpaca.data.historical import CryptoHistoricalDataClient, NewsClient, OptionHistoricalDataClient
    from alpaca.data.requests import (
        CryptoBarsRequest,
        CryptoLatestOrderbookRequest,
        CryptoQuoteRequest,
        CryptoSnapshotRequest,
        CryptoTradesRequest,
        NewsRequest,
        OptionBarsRequest,
        OptionChainRequest,
        OptionLatestQuoteRequest,
        OptionSnapshotRequest,
        OptionTradesRequest,
    )
    from alpaca.data.timeframe import TimeFrame

    contract = "AAPL261218C00200000"
    with simulator() as sim:
        options = OptionHistoricalDataClient(*KEYS, url_override=sim.data_url)
        chain = options.get_option_chain(OptionChainRequest(underlying_symbol="AAPL"))
        assert len(chain) == 96
        assert all(s.greeks is not None and s.implied_volatility > 0 for s in chain.values())
        assert contract in options.get_option_snapshot(OptionSnapshotRequest(symbol_or_symbols=contract))
        assert contract in options.get_option_latest_quote(
            OptionLatestQuoteRequest(symbol_or_symbols=contract)
        )
        trades = options.get_option_trades(
            OptionTradesRequest(symbol_or_symbols=contract, start=START, limit=30)
        )
        assert len(trades[contract]) == 30
        bars = options.get_option_bars(
            OptionBarsRequest(symbol_or_symbols=contract, start=START, timeframe=TimeFrame.Hour, limit=5)
        )
        assert len(bars[contract]) == 5

        crypto = CryptoHistoricalDataClient(*KEYS, url_override=sim.data_url)
        pair = "BTC/USD"
        assert (
            crypto.get_crypto_snapshot(CryptoSnapshotRequest(symbol_or_symbols=pair))[
                pair
            ].latest_quote.bid_size
            > 0
        )
        book = crypto.get_crypto_latest_orderbook(CryptoLatestOrderbookRequest(symbol_or_symbols=pair))[
            pair
        ]
        assert len(book.bids) == len(book.asks) == 5
        assert (
            len(
                crypto.get_crypto_trades(
                    CryptoTradesRequest(symbol_or_symbols=pair, start=START, limit=30)
                )[pair]
            )
            == 30
        )
        assert (
            len(
                crypto.get_crypto_quotes(CryptoQuoteRequest(symbol_or_symbols=pair, start=START, limit=30))[
                    pair
                ]
            )
            == 30
        )
        days = crypto.get_crypto_bars(
            CryptoBarsRequest(symbol_or_symbols=pair, start=START, timeframe=TimeFrame.Day, limit=3)
        )
        assert len(days[pair]) == 3

        news = NewsClient(*KEYS, url_override=sim.data_url)
        articles = news.get_news(NewsRequest(symbols="AAPL", limit=120)).data["news"]
        assert len(articles) == 120
        assert len({a.id for a in articles}) == 120
        assert all("AAPL" in a.symbols for a in articles)
        assert articles[0].images


def test_errors_look_like_the_services() -> None:
    from alpaca.common.exceptions import APIError
    from alpaca.data.historical import StockHistoricalDataClient
    from alpaca.data.requests import StockLatestTradeRequest

    with simulator() as sim:
        client = StockHistoricalDataClient(*KEYS, url_override=sim.data_url)
        with pytest.raises(APIError) as caught:
            client.get_stock_latest_trade(StockLatestTradeRequest(symbol_or_symbols="no good"))
        assert caught.value.status_code == 400
        assert "invalid symbol: no good" in str(caught.value)
