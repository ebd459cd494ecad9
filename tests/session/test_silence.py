"""The time after which a silent connection counts as dead."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from mdstream.session import silence
from mdstream.session.silence import MuteLimits, Silence
from mdstream.streams import STREAMS
from mdstream.wire.subscription import Subscriptions

OWN = MuteLimits({"trades": 120.0, "quotes": 60.0}, {}, always_open=True)


def subscribe(*channels: str) -> Subscriptions:
    subscriptions = Subscriptions()
    subscriptions.active = {channel: {"AAPL"} for channel in channels}
    return subscriptions


def test_any_data_shows_that_the_socket_is_alive_and_the_most_talkative_channel_decides() -> None:
    watch = Silence(OWN, lambda channel: 0)
    watch.restart()
    now = watch.last_data
    assert not watch.broken(now + 59, subscribe("trades", "quotes"))
    assert watch.broken(now + 61, subscribe("trades", "quotes")) == "connected but mute for 60 s"
    assert not watch.broken(now + 61, subscribe("trades"))
    assert not watch.broken(now + 1e6, subscribe("news"))


def test_a_limit_that_was_asked_for_is_the_channels_own() -> None:
    rows = {"quotes": 0}
    watch = Silence(replace(OWN, by_stream={}, by_user={"quotes": 5.0}), rows.__getitem__)
    start = time.monotonic()
    assert not watch.broken(start, subscribe("quotes"))
    watch.last_data = start + 6  # trades
    assert watch.broken(start + 6, subscribe("quotes")) == "connected but no quotes for 5 s"
    rows["quotes"] += 1
    assert not watch.broken(start + 6, subscribe("quotes"))
    assert not watch.broken(start + 10, subscribe("quotes"))
    assert not watch.broken(start + 12, subscribe("trades")), "the channel is not subscribed now"
    assert not watch.broken(start + 20, subscribe("quotes")), "a new subscription starts the time again"
    watch.restart()
    assert not watch.broken(start + 40, subscribe("quotes"))


def test_what_waits_here_is_not_the_servers_silence() -> None:
    counts: list[int | None] = [3]
    watch = Silence(replace(OWN, by_stream={}, by_user={"quotes": 5.0}), lambda channel: counts[0])
    start = time.monotonic()
    assert not watch.broken(start, subscribe("quotes"))
    counts[0] = None
    assert not watch.broken(start + 6, subscribe("quotes")), "a hanging worker is not silence of the server"
    counts[0] = 3
    assert not watch.broken(start + 7, subscribe("quotes"))
    assert watch.broken(start + 13, subscribe("quotes"))


def test_what_the_user_names_replaces_ours_and_holds_at_all_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = MuteLimits.of(STREAMS["stocks"], {"quotes": 500.0})
    monkeypatch.setattr(silence, "is_open", lambda moment: True)
    assert limits.socket(subscribe("trades", "quotes")) == 120.0
    monkeypatch.setattr(silence, "is_open", lambda moment: False)
    assert limits.socket(subscribe("trades", "quotes")) is None
    watch = Silence(limits, lambda channel: 0)
    start = time.monotonic()
    assert not watch.broken(start, subscribe("quotes"))
    assert watch.broken(start + 501, subscribe("quotes"))
