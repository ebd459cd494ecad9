"""Symbol patterns: the symbols that they match, and the error if they match none."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from mdstream.errors import ConfigError, CredentialsError, UnusableAnswerError
from mdstream.history.universe import _read_symbols, expand_patterns, is_pattern, resolve_symbols
from mdstream.settings import from_mapping
from mdstream.simulator.markets import MARKETS
from mdstream.venues.alpaca.endpoints import LIVE_TRADING_URL, PAPER_TRADING_URL
from tests.history.service import serve
from tests.history.test_backfill import HOURS, fill, scan_store
from tests.running import RunningSimulator, simulator

KEYS = {"key_id": "k", "secret_key": "s"}


@pytest.fixture(scope="module")
def sim() -> Iterator[RunningSimulator]:
    with simulator("--rate", "1") as running:
        yield running


def resolve(sim: RunningSimulator, dataset: str, *symbols: str, start: str = "2026-01-05") -> list[str]:
    config = from_mapping({"data_url": sim.data_url, "credentials": KEYS})
    return asyncio.run(resolve_symbols(dataset, symbols, start, config.backfill_settings))


def test_a_pattern_is_replaced_by_what_it_matches(sim: RunningSimulator) -> None:
    stocks, crypto = MARKETS["stocks"].universe, MARKETS["crypto"].universe
    with_a = sorted(s for s in stocks if s.startswith("A"))
    assert resolve(sim, "stocks.trades", "MSFT", "A*", "AAPL") == ["MSFT", *with_a]
    assert resolve(sim, "stocks.bars", "?") == ["T", "V"]
    assert resolve(sim, "crypto.bars", "[BE]*/USD") == ["BTC/USD", "ETH/USD"]
    assert resolve(sim, "crypto.bars", "*") == sorted(crypto)
    assert resolve(sim, "news.articles", "?*") == sorted([*stocks, *crypto])
    assert resolve(sim, "news.articles", "*") == ["*"]  # one request for all symbols
    assert resolve(sim, "stocks.bars", "NOBODY") == ["NOBODY"], "only patterns are looked up"


def test_contracts_are_found_by_their_underlying_expired_ones_too(sim: RunningSimulator) -> None:
    living = resolve(sim, "options.bars", "AAPL261218C*")
    assert living
    assert all(name.startswith("AAPL261218C") for name in living)
    since = resolve(sim, "options.bars", "AAPL*", start="2026-01-05")
    older = resolve(sim, "options.bars", "AAPL*", start="2025-01-02")
    assert set(living) < set(since) < set(older), "an earlier start includes contracts that expired since"
    assert min(name[-15:-9] for name in since) >= "260105"
    with pytest.raises(ConfigError, match="must begin with an underlying"):
        resolve(sim, "options.bars", "*C00230000")


@pytest.mark.cases("S11")
@pytest.mark.parametrize(
    ("status", "expected"), [("active", ["AAPL"]), ("inactive", ["AABA"]), ("all", ["AABA", "AAPL"])]
)
def test_a_pattern_matches_delisted_assets_if_they_are_asked_for(status: str, expected: list[str]) -> None:
    listed = {"active": "AAPL", "inactive": "AABA"}

    def answer(path: str, query: dict[str, str]) -> list[dict[str, str]]:
        assert (path, query["asset_class"]) == ("/v2/assets", "us_equity")
        return [{"symbol": listed[query["status"]]}]

    with serve(answer) as service:
        config = from_mapping({"data_url": service.url, "credentials": KEYS})
        found = asyncio.run(
            resolve_symbols("stocks.trades", "A*", "2026-01-05", config.backfill_settings, status)
        )
    assert found == expected


@pytest.mark.cases("S10")
def test_contracts_of_a_share_class_are_found_by_its_symbol_and_by_their_root(
    sim: RunningSimulator,
) -> None:
    found = resolve(sim, "options.bars", "BRK.B2612*")
    assert found
    assert all(name.startswith("BRKB2612") for name in found)
    assert resolve(sim, "options.bars", "BRK.B*C*") == [
        name for name in resolve(sim, "options.bars", "BRK.B*") if name[-9] == "C"
    ]


@pytest.mark.cases("S10")
@pytest.mark.parametrize("pattern", ["BRK.B2612*", "BRKB2612*", "BRKB*"])
def test_the_service_is_asked_for_the_underlying_of_a_root(pattern: str) -> None:
    def answer(path: str, query: dict[str, str]) -> dict[str, list[dict[str, str]]]:
        is_there = query["underlying_symbols"] == "BRK.B" and query["status"] == "active"
        return {"option_contracts": [{"symbol": "BRKB261218C00500000"}] if is_there else []}

    with serve(answer) as service:
        config = from_mapping({"data_url": service.url, "credentials": KEYS})
        found = asyncio.run(
            resolve_symbols("options.bars", [pattern], "2026-01-05", config.backfill_settings)
        )
    assert found == ["BRKB261218C00500000"]


LISTED = {"GOOG": "GOOG261218C00200000", "GOOGL": "GOOGL261218C00200000", "BRK.B": "BRKB261218C00500000"}


def list_contracts(path: str, query: dict[str, str]) -> dict[str, list[dict[str, str]]]:
    name = LISTED.get(query["underlying_symbols"]) if query["status"] == "active" else None
    return {"option_contracts": [{"symbol": name}] if name else []}


@pytest.mark.parametrize(
    ("patterns", "found", "said"),
    [
        (["GOOG*"], ["GOOG"], "GOOG* as GOOG;"),
        (["GOOG*", "GOOGL?61218*"], ["GOOG", "GOOGL"], "GOOG* as GOOG, GOOGL?61218* as GOOGL;"),
        (["BRKB*"], ["BRK.B"], "BRKB* as BRKB or BRK.B;"),
        (["GOOG2612*", "BRK.B2612*"], ["GOOG", "BRK.B"], None),
    ],
)
def test_the_log_says_what_an_open_pattern_of_contracts_was_looked_up_as(
    patterns: list[str], found: list[str], said: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(list_contracts) as service:
        config = from_mapping({"data_url": service.url, "credentials": KEYS}).backfill_settings
        names = asyncio.run(resolve_symbols("options.bars", patterns, "2026-01-05", config))
    assert names == [LISTED[name] for name in found]
    lines = [each.getMessage() for each in caplog.records if "by whole underlying" in each.getMessage()]
    assert len(lines) == (said is not None)
    assert all(f"looked up {said}" in line for line in lines)


@pytest.mark.parametrize(
    ("patterns", "asked"),
    [(["BRK*"], "BRK or BR.K"), (["GOOG*", "T*"], "T"), (["GOOG27*"], "GOOG"), (["BR.K1*"], "BR.K")],
)
def test_a_pattern_without_a_contract_names_the_underlyings_that_were_asked(
    patterns: list[str], asked: str
) -> None:
    with serve(list_contracts) as service:
        config = from_mapping({"data_url": service.url, "credentials": KEYS}).backfill_settings
        with pytest.raises(
            ConfigError, match=rf"matches no contract of {asked} .a pattern begins with a whole"
        ):
            asyncio.run(resolve_symbols("options.bars", patterns, "2026-01-05", config))


MALFORMED = [5, None, "AAPL", [], {}, {"symbol": None}, {"symbol": 5}, {"symbol": ""}, {"symbol": "A,B"}]


@pytest.mark.cases("V2")
@pytest.mark.parametrize("items", [[item] for item in MALFORMED] + [MALFORMED])
@pytest.mark.parametrize("dataset", ["stocks.trades", "options.bars"])
def test_malformed_items_of_a_list_are_skipped_and_counted_once(
    dataset: str, items: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    name = LISTED["GOOG"]

    def answer(path: str, query: dict[str, str]) -> Any:
        records = [*items, {"symbol": name}] if query["status"] == "active" else []
        return {"option_contracts": records} if path.endswith("contracts") else records

    with serve(answer) as service:
        config = from_mapping({"data_url": service.url, "credentials": KEYS}).backfill_settings
        found = asyncio.run(resolve_symbols(dataset, ["GOOG2*"], "2026-01-05", config))
    assert found == [name]
    lines = [each.getMessage() for each in caplog.records if "usable symbol" in each.getMessage()]
    assert lines == [f"records without a usable symbol in the list of the service, skipped: {len(items)}"]


def test_malformed_contracts_of_one_spelling_do_not_hide_those_of_the_other() -> None:
    def answer(path: str, query: dict[str, str]) -> Any:
        return (
            {"option_contracts": [5]}
            if query["underlying_symbols"] == "BRKB"
            else list_contracts(path, query)
        )

    with serve(answer) as service:
        config = from_mapping({"data_url": service.url, "credentials": KEYS}).backfill_settings
        found = asyncio.run(resolve_symbols("options.bars", ["BRKB*"], "2026-01-05", config))
    assert found == [LISTED["BRK.B"]]


def test_a_list_of_contracts_may_have_names_that_are_none(caplog: pytest.LogCaptureFixture) -> None:
    records = [{"symbol": "GOOG2X"}, {"symbol": LISTED["GOOG"]}]
    with serve(lambda path, query: {"option_contracts": records}) as service:
        config = from_mapping({"data_url": service.url, "credentials": KEYS}).backfill_settings
        found = asyncio.run(resolve_symbols("options.bars", ["GOOG2*"], "2026-01-05", config))
    assert found == [LISTED["GOOG"]]
    assert "skipped: 2" in caplog.text, "one of active contracts, one of expired ones"


@pytest.mark.parametrize("body", [None, 5, "x", {"message": "no"}])
def test_an_answer_that_is_no_list_is_unusable(body: Any) -> None:
    with pytest.raises(UnusableAnswerError, match="not a list of records"):
        _read_symbols(body, "/v2/assets")


def test_more_contracts_than_a_page_holds_are_all_found(
    sim: RunningSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = resolve(sim, "options.bars", "AAPL*")
    monkeypatch.setattr("mdstream.history.universe.CONTRACTS_PAGE", 7)
    assert resolve(sim, "options.bars", "AAPL*") == every


def test_a_pattern_that_matches_nothing_is_reported(sim: RunningSimulator) -> None:
    with pytest.raises(ConfigError, match=r"'QX\*' matches none of the 30"):
        resolve(sim, "stocks.trades", "QX*")
    assert expand_patterns(["B", "A*"], ["A1", "A2"]) == ["B", "A1", "A2"]
    assert [is_pattern(s) for s in ("AAPL", "BRK.B", "A?", "[AB]", "*")] == [False] * 2 + [True] * 3


def test_a_pattern_without_a_service_to_ask_is_reported() -> None:
    with pytest.raises(ConfigError, match=r"'A\*', a pattern .* needs keys: set APCA"):
        config = from_mapping({})
        asyncio.run(resolve_symbols("stocks.trades", ["A*"], "2026-01-05", config.backfill_settings))


def test_a_refused_key_is_reported() -> None:
    keys = {"SIMULATOR_KEY_ID": "id", "SIMULATOR_SECRET_KEY": "secret"}
    with simulator("--rate", "1", env=keys) as sim:
        config = from_mapping({"data_url": sim.data_url})
        with pytest.raises(CredentialsError, match="401"):
            asyncio.run(resolve_symbols("stocks.trades", ["A*"], "2026-01-05", config.backfill_settings))


@pytest.mark.parametrize(
    ("settings", "base"),
    [
        ({"credentials": {"key_id": "PKX", "secret_key": "s"}}, PAPER_TRADING_URL),
        ({"credentials": {"key_id": "AKX", "secret_key": "s"}}, LIVE_TRADING_URL),
        ({"data_url": "http://127.0.0.1:1"}, "http://127.0.0.1:1"),
        ({"data_url": "http://127.0.0.1:1", "trading_url": "http://b/"}, "http://b"),
    ],
)
def test_where_assets_are_listed(settings: dict[str, Any], base: str) -> None:
    assert from_mapping(settings).trading_base() == base


def test_a_backfill_takes_patterns_for_symbols_and_for_those_that_come_first(
    sim: RunningSimulator, tmp_path: Path
) -> None:
    status = fill(sim, tmp_path, "stocks.bars", ["A*"], *HOURS, priority=["AM*"])
    assert status.complete
    wanted = {s for s in MARKETS["stocks"].universe if s.startswith("A")}
    assert set(scan_store(tmp_path, "stocks.bars")["symbol"].unique()) == wanted


def test_alpaca_pys_own_client_reads_the_listings(sim: RunningSimulator) -> None:
    pytest.importorskip("alpaca", reason="needs alpaca-py")
    from alpaca.trading.client import TradingClient
    from alpaca.trading.enums import AssetClass
    from alpaca.trading.requests import GetAssetsRequest, GetOptionContractsRequest

    client = TradingClient("k", "s", url_override=sim.data_url)
    found = client.get_all_assets(GetAssetsRequest(asset_class=AssetClass.CRYPTO))
    assert [each.symbol for each in found] == list(MARKETS["crypto"].universe)  # type: ignore[union-attr]
    wanted = GetOptionContractsRequest(
        underlying_symbols=["AAPL"],
        expiration_date_gte=date(2026, 1, 5),
        expiration_date_lte=date(2030, 1, 1),
        limit=10_000,
    )
    listed = client.get_option_contracts(wanted).option_contracts  # type: ignore[union-attr]
    assert listed
    assert {each.symbol for each in listed} <= set(resolve(sim, "options.bars", "AAPL*"))
