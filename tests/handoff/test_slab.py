from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdstream.errors import NoSpaceError
from mdstream.handoff.slab import Slab, SlabState


@given(st.lists(st.tuples(st.binary(max_size=300), st.integers(0, 7), st.integers(0, 2**62))))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_slab_gives_back_what_was_put_in(tmp_path: Path, payloads: list[tuple[bytes, int, int]]) -> None:
    path = tmp_path / "slab"
    path.unlink(missing_ok=True)
    slab = Slab.create(path, 16 * 1024)
    slab.begin(7)
    kept = []
    for payload, kind, recv_ns in payloads:
        if slab.fits(len(payload)):
            assert slab.append(payload, kind, recv_ns) == len(kept)
            kept.append((payload, kind, recv_ns))
    slab.seal()

    other = Slab.open(path)
    assert (other.sequence, other.state, other.entries) == (7, SlabState.SEALED, len(kept))
    assert other.used == slab.used == sum(len(p) for p, _, _ in kept)
    for index, (payload, kind, recv_ns) in enumerate(kept):
        assert bytes(other.payload(index)) == payload
        assert (other.table[index]["kind"], other.table[index]["recv_ns"]) == (kind, recv_ns)


def test_a_slab_is_full_in_bytes_or_in_entries(tmp_path: Path) -> None:
    slab = Slab.create(tmp_path / "slab", 4096)
    slab.begin(1)
    assert slab.fits(4096)
    assert not slab.fits(4097)
    count = 0
    while slab.fits(0):
        slab.append(b"", 0, 0)
        count += 1
    assert count == 64


def test_payloads_and_results_do_not_overlap(tmp_path: Path) -> None:
    slab = Slab.create(tmp_path / "slab", 4096)
    slab.begin(1)
    slab.append(b"x" * 4096, 0, 0)
    slab.result.bytes[:] = 0xFF
    assert bytes(slab.payload(0)) == b"x" * 4096


def test_a_slab_used_again_forgets_what_it_held(tmp_path: Path) -> None:
    slab = Slab.create(tmp_path / "slab", 4096)
    slab.begin(1)
    slab.append(b"one", 0, 0)
    slab.seal()
    slab.release()
    assert slab.state is SlabState.FREE
    slab.begin(2)
    assert (slab.entries, slab.state, slab.sequence) == (0, SlabState.FILLING, 2)


def test_a_file_that_is_not_a_slab_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "slab"
    path.write_bytes(b"0" * 4096)
    with pytest.raises(ValueError, match="is not a slab"):
        Slab.open(path)


@pytest.mark.skipif(not os.path.ismount("/dev/shm"), reason="needs a tmpfs of known size")
def test_a_slab_that_does_not_fit_is_a_clear_error_and_leaves_nothing(tmp_path: Path) -> None:
    stat = os.statvfs("/dev/shm")
    path = Path("/dev/shm") / f"mdtest-{os.getpid()}"
    with pytest.raises(NoSpaceError, match="no room for"):
        Slab.create(path, stat.f_blocks * stat.f_frsize)
    assert not path.exists()
