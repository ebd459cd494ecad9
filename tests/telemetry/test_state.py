from __future__ import annotations

from pathlib import Path

from mdstream.telemetry.state import COMMITTED, FeedState


def test_a_batch_counts_once_and_all_at_once(tmp_path: Path) -> None:
    path = tmp_path / "state"
    state, reader = FeedState.create(path), FeedState(path)
    for sequence in range(1, 6):
        state.commit(sequence, payloads=1, messages=10, rejected=2, trade_rows=sequence * 100)
        assert reader.committed()["messages"] == sequence * 10
        assert reader.committed()["trade_rows"] == sequence * 100
        assert reader["sequence"] == sequence


def test_a_commit_cut_short_has_not_happened(tmp_path: Path) -> None:
    state = FeedState.create(tmp_path / "state")
    state.commit(1, messages=10, payloads=1)
    words = state._words
    before = state.committed()
    # Everything but the last store, the sequence number.
    start = 64 + 2 % 2 * len(COMMITTED)
    for i in range(len(COMMITTED)):
        words[start + i] = 999
    assert state.committed() == before
    state.commit(2, messages=5, payloads=1)
    assert state.committed()["messages"] == 15


def test_received_is_committed_and_rejected_and_in_flight(tmp_path: Path) -> None:
    state = FeedState.create(tmp_path / "state")
    state["payloads_received"] = 5
    state.commit(1, payloads=3, messages=30, rejected=4, bytes=300)
    accounts = state.accounts()
    assert accounts["messages"] == accounts["committed"] + accounts["rejected"] + accounts["in_flight"]
    assert (accounts["committed"], accounts["rejected"], accounts["in_flight"]) == (26, 4, 2)
    assert accounts["payloads"] == 5
