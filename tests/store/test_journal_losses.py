"""A journal whose files are removed or cut is begun anew, and what is lost is counted."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from mdstream.feed.journal import FeedJournal
from mdstream.handoff.slab import Slab
from mdstream.pool.pool import WorkerPool
from mdstream.store import journal, journal_writer
from mdstream.store.journal_writer import JournalProgress, JournalWriter
from mdstream.telemetry.events import EventKind, RunEvent, Severity
from tests.store.test_journal import fill_slab, find_holes, read_payloads


def write(writer: JournalWriter, tmp_path: Path, *sequences: int) -> None:
    for sequence in sequences:
        writer.write(fill_slab(tmp_path, sequence), sequence)


def write_again(writer: JournalWriter, tmp_path: Path, sequence: int) -> None:
    writer.write(Slab.open(tmp_path / f"slab-{sequence}"), sequence)


def expect(*sequences: int) -> list[bytes]:
    return [f"[{sequence},{index}]".encode() for sequence in sequences for index in range(3)]


def remove_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def remove_root(folder: Path) -> None:
    shutil.rmtree(folder.parent)


def remove_segment(folder: Path) -> None:
    (folder / "000001.mdj").unlink()


def replace_segment(folder: Path) -> None:
    remove_segment(folder)
    (folder / "000001.mdj").write_bytes(b"foreign")


def cut_segment(folder: Path) -> None:
    os.truncate(folder / "000001.mdj", 0)


def cut_segment_within_its_first_record(folder: Path) -> None:
    os.truncate(folder / "000001.mdj", 50)


def replace_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.mark.parametrize(
    "remove",
    [
        remove_folder,
        remove_root,
        remove_segment,
        replace_segment,
        replace_folder,
        cut_segment,
        cut_segment_within_its_first_record,
    ],
)
def test_a_lost_segment_is_counted_and_a_new_one_begun(
    tmp_path: Path, remove: Callable[[Path], None]
) -> None:
    folder = tmp_path / "root" / "j"
    writer = JournalWriter(folder)
    write(writer, tmp_path, 1, 2)
    assert writer.find_loss() == ""
    remove(folder)
    loss = writer.find_loss()
    assert str(folder) in loss
    assert "6 payloads" in loss
    assert writer.missed == 6
    assert writer.find_loss() == "", "reported once"
    write(writer, tmp_path, 3)
    writer.close()
    assert writer.missed == 6
    if remove is replace_segment:
        assert (folder / "000001.mdj").read_bytes() == b"foreign", "only our own files are written"
        (folder / "000001.mdj").unlink()
    assert read_payloads(folder) == expect(3)
    assert find_holes(folder) == [(2, 0)]


@pytest.mark.parametrize("is_found_first_by_a_batch", [False, True])
def test_a_cut_segment_keeps_its_whole_records(tmp_path: Path, is_found_first_by_a_batch: bool) -> None:
    folder = tmp_path / "j"
    writer = JournalWriter(folder)
    write(writer, tmp_path, 1)
    size = (folder / "000001.mdj").stat().st_size
    write(writer, tmp_path, 2, 3)
    os.truncate(folder / "000001.mdj", size + 30)
    if is_found_first_by_a_batch:
        write(writer, tmp_path, 4)
    loss = writer.find_loss()
    assert "000001.mdj was cut" in loss
    assert "6 payloads" in loss
    assert writer.find_loss() == "", "reported once"
    if not is_found_first_by_a_batch:
        write(writer, tmp_path, 4)
    writer.close()
    assert writer.missed == 6
    for path in writer.take_full():
        journal.compress(path)
    assert read_payloads(folder) == expect(1, 4)
    assert find_holes(folder) == [(2, 102)]


@pytest.mark.parametrize(
    "remove",
    [
        remove_folder,
        remove_root,
        remove_segment,
        replace_folder,
        cut_segment,
        cut_segment_within_its_first_record,
    ],
)
def test_a_successor_finds_what_was_lost_while_no_feed_wrote(
    tmp_path: Path, remove: Callable[[Path], None]
) -> None:
    folder = tmp_path / "root" / "j"
    dead = JournalWriter(folder, JournalProgress(missed=1))
    write(dead, tmp_path, 1, 2)
    remove(folder)
    successor = JournalWriter(folder, dead.progress)
    loss = successor.find_loss()
    assert str(folder) in loss
    assert "6 payloads" in loss
    assert successor.find_loss() == "", "reported once"
    write(successor, tmp_path, 3)
    assert successor.missed == 1 + 6
    third = JournalWriter(folder, successor.progress)
    assert third.find_loss() == "", "counted once"
    third.close()
    assert read_payloads(folder) == expect(3)
    assert find_holes(folder) == [(2, 0)]


def test_a_batch_that_the_successor_writes_again_is_not_lost(tmp_path: Path) -> None:
    dead = JournalWriter(tmp_path / "j")
    write(dead, tmp_path, 1, 2)
    shutil.rmtree(tmp_path / "j")
    successor = JournalWriter(tmp_path / "j", dead.progress)
    write_again(successor, tmp_path, 2)
    assert "3 payloads" in successor.find_loss()
    assert read_payloads(tmp_path / "j") == expect(2)


def test_a_successor_that_dies_before_it_looks_passes_the_loss_on(tmp_path: Path) -> None:
    dead = JournalWriter(tmp_path / "j")
    write(dead, tmp_path, 1, 2)
    shutil.rmtree(tmp_path / "j")
    second = JournalWriter(tmp_path / "j", dead.progress)
    third = JournalWriter(tmp_path / "j", second.progress)
    assert "6 payloads" in third.find_loss()
    third.close()
    assert find_holes(tmp_path / "j") == [(2, 0)]


def test_the_finished_segments_of_a_predecessor_count_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_writer, "SEGMENT_BYTES", 300)
    folder = tmp_path / "j"
    dead = JournalWriter(folder)
    write(dead, tmp_path, 1, 2, 3, 4, 5)
    for path in dead.take_full():
        journal.compress(path)
    second = JournalWriter(folder, dead.progress)
    assert second.find_loss() == ""
    write(second, tmp_path, 6)
    shutil.rmtree(folder)
    second.find_loss()
    assert second.missed == 18


def test_a_successor_of_a_feed_that_found_no_room_counts_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    dead = JournalWriter(tmp_path / "j")
    write(dead, tmp_path, 1)
    with monkeypatch.context() as full:
        full.setattr(os, "writev", fail)
        write(dead, tmp_path, 2)
    successor = JournalWriter(tmp_path / "j", dead.progress)
    assert successor.find_loss() == ""
    assert successor.missed == 3


def test_a_loss_that_no_batch_follows_is_a_hole_too(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path / "j")
    write(writer, tmp_path, 1, 2)
    shutil.rmtree(tmp_path / "j")
    assert writer.find_loss()
    writer.close()
    assert find_holes(tmp_path / "j") == [(2, 0)]


def test_a_folder_without_its_segments_loses_the_finished_ones_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_writer, "SEGMENT_BYTES", 300)
    folder = tmp_path / "j"
    writer = JournalWriter(folder)
    write(writer, tmp_path, 1, 2, 3, 4, 5)
    for path in writer.take_full()[:1]:
        journal.compress(path)
    shutil.rmtree(folder)
    writer.find_loss()
    assert writer.missed == 15


def test_a_finished_segment_may_be_moved_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_writer, "SEGMENT_BYTES", 300)
    writer = JournalWriter(tmp_path / "j")
    write(writer, tmp_path, 1, 2, 3, 4)
    [full, *_] = writer.take_full()
    journal.compress(full)
    full.with_suffix(journal.PACKED).rename(tmp_path / "archived")
    assert writer.find_loss() == ""
    assert writer.missed == 0


def test_a_copy_in_the_place_of_the_folder_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    writer = JournalWriter(folder)
    write(writer, tmp_path, 1)
    shutil.copytree(folder, tmp_path / "copy")
    write(writer, tmp_path, 2)
    shutil.rmtree(folder)
    (tmp_path / "copy").rename(folder)
    assert writer.find_loss()
    write(writer, tmp_path, 3)
    writer.close()
    assert read_payloads(folder) == expect(1, 3)
    assert find_holes(folder) == [(1, 102)]


def test_a_resumed_segment_counts_with_the_payloads_of_its_predecessor(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    write(JournalWriter(folder), tmp_path, 1, 2)
    successor = JournalWriter(folder, JournalProgress(missed=1))
    write(successor, tmp_path, 3)
    shutil.rmtree(folder)
    assert successor.find_loss()
    assert successor.missed == 1 + 9


def test_a_segment_that_is_lost_before_its_successor_opens_it_leaves_no_damage(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    write(JournalWriter(folder), tmp_path, 1, 2)
    successor = JournalWriter(folder)
    shutil.rmtree(folder)
    write(successor, tmp_path, 3)
    assert successor.missed == 6
    assert read_payloads(folder) == expect(3)


def test_a_folder_that_becomes_a_file_has_every_payload_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "j"
    writer = JournalWriter(folder)
    write(writer, tmp_path, 1, 2)
    shutil.rmtree(folder)
    folder.write_bytes(b"foreign")
    assert writer.find_loss()
    write(writer, tmp_path, 3, 4)
    assert writer.missed == 12
    assert caplog.text.count("cannot write the journal") == 1, "the first failure says why"
    folder.unlink()
    write(writer, tmp_path, 5)
    writer.close()
    assert read_payloads(folder) == expect(5)
    assert find_holes(folder) == [(4, 0)]


def test_a_read_only_disk_behind_a_removed_folder_has_every_payload_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(30, "Read-only file system")

    writer = JournalWriter(tmp_path / "j")
    write(writer, tmp_path, 1)
    shutil.rmtree(tmp_path / "j")
    with monkeypatch.context() as read_only:
        read_only.setattr(Path, "mkdir", refuse)
        assert writer.find_loss()
        write(writer, tmp_path, 2, 3)
        writer.close()
    assert writer.missed == 9
    assert "Read-only file system" in caplog.text


def test_a_disk_that_does_not_answer_for_a_moment_has_lost_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = JournalWriter(tmp_path / "j")
    write(writer, tmp_path, 1)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as sick:
        sick.setattr(os, "stat", fail)
        assert writer.find_loss() == ""
    write(writer, tmp_path, 2)
    assert writer.missed == 0


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("remove", [remove_folder, remove_segment])
def test_a_segment_that_is_gone_when_it_is_compressed_is_counted(
    tmp_path: Path, workers: int, remove: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    events: list[RunEvent] = []

    async def go() -> None:
        pool = WorkerPool(workers, 30)
        await pool.start()
        try:
            writer = JournalWriter(tmp_path / "j")
            kept = FeedJournal(writer, pool, events.append)
            write(writer, tmp_path, 1, 2)
            writer.close()
            remove(tmp_path / "j")
            await asyncio.wait_for(kept.close(), 60)
            assert kept.missed == 6
        finally:
            await pool.close()

    uvloop.run(go())
    [event] = events
    assert (event.kind, event.severity, event.fields["missed"]) == (EventKind.JOURNAL, Severity.ERROR, 6)
    assert str(tmp_path / "j") in event.text
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.getMessage() == event.text
