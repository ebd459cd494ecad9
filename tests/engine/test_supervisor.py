"""The supervisor, with real processes that follow scripts instead of feeds."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import polars.selectors as cs
import pytest

from mdstream.engine import run_end, supervisor
from mdstream.engine.feed_process import FeedProcess
from mdstream.engine.feed_state import Stage
from mdstream.engine.supervisor import Supervisor
from mdstream.errors import Exit
from mdstream.frames.rundir import list_runs
from mdstream.reading.attach import Attachment
from mdstream.settings import from_mapping
from mdstream.telemetry.events import EventKind, RunEvent
from tests.engine.feeds import DRAIN, UP, Step, play_one

SERVES: Sequence[Step] = [
    *UP,
    ("set", "established", 1),
    ("send", "event", RunEvent(EventKind.CONNECTED, "streaming")),
    *DRAIN,
]


class Case:
    """A run, and its logs and events at its end."""

    def __init__(self, tmp_path: Path, **settings: Any) -> None:
        values = {
            "streams": ["stocks", "crypto"],
            "credentials": {"key_id": "k", "secret_key": "s"},
            "stream_url": "ws://127.0.0.1:1",
            "data_url": "http://127.0.0.1:1",
            "rejects": str(tmp_path),
            "hang_timeout_s": 1000.0,  # these feeds have no heartbeat
        }
        self.config = from_mapping({**values, **settings})
        self.logs: list[dict[str, Any]] = []
        self.events = pl.DataFrame()

    def run(self, on_sample: Callable[[Supervisor], None]) -> Exit:
        self.supervisor = Supervisor(self.config, self.logs.append, on_sample)
        return self.supervisor.run(self._read_events)

    def _read_events(self, ended: Supervisor) -> None:
        frame = Attachment(ended.path).frame("telemetry.events")
        self.events = frame.with_columns(cs.categorical().cast(pl.String))

    def commands(self, stream: str) -> list[list[Any]]:
        return [r["command"] for r in self.logs if "command" in r and r["stream"] == stream]

    def kinds(self, stream: str) -> list[str]:
        return self.events.filter(pl.col("stream") == stream)["kind"].to_list()

    @property
    def stages(self) -> dict[str, Stage]:
        return {name: feed.stage for name, feed in self.supervisor.feeds.items()}


Follow = Callable[[Mapping[str, Sequence[Sequence[Step]]]], None]


@pytest.fixture
def follow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Follow]:
    """Make feeds follow scripts, by stream and generation; restore the state of this process afterwards."""

    def use(scripts: Mapping[str, Sequence[Sequence[Step]]]) -> None:
        target = partial(play_one, scripts)
        monkeypatch.setattr(supervisor, "FeedProcess", partial(FeedProcess, target=target))

    handlers, environment = logging.getLogger().handlers[:], dict(os.environ)
    config = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    before = dict(config)
    yield use
    logging.getLogger().handlers[:] = handlers
    os.environ.clear()
    os.environ.update(environment)
    config.clear()
    config.update(before)


def stop_once_streaming(run: Supervisor) -> None:
    if all(feed.stage is Stage.STREAMING for feed in run.feeds.values()) and not run.draining:
        run.stop()


def test_all_feeds_begin_to_fetch_at_once_and_drain_at_the_end(tmp_path: Path, follow: Follow) -> None:
    follow({"stocks": [SERVES], "crypto": [SERVES]})
    case = Case(tmp_path)
    assert case.run(stop_once_streaming) is Exit.OK
    assert case.stages == {"stocks": Stage.STOPPED, "crypto": Stage.STOPPED}
    for stream in ("stocks", "crypto"):
        assert case.commands(stream) == [["fetch"], ["drain"]]
        assert case.kinds(stream) == ["started", "connected", "stopped"]
    assert list_runs() == []


def test_one_streams_failure_stops_no_other_and_names_the_exit_code(tmp_path: Path, follow: Follow) -> None:
    refused = [*UP, ("send", "failed", "bad key"), ("exit", int(Exit.CREDENTIALS))]
    follow({"stocks": [refused], "crypto": [SERVES]})
    case = Case(tmp_path)

    def stop(run: Supervisor) -> None:
        if run.feeds["stocks"].stage.is_final and run.feeds["crypto"].stage is Stage.STREAMING:
            run.stop()

    assert case.run(stop) is Exit.CREDENTIALS
    assert case.stages == {"stocks": Stage.FAILED, "crypto": Stage.STOPPED}
    assert case.supervisor.feeds["stocks"].failure == "bad key"
    assert case.commands("crypto")[-1] == ["drain"]


def test_a_feed_that_dies_is_replaced_and_fetches_too(tmp_path: Path, follow: Follow) -> None:
    follow({"crypto": [[*UP, ("expect", "fetch"), ("exit", 1)], SERVES]})
    case = Case(tmp_path, streams=["crypto"])
    assert case.run(stop_once_streaming) is Exit.OK
    assert case.kinds("crypto") == ["started", "died", "restarted", "connected", "stopped"]
    assert case.commands("crypto") == [["fetch"], ["fetch"], ["drain"]]


def test_a_run_ends_by_itself_once_no_stream_is_left(tmp_path: Path, follow: Follow) -> None:
    follow({"stocks": [[("exit", int(Exit.CONFIG))]], "crypto": [[("exit", int(Exit.SHARED_MEMORY))]]})
    case = Case(tmp_path)
    assert case.run(lambda run: None) is Exit.STREAM_FAILED, "the streams failed for different reasons"
    assert set(case.stages.values()) == {Stage.FAILED}


def test_a_run_ends_by_itself_after_its_duration(tmp_path: Path, follow: Follow) -> None:
    follow({"crypto": [SERVES]})
    case = Case(tmp_path, streams=["crypto"], duration=0.2)
    assert case.run(lambda run: None) is Exit.OK
    assert any("duration of 0.2 s reached" in record.get("message", "") for record in case.logs)


def test_a_feed_that_does_not_drain_is_killed_and_only_its_stream_fails(
    tmp_path: Path, follow: Follow
) -> None:
    follow({"stocks": [[*SERVES[:-1], ("hang",)]], "crypto": [SERVES]})
    case = Case(tmp_path, drain_timeout_s=0.5)
    assert case.run(stop_once_streaming) is Exit.STREAM_FAILED
    assert case.stages == {"stocks": Stage.FAILED, "crypto": Stage.STOPPED}
    assert case.supervisor.feeds["stocks"].failure == "not drained within 0 s"


def test_a_second_stop_ends_a_run_at_once(tmp_path: Path, follow: Follow) -> None:
    follow({"crypto": [[*SERVES[:-2], ("hang",)]]})
    case = Case(tmp_path, streams=["crypto"], drain_timeout_s=600.0)  # longer than the time limit of a test

    def stop_twice(run: Supervisor) -> None:
        if run.feeds["crypto"].stage is Stage.STREAMING:
            run.stop()
            run.stop()

    assert case.run(stop_twice) is Exit.INTERRUPTED
    assert list_runs() == []


@pytest.mark.parametrize("left", [True, False])
def test_what_a_feed_left_that_died_while_draining_is_committed_by_one_more(
    tmp_path: Path, follow: Follow, monkeypatch: pytest.MonkeyPatch, left: bool
) -> None:
    monkeypatch.setattr(run_end, "has_leftovers", lambda run, feed: left)
    follow({"crypto": [[*SERVES[:-1], ("exit", 1)], [*UP, *DRAIN]]})
    case = Case(tmp_path, streams=["crypto"])
    assert case.run(stop_once_streaming) is Exit.OK, "a death at the end of the run is not a failure"
    assert case.supervisor.feeds["crypto"].generation == int(left)
    assert case.commands("crypto").count(["drain"]) == 1 + left


def test_other_descriptors_are_watched_and_commands_reach_their_feed(
    tmp_path: Path, follow: Follow
) -> None:
    follow({"stocks": [[*SERVES[:-2], ("expect", "subscribe"), *DRAIN]], "crypto": [SERVES]})
    case = Case(tmp_path)
    read, write = os.pipe()

    def act() -> None:
        case.supervisor.unwatch(read)
        case.supervisor.command("stocks", os.read(read, 100).decode(), ["trades"], ["TSLA"])
        case.supervisor.stop()

    def watch(run: Supervisor) -> None:
        if all(feed.stage is Stage.STREAMING for feed in run.feeds.values()) and not run.draining:
            run.watch(read, act)
            os.write(write, b"subscribe")

    assert case.run(watch) is Exit.OK
    assert case.commands("stocks") == [["fetch"], ["subscribe", ["trades"], ["TSLA"]], ["drain"]]
    assert case.commands("crypto") == [["fetch"], ["drain"]]
    os.close(read)
    os.close(write)
