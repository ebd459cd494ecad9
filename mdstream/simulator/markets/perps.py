"""Crypto perpetuals: the messages of coins, and pricing, which is also their only state over REST."""

from __future__ import annotations

import re

from mdstream.simulator.answers import answer_history, answer_latest, answer_states
from mdstream.simulator.encode import Time
from mdstream.simulator.generator import MINUTE, Maker, Message
from mdstream.simulator.markets.crypto import CoinMessages, CoinPast
from mdstream.simulator.markets.declaration import Market, Route
from mdstream.simulator.past_records import SECOND, Record

_PRICES = {"BTC-PERP": 91000.0, "ETH-PERP": 3100.0, "SOL-PERP": 215.0}
_FUNDED_EVERY = 8 * 60 * MINUTE


def _next_funding(at: int) -> Time:
    return Time(at - at % _FUNDED_EVERY + _FUNDED_EVERY)


class PerpMessages(CoinMessages):
    """Messages of perpetuals."""

    stream = "perps"
    universe = (*_PRICES, "LTC-PERP", "DOGE-PERP", "AVAX-PERP")
    prices = _PRICES

    def makers(self) -> dict[str, tuple[float, Maker]]:
        return {**super().makers(), "pricing": (5.0, self._pricing)}

    def _pricing(self, symbol: str, at: Time) -> Message:
        price, r = self.price(symbol), self.random
        return {
            "T": "p",
            "S": symbol,
            "t": at,
            "x": "PERP",
            "ip": price,
            "mp": round(price * (1 + r.gauss(0, 1e-4)), 4),
            "fr": round(r.gauss(1e-4, 1e-4), 9),
            "oi": round(r.uniform(50, 50_000), 4),
            "ft": _next_funding(at),
        }


class PerpPast(CoinPast):
    """The records of one perpetual."""

    stream = "perps"
    prices = _PRICES

    def snapshot(self, now: int) -> Record:
        second = now // SECOND
        price = self.price(now, second)
        return {
            "t": Time(now),
            "ft": _next_funding(now),
            "oi": round(self.unit(second, 13) * 50_000, 4),
            "ip": price,
            "mp": round(price * (1 + 1e-4 * self.unit(second, 14)), 4),
            "fr": round(1e-4 * self.unit(second, 15), 9),
        }


_PREFIX = "/v1beta1/crypto-perps/{loc}"

PERPS = Market(
    generator=PerpMessages,
    past=PerpPast,
    symbol_form=re.compile(r"[A-Z0-9]{2,12}(-PERP|\.P)"),  # BTC-PERP, BTCUSDT.P: both are documented
    routes=(
        *(Route(f"{_PREFIX}/latest/{kind}", answer_latest(kind)) for kind in ("trades", "quotes", "bars")),
        *(Route(f"{_PREFIX}/{kind}", answer_history(kind)) for kind in ("trades", "quotes", "bars")),
        Route(f"{_PREFIX}/latest/orderbooks", answer_latest("orderbooks")),
        Route(f"{_PREFIX}/latest/pricing", answer_states("pricing"), answer_states("pricing")),
    ),
    state_members={"pricing": ""},
    is_open=True,
    asset_class="crypto_perp",
    exchange="PERP",
)
