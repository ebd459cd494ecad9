"""The time after which a silent connection counts as dead."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import datetime

import pytest

from mdstream.session.silence import MuteLimits, Silence
from mdstream.streams import STREAMS
from mdstream.venues.alpaca.sessions import NEW_YORK
from mdstream.wire.subscription import Subscriptions

OWN = MuteLimits({"trades": 120.0, "quotes": 60.0}, {}, feed="us")


def subscribe(*channels: str) -> Subscriptions:
    subscriptions = Subscriptions()
    subscriptions.active = {channel: {"AAPL"} for channel in channels}
    return subscriptions


def stream_for(
    watch: Silence, seconds: int, every: int, start: float, channels: Subscriptions
) -> list[float]:
    """Let data arrive `every` so many seconds; return when the connection would be replaced."""
    replaced = []
    for second in range(1, seconds + 1):
        now = start + second
        if second % every == 0:
            watch.last_data = now
        if watch.find_fault(now, channels):
            replaced.append(now - start)
            watch.restart()
            watch._since = now
    return replaced


def make_lively(watch: Silence) -> float:
    """Let the watch see data each second; return the time after it."""
    watch.restart()
    start = watch._since
    assert not stream_for(watch, 60, 1, start, subscribe("quotes"))
    return start + 60


def at(monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """Set the wall clock to a time in New York."""
    ns = round(datetime.fromisoformat(moment).replace(tzinfo=NEW_YORK).timestamp()) * 1_000_000_000
    monkeypatch.setattr(time, "time_ns", lambda: ns)


def test_any_data_shows_that_the_socket_is_alive_and_the_most_talkative_channel_decides() -> None:
    watch = Silence(OWN, lambda channel: 0)
    now = make_lively(watch)
    assert not watch.find_fault(now + 59, subscribe("trades", "quotes"))
    assert not watch.find_fault(now + 61, subscribe("trades"))
    assert not watch.find_fault(now + 1e6, subscribe("news"))
    assert watch.find_fault(now + 61, subscribe("trades", "quotes")) == "connected but mute for 60 s"


def test_a_limit_that_was_asked_for_is_the_channels_own() -> None:
    rows = {"quotes": 0}
    watch = Silence(replace(OWN, by_stream={}, by_user={"quotes": 5.0}), rows.__getitem__)
    start = time.monotonic()
    assert not watch.find_fault(start, subscribe("quotes"))
    watch.last_data = start + 6  # trades
    assert watch.find_fault(start + 6, subscribe("quotes")) == "connected but no quotes for 5 s"
    rows["quotes"] += 1
    assert not watch.find_fault(start + 6, subscribe("quotes"))
    assert not watch.find_fault(start + 10, subscribe("quotes"))
    assert not watch.find_fault(start + 12, subscribe("trades")), "the channel is not subscribed now"
    assert not watch.find_fault(start + 20, subscribe("quotes")), "a new subscription starts the time again"
    watch.restart()
    assert not watch.find_fault(start + 40, subscribe("quotes"))


def test_what_waits_here_is_not_the_servers_silence() -> None:
    counts: list[int | None] = [3]
    watch = Silence(replace(OWN, by_stream={}, by_user={"quotes": 5.0}), lambda channel: counts[0])
    start = time.monotonic()
    assert not watch.find_fault(start, subscribe("quotes"))
    counts[0] = None
    assert not watch.find_fault(start + 6, subscribe("quotes")), (
        "a hanging worker is not silence of the server"
    )
    counts[0] = 3
    assert not watch.find_fault(start + 7, subscribe("quotes"))
    assert watch.find_fault(start + 13, subscribe("quotes"))


def test_what_the_user_names_replaces_ours_and_holds_at_all_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    at(monkeypatch, "2026-11-21T12:00")
    limits = MuteLimits.of(STREAMS["stocks"], {"quotes": 500.0}, "sip")
    assert limits.socket(subscribe("trades", "quotes")) == 120.0
    watch = Silence(limits, lambda channel: 0)
    start = time.monotonic()
    assert not watch.find_fault(start, subscribe("quotes"))
    assert watch.find_fault(start + 501, subscribe("quotes"))


@pytest.mark.cases("S9")
@pytest.mark.parametrize("every", [5, 60, 240, 290])
def test_a_thin_symbol_is_not_a_dead_socket(every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    at(monkeypatch, "2026-11-20T12:00")
    watch = Silence(MuteLimits.of(STREAMS["stocks"], {}, "iex"), lambda channel: 0)
    watch.restart()
    assert not stream_for(watch, 20_000, every, watch._since, subscribe("quotes"))


@pytest.mark.cases("S9")
def test_a_symbol_that_hardly_trades_costs_few_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    at(monkeypatch, "2026-11-20T12:00")
    watch = Silence(MuteLimits.of(STREAMS["stocks"], {}, "iex"), lambda channel: 0)
    watch.restart()
    assert len(stream_for(watch, 23_400, 1_500, watch._since, subscribe("quotes"))) <= 4


@pytest.mark.cases("S9")
@pytest.mark.parametrize(
    ("feed", "moment", "replaced"),
    [
        ("iex", "2026-11-20T12:00", True),
        ("iex", "2026-11-20T22:00", False),
        ("sip", "2026-11-26T12:00", False),  # Thanksgiving
        ("sip", "2026-11-27T12:00", True),
        ("sip", "2026-11-27T14:00", False),  # its half day
        ("overnight", "2026-11-19T22:00", True),
        ("overnight", "2026-11-19T12:00", False),
        ("overnight", "2026-11-20T22:00", False),  # no trading day follows
        ("boats", "2026-11-25T22:00", False),  # the eve of Thanksgiving
        ("test", "2026-11-21T22:00", True),
    ],
)
def test_silence_counts_in_the_lively_hours_of_the_data_feed(
    feed: str, moment: str, replaced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(monkeypatch, moment)
    watch = Silence(MuteLimits.of(STREAMS["stocks"], {}, feed), lambda channel: 0)
    now = make_lively(watch)
    assert bool(watch.find_fault(now + 100, subscribe("quotes"))) is replaced


@pytest.mark.cases("S9")
def test_connections_that_bring_no_data_either_are_replaced_more_and_more_rarely() -> None:
    watch = Silence(OWN, lambda channel: 0)
    now = make_lively(watch)
    watch.last_data = now
    replaced = stream_for(watch, 20_000, 10**9, now, subscribe("quotes"))
    assert 60 < replaced[0] <= 62
    assert 5 <= len(replaced) <= 10
    lost = make_lively(watch)
    assert watch.find_fault(lost + 61, subscribe("quotes")), "data makes the limit the usual one again"


def test_the_silence_of_the_night_does_not_make_the_day_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    at(monkeypatch, "2026-11-20T05:00")
    watch = Silence(MuteLimits.of(STREAMS["stocks"], {}, "sip"), lambda channel: 0)
    watch.restart()
    assert not stream_for(watch, 10_000, 900, watch._since, subscribe("quotes"))
    at(monkeypatch, "2026-11-20T12:00")
    now = make_lively(watch)
    assert watch.find_fault(now + 61, subscribe("quotes"))
