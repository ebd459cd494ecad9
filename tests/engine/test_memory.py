"""How a run divides shared memory among its streams."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdstream.config import FramesConfig, HandoffConfig
from mdstream.engine import memory
from mdstream.errors import NoSpaceError
from mdstream.handoff.slab import file_bytes
from mdstream.streams import STREAMS

DEMAND = memory.Demand(len(STREAMS), 2, HandoffConfig(), FramesConfig())
ROOMY = 64_000_000_000


def total_bytes(free: int, streams: int = 4) -> int:
    """Return the shared memory that all streams together may use."""
    fitted = memory.fit(DEMAND._replace(streams=streams), free)
    slabs = fitted.handoff.slabs * file_bytes(fitted.handoff.slab_kb * 1024)
    return streams * (slabs + fitted.frames.stream_mb * 1_000_000)


def test_where_there_is_room_a_run_gets_what_it_asks_for() -> None:
    fitted = memory.fit(DEMAND, ROOMY)
    assert fitted.handoff == DEMAND.handoff
    assert not memory.is_cramped(DEMAND, fitted)


@pytest.mark.parametrize("free", [12_000_000, 64_000_000, 256_000_000, 4_000_000_000])
@pytest.mark.parametrize("streams", [1, 2, 4])
def test_all_streams_together_stay_within_what_is_free(free: int, streams: int) -> None:
    assert total_bytes(free, streams) < free


def test_there_are_always_buffers_enough_to_feed_the_workers() -> None:
    for free in (12_000_000, 64_000_000, ROOMY):
        assert memory.fit(DEMAND, free).handoff.slabs >= 4


def test_fewer_buffers_come_before_smaller_ones() -> None:
    sizes = [memory.fit(DEMAND, mb * 1_000_000).handoff for mb in (32, 64, 128, 256, 512)]
    assert [h.slab_kb for h in sizes] == sorted(h.slab_kb for h in sizes)
    for handoff in sizes:
        assert handoff.slab_kb == DEMAND.handoff.slab_kb or 4 <= handoff.slabs < 8


def test_what_a_user_set_for_a_stream_is_left_alone() -> None:
    demand = DEMAND._replace(frames=FramesConfig(stream_mb=77))
    assert memory.fit(demand, 64_000_000).frames.stream_mb == 77


def test_a_file_system_that_is_too_small_to_begin_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = memory.Room(6_000_000, 6_000_000)
    monkeypatch.setattr(memory.Room, "at", classmethod(lambda cls, path: small))
    with pytest.raises(NoSpaceError, match=r"no room for [\d.]+ MB at .*\(6.0 MB free\).*enlarge it"):
        memory.require_room(DEMAND, tmp_path)
    one = DEMAND._replace(streams=1, workers=1)
    assert memory.require_room(one, tmp_path) == small
