"""Subscriptions that were changed while a stream ran also apply to the process that replaces its feed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import polars as pl

from tests.e2e.test_faults import pids
from tests.running import engine, settings, simulator, until


def test_hot_subscriptions_outlive_the_feed(tmp_path: Path) -> None:
    with simulator("--rate", "100") as sim:
        fetch = {"interval_s": 1.0, "budget_per_minute": 10_000}
        values = settings(sim, tmp_path, streams=["stocks"], stocks={"symbols": ["AAPL"]}, fetch=fetch)
        with engine(values) as running:
            run = running.attachment
            running.subscribe("stocks", ["TSLA"])
            running.unsubscribe("stocks", ["AAPL"])

            def recent(frame: str) -> set[str]:
                return set(run.frame(frame).tail(10)["symbol"].cast(pl.String).unique())

            until(lambda: recent("stocks.quotes") == {"TSLA"})
            until(
                lambda: (
                    run.frame("stocks.snapshots").tail(1)["symbol"].cast(pl.String).to_list() == ["TSLA"]
                )
            )
            [victim] = until(lambda: pids(running, "feed", "stocks"))
            os.kill(victim, signal.SIGKILL)
            until(lambda: running.frame("telemetry.streams")["restarts"][-1] == 1)
            before = run.rows("stocks.quotes")
            until(lambda: run.rows("stocks.quotes") > before + 50)
            assert recent("stocks.quotes") == {"TSLA"}
