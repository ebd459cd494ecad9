"""Every message the simulator sends is a row, value by value, in order, at full speed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mdstream.config import Config
from tests import traffic
from tests.running import engine, settings, simulator, until

COUNT = 20_000
DEFAULT = Config().streams


def balanced(stream: dict[str, Any]) -> bool:
    return stream["messages"] == stream["committed"] + stream["rejected"] + stream["in_flight"]


@pytest.mark.parametrize("per_frame", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 50))])
def test_all_four_streams_at_once_lose_nothing(tmp_path: Path, per_frame: int) -> None:
    flags = ("--rate", "0", "--messages", str(COUNT), "--messages-per-payload", str(per_frame))
    with simulator(*flags) as sim:
        values = settings(sim, tmp_path, **traffic.symbols(*DEFAULT))
        with engine(values) as running:
            run = running.attachment
            for stream in DEFAULT:
                want = traffic.row_count(stream, COUNT)
                until(lambda s=stream, n=want: traffic.committed_rows(run, s) >= n, what=stream)
                assert traffic.frames_of(run, stream) == traffic.rows(stream, COUNT)
            sent = sim.stats()["streams"]
        report = running.report
    assert running.exit_code == 0
    assert report is not None
    for name, stream in report["streams"].items():
        assert sent[name]["messages"] == stream["messages"] == stream["committed"] == COUNT
        assert sent[name]["payloads"] == stream["payloads"] == -(-COUNT // per_frame)
        assert (stream["rejected"], stream["in_flight"], stream["reconnects"]) == (0, 0, 0)
        assert balanced(stream)
        assert stream["state"] == "stopped"
    assert report["frames"]["stocks.trades"]["rows"] == len(traffic.rows("stocks", COUNT)["trades"])


@pytest.mark.parametrize("stream", ["stocks", "crypto"])
def test_parallel_equals_sequential(tmp_path: Path, stream: str) -> None:
    found = []
    flags = ("--rate", "0", "--messages", str(COUNT), "--messages-per-payload", "3")
    with simulator(*flags) as sim:
        for workers in (0, 3):
            handoff = {"slab_kb": 64}  # many batches under way at once
            values = settings(
                sim, tmp_path, streams=[stream], workers=workers, handoff=handoff, **traffic.symbols(stream)
            )
            with engine(values) as running:
                run = running.attachment
                want = traffic.row_count(stream, COUNT)
                until(lambda r=run, n=want: traffic.committed_rows(r, stream) >= n)
                found.append(traffic.frames_of(run, stream))
    assert found[0] == found[1] == traffic.rows(stream, COUNT)
