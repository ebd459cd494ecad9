"""Rules that types cannot express: settings that must fit each other, and symbols."""

from __future__ import annotations

from typing import Any

import pytest

from mdstream.errors import ConfigError
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


def test_a_budget_has_a_request_for_each_stream() -> None:
    environ = {"MDSTREAM_FETCH__BUDGET_PER_MINUTE": "3"}
    with pytest.raises(
        ConfigError, match=r"environment: fetch\.budget_per_minute: 3 is below 4, one request"
    ):
        load(environ=environ)
    assert load(environ=environ, flags={"streams": ["news"]}).fetch.budget_per_minute == 3
