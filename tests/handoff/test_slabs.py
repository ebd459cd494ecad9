"""The pool of slabs: its policy with literal values, and the pool with real files."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdstream.errors import NoSpaceError
from mdstream.handoff import slabs
from mdstream.handoff.slab import Slab
from mdstream.handoff.slabs import SlabPool, TakeMethod, choose, count_idle

CAPACITY = 4096


def make_pool(folder: Path, bound: int = 3) -> SlabPool:
    return SlabPool(folder, "stocks", bound, CAPACITY)


def take(pool: SlabPool, length: int = 10) -> Slab:
    slab = pool.take(length)
    assert slab is not None
    return slab


@pytest.mark.parametrize(
    ("fits_usual_size", "existing", "free", "method"),
    [
        (True, 0, 0, TakeMethod.CREATE),
        (True, 2, 1, TakeMethod.REUSE),
        (True, 2, 0, TakeMethod.CREATE),
        (True, 3, 1, TakeMethod.REUSE),
        (True, 3, 0, TakeMethod.WAIT),
        (False, 2, 2, TakeMethod.CREATE),
        (False, 3, 1, TakeMethod.REPLACE),
        (False, 3, 0, TakeMethod.WAIT),
    ],
)
def test_a_slab_is_reused_before_one_is_created_and_never_beyond_the_bound(
    fits_usual_size: bool, existing: int, free: int, method: TakeMethod
) -> None:
    assert choose(fits_usual_size, existing, free, bound=3) is method


def test_of_idle_slabs_all_but_one_are_removed() -> None:
    assert [count_idle(n) for n in range(4)] == [0, 0, 1, 2]


def test_statistics_say_what_a_pool_holds(tmp_path: Path) -> None:
    pool = make_pool(tmp_path)
    first, second = take(pool), take(pool)
    assert pool.statistics() == (3, 2, 0, 2, 2, 0, 0)
    pool.release(first)
    found = pool.statistics()
    assert (found.bound, found.existing, found.free, found.in_use) == (3, 2, 1, 1)
    assert take(pool) is first
    pool.release(first)
    pool.release(second)
    pool.close()
    found = pool.statistics()
    assert (found.existing, found.created, found.removed) == (0, 2, 2)
    assert not list(tmp_path.iterdir())


def test_the_slab_used_last_is_taken_first_and_the_one_idle_longest_is_evicted(tmp_path: Path) -> None:
    pool = make_pool(tmp_path)
    first, second, third = take(pool), take(pool), take(pool)
    for slab in (first, second, third):
        pool.release(slab)
    assert take(pool) is third
    assert pool.evict()
    assert not first.path.exists()
    assert second.path.exists()


def test_a_stall_is_counted_once_however_often_a_slab_is_asked_for(tmp_path: Path) -> None:
    pool = SlabPool(tmp_path, "stocks", 2, CAPACITY, stalls=5)
    first, _ = take(pool), take(pool)
    assert [pool.take(10) for _ in range(4)] == [None] * 4
    assert pool.statistics().stalls == 6
    pool.release(first)
    take(pool)
    assert pool.take(10) is None
    assert pool.statistics().stalls == 7


def test_a_large_payload_replaces_a_free_slab_and_its_own_is_removed_afterwards(tmp_path: Path) -> None:
    pool = make_pool(tmp_path, bound=2)
    first, second = take(pool), take(pool)
    assert pool.take(10 * CAPACITY) is None
    pool.release(first)
    large = take(pool, 10 * CAPACITY)
    assert large.capacity == 10 * CAPACITY
    assert not first.path.exists()
    assert pool.statistics().existing == 2
    pool.release(large)
    assert not large.path.exists()
    assert [path.name for path in tmp_path.iterdir()] == [second.path.name]


def test_slabs_that_stay_idle_are_removed_but_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slabs, "IDLE_S", 10.0)
    pool = make_pool(tmp_path)
    for slab in [take(pool) for _ in range(3)]:
        pool.release(slab)
    pool.trim(100.0)  # each slab was in use at some moment until now
    pool.trim(109.0)
    assert pool.statistics().free == 3
    slab = take(pool)
    pool.release(slab)  # two slabs were idle all the time; the pool keeps one of them
    pool.trim(110.0)
    assert pool.statistics().free == 2
    pool.trim(120.0)
    assert pool.statistics().free == 1


def test_without_memory_for_another_the_pool_goes_on_with_those_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(tmp_path)
    first = take(pool)

    def refuse(path: Path, capacity: int) -> Slab:
        raise NoSpaceError(str(path.parent), capacity, 0)

    monkeypatch.setattr(Slab, "create", staticmethod(refuse))
    assert pool.take(10) is None
    pool.release(first)
    assert take(pool) is first
    pool.release(first)
    with pytest.raises(NoSpaceError):  # no slab is in use that could be returned later
        pool.take(10 * CAPACITY)


def test_new_slabs_get_other_names_than_those_of_a_predecessor(tmp_path: Path) -> None:
    old = make_pool(tmp_path)
    left = [take(old), take(old)]
    pool = make_pool(tmp_path)
    pool.adopt(in_use=left[:1], free=left[1:])
    assert pool.statistics()[:4] == (3, 2, 1, 1)
    assert take(pool) is left[1]
    assert take(pool).path not in [slab.path for slab in left]


def test_a_spilled_result_goes_with_its_slab(tmp_path: Path) -> None:
    pool = make_pool(tmp_path)
    slab = take(pool)
    slab.result_path.write_bytes(b"x")
    pool.release(slab)
    pool.close()
    assert not list(tmp_path.iterdir())
