"""What goes wrong in one place stays there, and the report says what happened."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

import mdstream
from mdstream.config import Config
from mdstream.errors import Exit
from mdstream.streams import STREAMS
from tests import traffic
from tests.running import HANGING_S, engine, settings, simulator, until

COUNT = 12_000
FLOOD = ("--rate", "0", "--messages", str(COUNT), "--messages-per-payload", "10")


def pids(running: mdstream.Engine, role: str, stream: str) -> list[int]:
    """Processes of a role that live now, as telemetry shows them."""
    import polars as pl

    frame = running.frame("telemetry.processes").with_columns(pl.col("role", "stream").cast(pl.String))
    mine = frame.filter((pl.col("role") == role) & (pl.col("stream") == stream))
    return [pid for pid in mine["pid"].unique().to_list() if psutil.pid_exists(pid)]


def _threads(pid: int) -> list[Path]:
    return sorted(Path(f"/proc/{pid}/task").iterdir(), key=lambda task: int(task.name))


def complete(running: mdstream.Engine, *streams: str) -> None:
    """These streams have every row of the traffic."""
    run = running.attachment
    for stream in streams:
        want = traffic.row_count(stream, COUNT)
        until(lambda s=stream, n=want: traffic.committed_rows(run, s) >= n, what=stream)
        assert traffic.frames_of(run, stream) == traffic.rows(stream, COUNT)


def untouched(report: dict[str, Any] | None, *streams: str) -> None:
    assert report is not None
    for stream in streams:
        found = report["streams"][stream]
        assert (found["state"], found["committed"], found["restarts"]) == ("stopped", COUNT, 0)
        assert found["rejected"] == found["in_flight"] == 0


def balanced(stream: dict[str, Any]) -> bool:
    return stream["messages"] == stream["committed"] + stream["rejected"] + stream["in_flight"]


def test_a_stream_that_cannot_authenticate_fails_alone(tmp_path: Path) -> None:
    with simulator(*FLOOD, "--fault", "crypto:auth=402") as sim:
        with engine(settings(sim, tmp_path, **traffic.symbols(*Config().streams))) as running:
            complete(running, "stocks", "options", "news")
        report = running.report
    untouched(report, "stocks", "options", "news")
    assert report is not None
    crypto = report["streams"]["crypto"]
    assert crypto["state"] == "failed"
    assert "auth failed (402): check APCA_API_KEY_ID" in crypto["reason"]
    assert running.exit_code == Exit.CREDENTIALS
    assert [e["text"] for e in report["events"] if e["stream"] == "crypto" and "402" in e["text"]]


def test_a_stream_that_never_got_in_has_failed_and_served_no_symbol(tmp_path: Path) -> None:
    with simulator("--rate", "100", "--fault", "stocks:auth=406") as sim:
        stocks = {"symbols": ["AAPL", "MSFT"]}
        with engine(settings(sim, tmp_path, streams=["stocks", "crypto"], stocks=stocks)) as running:
            until(lambda: running.attachment.rows("crypto.trades") > 20)
            until(lambda: running.attachment.rows("telemetry.streams") >= 6)  # three seconds
        report = running.report
    assert report is not None
    assert running.exit_code == Exit.STREAM_FAILED
    refused = report["streams"]["stocks"]
    assert refused["state"] == "failed"
    assert "never connected: connection limit exceeded (406)" in refused["reason"]
    assert refused["symbols_ok"] == 0
    assert set(refused["symbols_failed"]) == {"AAPL", "MSFT"}
    assert report["streams"]["crypto"]["symbols_failed"] == {}


def test_a_symbol_that_always_fails_is_one_line_of_the_report(tmp_path: Path) -> None:
    with simulator("--rate", "100", "--fault", "symbol=BADX") as sim:
        stocks = {"symbols": ["AAPL", "BADX", "MSFT"]}
        with engine(settings(sim, tmp_path, streams=["stocks", "crypto"], stocks=stocks)) as running:
            until(lambda: running.attachment.rows("stocks.snapshots") == 2)
            until(lambda: running.attachment.rows("stocks.trades") > 20)
        report = running.report
    assert report is not None
    assert running.exit_code == Exit.OK
    stocks_report = report["streams"]["stocks"]
    assert stocks_report["symbols_ok"] == 2
    assert list(stocks_report["symbols_failed"]) == ["BADX"]
    assert "invalid symbol: BADX" in stocks_report["symbols_failed"]["BADX"]
    assert report["streams"]["crypto"]["symbols_failed"] == {}


def test_a_stream_that_serves_none_of_its_symbols_has_failed(tmp_path: Path) -> None:
    with simulator("--rate", "100", "--fault", "symbol=BADX") as sim:
        streams = {"streams": ["stocks", "crypto"], "stocks": {"symbols": ["BADX"]}}
        with engine(settings(sim, tmp_path, **streams)) as running:
            until(lambda: running.frame("telemetry.streams")["symbols_failed"].max() == 1)
            until(lambda: running.attachment.rows("crypto.trades") > 20)
        report = running.report
    assert report is not None
    assert running.exit_code == Exit.STREAM_FAILED
    assert report["streams"]["stocks"]["state"] == "failed"
    reason = report["streams"]["stocks"]["reason"]
    assert re.match(r"none of its symbols is served \(BADX: .*invalid symbol: BADX\)", reason)
    assert report["streams"]["crypto"]["state"] == "stopped"


def test_symbols_whose_first_fetch_met_nothing_but_trouble_are_told(tmp_path: Path) -> None:
    with simulator("--rate", "100", "--fault", "stocks:rest=500") as sim:
        streams = {"streams": ["stocks", "crypto"], "stocks": {"symbols": ["AAPL", "MSFT"]}}
        fetch = {"deadline_s": 60, "attempts": 50}
        with engine(settings(sim, tmp_path, **streams, fetch=fetch)) as running:
            until(lambda: running.attachment.rows("stocks.trades") > 20)
            until(lambda: (running.frame("telemetry.streams")["fetch_requests"].max() or 0) > 4)
        report = running.report
    assert report is not None
    stocks = report["streams"]["stocks"]
    assert stocks["fetch"]["cycles"] == 0
    assert set(stocks["symbols_failed"]) == {"AAPL", "MSFT"}
    assert stocks["symbols_failed"]["AAPL"].startswith("not fetched yet: HTTP 500")
    assert stocks["state"] == "stopped", "it streams"
    assert report["streams"]["crypto"]["symbols_failed"] == {}


def test_what_a_feed_between_two_lives_had_received_is_committed_at_the_end(tmp_path: Path) -> None:
    with simulator("--rate", "0", "--messages-per-payload", "1") as sim:
        values = settings(
            sim, tmp_path, streams=["stocks", "crypto"], **traffic.symbols("stocks", "crypto")
        )
        with engine(values) as running:
            run = running.attachment
            until(lambda: run.rows("stocks.trades") > 500)
            [victim] = pids(running, "feed", "stocks")
            os.kill(victim, signal.SIGKILL)
        report = running.report
    assert report is not None
    assert report["streams"]["crypto"]["restarts"] == 0
    stocks = report["streams"]["stocks"]
    assert balanced(stocks)
    assert (stocks["state"], stocks["in_flight"], stocks["rejected"]) == ("stopped", 0, 0)
    assert stocks["restarts"] == 1
    assert running.exit_code == Exit.OK


def test_a_killed_feed_comes_back_and_the_others_lose_nothing(tmp_path: Path) -> None:
    with simulator("--rate", "4000", "--messages", str(COUNT)) as sim:
        streams = ["stocks", "options", "crypto"]
        values = settings(sim, tmp_path, streams=streams, **traffic.symbols(*streams))
        with engine(values) as running:
            run = running.attachment
            until(lambda: run.rows("stocks.trades") > 500)
            [victim] = pids(running, "feed", "stocks")
            os.kill(victim, signal.SIGKILL)
            for stream in ("options", "crypto"):
                until(lambda s=stream: sim.sent(s) == COUNT)
            # The killed stream's new connection gets a whole new flow.
            until(lambda: sim.stats()["streams"]["stocks"]["connections"] == 2)
            until(lambda: traffic.committed_rows(run, "stocks") > traffic.row_count("stocks", COUNT))
        report = running.report
        sent = sim.sent("stocks")
    untouched(report, "options", "crypto")
    assert report is not None
    stocks = report["streams"]["stocks"]
    assert (stocks["state"], stocks["restarts"]) == ("stopped", 1)
    assert balanced(stocks)
    assert stocks["in_flight"] == stocks["rejected"] == 0
    assert COUNT < stocks["committed"] <= sent
    assert any("was killed by signal 9" in e["text"] for e in report["events"])
    assert any("took over" in e["text"] for e in report["events"])
    assert running.exit_code == Exit.OK


def test_a_killed_fork_server_stops_nothing_and_what_starts_afterwards_has_a_new_one(
    tmp_path: Path,
) -> None:
    with simulator("--rate", "400") as sim:
        streams = ["stocks", "crypto"]
        values = settings(sim, tmp_path, streams=streams, workers=1, **traffic.symbols(*streams))
        with engine(values) as running:
            run = running.attachment
            [common] = until(lambda: pids(running, "forkserver", ""))
            [own] = until(lambda: pids(running, "forkserver", "stocks"))
            feeds = {stream: until(lambda s=stream: pids(running, "feed", s)) for stream in streams}
            [worker] = until(lambda: pids(running, "worker", "stocks"))
            family = [psutil.Process(worker).parents()[n].pid for n in range(3)]
            assert family == [own, *feeds["stocks"], common]
            for template in (own, common):  # a fork copies one thread alone
                threads = [(t / "comm").read_text().strip() for t in _threads(template)]
                assert set(threads[1:]) <= {"jemalloc_bg_thd"}, "that one knows of forks"

            os.kill(common, signal.SIGKILL)
            os.kill(own, signal.SIGKILL)
            before = {stream: run.rows(f"{stream}.trades") for stream in streams}
            for stream in streams:
                until(lambda s=stream: run.rows(f"{s}.trades") > before[s] + 100)
            until(lambda: pids(running, "worker", "stocks") not in ([], [worker]))
            assert {stream: pids(running, "feed", stream) for stream in streams} == feeds

            os.kill(*feeds["stocks"], signal.SIGKILL)
            until(lambda: pids(running, "feed", "stocks") not in ([], feeds["stocks"]))
            until(lambda: pids(running, "forkserver", "") not in ([], [common]))
        report = running.report
    assert report is not None
    for stream, restarts in (("stocks", 1), ("crypto", 0)):
        found = report["streams"][stream]
        assert (found["state"], found["restarts"]) == ("stopped", restarts)
        assert balanced(found)
    assert running.exit_code == Exit.OK


def test_a_fork_server_that_hangs_does_not_hang_the_engine(tmp_path: Path) -> None:
    with simulator("--rate", "400") as sim:
        values = settings(
            sim, tmp_path, streams=["stocks"], workers=1, start_timeout_s=20, **traffic.symbols("stocks")
        )
        with engine(values) as running:
            [common] = until(lambda: pids(running, "forkserver", ""))
            [feed] = until(lambda: pids(running, "feed", "stocks"))
            os.kill(common, signal.SIGSTOP)
            os.kill(feed, signal.SIGKILL)
            until(lambda: pids(running, "feed", "stocks") not in ([], [feed]))
            rows = running.attachment.rows("stocks.trades")
            until(lambda: running.attachment.rows("stocks.trades") > rows + 500)
    assert running.report is not None
    assert running.report["streams"]["stocks"]["restarts"] == 1
    assert balanced(running.report["streams"]["stocks"])
    assert running.exit_code == Exit.OK


def test_what_a_killed_feed_had_received_is_committed_once(tmp_path: Path) -> None:
    flags = ("--rate", "0", "--messages", str(COUNT), "--messages-per-payload", "1")
    with simulator(*flags) as sim:
        values = settings(
            sim, tmp_path, streams=["crypto"], handoff={"slab_kb": 16}, **traffic.symbols("crypto")
        )
        with engine(values) as running:
            run = running.attachment
            [victim] = until(lambda: pids(running, "feed", "crypto"))
            until(lambda: run.rows("crypto.trades") > 200)
            os.kill(victim, signal.SIGKILL)
            until(
                lambda: sim.sent("crypto") >= COUNT and sim.stats()["streams"]["crypto"]["connections"] == 2
            )
            want = traffic.row_count("crypto", COUNT)
            until(lambda: traffic.committed_rows(run, "crypto") >= want)
            until(lambda: _whole_flow_at_the_end(run))
            frames = traffic.frames_of(run, "crypto")
    whole = traffic.rows("crypto", COUNT)
    for channel, rows in frames.items():
        again = len(rows) - len(whole[channel])
        assert rows[again:] == whole[channel]
        assert rows[:again] == whole[channel][:again], "a prefix of the first flow, without gap or repeat"


def _whole_flow_at_the_end(run: Any) -> bool:
    last = traffic.rows("crypto", COUNT)
    return all(traffic.as_rows(run.frame(f"crypto.{c}").tail(1)) == rows[-1:] for c, rows in last.items())


def test_a_hung_feed_is_killed_and_replaced(tmp_path: Path) -> None:
    with simulator("--rate", "200") as sim:
        values = settings(sim, tmp_path, streams=["crypto", "news"], hang_timeout_s=5.0)
        with engine(values) as running:
            run = running.attachment
            [victim] = until(lambda: pids(running, "feed", "crypto"))
            until(lambda: run.rows("crypto.quotes") > 10)
            os.kill(victim, signal.SIGSTOP)
            until(lambda: not psutil.pid_exists(victim))
            before = run.rows("crypto.quotes")
            until(lambda: run.rows("crypto.quotes") > before + 10)
        report = running.report
    assert report is not None
    assert report["streams"]["crypto"]["restarts"] == 1
    assert report["streams"]["news"]["restarts"] == 0
    assert any("hung: no heartbeat" in e["text"] for e in report["events"])


def test_a_feed_that_cannot_be_kept_alive_has_failed(tmp_path: Path) -> None:
    with simulator("--rate", "200") as sim:
        values = settings(sim, tmp_path, streams=["crypto", "news"])
        with engine(values) as running:
            run = running.attachment
            until(lambda: run.rows("crypto.quotes") > 10)
            dead: set[int] = set()
            while len(dead) < 3:
                [victim] = until(lambda: [p for p in pids(running, "feed", "crypto") if p not in dead])
                os.kill(victim, signal.SIGKILL)
                dead.add(victim)
                until(lambda v=victim: not psutil.pid_exists(v))
        report = running.report
    assert report is not None
    crypto = report["streams"]["crypto"]
    assert crypto["state"] == "failed"
    assert "was killed by signal 9 (3 times in a row)" in crypto["reason"]
    assert running.exit_code == Exit.STREAM_FAILED
    assert set(crypto["symbols_failed"]) == set(STREAMS["crypto"].symbols)
    assert report["streams"]["news"]["state"] == "stopped"


def test_a_killed_worker_costs_nothing(tmp_path: Path) -> None:
    with simulator(*FLOOD) as sim:
        values = settings(
            sim, tmp_path, streams=["stocks", "crypto"], workers=1, **traffic.symbols("stocks", "crypto")
        )
        with engine(values) as running:
            [victim] = until(lambda: pids(running, "worker", "stocks"))
            os.kill(victim, signal.SIGKILL)
            complete(running, "stocks", "crypto")
        report = running.report
    untouched(report, "stocks", "crypto")
    assert report is not None
    assert report["streams"]["stocks"]["pool"]["rebuilds"] <= 1


@pytest.mark.parametrize("stream", ["stocks", "options"])
def test_garbage_is_rejected_and_kept_and_the_rest_arrives(tmp_path: Path, stream: str) -> None:
    faults = ("--fault", f"{stream}:garbage=40*3", "--fault", f"{stream}:truncate=40*4")
    with simulator(*FLOOD, *faults) as sim:
        with engine(settings(sim, tmp_path, streams=[stream], **traffic.symbols(stream))) as running:
            complete(running, stream)
            until(lambda: running.frame("telemetry.streams")["rejected"][-1] == 7)
        report = running.report
    assert report is not None
    found = report["streams"][stream]
    assert (found["messages"], found["committed"], found["rejected"]) == (COUNT + 7, COUNT, 7)
    assert balanced(found)
    kept = Path(found["rejects_file"]).read_text().splitlines()
    assert len(kept) == 7
    assert running.exit_code == Exit.OK


def test_garbage_comes_behind_every_nth_payload_at_any_pace(tmp_path: Path) -> None:
    with simulator("--rate", "1000", "--messages", "1500", "--fault", "garbage=50") as sim:
        with engine(settings(sim, tmp_path, streams=["crypto"])) as running:
            run = running.attachment
            until(lambda: run.frame("telemetry.streams")["messages"][-1] == 1500 + 30)
        assert running.report is not None
        assert running.report["streams"]["crypto"]["rejected"] == 30


@pytest.mark.parametrize("missing", ["stocks", "news"])
def test_a_stream_that_the_server_does_not_have_fails_alone(tmp_path: Path, missing: str) -> None:
    with simulator("--rate", "200", "--streams", "crypto") as sim:
        values = settings(sim, tmp_path, streams=["crypto", missing])
        with engine(values) as running:
            until(lambda: running.attachment.rows("crypto.quotes") > 10)
        report = running.report
    assert report is not None
    assert report["streams"][missing]["state"] == "failed"
    reason = report["streams"][missing]["reason"]
    assert "answered HTTP 404: this server has no such stream" in reason
    assert report["streams"]["crypto"]["state"] == "stopped"
    assert running.exit_code == Exit.CONFIG


def test_subscriptions_change_while_the_engine_runs(tmp_path: Path) -> None:
    import polars as pl

    def recent(run: Any) -> set[str]:
        return set(run.frame("stocks.quotes").tail(20)["symbol"].cast(pl.String).unique())

    with simulator("--rate", "100") as sim:
        with engine(settings(sim, tmp_path, streams=["stocks"], stocks={"symbols": ["AAPL"]})) as running:
            run = running.attachment
            until(lambda: run.rows("stocks.quotes") > 20)
            running.subscribe("stocks", ["TSLA"])
            until(lambda: recent(run) == {"AAPL", "TSLA"})
            running.unsubscribe("stocks", ["AAPL"])
            until(lambda: recent(run) == {"TSLA"})
            with pytest.raises(mdstream.MdstreamError, match="is not one of"):
                running.subscribe("crypto", ["BTC/USD"])
        assert running.report is not None
        assert running.report["streams"]["stocks"]["reconnects"] == 0
        assert running.report["streams"]["stocks"]["symbols_ok"] == 1, "TSLA alone"
        assert sim.stats()["streams"]["stocks"]["connections"] == 1


def test_an_underlying_brings_its_contracts(tmp_path: Path) -> None:
    import polars as pl

    options = {"symbols": ["AAPL"], "chain_contracts": 12}
    with simulator("--rate", "100") as sim:
        with engine(settings(sim, tmp_path, streams=["options"], options=options)) as running:
            run = running.attachment
            until(lambda: run.rows("options.quotes") > 200)
            assert run.rows("options.snapshots") == 96
            symbols = run.frame("options.quotes")["symbol"].cast(pl.String).unique()
            assert 1 < len(symbols) <= 12
            assert all(s.startswith("AAPL26") for s in symbols)
        assert running.report is not None
        assert running.report["streams"]["options"]["symbols_ok"] == 1


def test_late_readers_and_dead_readers_disturb_nothing(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = "import mdstream\nfor new in mdstream.attach().tail('stocks.quotes', from_start=True): print(new.height, flush=True)"
    with simulator(*FLOOD) as sim:
        with engine(settings(sim, tmp_path, streams=["stocks"], **traffic.symbols("stocks"))) as running:
            readers = [
                subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
                for _ in range(2)
            ]
            complete(running, "stocks")
            assert readers[0].stdout is not None
            assert int(readers[0].stdout.readline()) > 0
            readers[0].kill()
            want = len(traffic.rows("stocks", COUNT)["quotes"])
    # The other one follows to the very end, and then ends by itself.
    out, _ = readers[1].communicate(timeout=HANGING_S)
    assert sum(map(int, out.split())) == want
    readers[0].communicate()
    untouched(running.report, "stocks")


LATENCY_S = 1.0


def test_t_total_is_about_the_longest_stream_and_not_their_sum(tmp_path: Path) -> None:
    lists = {
        "stocks": [f"S{i}" for i in range(50)],
        "options": [
            f"AAPL2612{d:02d}C{k:08d}" for d in range(10, 15) for k in range(100_000, 110_000, 1000)
        ],
        "crypto": [f"C{i}/USD" for i in range(50)],
        "news": [f"N{i}" for i in range(50)],
    }
    with simulator("--rate", "50", "--latency", str(int(LATENCY_S * 1000))) as sim:
        values = settings(sim, tmp_path, fetch={"interval_s": 0})  # the default budget: 200 a minute
        with engine(values | {s: {"symbols": names} for s, names in lists.items()}) as running:
            until(lambda: running.frame("telemetry.streams")["fetch_cycles"][-4:].sum() == 4)
        report = running.report
    assert report is not None
    times = [report["streams"][s]["fetch"]["t_stream_s"] for s in lists]
    assert all(report["streams"][s]["symbols_ok"] == 50 for s in lists)
    assert all(report["streams"][s]["fetch"]["requests"] == 50 for s in lists)
    assert min(times) >= LATENCY_S
    assert max(times) <= report["t_total_s"] < sum(times)
    sequential = LATENCY_S * sum(
        map(len, lists.values())
    )  # one after another, as today's loops do, and more
    assert report["t_total_s"] < sequential / 3
