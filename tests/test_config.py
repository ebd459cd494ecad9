from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from mdstream.config import ANY_KEY, Config, usable_cores
from mdstream.settings import from_mapping, load
from mdstream.venues.alpaca import endpoints


def test_keys_come_from_alpacas_own_variables_and_never_show() -> None:
    config = load(environ={"APCA_API_KEY_ID": "id-1", "APCA_API_SECRET_KEY": "secret-1"})
    assert config.credentials.key_id == "id-1"
    assert not config.simulated
    assert "id-1" not in repr(config)
    assert "secret-1" not in str(config)
    assert pickle.loads(pickle.dumps(config)) == config


@pytest.mark.parametrize(
    ("flags", "any_key"),
    [
        ({"data_url": "http://127.0.0.1:8765"}, True),
        ({"stream_url": "ws://localhost:8765"}, True),
        ({"data_url": "https://data.example.com"}, False),
        ({"stream_url": "ws://127.0.0.1:1", "data_url": "https://data.example.com"}, False),
        ({"stream_url": "ws://127.0.0.1:1", "news": {"stream_url": "wss://example.com"}}, False),
        ({}, False),
    ],
)
def test_without_keys_servers_on_this_machine_are_sent_any(flags: dict[str, Any], any_key: bool) -> None:
    assert (load(environ={}, flags=flags).credentials == ANY_KEY) is any_key
    mine = {"APCA_API_KEY_ID": "id-1", "APCA_API_SECRET_KEY": "secret-1"}
    assert load(environ=mine, flags=flags).credentials.key_id == "id-1"


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


def test_workers_share_the_cores_unless_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)))
    assert Config().workers_per_stream() == 3, "four cores per stream, of which one is for its feed"
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
