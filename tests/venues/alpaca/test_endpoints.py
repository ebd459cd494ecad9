from __future__ import annotations

import pytest

from mdstream.venues.alpaca import endpoints


@pytest.mark.parametrize(
    ("stream", "data"),
    [
        (endpoints.STREAM_URL, endpoints.DATA_URL),
        ("wss://stream.data.sandbox.alpaca.markets", "https://data.sandbox.alpaca.markets"),
        ("ws://127.0.0.1:8765", "http://127.0.0.1:8765"),
        ("wss://proxy.example.org/alpaca", "https://proxy.example.org/alpaca"),
    ],
)
def test_a_stream_host_and_its_data_host_name_each_other(stream: str, data: str) -> None:
    assert endpoints.sibling(stream) == data
    assert endpoints.sibling(data) == stream


@pytest.mark.parametrize(
    ("key", "url"), [("PKX", "https://paper-api.alpaca.markets"), ("AKX", "https://api.alpaca.markets")]
)
def test_a_key_says_which_trading_host_is_its_own(key: str, url: str) -> None:
    assert endpoints.trading_url(key) == url
