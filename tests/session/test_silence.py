"""The time after which a silent connection counts as dead."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any

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


def make_active(watch: Silence) -> float:
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
    now = make_active(watch)
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
def test_silence_counts_in_the_active_hours_of_the_data_feed(
    feed: str, moment: str, replaced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(monkeypatch, moment)
    watch = Silence(MuteLimits.of(STREAMS["stocks"], {}, feed), lambda channel: 0)
    now = make_active(watch)
    assert bool(watch.find_fault(now + 100, subscribe("quotes"))) is replaced


@pytest.mark.cases("S9")
def test_connections_that_bring_no_data_either_are_replaced_more_and_more_rarely() -> None:
    watch = Silence(OWN, lambda channel: 0)
    now = make_active(watch)
    watch.last_data = now
    replaced = stream_for(watch, 20_000, 10**9, now, subscribe("quotes"))
    assert 60 < replaced[0] <= 62
    assert 5 <= len(replaced) <= 10
    lost = make_active(watch)
    assert watch.find_fault(lost + 61, subscribe("quotes")), "data makes the limit the usual one again"


def test_the_silence_of_the_night_does_not_make_the_day_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    at(monkeypatch, "2026-11-20T05:00")
    watch = Silence(MuteLimits.of(STREAMS["stocks"], {}, "sip"), lambda channel: 0)
    watch.restart()
    assert not stream_for(watch, 10_000, 900, watch._since, subscribe("quotes"))
    at(monkeypatch, "2026-11-20T12:00")
    now = make_active(watch)
    assert watch.find_fault(now + 61, subscribe("quotes"))


DAY, NIGHT = ("16:00", "13:00", "09:30"), ("04:00", "04:00", "20:00")
"""When a feed ceases to be active, on a half day too, and when it begins."""
MARKETS = {
    "iex": DAY,
    "sip": DAY,
    "otc": DAY,
    "opra": DAY,
    "indicative": DAY,
    "delayed_sip": ("16:15", "13:15", "09:45"),
    "overnight": NIGHT,
    "boats": NIGHT,
}
BREAKS = {
    "a night": ("2026-12-01", "2026-12-02", False),
    "a weekend": ("2026-12-04", "2026-12-07", False),
    "a weekend in which the clocks change": ("2026-10-30", "2026-11-02", False),
    "a holiday": ("2026-11-25", "2026-11-27", False),
    "a half day and a weekend": ("2026-11-27", "2026-11-30", True),
}


def _list_breaks() -> Iterator[Any]:
    """Each time in which a data feed is not active: its first second, and the first one after it."""
    for feed, (close, half, opens) in MARKETS.items():
        for name, (last, first, is_half) in BREAKS.items():
            if opens == "20:00":  # the night before a trading day
                first = str(date.fromisoformat(first) - timedelta(1))
            begin, end = (
                datetime.fromisoformat(f"{day}T{hour}").replace(tzinfo=NEW_YORK).timestamp()
                for day, hour in ((last, half if is_half else close), (first, opens))
            )
            yield pytest.param(feed, begin, end, id=f"{feed} after {name}")


BREAK_TIMES = list(_list_breaks())
ALWAYS_OPEN = sorted({f for s in STREAMS.values() if s.mute_after_s for f in s.feeds} - {*MARKETS})


class Clock:
    """Both clocks in one: seconds since 1970. The watch looks each second, more rarely while nothing opens."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, feed: str, start: float) -> None:
        self.now = start
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "time_ns", lambda: round(self.now * 1e9))
        spec = next(spec for spec in STREAMS.values() if feed in spec.feeds)
        self.watch = Silence(MuteLimits.of(spec, {}, feed), lambda channel: 0)
        self.limit = spec.mute_after_s["quotes"]
        self.replaced: list[float] = []
        self.watch.restart()

    def run(self, until: float, every: float = math.inf, step: float = 1.0) -> Clock:
        """Let time pass, and data arrive `every` so many seconds; note when the connection is replaced."""
        while self.now < until:
            self.now = min(until, self.now + step)
            if self.now - self.watch.last_data >= every:
                self.watch.last_data = self.now
            if self.watch.find_fault(self.now, subscribe("quotes")):
                self.replaced.append(self.now)
                self.watch.restart()
        return self


@pytest.mark.parametrize(("feed", "close", "opens"), BREAK_TIMES)
def test_no_closed_second_is_silence(
    feed: str, close: float, opens: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch, feed, close - 600)
    clock.run(close - 10, every=1).run(opens - 90, step=30)
    clock.run(opens + clock.limit - 12)  # and the last ten seconds before the close
    assert clock.replaced == []
    clock.run(opens + 300, every=1)
    assert clock.replaced == []
    clock.run(opens + 900)
    assert clock.replaced, "what died after the night is still found"


@pytest.mark.parametrize("every", [1, 10])
@pytest.mark.parametrize(("feed", "close", "opens"), BREAK_TIMES)
def test_no_closed_second_is_pace(
    feed: str, close: float, opens: float, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch, feed, close - 600)
    clock.run(close, every).run(opens - 90, step=30)
    died = clock.run(opens + 1800, every).now
    clock.run(died + 600)
    assert clock.limit - every <= clock.replaced[0] - died <= clock.limit + 2


@pytest.mark.parametrize(("feed", "close", "opens"), BREAK_TIMES)
def test_what_died_before_the_close_is_found_after_the_open(
    feed: str, close: float, opens: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch, feed, close - 600)
    clock.run(close - 30, every=1).run(opens - 90, step=30).run(opens + 300)
    assert clock.limit - 30 <= clock.replaced[0] - opens <= clock.limit - 28


def test_data_of_closed_hours_does_not_make_the_pace_known(monkeypatch: pytest.MonkeyPatch) -> None:
    opens = datetime(2026, 12, 2, 9, 30, tzinfo=NEW_YORK).timestamp()
    clock = Clock(monkeypatch, "iex", opens - 3600)
    clock.run(opens, every=5).run(opens + 7200, every=240)
    assert clock.replaced == []


@pytest.mark.parametrize("moment", ["2026-12-02T03:00", "2026-11-21T12:00", "2026-12-25T12:00"])
@pytest.mark.parametrize("feed", ALWAYS_OPEN)
def test_what_is_always_open_is_active_at_all_hours(
    feed: str, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = datetime.fromisoformat(moment).replace(tzinfo=NEW_YORK).timestamp()
    clock = Clock(monkeypatch, feed, start)
    clock.run(start + 100, every=1).run(start + 200)
    assert clock.replaced == [start + 100 + clock.limit + 1]


def test_contracts_that_cease_to_trade_at_the_close_are_not_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    close = datetime(2026, 12, 1, 16, tzinfo=NEW_YORK).timestamp()
    clock = Clock(monkeypatch, "opra", close - 600)
    clock.run(close, every=1).run(close + 1800)
    assert clock.replaced == []
