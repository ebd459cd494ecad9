"""The target of a session, which depends only on the settings."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
import trustme

from mdstream.session.target import Target, upgrade_headers
from mdstream.settings import from_mapping
from mdstream.streams import STREAMS

KEYS = {"key_id": "key", "secret_key": "secret"}


def make_target(stream: str = "stocks", **settings: Any) -> Target:
    config = from_mapping({"credentials": KEYS, **settings})
    return Target.of(STREAMS[stream], config.stream(stream), config.connection(stream))


@pytest.mark.parametrize(
    ("stream", "settings", "url"),
    [
        ("stocks", {}, "wss://stream.data.alpaca.markets/v2/iex"),
        ("stocks", {"stocks": {"feed": "boats"}}, "wss://stream.data.alpaca.markets/v1beta1/boats"),
        ("options", {}, "wss://stream.data.alpaca.markets/v1beta1/indicative"),
        ("news", {"data_url": "http://127.0.0.1:9"}, "ws://127.0.0.1:9/v1beta1/news"),
        ("crypto", {"stream_url": "ws://127.0.0.1:9/"}, "ws://127.0.0.1:9/v1beta3/crypto/us"),
        (
            "crypto",
            {"stream_url": "ws://127.0.0.1:9", "crypto": {"stream_url": "ws://127.0.0.1:8/"}},
            "ws://127.0.0.1:8/v1beta3/crypto/us",
        ),
    ],
)
def test_the_address_is_made_of_the_server_and_the_feed(
    stream: str, settings: dict[str, Any], url: str
) -> None:
    assert make_target(stream, **settings).url == url


def test_only_a_secure_address_is_verified_and_by_the_authorities_that_are_named(tmp_path: Any) -> None:
    assert make_target(stream_url="ws://127.0.0.1:9").tls is None
    tls = make_target().tls
    assert tls is not None
    assert (tls.check_hostname, tls.verify_mode) == (True, ssl.CERT_REQUIRED)
    bundle = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(bundle)
    tls = make_target(ca_file=str(bundle)).tls
    assert tls is not None
    assert len(tls.get_ca_certs()) == 1


def test_compression_needs_the_library_that_has_it() -> None:
    assert make_target().library == "picows"
    assert make_target(websocket="websockets").library == "websockets"
    assert make_target(compression=True).library == "websockets"


def test_keys_are_in_the_headers_only_if_they_should_be() -> None:
    assert upgrade_headers(make_target()) == {"Content-Type": "application/json"}
    assert upgrade_headers(make_target("options", auth="headers")) == {
        "Content-Type": "application/msgpack",
        "APCA-API-KEY-ID": "key",
        "APCA-API-SECRET-KEY": "secret",
    }


def test_a_target_never_shows_its_keys() -> None:
    assert "secret" not in repr(make_target(auth="headers"))
