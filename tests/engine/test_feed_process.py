from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mdstream.engine.event_log import EventLog
from mdstream.engine.feed_process import FeedProcess
from mdstream.engine.feed_state import Stage
from mdstream.errors import Exit
from mdstream.pool import forkserver
from mdstream.streams.spec import Channel
from mdstream.system.clock import MOST_GAP_S
from mdstream.telemetry.events import EventKind, RunEvent
from mdstream.telemetry.schema import EVENTS, SYMBOLS
from mdstream.telemetry.state import FeedState
from mdstream.telemetry.writer import TelemetryWriter
from tests.engine.feeds import DRAIN, UP, Step, play
from tests.running import until

CONNECTED = ("send", "event", RunEvent(EventKind.CONNECTED, "streaming"))
LOST = ("send", "event", RunEvent(EventKind.LOST, "connection lost"))


class Rows:
    """A replacement for the telemetry writer that keeps the rows."""

    def __init__(self) -> None:
        self.of: dict[str, list[dict[str, Any]]] = {EVENTS.name: [], SYMBOLS.name: []}

    def write(self, channel: Channel, rows: Sequence[dict[str, Any]]) -> None:
        self.of[channel.name] += rows

    @property
    def kinds(self) -> list[str]:
        return [row["kind"] for row in self.of["events"]]

    @property
    def texts(self) -> list[str]:
        return [row["text"] for row in self.of["events"]]

    @property
    def symbols(self) -> list[tuple[str, str, str | None]]:
        return [(row["symbol"], row["state"], row["reason"]) for row in self.of["symbols"]]


class Case:
    """A feed whose processes follow scripts."""

    def __init__(self, path: Path) -> None:
        self.rows, self.logs = Rows(), list[dict[str, Any]]()
        self.state = FeedState.create(path / "stocks.state")
        events = EventLog(cast(TelemetryWriter, self.rows))
        self.feed = FeedProcess("stocks", ["AAPL", "MSFT"], self.state, events, self.logs.append)
        self._context = forkserver.take()

    def start(self, *script: Step) -> None:
        self.feed._target = partial(play, script)
        assignment = SimpleNamespace(stream="stocks", generation=self.feed.generation + 1)
        self.feed.start(self._context, cast(Any, assignment))

    def until(self, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, self.feed.stage
            sources = [s for s in (self.feed.pipe, self.feed.sentinel) if s is not None]
            for source in wait(sources, 0.1) if sources else ():
                if source is self.feed.pipe:
                    self.feed.receive()
                elif source == self.feed.sentinel:
                    self.feed.handle_exit()

    def until_stage(self, stage: Stage) -> None:
        self.until(lambda: self.feed.stage is stage)

    @property
    def commands(self) -> list[list[Any]]:
        return [record["command"] for record in self.logs]


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    case = Case(tmp_path)
    yield case
    if case.feed.process is not None:
        case.feed.kill("the test is over")
        case.feed.process.join()
    forkserver.leave()


def test_a_feed_that_serves_and_drains_has_stopped(case: Case) -> None:
    assert case.feed.stage is Stage.NEW
    case.start(*UP, ("expect", "fetch"), CONNECTED, ("expect", "next"), LOST, *DRAIN)
    assert case.feed.stage is Stage.STARTING
    case.until_stage(Stage.CONNECTING)
    case.feed.command("fetch")
    case.until_stage(Stage.STREAMING)
    case.state["established"] = 1
    case.feed.command("next")
    case.until_stage(Stage.CONNECTING)
    case.feed.drain()
    assert case.feed.stage is Stage.DRAINING
    case.until_stage(Stage.STOPPED)
    assert case.rows.kinds == ["started", "connected", "lost", "stopped"]
    assert case.feed.process is None
    assert case.feed.pipe is None
    case.feed.fail_if_unserved(time.monotonic())
    assert not case.feed.failure


def test_commands_wait_for_the_process_and_hold_for_its_successors(case: Case) -> None:
    case.feed.command("subscribe", ["trades"], ["TSLA"])
    case.start(*UP, ("expect", "fetch"), ("exit", 1))
    case.until_stage(Stage.CONNECTING)
    case.feed.command("fetch")
    case.until_stage(Stage.RESTARTING)
    case.start(*UP, ("expect", "fetch"), ("hang",))
    case.until(lambda: len(case.logs) == 4)
    assert case.commands == [["subscribe", ["trades"], ["TSLA"]], ["fetch"]] * 2


def test_a_feed_that_died_is_due_again_after_a_pause_that_grows(case: Case) -> None:
    pauses = []
    for _ in range(3):
        case.start(*UP, ("exit", 1))
        case.until_stage(Stage.RESTARTING)
        pauses.append(case.rows.of["events"][-1]["fields"]["pause_s"])
        assert 0 <= case.feed.restart_at - time.monotonic() <= pauses[-1]
    assert case.rows.kinds == ["started", "died", "restarted", "died", "restarted", "died"]
    assert "feed process ended with code 1; restarting it in" in case.rows.texts[1]
    assert pauses[0] <= 0.5 <= pauses[1] <= 1.0 <= pauses[2] <= 2.0
    assert case.feed.generation == 2


def test_a_feed_that_no_restart_can_help_fails_with_the_reason_it_gave(case: Case) -> None:
    case.start(*UP, ("send", "symbols", (["AAPL"], {}, "")), ("send", "failed", "bad key"), ("exit", 3))
    case.until_stage(Stage.FAILED)
    assert (case.feed.failure, case.feed.exit_code) == ("bad key", Exit.CREDENTIALS)
    assert case.rows.kinds == ["started", "failed"]
    assert case.rows.texts[-1] == "failed: bad key"
    assert case.feed.failed == {"AAPL": "bad key", "MSFT": "bad key"}
    assert case.rows.symbols == [
        ("AAPL", "ok", None),
        ("AAPL", "failed", "bad key"),
        ("MSFT", "failed", "bad key"),
    ]
    assert case.state["symbols_failed"] == 2


def test_a_code_that_was_announced_counts_where_the_fork_server_cannot_know_it(case: Case) -> None:
    case.start(*UP, ("send", "failed", "full"), ("send", "exit", (Exit.SHARED_MEMORY, [])), ("exit", 255))
    case.until_stage(Stage.FAILED)
    assert case.feed.exit_code == Exit.SHARED_MEMORY


def test_a_feed_without_heartbeat_is_killed_and_restarted(case: Case) -> None:
    case.start(*UP, ("hang",))
    case.until_stage(Stage.CONNECTING)
    case.feed.check(60.0, 0.2)
    assert case.feed.stage is Stage.CONNECTING
    until(lambda: case.feed.check(60.0, 0.2) or case.feed._exit_reason)
    case.until_stage(Stage.RESTARTING)
    assert "hung: no heartbeat for 0 s" in case.rows.texts[-1]


@pytest.mark.cases("M1")
def test_time_in_which_the_supervisor_was_stopped_too_is_not_held_against_a_feed(case: Case) -> None:
    case.start(*UP, ("hang",))
    case.until_stage(Stage.CONNECTING)
    case.feed.check(1.0, 1.0)
    time.sleep(MOST_GAP_S + 0.1)  # neither of the two runs
    case.feed.check(1.0, 1.0)
    assert case.feed._exit_reason == ""
    until(lambda: case.feed.check(1.0, 1.0) or case.feed._exit_reason)  # now only the feed does not
    case.until_stage(Stage.RESTARTING)


@pytest.mark.cases("M1")
@pytest.mark.parametrize("step_s", [7_200, -7_200])
def test_a_heartbeat_of_another_clock_is_a_heartbeat(
    case: Case, monkeypatch: pytest.MonkeyPatch, step_s: int
) -> None:
    case.start(*UP, ("hang",))
    case.until_stage(Stage.CONNECTING)
    wall = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: wall() + step_s * 1_000_000_000)
    for beat in range(6):
        case.state["heartbeat_ns"] = beat + 1
        case.feed.check(60.0, 0.2)
        time.sleep(0.1)
    assert case.feed._exit_reason == ""


def test_a_feed_that_does_not_come_up_is_killed_and_restarted(case: Case) -> None:
    case.start(("hang",))
    case.feed.check(0.0, 60.0)
    case.until_stage(Stage.RESTARTING)
    assert "did not come up within 0 s" in case.rows.texts[-1]


def test_a_feed_that_does_not_drain_in_time_is_killed_and_has_failed(case: Case) -> None:
    case.start(*UP, ("hang",))
    case.until_stage(Stage.CONNECTING)
    case.feed.drain()
    case.feed.expire("not drained within 1 s")
    case.until_stage(Stage.FAILED)
    assert case.feed.failure == "not drained within 1 s"
    assert case.feed.exit_code


def test_a_feed_that_is_drained_before_it_is_up_gets_no_other_command(case: Case) -> None:
    case.feed.command("fetch")
    case.start(*DRAIN[:1], *UP, ("exit", 0))
    case.feed.drain()
    case.until_stage(Stage.STOPPED)
    assert case.commands == [["drain"]]


def test_a_run_that_ends_between_two_processes_has_one_more_commit_what_was_left(case: Case) -> None:
    case.start(*UP, ("exit", 1))
    case.until_stage(Stage.RESTARTING)
    case.state["established"] = 1
    case.feed.drain()
    assert case.feed.stage is Stage.HALTED
    case.start(*DRAIN)
    assert case.feed.stage is Stage.FINISHING
    case.until_stage(Stage.STOPPED)
    assert not case.feed.failure


def test_a_death_while_draining_leaves_it_to_the_supervisor_whether_one_more_starts(case: Case) -> None:
    case.start(*UP, ("expect", "drain"), ("exit", 1))
    case.until_stage(Stage.CONNECTING)
    case.feed.drain()
    case.until_stage(Stage.HALTED)
    assert case.rows.texts[-1] == "feed process ended with code 1 at the end of the run"
    case.start(*UP, ("expect", "drain"), ("exit", 1))
    case.until_stage(Stage.FAILED)
    assert case.feed.failure == "feed process ended with code 1 (2 times in a row)"


@pytest.mark.parametrize("connected", [True, False])
def test_a_stream_given_up_between_two_processes_failed_unless_it_ever_served(
    case: Case, connected: bool
) -> None:
    case.start(("exit", 1))
    case.until_stage(Stage.RESTARTING)
    case.state["established"] = int(connected)
    case.feed.drain()
    case.feed.give_up()
    assert case.feed.stage is (Stage.STOPPED if connected else Stage.FAILED)


def test_a_run_that_ends_before_a_feed_started_leaves_nothing_to_do(case: Case) -> None:
    case.feed.drain()
    case.feed.give_up()
    case.feed.fail_if_unserved(time.monotonic())
    assert case.feed.stage is Stage.STOPPED


def test_a_stream_that_never_had_an_answer_has_failed_at_the_end(case: Case) -> None:
    case.start(*UP, ("send", "trouble", "connection refused"), *DRAIN)
    case.until_stage(Stage.CONNECTING)
    case.feed.drain()
    case.until_stage(Stage.STOPPED)
    case.feed.fail_if_unserved(time.monotonic())
    assert case.feed.stage is Stage.FAILED
    assert case.feed.failure == "never connected: connection refused"


def test_symbols_are_recorded_as_they_change_and_a_new_process_knows_none(case: Case) -> None:
    case.start(
        *UP,
        ("send", "symbols", (["AAPL"], {"MSFT": "refused"}, "")),
        ("send", "symbols", (["AAPL"], {"MSFT": "refused"}, "")),
        ("send", "symbols", (["AAPL", "MSFT"], {}, "")),
        ("send", "symbols", ([], {}, "")),  # not connected: no symbols to report
        CONNECTED,
        ("send", "symbols", (["AAPL"], {}, "")),
        ("exit", 1),
    )
    case.until_stage(Stage.RESTARTING)
    assert case.rows.symbols == [
        ("AAPL", "ok", None),
        ("MSFT", "failed", "refused"),
        ("MSFT", "ok", None),
        ("MSFT", "dropped", None),
    ]


def test_log_records_and_their_loss_are_passed_on(case: Case) -> None:
    case.start(("send", "log", {"command": "said"}), ("send", "logs lost", 7), *UP, ("hang",))
    case.until_stage(Stage.CONNECTING)
    assert case.commands == ["said"]
    assert (case.rows.kinds[0], case.rows.texts[0]) == ("resources", "7 log records were dropped")
