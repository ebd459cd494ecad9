"""File, environment and flags give one frozen `Config`. Errors name the wrong setting and its source."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mdstream.config import AUTO
from mdstream.errors import ConfigError
from mdstream.settings import from_mapping, load


def test_file_yields_to_environment_and_environment_to_flags(tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    path.write_text(
        "workers = 1\nduration = 5\n[fetch]\ninterval_s = 10\nattempts = 9\n[stocks]\nsymbols = ['A', 'B']\nfeed = 'sip'\n"
    )
    config = load(
        path,
        {
            "MDSTREAM_DURATION": "6",
            "MDSTREAM_FETCH__INTERVAL_S": "20",
            "MDSTREAM_STOCKS__SYMBOLS": "C, D",
            "OTHER": "x",
        },
        {"duration": 7.5},
    )
    assert (config.workers, config.duration) == (1, 7.5)
    assert (config.fetch.interval_s, config.fetch.attempts) == (20.0, 9)
    assert config.stream("stocks").symbols == ("C", "D")
    assert config.stream("stocks").feed == "sip"
    assert config.stream("crypto").symbols[0] == "BTC/USD", "the default symbols"


@pytest.mark.parametrize(
    ("environ", "flags", "message"),
    [
        ({"APCA_API_KEY_ID": "x"}, {}, "set both APCA_API_KEY_ID and APCA_API_SECRET_KEY"),
        ({"MDSTREAM_DURATON": "5"}, {}, "environment: unknown setting duraton; did you mean 'duration'?"),
        ({"MDSTREAM_STOCKS__FOO": "5"}, {}, "environment: unknown setting stocks.foo; choose from symbols"),
        (
            {"MDSTREAM_WORKERS": "many"},
            {},
            "environment: workers: 'many' is not a whole number (auto, or 0 to 256)",
        ),
        ({}, {"streams": []}, "streams: name at least one of stocks, options, crypto, news"),
        ({}, {"streams": ["stocks", "stocks"]}, "streams: a stream is listed twice"),
        ({}, {"stocks": {"codec": "xml"}}, "stocks.codec: 'xml' is not one of json, msgpack"),
        ({}, {"options": {"codec": "json"}}, "options.codec: 'json' is not one of msgpack"),
        (
            {},
            {"stocks": {"channels": ["orderbooks"]}},
            "stocks.channels: 'orderbooks' is not one of trades",
        ),
        (
            {},
            {"stocks": {"symbols": ["A", "*"]}},
            "stocks.symbols: '*' means all symbols; remove the others",
        ),
        ({}, {"stocks": {"symbols": [" A"]}}, "stocks.symbols: ' A' is not a symbol"),
        (
            {},
            {"stocks": {"symbols": ["A"], "priority": ["B"]}},
            "stocks.priority: 'B' is not among stocks.symbols",
        ),
        (
            {},
            {"stocks": {"symbols": ["*"], "priority": ["A"]}},
            "stocks.priority: '*' subscribes all symbols at once",
        ),
        (
            {},
            {"options": {"symbols": ["SPY"], "priority": ["AAPL261218C00230000"]}},
            "options.priority: 'AAPL261218C00230000' is not among options.symbols",
        ),
        ({}, {"auth": "magic"}, "auth: 'magic' is not one of message, headers"),
        ({}, {"websocket": "ws"}, "websocket: 'ws' is not one of picows, websockets"),
        ({}, {"start_timeout_s": float("inf")}, "start_timeout_s: inf must be finite"),
        ({}, {"stream_url": "ws://[::1"}, "stream_url: 'ws://[::1' is not an address"),
        ({}, {"news": {"stream_url": "http://a"}}, "news.stream_url: 'http://a' must begin with ws"),
        (
            {"MDSTREAM_STREAMS": "stocks", "MDSTREAM_STREAMS__A": "3"},
            {},
            "environment: streams.a: streams is a single setting, not a section",
        ),
        ({"MDSTREAM_STOCK__FEED": "sip"}, {}, "unknown setting stock.feed; did you mean 'stocks'"),
        ({}, {"stock": {"feed": "sip"}}, "unknown setting stock; did you mean 'stocks'"),
        ({}, {"fetch": {"intervals": 1}}, "unknown setting fetch.intervals; did you mean 'interval_s'"),
        ({}, {"fetch.intervals.x": 1}, "unknown setting fetch.intervals.x; did you mean 'interval_s'"),
        ({}, {"frames": 5}, "frames is a section: set one of its settings"),
        ({}, {"log": {"level": "loud"}}, "log.level: 'loud' is not one of debug, info"),
        ({}, {"ca_file": "/nowhere.pem"}, "ca_file: no file '/nowhere.pem'"),
        ({}, {"data_url": "ftp://x"}, "data_url: 'ftp://x' must begin with http:// or https://"),
        ({}, {"fetch": {"budget_per_minute": 2}}, "fetch.budget_per_minute: 2 is below 4"),
        ({}, {"handoff": {"slabs": 1}}, "handoff.slabs: 1 is below the minimum of 2"),
        ({}, {"workers": 257}, "workers: 257 is above the maximum of 256"),
        ({}, {"simulator": {"rate": -1.0}}, "simulator.rate: -1.0 is below the minimum of 0"),
        ({}, {"stocks": {"chain_contracts": 0}}, "stocks.chain_contracts: 0 is below the minimum of 1"),
        (
            {},
            {"stocks": {"mute_after_s": {"trades": -1.0}}},
            "stocks.mute_after_s.trades: -1.0 is below the minimum of 0.1",
        ),
        ({}, {"data_url": "http://x:99999"}, "data_url: the port in 'http://x:99999' must be a"),
        ({}, {"ca_file": __file__}, f"ca_file: '{__file__}' contains no PEM certificate"),
        ({}, {"duration": float("nan")}, "duration: nan must be finite"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(
    environ: dict[str, str], flags: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(environ=environ, flags=flags)
    assert message in str(caught.value)


@pytest.mark.parametrize("value", ["auto", "AUTO", "-1", -1])
def test_the_number_of_workers_may_be_auto(tmp_path: Path, value: str | int) -> None:
    path = tmp_path / "m.toml"
    path.write_text(f"workers = {json.dumps(value)}\n")
    for config in (
        load(path, environ={}),
        load(environ={"MDSTREAM_WORKERS": str(value)}),
        load(environ={}, flags={"workers": value}),
        load(environ={}),
    ):
        assert config.workers == AUTO
        assert config.feed("stocks").adapts
    assert not load(path, environ={}, flags={"workers": 0}).feed("stocks").adapts
    with pytest.raises(ConfigError, match="duration: 'auto' is not a number of seconds"):
        load(environ={}, flags={"duration": "auto"})


def test_a_file_that_is_not_toml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("workers = = 1")
    with pytest.raises(ConfigError, match=r"bad\.toml is not valid TOML"):
        load(path, {})


def test_channels_keep_their_names_in_the_environment() -> None:
    config = load(environ={"MDSTREAM_STOCKS__MUTE_AFTER_S__UPDATEDBARS": "5"})
    assert config.stream("stocks").mute_after_s == {"updatedBars": 5.0}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"stocks": {"mute_after_s": {"barrs": 5}}}, "stocks.mute_after_s: 'barrs' is not one of"),
        ({"fetch": {"budget_per_minute": 2_000_000}}, "above the maximum of 1000000"),
        ({"duration": float("inf")}, "duration: inf must be finite"),
        (
            {"duration": "5x"},
            "duration: '5x' is not a number of seconds or a duration such as 5m, 90s or 1h30m",
        ),
    ],
)
def test_settings_beyond_reason_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        from_mapping(values)


KEYS = "[credentials]\nkey_id = 'k'\nsecret_key = 's3cret'\n"


@pytest.mark.cases("U3")
@pytest.mark.parametrize(
    ("mode", "text", "reported"),
    [
        (0o644, KEYS, "has keys, and other users can read it: chmod 600"),
        (0o640, KEYS, "has keys, and other users can read it: chmod 600"),
        (0o620, KEYS, "has keys, and other users can change it: chmod 600"),
        (0o602, KEYS, "has keys, and other users can change it: chmod 600"),
        (0o666, KEYS, "has keys, and other users can read and change it: chmod 600"),
        (0o600, KEYS, ""),
        (0o644, "workers = 1\n", ""),
        (0o664, "workers = 1\n", ""),  # this user's own group
        (0o646, "workers = 1\n", "decides where keys are sent, and other users can change it: chmod go-w"),
    ],
)
def test_a_file_that_others_can_change_or_with_keys_that_they_can_read_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, text: str, reported: str
) -> None:
    path = tmp_path / "m.toml"
    path.write_text(text)
    path.chmod(mode)
    load(path, {})
    wanted = [f"{path} {reported} {path}"] if reported else []
    assert [r.getMessage() for r in caplog.records] == wanted


@pytest.mark.cases("U3")
@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file to another user")
def test_a_file_with_keys_that_belongs_to_another_user_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "m.toml"
    path.write_text("[credentials]\nkey_id = 'k'\nsecret_key = 's3cret'\n")
    path.chmod(0o600)
    os.chown(path, 65534, 65534)
    load(path, {})
    assert f"{path} has keys, and belongs to another user: chown 0 {path}" in caplog.text
