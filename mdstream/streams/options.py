"""Options: the OPRA and indicative feeds, served in msgpack only."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import date

from mdstream.streams.bar_rules import BarRules
from mdstream.streams.column_sets import bars_channel, exchange_quote, exchange_trade, last, snapshot
from mdstream.streams.rest_spec import Chain, Fetch, HistorySpec
from mdstream.streams.spec import RECV_TS, Aspect, Channel, Column, Kind, StreamSpec
from mdstream.venues.alpaca.endpoints import CONTRACTS_PATH
from mdstream.venues.alpaca.limits import OPTION_SYMBOLS

_TRADE = (*exchange_trade(Kind.CODE), RECV_TS)
_QUOTE = (*exchange_quote(Kind.CODE), RECV_TS)

_GREEKS = (
    Column("implied_volatility", Kind.FLOAT, "impliedVolatility"),
    *(Column(name, Kind.FLOAT, f"greeks.{name}") for name in ("delta", "gamma", "theta", "vega", "rho")),
)


def is_contract(symbol: str) -> bool:
    """Return whether `symbol` is an OCC contract (`AAPL240426C00162500`) and not an underlying.

    The last 15 characters are fixed: the expiry date (YYMMDD), C or P, the strike times 1000 in 8 digits.
    The root precedes them.
    """
    root, tail = symbol[:-15], symbol[-15:]
    digits = tail[:6] + tail[7:]
    if not (root and len(tail) == 15 and tail[6] in "CP" and digits.isascii() and digits.isdigit()):
        return False
    with contextlib.suppress(ValueError):
        return bool(expiry_of(symbol))
    return False


def underlying_of(contract: str) -> str:
    """Return the root of a contract's name, which is mostly the symbol of its underlying."""
    return contract[:-15]


def expiry_of(contract: str) -> date:
    """Return the last day of a contract. Raises ValueError if its name has no such day."""
    digits = _expiry(contract)
    return date(2000 + int(digits[:2]), int(digits[2:4]), int(digits[4:]))


def root_of(underlying: str) -> str:
    """Return the root of an underlying's contracts: its symbol without punctuation (`BRKB` of `BRK.B`)."""
    return "".join(filter(str.isalnum, underlying))


def is_root_of(root: str, underlying: str) -> bool:
    """Return whether contracts with this root are of `underlying`.

    After a split or merger, the OCC gives adjusted contracts a root with a digit at its end: `XOM2`.
    """
    plain = root_of(underlying)
    return root == plain or (root[:-1] == plain and root[-1:].isdigit())


def spellings_of(name: str) -> tuple[str, ...]:
    """Return the underlyings that a root or symbol may mean: `BRKB` is the root of `BRK.B`."""
    has_class = len(name) > 1 and name.isalpha()
    return (name, f"{name[:-1]}.{name[-1]}") if has_class else (name,)


def nearest(contracts: Sequence[str], count: int) -> list[str]:
    """Return the `count` contracts that are likely to trade most: the next expiries first, then the middle
    strikes, because exchanges list strikes around the price.

    Adjusted contracts have strikes of their own, and trade little. They come after all plain ones.
    """
    ladders: dict[tuple[str, str], list[int]] = {}
    for contract in contracts:
        ladders.setdefault((underlying_of(contract), _expiry(contract)), []).append(_strike(contract))
    middle = {ladder: sorted(strikes)[len(strikes) // 2] for ladder, strikes in ladders.items()}
    plain = {root[:-1] for root, _ in ladders if root[-1:].isdigit()}.intersection(r for r, _ in ladders)

    def rank(contract: str) -> tuple[bool, str, int, str]:
        root, expiry = underlying_of(contract), _expiry(contract)
        is_adjusted = root[-1:].isdigit() and root[:-1] in plain
        return is_adjusted, expiry, abs(_strike(contract) - middle[root, expiry]), contract

    return sorted(contracts, key=rank)[:count]


def _strike(contract: str) -> int:
    return int(contract[-8:])


def _expiry(contract: str) -> str:
    return contract[-15:-9]


OPTIONS = StreamSpec(
    name="options",
    channels=(
        Channel("trades", _TRADE, ("t",), ("trades",), is_timely=True),
        Channel("quotes", _QUOTE, ("q",), ("quotes",), is_timely=True),
        bars_channel(),  # history only: the stream has no bars
        Channel("snapshots", (*snapshot(_TRADE, _QUOTE), *_GREEKS, RECV_TS)),
    ),
    feeds={"indicative": "/v1beta1/indicative", "opra": "/v1beta1/opra"},
    default_feed="indicative",
    codec="msgpack",
    codecs=("msgpack",),
    symbols=("SPY", "AAPL"),  # underlyings; their chains have the contracts
    fetch=Fetch("/v1beta1/options/snapshots", max_symbols=OPTION_SYMBOLS, feed_parameter=True),
    chain=Chain(
        path="/v1beta1/options/snapshots/{symbol}",
        listing=CONTRACTS_PATH,
        member="option_contracts",
        is_contract=is_contract,
        underlying_of=underlying_of,
        expiry_of=expiry_of,
        root_of=root_of,
        is_root_of=is_root_of,
        spellings_of=spellings_of,
        nearest=nearest,
        example="AAPL261218C00230000",
    ),
    instrument="option_contract",
    mute_after_s={"trades": 600.0, "quotes": 120.0},
    always_open=False,
    latest=(
        last("trade", "trades", _TRADE),
        last("quote", "quotes", _QUOTE),
        Aspect("greeks", (*_GREEKS, Column("greeks_recv_ts", Kind.TIME)), "", "greeks_recv_ts"),
    ),
    bar_rules=BarRules(volume_only=dict.fromkeys("tu", ""), excluded=dict.fromkeys("ABCDEFG", "")),
    history=(
        HistorySpec("trades", "/v1beta1/options/trades", sparse=True),
        HistorySpec("bars", "/v1beta1/options/bars", bars=True, partition="year", sparse=True),
    ),
    no_wildcard=("quotes",),
)
