"""The journal has every payload unchanged, even after kills. A replay of it produces the same frames."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import uvloop

from mdstream.errors import ConfigError
from mdstream.feed import recovery
from mdstream.frames.rundir import slabs_path
from mdstream.handoff.slab import Slab, SlabState
from mdstream.simulator.replay.recorded_payloads import RecordedPayloads
from mdstream.store import journal, journal_writer
from mdstream.store.journal import JournalEntry, read_entries
from mdstream.store.journal_writer import JournalWriter
from mdstream.streams.spec import PayloadKind
from tests import traffic
from tests.feed.test_pipeline import make_mixed_payloads, payloads
from tests.piping import Rig, rig
from tests.running import engine, server, settings, until
from tests.simulator.test_replay import make_comparable


def fill_slab(tmp_path: Path, sequence: int, count: int = 3) -> Slab:
    slab = Slab.create(tmp_path / f"slab-{sequence}", 64 * 1024)
    slab.begin(sequence)
    for index in range(count):
        slab.append(f"[{sequence},{index}]".encode(), PayloadKind.JSON, sequence * 100 + index)
    slab.seal()
    return slab


def read_payloads(folder: Path) -> list[bytes]:
    return [entry.payload for entry in read_entries(folder)]


def test_what_was_written_is_read_in_order_and_once(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path / "j")
    for sequence in (1, 2, 2, 3):
        path = tmp_path / f"slab-{sequence}"
        slab = Slab.open(path) if path.exists() else fill_slab(tmp_path, sequence)
        writer.write(slab, sequence)
    writer.close()
    assert read_payloads(tmp_path / "j") == [f"[{s},{i}]".encode() for s in (1, 2, 3) for i in range(3)]
    first = next(read_entries(tmp_path / "j"))
    assert first == JournalEntry(PayloadKind.JSON, first.compression, 100, b"[1,0]")


@pytest.mark.parametrize("cut", [1, 30, 100])
def test_a_record_cut_short_by_a_kill_is_none_and_the_next_writer_goes_on(tmp_path: Path, cut: int) -> None:
    writer = JournalWriter(tmp_path / "j")
    slabs = [fill_slab(tmp_path, sequence) for sequence in (1, 2, 3)]
    for number, slab in enumerate(slabs[:2], 1):
        writer.write(slab, number)
    [segment] = (tmp_path / "j").iterdir()
    os.truncate(segment, segment.stat().st_size - cut)
    assert len(read_payloads(tmp_path / "j")) == 3
    successor = JournalWriter(tmp_path / "j")
    for number, slab in enumerate(slabs, 1):
        successor.write(slab, number)
    assert len(read_payloads(tmp_path / "j")) == 9


def test_full_segments_are_compressed_and_read_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_writer, "SEGMENT_BYTES", 300)
    writer = JournalWriter(tmp_path / "j")
    for sequence in range(1, 8):
        writer.write(fill_slab(tmp_path, sequence), sequence)
    before, full = read_payloads(tmp_path / "j"), writer.take_full()
    assert len(full) > 1
    for path in full:
        journal.compress(path)
    assert read_payloads(tmp_path / "j") == before
    assert len(before) == 21
    names = sorted(path.name for path in (tmp_path / "j").iterdir())
    assert names[0] == "000001.mdj.zst"
    successor = JournalWriter(tmp_path / "j")
    successor.write(fill_slab(tmp_path, 8), 8)
    assert len(read_payloads(tmp_path / "j")) == 24


def test_a_disk_that_is_full_is_counted_and_spoils_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = JournalWriter(tmp_path / "j")
    slabs = [fill_slab(tmp_path, sequence) for sequence in (1, 2, 3)]
    writer.write(slabs[0], 1)
    whole = os.writev
    monkeypatch.setattr(os, "writev", lambda file, parts: whole(file, [parts[0][:7]]))
    writer.write(slabs[1], 2)
    assert writer.missed == 3
    monkeypatch.setattr(os, "writev", whole)
    writer.write(slabs[2], 3)
    assert len(read_payloads(tmp_path / "j")) == 6


@pytest.mark.cases("M9")
def test_a_segment_that_cannot_be_opened_is_counted_and_writing_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_writer, "SEGMENT_BYTES", 100)
    writer = JournalWriter(tmp_path / "j")
    writer.write(fill_slab(tmp_path, 1), 1)
    slabs = [fill_slab(tmp_path, sequence) for sequence in (2, 3, 4)]
    real = os.open

    def refuse(path: Any, *rest: Any, **more: Any) -> int:
        if str(path).endswith(".mdj"):
            raise OSError(28, "No space left on device", str(path))
        return real(path, *rest, **more)

    monkeypatch.setattr(os, "open", refuse)
    writer.write(slabs[0], 2)
    writer.write(slabs[1], 3)
    assert writer.missed == 6
    monkeypatch.setattr(os, "open", real)
    writer.write(slabs[2], 4)
    writer.close()
    writer.close()
    assert read_payloads(tmp_path / "j") == [f"[{s},{i}]".encode() for s in (1, 4) for i in range(3)]


def find_holes(folder: Path) -> list[tuple[int, int]]:
    holes: list[tuple[int, int]] = []
    list(read_entries(folder, holes.append))
    return [tuple(hole) for hole in holes]


@pytest.mark.cases("M8")
@pytest.mark.parametrize("missed", [{1}, {3}, {2, 3}, {5}, {1, 3, 5}, {4, 5}, set()], ids=str)
def test_a_journal_says_where_it_has_holes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missed: set[int]
) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    writer, last, want = JournalWriter(tmp_path / "j"), 0, list[tuple[int, int]]()
    for sequence in range(1, 6):
        with monkeypatch.context() as full:
            if sequence in missed:
                full.setattr(os, "writev", refuse)
            writer.write(fill_slab(tmp_path, sequence), sequence)
        if sequence in missed:
            before, count = (0, 0) if not want or want[-1][1] != last else want.pop()[::-1]
            want.append((count + 1 if before == last else 1, last))
        else:
            last = sequence * 100 + 2
    writer.close()
    assert writer.missed == 3 * len(missed)
    assert find_holes(tmp_path / "j") == want
    assert sum(batches for batches, _ in want) == len(missed)
    assert read_payloads(tmp_path / "j") == [
        f"[{s},{i}]".encode() for s in range(1, 6) if s not in missed for i in range(3)
    ]


@pytest.mark.cases("M8")
def test_a_replay_says_what_its_journal_lacks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    writer = JournalWriter(tmp_path / "stocks")
    for sequence in (1, 2, 5):
        writer.write(fill_slab(tmp_path, sequence), sequence)
    writer.close()
    replay = RecordedPayloads(tmp_path, ["stocks"])
    for _ in range(2):
        assert sum(map(len, replay.slices("stocks", {}))) == 9
    [message] = [record.getMessage() for record in caplog.records]
    assert "stocks: the journal lacks 2 batches after 1970-01-01T00:00:00" in message


def test_a_record_that_cannot_be_taken_back_ends_its_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = JournalWriter(tmp_path / "j")
    slabs = [fill_slab(tmp_path, sequence) for sequence in (1, 2, 3)]
    writer.write(slabs[0], 1)
    whole = os.writev

    def fail(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "writev", lambda file, parts: whole(file, [parts[0][:7]]))
    monkeypatch.setattr(os, "ftruncate", fail)
    writer.write(slabs[1], 2)
    monkeypatch.undo()
    assert writer.missed == 3
    writer.write(slabs[2], 3)
    writer.close()
    assert read_payloads(tmp_path / "j") == [f"[{s},{i}]".encode() for s in (1, 3) for i in range(3)]
    assert len(list((tmp_path / "j").iterdir())) == 2


def test_a_successor_goes_on_behind_a_segment_that_is_full_or_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_writer, "SEGMENT_BYTES", 100)
    folder = tmp_path / "j"
    JournalWriter(folder).write(fill_slab(tmp_path, 1), 1)
    second = JournalWriter(folder)  # another process may compress the first segment now
    assert second.take_full() == [folder / "000001.mdj"]
    second.write(fill_slab(tmp_path, 2), 2)
    (folder / "000002.mdj").write_bytes(b"x" * 200)
    third = JournalWriter(folder)
    third.write(fill_slab(tmp_path, 3), 3)
    assert sorted(path.name for path in folder.iterdir()) == ["000001.mdj", "000002.mdj", "000003.mdj"]


@pytest.mark.parametrize("workers", [0, 1])
def test_at_the_end_of_a_stream_every_segment_is_compressed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(journal_writer, "SEGMENT_BYTES", 20_000)

    async def go() -> None:
        async with rig("stocks", workers, tmp_path) as r:
            writer = JournalWriter(tmp_path / "j")
            r = Rig(r.run, "stocks", r.pool, tmp_path, r.pipeline._config, journal=writer)
            everything = payloads("stocks", 3_000, 10)
            await r.feed(everything[:150])
            await r.pipeline.drain()
            r.pipeline.heartbeat()  # starts the compression
            await r.feed(everything[150:])
            await r.drain()

    uvloop.run(go())
    names = [path.name for path in (tmp_path / "j").iterdir()]
    assert len(names) >= 2
    assert all(name.endswith(".mdj.zst") for name in names)
    assert len(read_payloads(tmp_path / "j")) >= 300
    assert "uncompressed" not in caplog.text


def test_no_journal_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no journal"):
        next(read_entries(tmp_path))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_feed_journals_each_payload_before_it_is_in_a_frame(tmp_path: Path, workers: int) -> None:
    everything = make_mixed_payloads("stocks")

    async def go() -> None:
        async with rig("stocks", workers, tmp_path) as r:
            r = Rig(
                r.run, "stocks", r.pool, tmp_path, r.pipeline._config, journal=JournalWriter(tmp_path / "j")
            )
            await r.feed(everything)
            await r.drain()

    uvloop.run(go())
    found = [(e.payload, e.kind, e.recv_ns) for e in read_entries(tmp_path / "j")]
    stream = [each for each in found if each[1].from_stream]
    assert stream == [each for each in everything if each[1].from_stream]
    assert {e[0] for e in found if e[1] is PayloadKind.SNAPSHOTS} == {
        each[0] for each in everything if each[1] is PayloadKind.SNAPSHOTS
    }


@pytest.mark.cases("M2")
def test_a_sealed_batch_is_in_the_journal_while_workers_lag(tmp_path: Path) -> None:
    everything = payloads("stocks", 3_000, 3)

    async def go() -> None:
        async with rig("stocks", 1, tmp_path, slab_kb=16) as r:
            journal = JournalWriter(tmp_path / "j")
            r = Rig(r.run, "stocks", r.pool, tmp_path, r.pipeline._config, journal=journal)
            [worker] = r.pool.pids
            os.kill(worker, signal.SIGSTOP)
            try:
                for payload, kind, recv_ns in everything:
                    if not r.pipeline.offer(payload, kind, recv_ns):
                        break
                await asyncio.sleep(0.1)
                left = recovery.find(slabs_path(r.run), "stocks", r.state)
                sealed = [slab for slab in left.pending if slab.state is SlabState.SEALED]
                assert len(sealed) > 3
                assert r.state["sequence"] == 0, "none is committed"
                assert len(read_payloads(tmp_path / "j")) == sum(slab.entries for slab in sealed)
            finally:
                os.kill(worker, signal.SIGCONT)
            await r.drain()

    uvloop.run(go())
    found = read_payloads(tmp_path / "j")
    assert found == [payload for payload, _, _ in everything[: len(found)]]


@pytest.mark.cases("N8")
@pytest.mark.parametrize("stream", ["stocks", "options"])
def test_a_replayed_journal_makes_the_same_frames_every_time(tmp_path: Path, stream: str) -> None:
    everything = payloads(stream, 3_000, 3)
    recorded: dict[str, Any] = {}

    async def go() -> None:
        async with rig(stream, 0, tmp_path) as r:
            r = Rig(
                r.run,
                stream,
                r.pool,
                tmp_path,
                r.pipeline._config,
                journal=JournalWriter(tmp_path / "j" / "run" / stream),
            )
            await r.feed(everything)
            await r.drain()
            from mdstream.reading.attach import Attachment

            run = Attachment(r.run)
            names = [f"{stream}.trades", f"{stream}.quotes", f"{stream}.bars_1s"]
            recorded.update({name: run.frame(name) for name in names})

    uvloop.run(go())
    with server("replay", "--journal", str(tmp_path / "j"), "--speed", "0") as running:
        for _ in range(2):
            symbols = {stream: {"symbols": traffic.SYMBOLS[stream]}}
            values = settings(running, tmp_path, streams=[stream], workers=0, **symbols)
            with engine(values) as at_work:
                run = at_work.attachment
                quotes = f"{stream}.quotes"
                until(
                    lambda run=run, quotes=quotes: (
                        quotes in run.frames and run.rows(quotes) >= recorded[quotes].height
                    ),
                    20,
                )
                for name, frame in recorded.items():
                    if name.endswith("bars_1s"):
                        continue  # the end of the run also ends the last bars
                    order = make_comparable(run.frame(name)), make_comparable(frame)
                    assert order[0].equals(order[1]), name
                    both = run.frame(name).drop("recv_ts"), frame.drop("recv_ts")
                    assert both[0]["ts"].to_list() == both[1]["ts"].to_list(), "rows have the same order"
            assert at_work.report is not None
            reported = at_work.report["streams"][stream]
            assert reported["state"] == "stopped"
            sent = set(recorded[quotes]["symbol"].cast(pl.String))
            assert sent
            assert not sent & reported["symbols_failed"].keys(), "symbols that brought messages are served"
            assert reported["symbols_ok"] == len(set(traffic.SYMBOLS[stream]) & sent)
