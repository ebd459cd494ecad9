"""The direct path: what it decodes equals the usual way byte for byte, and it decodes what is usual."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path
from typing import Any

import pytest
import uvloop

from mdstream.config import HandoffConfig
from mdstream.errors import NoSpaceError
from mdstream.feed.bars import BarFrames
from mdstream.frames.chunk import Chunk
from mdstream.frames.head import Head
from mdstream.frames.rundir import RunDirectory, frame_path, state_path
from mdstream.pool.pool import WorkerPool
from mdstream.streams import STREAMS
from mdstream.streams.spec import Mark, PayloadKind
from mdstream.telemetry.state import FeedState
from tests.feed.test_pipeline import payloads
from tests.forking import get_fork_context
from tests.piping import Payload, Rig, fingerprint, rig
from tests.running import HANGING_S, until
from workers.direct import Direct
from workers.kernels import address_table

COUNT = 3000
KILLED_COUNT = 4000
KILLS = 6
WATCHED_S = 3.0


class Watched:
    """A direct path that counts what it decodes."""

    def __init__(self, r: Rig) -> None:
        self._direct: Any = r.committer._direct
        assert self._direct is not None
        self.taken = self.left = self.alone = 0
        r.committer._direct = self

    def commit(self, *batch_of: Any) -> Any:
        cpu_ns = self._direct.commit(*batch_of)
        self.taken += cpu_ns is not None
        self.left += cpu_ns is None
        return cpu_ns

    def commit_alone(self, *payload_of: Any) -> Any:
        cpu_ns = self._direct.commit_alone(*payload_of)
        self.alone += cpu_ns is not None
        return cpu_ns

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
    batch = r.pipeline._batches.filling or r.pipeline._begin(len(Mark.TICK))
    assert batch is not None
    batch.slab.append(Mark.TICK.value, PayloadKind.MARK, recv_ns)
    r.pipeline._dispatch_soon()


@pytest.mark.parametrize(("per", "alone"), [(1, False), (3, False), (1, True)])
@pytest.mark.parametrize("stream", [stream for stream in STREAMS if stream != "news"])
def test_it_equals_the_usual_way_byte_for_byte(
    tmp_path: Path, stream: str, per: int, alone: bool, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = payloads(stream, COUNT, per)

    async def go(direct: bool) -> tuple[dict[str, str], dict[str, Any]]:
        async with rig(stream, 0, tmp_path, alone=alone and direct) as r:
            if not direct:
                r.committer._direct = None
            watched = Watched(r) if r.committer._direct is not None else None
            assert (watched is not None) == direct
            await run_one_by_one(r, wanted)
            if watched is not None:
                assert watched.taken + watched.alone > 0.7 * len(wanted), watched.left
                assert (watched.alone > 0.4 * len(wanted)) == alone
            values = r.state.values()
            same = ("messages", "committed", "rejected", "payloads_committed", "bytes_committed")
            counts = {
                name: values[name] for name in (*same, "trades", "bars_late_trades") if name in values
            }
            counts["delays"] = values["feed_delay"].tolist()
            counts["payloads"] = int(values["latency"].sum())
            return fingerprint(r.run, stream), counts

    assert uvloop.run(go(True)) == uvloop.run(go(False))
    assert not [record.message for record in caplog.records if record.levelname == "ERROR"]


def test_news_have_long_texts_only_and_no_direct_path(tmp_path: Path) -> None:
    async def go() -> None:
        async with rig("news", 0, tmp_path) as r:
            assert r.committer._direct is None

    uvloop.run(go())


@pytest.mark.parametrize("step", ["decode", "bars"])
def test_a_payload_that_came_alone_and_is_half_done_is_committed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Its rows may be in frames, but not its bars or its count: it is committed again, in its own batch."""
    text = '[{"T":"t","S":"AAPL","i":%d,"x":"V","p":%d.5,"s":1,"c":["@"],"z":"C","t":"2026-01-05T14:30:%06.3fZ"}]'
    begun = 1_767_623_400_000_000_000  # the same moment
    wanted = [
        ((text % (n, 100 + n % 7, n / 10)).encode(), PayloadKind.JSON, begun + n * 100_000_000)
        for n in range(550)
    ]
    failures: list[int] = []

    def fail_in_publication(direct: Direct) -> None:
        real = BarFrames._publish

        def fail_once(self: BarFrames, *given: Any) -> None:
            if not failures and direct._words[address_table.ALONE]:
                failures.append(1)
                raise NoSpaceError("a frame", 2, 1)
            real(self, *given)

        monkeypatch.setattr(BarFrames, "_publish", fail_once)

    def fail_in_the_kernel(direct: Direct) -> None:
        def fail(*given: Any) -> int:
            failures.append(1)
            raise RuntimeError("our own")

        direct._commit = fail

    async def go(failing: bool) -> tuple[dict[str, str], int]:
        async with rig("stocks", 0, tmp_path, alone=True) as r:
            await r.feed(wanted[:100])
            if failing:
                direct: Any = r.committer._direct
                (fail_in_publication if step == "bars" else fail_in_the_kernel)(direct)
            for payload in wanted[100:]:
                before = len(failures)
                assert r.pipeline.offer(*payload, True)
                if len(failures) == before:  # otherwise the next one comes at once
                    await asyncio.sleep(0)
            await r.drain()
            return fingerprint(r.run, "stocks"), r.state.values()["committed"]

    assert uvloop.run(go(True)) == uvloop.run(go(False))
    assert failures


def write_until_killed(run: Path, stream: str, rejects: Path, alone: bool) -> None:
    """Commit payloads one by one, in a process of its own, until somebody kills it."""

    async def go() -> None:
        pool = WorkerPool(0, HANGING_S)
        await pool.start()
        r = Rig(run, stream, pool, rejects, HandoffConfig(), alone=alone)
        for payload in payloads(stream, KILLED_COUNT, 1):
            await r.feed([payload])
        await asyncio.Event().wait()

    uvloop.run(go())


@pytest.mark.parametrize(
    ("stream", "alone"), [("stocks", False), ("stocks", True), ("options", True), ("crypto", True)]
)
def test_a_kill_at_any_moment_is_repaired(tmp_path: Path, stream: str, alone: bool) -> None:
    """Kill a writer at random moments. Its successor commits what is left; nothing is lost or doubled."""
    delays = random.Random(7)

    async def continue_run(run: Path) -> tuple[int, dict[str, str]]:
        pool = WorkerPool(0, HANGING_S)
        await pool.start()
        r = Rig(run, stream, pool, tmp_path, HandoffConfig())
        r.pipeline.recover()
        await r.drain()
        return r.state.values()["committed"], rows_of(run, stream)

    async def run_undisturbed(count: int) -> dict[str, str]:
        async with rig(stream, 0, tmp_path) as r:
            await r.feed(payloads(stream, KILLED_COUNT, 1)[:count])
            await r.drain()
            return rows_of(r.run, stream)

    for _ in range(KILLS):
        with RunDirectory(None) as directory:
            run = directory.path
            writer = get_fork_context().Process(  # type: ignore[attr-defined]
                target=write_until_killed, args=(run, stream, tmp_path, alone)
            )
            writer.start()
            until(lambda run=run: is_writing(run, stream), "a commit")
            time.sleep(delays.uniform(0.0, 0.05))
            writer.kill()
            writer.join()
            committed, recovered = uvloop.run(continue_run(run))
        assert committed
        assert recovered == uvloop.run(run_undisturbed(committed))


def rows_of(run: Path, stream: str) -> dict[str, str]:
    """Return the digests of a stream's rows and last values.

    Without bars, which end with a gap, and order books, which begin anew.
    """
    unlike = ".bars_1", ".books."
    return {n: d for n, d in fingerprint(run, stream).items() if not any(each in n for each in unlike)}


def is_writing(run: Path, stream: str) -> bool:
    """Return whether a commit is counted."""
    path = state_path(run, stream)
    return path.exists() and FeedState(path)["sequence"] > 0


def test_a_reader_never_sees_a_row_before_its_values(tmp_path: Path) -> None:
    """Look at the last row of a frame while another process publishes rows on the direct path."""
    with RunDirectory(None) as directory:
        run = directory.path
        writer = get_fork_context().Process(  # type: ignore[attr-defined]
            target=write_until_killed, args=(run, "stocks", tmp_path, True)
        )
        writer.start()
        until(lambda: is_writing(run, "stocks"), "a commit")
        columns = STREAMS["stocks"].by_name["quotes"].at
        head, seen, chunks = Head(frame_path(run, "stocks.quotes"), write=False), 0, dict[int, Chunk]()
        deadline = time.monotonic() + WATCHED_S
        while time.monotonic() < deadline and seen < 1000:
            rows = head.rows
            if not rows or (entry := head.entry(head.end - 1)).start_row >= rows:
                continue
            if entry.number not in chunks:
                wanted = STREAMS["stocks"].by_name["quotes"].columns
                path = head.chunk_path(entry.number)
                chunks[entry.number] = Chunk(path, wanted, entry.start_row, entry.capacity, write=False)
            views, row = chunks[entry.number].views, rows - 1 - entry.start_row
            if row < entry.capacity:
                assert all(views[columns[name]].values[row] for name in ("ts", "recv_ts")), row
                seen += 1
        writer.kill()
        writer.join()
    assert seen


def test_a_stream_of_unusual_batches_is_soon_left_to_the_usual_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look at each would cost more than it gains. Usual batches are found again."""
    quotes = [payload for payload in payloads("stocks", 6000, 1) if b'"T":"q"' in payload[0]][:300]
    corrections = [payload for payload in payloads("stocks", 6000, 1) if b'"T":"c"' in payload[0]]
    unusual = (corrections * 300)[:300]
    looks: list[bool] = []
    note = Direct._note

    def count(direct: Direct, is_usual: bool) -> None:
        looks.append(is_usual)
        note(direct, is_usual)

    monkeypatch.setattr(Direct, "_note", count)

    async def go() -> None:
        async with rig("stocks", 0, tmp_path, alone=True) as r:
            await r.feed(quotes[:100])
            looks.clear()
            await r.feed(unusual)
            assert 3 <= len(looks) < len(unusual) / 5
            looks.clear()
            await r.feed(quotes[100:])
            assert sum(looks) > 0.7 * len(quotes[100:])
            await r.drain()

    uvloop.run(go())
