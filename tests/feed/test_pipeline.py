"""Hand-off, pool and commit together, with real worker processes. Some tests kill workers."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import pickle
import signal
import time
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest
import uvloop

from mdstream.errors import NoSpaceError, WorkerError
from mdstream.feed import pipeline
from mdstream.frames.chunk import Chunk
from mdstream.handoff import slabs
from mdstream.handoff.slab import Slab
from mdstream.reading.attach import attach
from mdstream.simulator.encode import ENCODINGS
from mdstream.simulator.markets import MARKETS
from mdstream.streams import STREAMS
from mdstream.streams.spec import Kind, PayloadKind
from mdstream.streams.storage import DICTIONARY_LIMIT
from mdstream.system.clock import Moment, Span
from tests import traffic
from tests.piping import Payload, Rig, fingerprint, rig
from tests.running import HANGING_S, as_rows, fill, tmpfs

COUNT = 6000
RECV_NS = 1_700_000_000_000_000_000


def payloads(stream: str, count: int = COUNT, per: int = 3) -> list[Payload]:
    """Return the simulator's traffic as payloads."""
    form = ENCODINGS[STREAMS[stream].codec]
    kind = PayloadKind.MSGPACK if form.binary else PayloadKind.JSON
    messages = traffic.messages(stream, count)
    out: list[Payload] = []
    for i, start in enumerate(range(0, count, per)):
        data = form.payload([form.message(m) for m in messages[start : start + per]])
        out.append((data, kind, RECV_NS + i * 1000))
    return out


def make_mixed_payloads(stream: str) -> list[Payload]:
    """Return the simulator's traffic as payloads, with a REST body and an invalid payload between them."""
    out, fetch = payloads(stream), STREAMS[stream].fetch
    if not fetch.listed:
        states = {s: MARKETS[stream].past(1, s).snapshot(RECV_NS) for s in traffic.SYMBOLS[stream]}
        body = ENCODINGS["json"].message({fetch.member: states})
        out.insert(500, (body, PayloadKind.SNAPSHOTS, RECV_NS))
    out.insert(700, (b"garbage \xff", out[0][1], RECV_NS + 5))
    return out


def get_counts(state: Any) -> dict[str, int]:
    return {k: state.values()[k] for k in ("messages", "committed", "rejected", "in_flight")}


@pytest.mark.parametrize("stream", STREAMS)
def test_parallel_equals_sequential_byte_for_byte(tmp_path: Path, stream: str) -> None:
    async def go(workers: int) -> dict[str, str]:
        async with rig(stream, workers, tmp_path, slab_kb=16) as r:
            await r.feed(make_mixed_payloads(stream))
            await r.drain()
            assert get_counts(r.state) == {
                "messages": COUNT + 1,
                "committed": COUNT,
                "rejected": 1,
                "in_flight": 0,
            }
            run = attach(str(r.run))
            batches = run.frame("telemetry.batches")
            assert batches["sequence"].to_list() == sorted(batches["sequence"].to_list())
            assert batches.height > 20
            if stream != "news":  # the fallback decoder decodes long texts
                assert batches["fell_back"].sum() < sum(batches["payloads"]) / 4
            assert set(batches["worker"].unique()) <= set(r.pool.pids or [os.getpid()])
            return fingerprint(r.run, stream)

    sequential = uvloop.run(go(0))
    assert uvloop.run(go(2)) == sequential
    assert len(sequential) > 8


def test_rejects_are_kept_with_payload_and_reason(tmp_path: Path) -> None:
    good = traffic.messages("stocks", 2)
    form = ENCODINGS["json"]
    broken = [
        form.message(good[0]),
        b'{"T":"t","S":"A","t":"2024-01-01T00:00:00Z","p":"x"}',
        form.message(good[1]),
    ]

    async def go() -> Rig:
        async with rig("stocks", 0, tmp_path) as r:
            await r.feed(
                [
                    (form.payload(broken), PayloadKind.JSON, RECV_NS),
                    (b"\xff\xfe", PayloadKind.JSON, RECV_NS),
                ]
            )
            await r.drain()
            assert get_counts(r.state) == {"messages": 4, "committed": 2, "rejected": 2, "in_flight": 0}
            return r

    r = uvloop.run(go())
    first, second = [json.loads(line) for line in r.rejects.read_text().splitlines()]
    assert first["place"] == "message 2"
    assert first["reason"] == "p: expected a number, got text"
    assert first["bytes"] == broken[1].decode()
    assert first["recv_ns"] == RECV_NS
    assert second["bytes_base64"] == "//4="
    assert second["place"] == "whole payload"
    assert second["reason"].startswith("not JSON")


@pytest.mark.cases("V7", "M11")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_flood_of_rejects_is_a_frame_and_a_file_with_exact_counts(tmp_path: Path, workers: int) -> None:
    good = [ENCODINGS["json"].message(m) for m in traffic.messages("stocks", 3000)]
    flood = [
        (b'[{"T":"t","S":"\xff"},%b,nul,%b]' % (good[i], good[i + 1]), PayloadKind.JSON, RECV_NS + i)
        for i in range(0, 3000, 2)
    ]

    async def go() -> pl.DataFrame:
        async with rig("stocks", workers, tmp_path) as r:
            await r.feed(flood)
            await r.drain()
            counts = {"messages": 6000, "committed": 3000, "rejected": 3000, "in_flight": 0}
            assert get_counts(r.state) == counts
            assert r.state["rejects_lost"] == 0
            return attach(str(r.run)).frame("stocks.rejects")

    found = uvloop.run(go())
    assert found.columns == ["kind", "place", "reason", "bytes", "recv_ts"]
    assert found["bytes"].to_list() == [b'{"T":"t","S":"\xff"}', b"nul"] * 1500
    assert found["place"].to_list() == ["message 1", "message 3"] * 1500
    assert found["recv_ts"].dt.epoch("ns").to_list() == [RECV_NS + i // 2 * 2 for i in range(3000)]
    kept = [json.loads(line) for line in (tmp_path / "stocks.jsonl").read_text().splitlines()]
    assert [line["reason"] for line in kept] == found["reason"].to_list()
    assert [line["recv_ns"] for line in kept] == found["recv_ts"].dt.epoch("ns").to_list()


def test_rejects_without_room_in_shared_memory_stop_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def go() -> None:
        async with rig("stocks", 0, tmp_path) as r:

            def append(*_: object) -> None:
                raise NoSpaceError("/dev/shm/x", 1, 0)

            monkeypatch.setattr(r.committer.frames["rejects"], "append", append)
            await r.feed([(b"[nul]", PayloadKind.JSON, RECV_NS), *payloads("stocks", 100)])
            await r.drain()
            assert get_counts(r.state) == {"messages": 101, "committed": 100, "rejected": 1, "in_flight": 0}

    uvloop.run(go())
    assert "stocks.rejects: no room for 1 rows, which are only in" in caplog.text
    assert json.loads((tmp_path / "stocks.jsonl").read_text())["bytes"] == "[nul]"


def test_payloads_larger_than_a_slab_pass(tmp_path: Path) -> None:
    article = {"T": "n", "id": 1, "headline": "h", "created_at": "2024-01-01T00:00:00Z", "symbols": ["A"]}
    sizes = [10, 3_000_000, 20, 200_000]
    out = [(orjson.dumps([{**article, "content": "é" * n}]), PayloadKind.JSON, RECV_NS) for n in sizes]

    async def go() -> None:
        async with rig("news", 1, tmp_path, slab_kb=16, slabs=3) as r:
            await r.feed(out)
            await r.drain()
            contents = attach(str(r.run)).frame("news.articles")["content"]
            assert [len(c) for c in contents] == sizes
            left = sorted(p.name for p in (r.run / "slabs").iterdir())
            assert len(left) <= 3
            assert all((r.run / "slabs" / name).stat().st_size < 200_000 for name in left)

    uvloop.run(go())


def test_a_large_payload_passes_also_when_every_slab_exists_already(tmp_path: Path) -> None:
    article = {"T": "n", "id": 1, "headline": "h", "created_at": "2024-01-01T00:00:00Z", "symbols": ["A"]}
    small, large = (orjson.dumps([{**article, "content": "x" * n}]) for n in (10_000, 500_000))

    async def go() -> None:
        async with rig("news", 1, tmp_path, slab_kb=16, slabs=2) as r:
            await r.feed([(small, PayloadKind.JSON, RECV_NS)] * 10)
            await r.pipeline.drain()
            assert len(list((r.run / "slabs").iterdir())) == 2
            await asyncio.wait_for(r.feed([(large, PayloadKind.JSON, RECV_NS)] * 3), HANGING_S)
            await r.drain()
            assert attach(str(r.run)).frame("news.articles").height == 13

    uvloop.run(go())


def test_kernels_and_the_fallback_decoder_alone_make_the_same_frames(tmp_path: Path) -> None:
    frames = []

    async def go(kernels: bool) -> None:
        async with rig("stocks", 1, tmp_path, kernels=kernels) as r:
            await r.feed(payloads("stocks"))
            await r.drain()
            run = attach(str(r.run))
            frames.append({c: as_rows(run.frame(f"stocks.{c}")) for c in ("trades", "quotes")})

    for kernels in (True, False):
        uvloop.run(go(kernels))
    assert frames[0] == frames[1]
    assert frames[0]["quotes"]


def test_results_larger_than_their_slab_are_spilled(tmp_path: Path) -> None:
    levels = b",".join(b'{"p":1,"s":2}' for _ in range(1000))
    book = b'[{"T":"o","S":"BTC/USD","t":"2024-01-01T00:00:00Z","b":[' + levels + b'],"a":[]}]'

    async def go() -> None:
        async with rig("crypto", 1, tmp_path, slab_kb=16) as r:
            await r.feed([(book, PayloadKind.JSON, RECV_NS)] * 5)
            await r.drain()
            assert attach(str(r.run)).frame("crypto.orderbooks").height == 5000
            assert not list((r.run / "slabs").glob("*.result"))

    uvloop.run(go())


def test_no_room_for_another_slab_goes_on_with_those_at_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = 0
    create = Slab.create

    def scarce(path: Path, capacity: int) -> Slab:
        nonlocal made
        if made == 2:
            raise NoSpaceError(str(path.parent), capacity, 0)
        made += 1
        return create(path, capacity)

    async def go() -> None:
        async with rig("stocks", 1, tmp_path, slab_kb=16) as r:
            monkeypatch.setattr(Slab, "create", staticmethod(scarce))
            await r.feed(payloads("stocks"))
            await r.drain()
            assert get_counts(r.state) == {
                "messages": COUNT,
                "committed": COUNT,
                "rejected": 0,
                "in_flight": 0,
            }
            assert made == 2

    uvloop.run(go())


class Fullness:
    """Shared memory without room for new chunks while `full`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        self.refused = 0
        create = Chunk.create

        def scarce(path: Path, *rest: Any) -> None:
            if self.full:
                self.refused += 1
                raise NoSpaceError(str(path), 1, 0)
            create(path, *rest)

        monkeypatch.setattr(Chunk, "create", staticmethod(scarce))


def test_a_shortage_that_passes_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [payloads("stocks")[i : i + 100] for i in range(0, 2000, 100)]

    async def go(memory: Fullness | None) -> tuple[dict[str, str], dict[str, int]]:
        async with rig("stocks", 1, tmp_path, slab_kb=64) as r:
            for index, batch in enumerate(batches):
                if memory is not None and index % 4 == 0:
                    memory.full = True
                    asyncio.get_running_loop().call_later(0.6, setattr, memory, "full", False)
                await r.feed(batch)
            await r.drain()
            return fingerprint(r.run, "stocks"), get_counts(r.state)

    undisturbed = uvloop.run(go(None))
    memory = Fullness(monkeypatch)
    assert uvloop.run(go(memory)) == undisturbed
    assert memory.refused > 3


def test_a_worker_that_finds_no_room_for_its_result_waits_for_it(tmp_path: Path) -> None:
    levels = b",".join(b'{"p":1,"s":2}' for _ in range(20_000))
    book = b'[{"T":"o","S":"BTC/USD","t":"2024-01-01T00:00:00Z","b":[' + levels + b'],"a":[]}]'

    async def go(root: Path) -> None:
        async with rig("crypto", 1, tmp_path, root=root, slab_kb=16, slabs=4) as r:
            await r.feed([(book, PayloadKind.JSON, RECV_NS)])
            await r.pipeline.drain()
            filler = root / "filler"
            with filler.open("wb", buffering=0) as file:
                refused = asyncio.ensure_future(r.feed([(book, PayloadKind.JSON, RECV_NS)] * 6))
                for _ in range(100):
                    fill(root, file)
                    await asyncio.sleep(0.01)
            filler.unlink()
            await refused
            await r.drain()
            assert get_counts(r.state) == {"messages": 7, "committed": 7, "rejected": 0, "in_flight": 0}
            assert not list((r.run / "slabs").glob("*.result"))

    with tmpfs(tmp_path / "shm", 24) as root:
        uvloop.run(go(root))


def test_errors_come_across_from_the_workers() -> None:
    error = NoSpaceError("/dev/shm/x", 1_000_000, 2)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.needed, again.free) == (str(error), 1_000_000, 2)


def test_a_shortage_that_lasts_fails_the_stream_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "FULL_S", 0.6)
    memory = Fullness(monkeypatch)

    async def go() -> None:
        async with rig("stocks", 1, tmp_path) as r:
            memory.full = True
            await r.feed(payloads("stocks", 30))
            with pytest.raises(NoSpaceError, match="enlarge it"):
                await r.drain()
            assert get_counts(r.state)["committed"] == 0
            assert get_counts(r.state)["in_flight"] == 10, "payloads in an open slab are in flight"

    uvloop.run(go())


def test_slabs_that_are_idle_are_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slabs, "IDLE_S", 0.05)

    async def go() -> None:
        async with rig("stocks", 1, tmp_path, slab_kb=16, slabs=12) as r:
            for payload in payloads("stocks", 3000):
                assert r.pipeline.offer(*payload) or await r.pipeline.put(*payload) is None
            for _ in range(6):
                r.pipeline.heartbeat()
                await asyncio.sleep(0.3)
            assert len(list((r.run / "slabs").iterdir())) == 1
            await r.feed(payloads("stocks", 3000))
            await r.drain()
            assert get_counts(r.state)["committed"] == 6000
            assert not list((r.run / "slabs").iterdir())

    uvloop.run(go())


def test_a_rest_body_is_answered_when_its_rows_are_in_the_frame(tmp_path: Path) -> None:
    async def go() -> None:
        async with rig("stocks", 1, tmp_path) as r:
            body = orjson.dumps(
                {"AAPL": {"latestTrade": {"p": 1, "s": 2, "t": "2024-01-01T00:00:00Z"}}, "B": None}
            )
            found = await r.pipeline.put_body(body, PayloadKind.SNAPSHOTS, RECV_NS)
            assert found.symbols == {"AAPL"}
            assert not found.refused
            assert attach(str(r.run)).frame("stocks.snapshots")["trade_price"].to_list() == [1.0]
            assert get_counts(r.state)["messages"] == 0, "REST records are counted separately"
            await r.drain()

    uvloop.run(go())


@pytest.mark.parametrize("workers", [0, 1])
def test_records_that_were_not_requested_are_rejects(tmp_path: Path, workers: int) -> None:
    def snapshots(*symbols: str) -> bytes:
        trade = {"p": 1, "s": 2, "t": "2024-01-01T00:00:00Z"}
        return orjson.dumps({symbol: {"latestTrade": trade} for symbol in symbols})

    async def go() -> None:
        async with rig("stocks", workers, tmp_path, slab_kb=1) as r:
            requested = [["A"], ["B"], ["A", "B"], []]
            bodies = [snapshots("A"), snapshots("A", "B"), snapshots("A", "B", "C"), snapshots("D")]
            found = await asyncio.gather(
                *(
                    r.pipeline.put_body(body, PayloadKind.SNAPSHOTS, RECV_NS, requested=names)
                    for body, names in zip(bodies, requested, strict=True)
                )
            )
            assert [each.symbols for each in found] == [{"A"}, {"B"}, {"A", "B"}, {"D"}]
            assert [each.refused.keys() for each in found] == [set(), {"A"}, {"C"}, set()]
            symbols = attach(str(r.run)).frame("stocks.snapshots")["symbol"].cast(pl.String).to_list()
            assert symbols == ["A", "B", "A", "B", "D"]
            counts = r.state.read_committed()
            assert (counts["fetch_committed"], counts["fetch_rejected"]) == (5, 2)
            assert counts["fetch_payloads_committed"] == 4, "the symbols of a request are no payload"
            kept = [json.loads(line) for line in r.rejects.read_text().splitlines()]
            assert [(each["place"], each["reason"]) for each in kept] == [
                ("record A", "its symbol was not requested"),
                ("record C", "its symbol was not requested"),
            ]
            assert json.loads(kept[1]["bytes"]) == json.loads(snapshots("C"))["C"]
            await r.drain()

    uvloop.run(go())


@pytest.mark.parametrize("body", [b"<html>busy</html>", b"[1, 2]", b'{"AAPL": {"latest'])
def test_a_rest_body_that_is_of_no_use_says_why(tmp_path: Path, body: bytes) -> None:
    async def go() -> None:
        async with rig("stocks", 0, tmp_path) as r:
            good = r.pipeline.put_body(b"{}", PayloadKind.SNAPSHOTS, RECV_NS)
            bad = r.pipeline.put_body(body, PayloadKind.SNAPSHOTS, RECV_NS)
            answers = await asyncio.gather(good, bad)
            assert answers[0].fault == ""
            assert answers[1].fault
            [kept] = map(json.loads, r.rejects.read_text().splitlines())
            assert kept["reason"] == answers[1].fault
            await r.drain()

    uvloop.run(go())


def test_control_messages_mixed_with_data_reach_the_session(tmp_path: Path) -> None:
    message = traffic.messages("stocks", 1)[0]
    form = ENCODINGS["json"]
    payload = form.payload([form.message(message), b'{"T":"error","code":407,"msg":"slow client"}'])

    async def go() -> None:
        async with rig("stocks", 0, tmp_path) as r:
            await r.feed([(payload, PayloadKind.JSON, RECV_NS)])
            await r.drain()
            await asyncio.sleep(0.01)
            assert r.controls == [{"T": "error", "code": 407, "msg": "slow client"}]
            assert get_counts(r.state)["messages"] == 1

    uvloop.run(go())


async def kill_when_busy(r: Rig, number: int, times: int) -> int:
    """Send a signal to the workers while they work, `times` times; return the number of signals."""
    done = 0
    hit: list[int] = []
    while done < times:
        if r.pool.busy and r.pool.pids != hit:
            hit = r.pool.pids
            for pid in hit:
                os.kill(pid, number)
            done += 1
        await asyncio.sleep(0.001)
    return done


def test_a_worker_killed_in_mid_batch_costs_nothing(tmp_path: Path) -> None:
    async def go(kill: bool) -> dict[str, str]:
        async with rig("stocks", 2, tmp_path) as r:
            feeding = asyncio.ensure_future(r.feed(payloads("stocks", 20_000, 50)))
            if kill:
                await kill_when_busy(r, signal.SIGKILL, 1)
            await feeding
            await r.drain()
            assert get_counts(r.state) == {
                "messages": 20_000,
                "committed": 20_000,
                "rejected": 0,
                "in_flight": 0,
            }
            assert (r.pool.rebuilds > 0) is kill
            return fingerprint(r.run, "stocks")

    assert uvloop.run(go(True)) == uvloop.run(go(False))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_batch_that_kills_or_hangs_two_workers_is_given_up_and_kept(tmp_path: Path, number: int) -> None:
    big = payloads("stocks", 12_000, 12_000)  # one payload that takes long to decode
    small = payloads("stocks", 30, 10)

    async def go() -> None:
        async with rig("stocks", 1, tmp_path, timeout_s=4.0, slab_kb=4096) as r:
            await r.feed(big)
            assert await asyncio.wait_for(kill_when_busy(r, number, 2), HANGING_S) == 2
            await asyncio.sleep(0.5)
            await r.feed(small)
            await r.drain()
            assert r.state.read_committed()["quarantined"] == 1
            assert get_counts(r.state) == {"messages": 31, "committed": 30, "rejected": 1, "in_flight": 0}

    uvloop.run(go())
    [line] = (tmp_path / "stocks.jsonl").read_text().splitlines()
    kept = json.loads(line)
    assert kept["bytes"].encode() == big[0][0]
    assert "worker" in kept["reason"]


def test_workers_that_cannot_even_start_stop_the_feed_and_lose_no_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def go() -> None:
        async with rig("stocks", 1, tmp_path, forks=False) as r:
            monkeypatch.setenv("PYTHONHOME", "/nowhere")  # no interpreter starts with this value
            for pid in r.pool.pids:
                os.kill(pid, signal.SIGKILL)
            await r.feed(payloads("stocks", 30, 10))
            with pytest.raises(WorkerError, match="die as they start"):
                await r.drain()
            assert r.state.values()["in_flight"] == 3
            assert r.state.read_committed()["quarantined"] == 0

    uvloop.run(go())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_successor_commits_what_a_killed_feed_had_received(tmp_path: Path, workers: int) -> None:
    stream = "stocks"
    everything = payloads(stream, 6000, 3)

    async def go() -> tuple[dict[str, str], dict[str, str]]:
        async with rig(stream, workers, tmp_path, slab_kb=32) as first:
            # The state at a kill: some batches are committed, one is half committed (trades, but not
            # quotes), some are sealed, and one is being filled.
            await first.feed(everything[:800])
            await first.pipeline.drain()
            committed = first.state["sequence"]
            first.pipeline._dispatch = lambda: None  # type: ignore[method-assign]
            await first.feed(everything[800:1500])
            left = first.pipeline._batches
            assert len(left.sealed) >= 3
            assert left.filling
            ticket = left.sealed[0]
            from mdstream.handoff.ticket import Ticket

            path = str(ticket.slab.path)
            receipt = await first.pool.run(Ticket(str(first.run), stream, path, ticket.sequence))
            real = first.committer.frames["quotes"].append

            def killed(*_: Any) -> None:
                raise KeyboardInterrupt

            first.committer.frames["quotes"].append = killed  # type: ignore[method-assign]
            with pytest.raises(KeyboardInterrupt):
                first.committer.commit(ticket.slab, receipt, Span.at(Moment.now()))
            first.committer.frames["quotes"].append = real  # type: ignore[method-assign]
            assert first.state["sequence"] == committed

            second = Rig(first.run, stream, first.pool, tmp_path, first.pipeline._config)
            rows = second.committer.committed_rows
            runs = await first.pool.rebuild_partials(str(first.run), stream, rows)
            second.committer.restore_bars(runs)
            assert second.pipeline.recover() == 700
            await second.feed(everything[1500:])
            await second.drain()
            assert get_counts(second.state) == {
                "messages": 6000,
                "committed": 6000,
                "rejected": 0,
                "in_flight": 0,
            }
            recovered = fingerprint(second.run, stream)
        async with rig(stream, 0, tmp_path) as undisturbed:
            await undisturbed.feed(everything)
            await undisturbed.drain()
            return recovered, fingerprint(undisturbed.run, stream)

    recovered, undisturbed = uvloop.run(go())
    assert recovered == undisturbed


def test_slabs_are_bounded_and_stalls_are_counted(tmp_path: Path) -> None:
    async def go() -> None:
        async with rig("stocks", 1, tmp_path, slab_kb=16, slabs=3) as r:
            await r.feed(payloads("stocks", 6000, 3))
            assert len(list((r.run / "slabs").iterdir())) <= 3
            await r.drain()
            assert r.state["stalls"] > 0
            assert get_counts(r.state)["committed"] == 6000

    uvloop.run(go())


def test_a_dictionary_that_gets_full_is_full_at_the_same_text_however_many_work(tmp_path: Path) -> None:
    count, per = 20_000, 100
    trades = [
        f'{{"T":"t","S":"A","x":"X{i}","p":1,"s":1,"t":"2024-01-01T00:00:00Z"}}' for i in range(count)
    ]
    payloads = [
        (f"[{','.join(trades[i : i + per])}]".encode(), PayloadKind.JSON, RECV_NS)
        for i in range(0, count, per)
    ]

    async def go(workers: int) -> tuple[dict[str, str], dict[str, int]]:
        async with rig("stocks", workers, tmp_path / str(workers), slab_kb=64) as r:
            await r.feed(payloads)
            await r.drain()
            limit = DICTIONARY_LIMIT[Kind.CODE]
            exchanges = attach(str(r.run)).frame("stocks.trades")["exchange"].cast(pl.String)
            assert exchanges.to_list() == [f"X{i}" for i in range(limit)]
            return fingerprint(r.run, "stocks"), get_counts(r.state)

    parallel, counts = uvloop.run(go(3))
    assert counts["rejected"] == count - DICTIONARY_LIMIT[Kind.CODE]
    assert (parallel, counts) == uvloop.run(go(0))


def test_a_linger_makes_larger_batches(tmp_path: Path) -> None:
    async def batches(drained: bool, **handoff: Any) -> int:
        async with rig("stocks", 1, tmp_path, **handoff) as r:
            for number, payload in enumerate(payloads("stocks", 100, 1)):
                r.pipeline.offer(*payload)
                await asyncio.sleep(0)
                while drained and get_counts(r.state)["committed"] <= number:
                    await asyncio.sleep(0.001)
            await r.drain()
            return int(r.state.read_committed()["batches"])

    assert uvloop.run(batches(True)) == 100, "each payload is a batch"
    assert uvloop.run(batches(False, linger_ms=10_000)) == 1


def test_fingerprints_notice_a_single_row(tmp_path: Path) -> None:
    async def go(extra: bool) -> dict[str, str]:
        async with rig("stocks", 0, tmp_path) as r:
            await r.feed(list(itertools.islice(payloads("stocks", 60, 1), 50 + extra)))
            await r.drain()
            return fingerprint(r.run, "stocks")

    assert uvloop.run(go(False)) != uvloop.run(go(True))


def test_messages_soon_after_another_share_a_batch_in_a_stream_without_a_direct_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lone message is committed at once. A batch the usual way costs the same for one and for ten."""
    monkeypatch.setattr(pipeline, "_REST", 1e9)
    monkeypatch.setattr(pipeline, "_LONGEST_REST_S", 0.5)
    wanted = payloads("news", 20, 1)

    async def go() -> None:
        async with rig("news", 0, tmp_path) as r:
            await r.feed(wanted[:1])
            await asyncio.wait_for(r.pipeline._batches.are_done.wait(), HANGING_S)
            begun = time.monotonic()
            await r.feed(wanted[1:10])
            await asyncio.wait_for(r.pipeline._batches.are_done.wait(), HANGING_S)
            assert time.monotonic() - begun > 0.3
            assert (r.state.values()["batches"], r.state.values()["committed"]) == (2, 10)
            await r.feed(wanted[10:])
            await r.drain()  # which does not wait
            assert (r.state.values()["batches"], r.state.values()["committed"]) == (3, 20)

    uvloop.run(go())


def test_the_pipeline_stays_small_enough_to_hold_in_mind(tmp_path: Path) -> None:
    async def go() -> None:
        async with rig("stocks", 0, tmp_path) as r:
            assert len(vars(r.pipeline)) < 20

    uvloop.run(go())
