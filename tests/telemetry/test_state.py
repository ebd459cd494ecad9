from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from mdstream.errors import NoRunError
from mdstream.frames.writer import FrameWriter, Limits
from mdstream.streams import STREAMS
from mdstream.telemetry.state import COMMITTED, COPIES, FeedState


def test_a_batch_counts_once_and_all_at_once(tmp_path: Path) -> None:
    path = tmp_path / "state"
    state, reader = FeedState.create(path), FeedState(path)
    for sequence in range(1, 6):
        state.commit(sequence, payloads_committed=1, committed=10, rejected=2, trade_rows=sequence * 100)
        assert reader.read_committed()["committed"] == sequence * 10
        assert reader.read_committed()["trade_rows"] == sequence * 100
        assert reader["sequence"] == sequence


def test_a_commit_cut_short_has_not_happened(tmp_path: Path) -> None:
    state = FeedState.create(tmp_path / "state")
    state.commit(1, committed=10, payloads_committed=1)
    words = state._words
    before = state.read_committed()
    # All stores except the last one, which is the sequence number.
    start = COPIES + 2 % 2 * len(COMMITTED)
    for i in range(len(COMMITTED)):
        words[start + i] = 999
    assert state.read_committed() == before
    state.commit(2, committed=5, payloads_committed=1)
    assert state.read_committed()["committed"] == 15


def test_received_is_committed_and_rejected_and_in_flight(tmp_path: Path) -> None:
    state = FeedState.create(tmp_path / "state")
    state["payloads_received"] = 5
    state.commit(1, payloads_committed=3, committed=26, rejected=4, bytes_committed=300)
    accounts = state.values()
    assert accounts["messages"] == accounts["committed"] + accounts["rejected"] + accounts["in_flight"]
    assert (accounts["committed"], accounts["rejected"], accounts["in_flight"]) == (26, 4, 2)
    assert accounts["payloads"] == 5


def test_a_reader_cannot_write_counters(tmp_path: Path) -> None:
    path = tmp_path / "state"
    FeedState.create(path)["stalls"] = 7
    reader = FeedState(path)
    with pytest.raises(TypeError, match="read-only"):
        reader["stalls"] = 0
    with pytest.raises(TypeError, match="read-only"):
        reader.commit(1, committed=1)
    with pytest.raises(ValueError, match="read-only"):
        reader.histograms["latency"][3] = 1
    assert FeedState(path)["stalls"] == 7


def test_counters_of_another_version_are_not_read_as_ours(tmp_path: Path) -> None:
    path = tmp_path / "state"
    FeedState.create(path)
    with path.open("r+b") as file:
        file.write(b"\x01")
    with pytest.raises(NoRunError, match="another version of mdstream"):
        FeedState(path)


def test_a_counter_that_is_not_in_the_table_cannot_be_counted(tmp_path: Path) -> None:
    state = FeedState.create(tmp_path / "state")
    with pytest.raises(KeyError):
        state["nonsense"] = 1
    with pytest.raises(KeyError):
        state.commit(1, nonsense=1)
    assert state["sequence"] == 0


def test_frames_that_begin_right_after_a_look_are_counted(tmp_path: Path) -> None:
    state = FeedState.create(tmp_path / "state")
    writers: list[FrameWriter] = []
    for index in range(200):
        folder = tmp_path / "frames" / f"news.n{index}"
        folder.mkdir(parents=True)
        state.count_rows(tmp_path, "news")  # sees the folder, but no head
        writers.append(FrameWriter(folder, STREAMS["news"].channels[0].columns, Limits(1 << 20, 1 << 16)))
        if index % 50 == 25:
            time.sleep(0.15)  # the folder of frames has not changed for a while
        writers[-1].head.publish(index + 1, 0)
        assert state.count_rows(tmp_path, "news") == sum(range(index + 2))
    time.sleep(0.15)
    state.count_rows(tmp_path, "news")
    state.count_rows(tmp_path, "news")
    assert state._listed, "the folder is not listed again while nothing changes"
    shutil.rmtree(tmp_path / "frames")
    assert state.count_rows(tmp_path, "news") == sum(range(201)), "what is mapped stays"
