"""Rules that types cannot express: settings that must fit each other, and symbols."""

from __future__ import annotations

from typing import Any

import pytest

from mdstream.config import usable_cores
from mdstream.engine.preparation import too_many_workers
from mdstream.errors import ConfigError
from mdstream.history.executor import PagePool
from mdstream.settings import load


@pytest.mark.parametrize("setting", ["symbols", "feed"])
def test_a_flag_for_a_stream_that_does_not_run_is_refused(setting: str) -> None:
    value: Any = {"symbols": ["BTC/USD"], "feed": "us"}[setting]
    with pytest.raises(
        ConfigError, match=f"command line: crypto.{setting}: crypto is not one of the streams"
    ):
        load(environ={}, flags={"streams": ["stocks"], "crypto": {setting: value}})
    load(environ={"MDSTREAM_CRYPTO__FEED": "us"}, flags={"streams": ["stocks"]})  # for other runs


@pytest.mark.parametrize("stream", ["stocks", "news", "crypto", "options"])
def test_symbols_in_small_letters_are_refused(stream: str) -> None:
    with pytest.raises(ConfigError, match=rf"{stream}\.symbols: 'aapl' is not a symbol.*capitals, as AAPL"):
        load(environ={}, flags={stream: {"symbols": ["MSFT", "aapl"]}})


@pytest.mark.cases("N7")
@pytest.mark.parametrize("symbol", ["AAPL261399C00100000", "AAPL261218X00100000", "AAPL26121800100000"])
def test_what_can_only_be_a_contract_has_to_be_one(symbol: str) -> None:
    with pytest.raises(ConfigError, match="is neither an underlying nor a contract, such as"):
        load(environ={}, flags={"options": {"symbols": [symbol]}})


def test_a_budget_has_a_request_for_each_stream() -> None:
    environ = {"MDSTREAM_FETCH__BUDGET_PER_MINUTE": "3"}
    with pytest.raises(
        ConfigError, match=r"environment: fetch\.budget_per_minute: 3 is below 4, one request"
    ):
        load(environ=environ)
    assert load(environ=environ, flags={"streams": ["news"]}).fetch.budget_per_minute == 3


@pytest.mark.cases("N7")
@pytest.mark.parametrize(
    ("flags", "reported"),
    [
        ({"streams": "stocks", "crypto.symbols": "BTC/USD"}, "crypto is not one of the streams"),
        ({"streams": "stocks", "crypto.feed": "us"}, "crypto is not one of the streams"),
        ({"perps.symbols": "BTC-PERP"}, "perps is not one of the streams"),
        ({"stocks.symbols": "aapl"}, "symbols are in capitals, as AAPL"),
        ({"options.symbols": "aapl"}, "symbols are in capitals, as AAPL"),
        ({"news.symbols": "MSFT,tsla"}, "symbols are in capitals, as TSLA"),
    ],
)
def test_a_flag_that_would_have_no_effect_is_an_error(flags: dict[str, str], reported: str) -> None:
    with pytest.raises(ConfigError, match=reported):
        load(environ={}, flags=flags)


@pytest.mark.cases("N7")
def test_more_workers_than_cores_are_reported_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    cores = usable_cores()
    assert f"more than the {cores} cores can run" in too_many_workers(cores + 1, 1)
    assert not too_many_workers(cores, 1)
    PagePool(cores)
    assert not caplog.text
    PagePool(cores + 1)
    assert f"{cores + 1} workers are more than the {cores} cores can run" in caplog.text
