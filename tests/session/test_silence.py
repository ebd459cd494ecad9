"""When a silent connection counts as dead."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from mdstream.session import silence
from mdstream.session.silence import MuteLimits, Silence
from mdstream.streams import STREAMS
from mdstream.wire.subscription import Subscriptions

OWN = MuteLimits({"trades": 120.0, "quotes": 60.0}, {}, always_open=True)


def follows(*channels: str) -> Subscriptions:
    subscriptions = Subscriptions()
    subscriptions.active = {channel: {"AAPL"} for channel in channels}
    return subscriptions


def test_any_data_shows_that_the_socket_lives_and_the_most_talkative_channel_decides() -> None:
    watch = Silence(OWN, lambda channel: 0)
    watch.restart()
    now = watch.last_data
    assert not watch.broken(now + 59, follows("trades", "quotes"))
    assert watch.broken(now + 61, follows("trades", "quotes")) == "connected but mute for 60 s"
    assert not watch.broken(now + 61, follows("trades"))
    assert not watch.broken(now + 1e6, follows("news"))


def test_a_limit_that_was_asked_for_is_the_channels_own() -> None:
    rows = {"quotes": 0}
    watch = Silence(replace(OWN, own={}, asked={"quotes": 5.0}), rows.__getitem__)
    start = time.monotonic()
    assert not watch.broken(start, follows("quotes"))
    watch.last_data = start + 6  # trades
    assert watch.broken(start + 6, follows("quotes")) == "connected but no quotes for 5 s"
    rows["quotes"] += 1
    assert not watch.broken(start + 6, follows("quotes"))
    assert not watch.broken(start + 10, follows("quotes"))
    assert not watch.broken(start + 12, follows("trades")), "not subscribed now"
    assert not watch.broken(start + 20, follows("quotes")), "and subscribed anew"
    watch.restart()
    assert not watch.broken(start + 40, follows("quotes"))


def test_what_waits_here_is_not_the_servers_silence() -> None:
    told: list[int | None] = [3]
    watch = Silence(replace(OWN, own={}, asked={"quotes": 5.0}), lambda channel: told[0])
    start = time.monotonic()
    assert not watch.broken(start, follows("quotes"))
    told[0] = None
    assert not watch.broken(start + 6, follows("quotes")), "a worker of ours hangs"
    told[0] = 3
    assert not watch.broken(start + 7, follows("quotes"))
    assert watch.broken(start + 13, follows("quotes"))


def test_what_the_user_names_replaces_ours_and_holds_at_all_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = MuteLimits.of(STREAMS["stocks"], {"quotes": 500.0})
    monkeypatch.setattr(silence, "is_open", lambda moment: True)
    assert limits.socket(follows("trades", "quotes")) == 120.0
    monkeypatch.setattr(silence, "is_open", lambda moment: False)
    assert limits.socket(follows("trades", "quotes")) is None
    watch = Silence(limits, lambda channel: 0)
    start = time.monotonic()
    assert not watch.broken(start, follows("quotes"))
    assert watch.broken(start + 501, follows("quotes"))
