"""The direct path: what it decodes equals the usual way byte for byte, and it decodes what is usual."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import uvloop

from mdstream.streams import STREAMS
from mdstream.streams.spec import Mark, PayloadKind
from tests.feed.test_pipeline import payloads
from tests.piping import Payload, Rig, fingerprint, rig

COUNT = 3000


class Watched:
    """A direct path that counts what it decodes."""

    def __init__(self, r: Rig) -> None:
        self._direct: Any = r.committer._direct
        assert self._direct is not None
        self.taken = self.left = 0
        r.committer._direct = self

    def commit(self, *batch_of: Any) -> Any:
        batch = self._direct.commit(*batch_of)
        self.taken += batch is not None
        self.left += batch is None
        return batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._direct, name)


async def run_one_by_one(r: Rig, wanted: list[Payload]) -> None:
    """Feed payloads so that each is a batch, with ticks between and among them."""
    for number, payload in enumerate(wanted):
        if number % 7 == 0:
            put_tick(r, payload[2])
            await asyncio.sleep(0)
        if number % 11 == 0:
            put_tick(r, payload[2])
        await r.feed([payload])
    await r.drain()


def put_tick(r: Rig, recv_ns: int) -> None:
    """Put a tick as `Pipeline.mark_tick`, at a given time."""
    batch = r.pipeline._filling or r.pipeline._begin(len(Mark.TICK))
    assert batch is not None
    batch.slab.append(Mark.TICK.value, PayloadKind.MARK, recv_ns)
    r.pipeline._dispatch_soon()


@pytest.mark.parametrize("per", [1, 3])
@pytest.mark.parametrize("stream", STREAMS)
def test_it_equals_the_usual_way_byte_for_byte(tmp_path: Path, stream: str, per: int) -> None:
    wanted = payloads(stream, COUNT, per)

    async def go(direct: bool) -> tuple[dict[str, str], dict[str, Any]]:
        async with rig(stream, 0, tmp_path) as r:
            watched = Watched(r) if direct else None
            if not direct:
                r.committer._direct = None
            await run_one_by_one(r, wanted)
            if watched is not None and stream != "news":
                assert watched.taken > 0.4 * len(wanted), watched.left
            values = r.state.values()
            same = ("messages", "committed", "rejected", "payloads_committed", "bytes_committed")
            counts = {
                name: values[name] for name in (*same, "trades", "bars_late_trades") if name in values
            }
            counts["delays"] = values["feed_delay"].tolist()
            counts["payloads"] = int(values["latency"].sum())
            return fingerprint(r.run, stream), counts

    assert uvloop.run(go(True)) == uvloop.run(go(False))
