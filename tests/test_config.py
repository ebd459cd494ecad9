from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from mdstream.config import ANY_KEY, Config, usable_cores
from mdstream.errors import ConfigError
from mdstream.settings import from_mapping, load
from mdstream.venues.alpaca import endpoints


def test_file_gives_way_to_environment_and_environment_to_flags(tmp_path: Path) -> None:
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
    assert config.stream("crypto").symbols[0] == "BTC/USD", "its default"


def test_keys_come_from_alpacas_own_variables_and_never_show() -> None:
    config = load(environ={"APCA_API_KEY_ID": "id-1", "APCA_API_SECRET_KEY": "secret-1"})
    assert config.credentials.key_id == "id-1"
    assert not config.simulated
    assert "id-1" not in repr(config)
    assert "secret-1" not in str(config)
    assert pickle.loads(pickle.dumps(config)) == config


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"data_url": "http://127.0.0.1:8765"}, True),
        ({"stream_url": "ws://localhost:8765"}, True),
        ({"data_url": "https://data.example.com"}, False),
        ({"stream_url": "ws://127.0.0.1:1", "data_url": "https://data.example.com"}, False),
        ({"stream_url": "ws://127.0.0.1:1", "news": {"stream_url": "wss://example.com"}}, False),
        ({}, False),
    ],
)
def test_without_keys_servers_on_this_machine_are_told_any(flags: dict[str, Any], told: bool) -> None:
    assert (load(environ={}, flags=flags).credentials == ANY_KEY) is told
    mine = {"APCA_API_KEY_ID": "id-1", "APCA_API_SECRET_KEY": "secret-1"}
    assert load(environ=mine, flags=flags).credentials.key_id == "id-1"


@pytest.mark.parametrize(
    ("environ", "flags", "message"),
    [
        ({"APCA_API_KEY_ID": "x"}, {}, "set both APCA_API_KEY_ID and APCA_API_SECRET_KEY"),
        ({"MDSTREAM_DURATON": "5"}, {}, "environment: unknown setting duraton; did you mean 'duration'?"),
        ({"MDSTREAM_STOCKS__FOO": "5"}, {}, "environment: unknown setting stocks.foo; known here: symbols"),
        ({"MDSTREAM_WORKERS": "many"}, {}, "environment: workers: Expected `int`"),
        ({}, {"streams": []}, "streams: name at least one of stocks, options, crypto, news"),
        ({}, {"streams": ["stocks", "stocks"]}, "streams: a name stands twice"),
        ({}, {"stocks": {"codec": "xml"}}, "stocks.codec: 'xml' is not one of json, msgpack"),
        ({}, {"options": {"codec": "json"}}, "options.codec: 'json' is not one of msgpack"),
        (
            {},
            {"stocks": {"channels": ["orderbooks"]}},
            "stocks.channels: 'orderbooks' is not one of trades",
        ),
        ({}, {"stocks": {"symbols": ["A", "*"]}}, "stocks.symbols: '*' means all and stands alone"),
        ({}, {"stocks": {"symbols": [" A"]}}, "stocks.symbols: ' A' is no symbol"),
        ({}, {"auth": "magic"}, "auth: 'magic' must be message or headers"),
        ({}, {"websocket": "ws"}, "websocket: 'ws' must be picows or websockets"),
        ({}, {"start_timeout_s": float("inf")}, "start_timeout_s: inf is no number"),
        ({}, {"stream_url": "ws://[::1"}, "stream_url: 'ws://[::1' is no address"),
        ({}, {"news": {"stream_url": "http://a"}}, "news.stream_url: 'http://a' must begin with ws"),
        (
            {"MDSTREAM_STREAMS": "stocks", "MDSTREAM_STREAMS__A": "3"},
            {},
            "MDSTREAM_STREAMS__A sets a part of streams",
        ),
        ({}, {"log": {"level": "loud"}}, "log.level: 'loud' must be"),
        ({}, {"ca_file": "/nowhere.pem"}, "ca_file: no file '/nowhere.pem'"),
        ({}, {"data_url": "ftp://x"}, "data_url: 'ftp://x' must begin with http or https://host"),
        ({}, {"fetch": {"budget_per_minute": 2}}, "fetch.budget_per_minute: 2 is below 4"),
        ({}, {"handoff": {"slabs": 1}}, "handoff.slabs: 1 is below 2"),
        ({}, {"workers": 257}, "workers: 257 is above 256"),
        ({}, {"simulator": {"rate": -1.0}}, "simulator.rate: -1.0 is below 0"),
        ({}, {"stocks": {"chain_contracts": 0}}, "stocks.chain_contracts: 0 is below 1"),
        (
            {},
            {"stocks": {"mute_after_s": {"trades": -1.0}}},
            "stocks.mute_after_s.trades: -1.0 is below 0.1",
        ),
        ({}, {"data_url": "http://x:99999"}, "data_url: the port in 'http://x:99999' must be a"),
        ({}, {"ca_file": __file__}, f"ca_file: '{__file__}' holds no PEM certificate"),
        ({}, {"duration": float("nan")}, "duration: give seconds"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(
    environ: dict[str, str], flags: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(environ=environ, flags=flags)
    assert message in str(caught.value)


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("workers = = 1")
    with pytest.raises(ConfigError, match=r"bad\.toml is not valid TOML"):
        load(path, {})


@pytest.mark.parametrize(
    ("given", "urls"),
    [
        ({}, (endpoints.STREAM_URL, endpoints.DATA_URL)),
        ({"stream_url": "ws://127.0.0.1:5/"}, ("ws://127.0.0.1:5", "http://127.0.0.1:5")),
        ({"data_url": "https://h:1"}, ("wss://h:1", "https://h:1")),
        (
            {"stream_url": "wss://stream.data.sandbox.alpaca.markets"},
            ("wss://stream.data.sandbox.alpaca.markets", "https://data.sandbox.alpaca.markets"),
        ),
        (
            {"data_url": "https://data.sandbox.alpaca.markets"},
            ("wss://stream.data.sandbox.alpaca.markets", "https://data.sandbox.alpaca.markets"),
        ),
        ({"stream_url": "ws://a", "data_url": "http://b"}, ("ws://a", "http://b")),
    ],
)
def test_one_address_follows_from_the_other(given: dict[str, str], urls: tuple[str, str]) -> None:
    assert from_mapping(given).urls() == urls


def test_workers_share_the_cores_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)))
    assert Config().workers_per_stream() == 3, "four cores a stream, and one is its feed's"
    assert from_mapping({"streams": ["stocks"]}).workers_per_stream() == 15
    assert from_mapping({"workers": 0}).workers_per_stream() == 0
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3, 5})
    assert Config().workers_per_stream() == 1


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 16), ("250000 100000", 3), ("10000 100000", 1), ("9900000 100000", 16)],
)
def test_a_container_s_quota_counts_as_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quota: str, cores: int
) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(f"{quota}\n")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr("mdstream.config._QUOTA", file)
    assert usable_cores() == cores


def test_channels_keep_their_names_in_the_environment() -> None:
    config = load(environ={"MDSTREAM_STOCKS__MUTE_AFTER_S__UPDATEDBARS": "5"})
    assert config.stocks.mute_after_s == {"updatedBars": 5.0}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"stocks": {"mute_after_s": {"barrs": 5}}}, "stocks.mute_after_s: 'barrs' is not one of"),
        ({"fetch": {"budget_per_minute": 2_000_000}}, "above 1000000, more than any plan"),
        ({"duration": float("inf")}, "duration: give seconds"),
    ],
)
def test_settings_beyond_reason_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        from_mapping(values)
