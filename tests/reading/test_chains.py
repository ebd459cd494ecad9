"""Option chains: contracts by expiry, strike and right."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import Any

import msgpack
import orjson
import polars as pl
import pytest
import uvloop

from mdstream.errors import ConfigError, UnknownNameError
from mdstream.reading.attach import Attachment, attach
from mdstream.streams.spec import PayloadKind
from tests.piping import rig

RECV_NS = 1_700_000_000_000_000_000
CONTRACTS = [
    f"{root}{expiry}{right}{strike:08d}"
    for root in ("AAPL", "AAPL1", "SPY")
    for expiry in ("261218", "261204")
    for right in "PC"
    for strike in (225_000, 162_500)
]


def quote(symbol: str, bid: float, ask: float) -> dict[str, Any]:
    return {
        "T": "q",
        "S": symbol,
        "bp": bid,
        "bs": 1,
        "bx": "C",
        "ap": ask,
        "as": 2,
        "ax": "C",
        "c": "A",
        "t": msgpack.Timestamp(1, 5),
    }


def trade(symbol: str, price: float) -> dict[str, Any]:
    return {"T": "t", "S": symbol, "p": price, "s": 3, "x": "C", "c": "a", "t": msgpack.Timestamp(1, 6)}


def greeks(symbol: str, delta: float) -> bytes:
    values = {"delta": delta, "gamma": 0.1, "theta": -0.2, "vega": 0.3, "rho": 0.4}
    return orjson.dumps({"snapshots": {symbol: {"greeks": values, "impliedVolatility": 0.25}}})


def check_chain(tmp_path: Path, look: Any) -> None:
    async def go() -> None:
        async with rig("options", 0, tmp_path) as r:
            messages = [quote(s, 1.0 + i, 2.0 + i) for i, s in enumerate(CONTRACTS)]
            messages += [trade(CONTRACTS[0], 1.25), quote(CONTRACTS[1], 0.0, 5.0)]
            messages += [quote("NO CONTRACT", 1.0, 2.0), quote("AAPL269999C00162500", 1.0, 2.0)]
            await r.feed([(msgpack.packb(messages), PayloadKind.MSGPACK, RECV_NS)])
            await r.feed([(greeks(CONTRACTS[0], 0.5), PayloadKind.SNAPSHOTS, RECV_NS)])
            await r.drain()
            look(attach(str(r.run)))

    uvloop.run(go())


def test_a_chain_has_a_row_a_contract_in_order(tmp_path: Path) -> None:
    def look(run: Attachment) -> None:
        chain = run.chain("AAPL")
        assert chain.select("expiry", "strike", "right").rows() == [
            (date(2026, 12, day), strike, right)
            for day in (4, 18)
            for strike in (162.5, 225.0)
            for right in ("call", "put")
        ]
        assert set(chain["root"]) == {"AAPL"}
        assert run.chain("AAPL", expiry=date(2026, 12, 4)).height == 4
        assert run.chain("MSFT").height == 0

    check_chain(tmp_path, look)


@pytest.mark.cases("N10")
def test_an_expiry_is_a_date_also_as_text_and_one_without_contracts_is_an_error(tmp_path: Path) -> None:
    def look(run: Attachment) -> None:
        assert run.chain("AAPL", expiry="2026-12-04").equals(run.chain("AAPL", expiry=date(2026, 12, 4)))
        with pytest.raises(UnknownNameError, match="expires on 2026-12-05; did you mean '2026-12-04' or"):
            run.chain("AAPL", expiry=date(2026, 12, 5))
        for wrong in ("12/18", "", 20261218, datetime(2026, 12, 4)):
            with pytest.raises(ConfigError, match="is not a date, such as 2026-12-18"):
                run.chain("AAPL", expiry=wrong)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=r"name one frame; follow several with tail\(\[...\]\)"):
            run.wait_for(["options.trades", "options.quotes"])  # type: ignore[arg-type]

    check_chain(tmp_path, look)


def test_a_contract_has_its_last_prices_and_greeks(tmp_path: Path) -> None:
    def look(run: Attachment) -> None:
        row = run.chain("AAPL").filter(pl.col("symbol") == CONTRACTS[0]).row(0, named=True)
        names = ("bid", "ask", "mid", "last", "bid_size", "ask_size", "last_size", "delta", "gamma")
        assert [row[n] for n in names] == [1.0, 2.0, 1.5, 1.25, 1, 2, 3, 0.5, 0.1]
        assert row["implied_volatility"] == 0.25
        one_sided = run.chain("AAPL").filter(pl.col("symbol") == CONTRACTS[1]).row(0, named=True)
        assert (one_sided["bid"], one_sided["ask"], one_sided["mid"]) == (None, 5.0, None)

    check_chain(tmp_path, look)


def test_chains_are_a_frame_like_others(tmp_path: Path) -> None:
    def look(run: Attachment) -> None:
        assert "options.chains" in run.frames
        assert run.frame("options.chains").height == len(CONTRACTS)
        assert run.frame("options.chains", symbols=CONTRACTS[3])["symbol"].to_list() == [CONTRACTS[3]]
        counted = run.sql("select root, count(*) as n from options.chains group by root order by root")
        assert counted.rows() == [("AAPL", 8), ("AAPL1", 8), ("SPY", 8)]

    check_chain(tmp_path, look)


def test_a_run_without_options_has_none(tmp_path: Path) -> None:
    async def go() -> None:
        async with rig("stocks", 0, tmp_path) as r:
            run = attach(str(r.run))
            assert not [name for name in run.frames if "chains" in name]
            with pytest.raises(KeyError, match="no option chains"):
                run.chain("AAPL")
            with pytest.raises(KeyError, match=r"no frame 'stocks\.chains'"):
                run.frame("stocks.chains")
            await r.drain()

    uvloop.run(go())
