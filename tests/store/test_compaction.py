"""Small files of a table become large ones: the rows stay as they are, whoever else works on the table."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st

from mdstream.store.compaction import compact
from mdstream.store.exact_commit import commit_exactly, list_files
from tests.fuzzing import examples
from tests.running import HANGING_S

SMALL = 1 << 20


def append(folder: Path, rows: pl.DataFrame) -> None:
    write_deltalake(
        str(folder), rows.to_arrow(), mode="append", schema_mode="merge", partition_by=["feed", "date"]
    )


def make(first: int, count: int, feed: str = "iex", day: str = "2026-01-05", **more: Any) -> pl.DataFrame:
    numbers = list(range(first, first + count))
    frame = pl.DataFrame({"feed": feed, "date": day, "id": numbers, "text": [f"t{n % 3}" for n in numbers]})
    lists = pl.Series("names", [[str(n)] if n % 2 else None for n in numbers], pl.List(pl.String))
    return frame.with_columns(pl.col("date").str.to_date(), lists, **more)


def work(folder: Path, what: str, barrier: Any, results: Any) -> None:
    table = DeltaTable(str(folder))
    barrier.wait(HANGING_S)
    if what == "compact":
        results.put(compact(table, SMALL))
        return
    for number in range(20):
        append(folder, make(1000 + number, 1))
    results.put(-1)


@pytest.mark.parametrize(
    "whats", [["compact"] * 3, ["compact", "append"], ["compact", "compact", "append"]]
)
def test_processes_that_compact_at_the_same_time_keep_each_row_once(
    tmp_path: Path, whats: list[str]
) -> None:
    for number in range(6):
        append(tmp_path, make(10 * number, 10))
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(len(whats)), context.Queue()
    processes = [context.Process(target=work, args=(tmp_path, what, barrier, results)) for what in whats]
    for process in processes:
        process.start()
    found = sorted(results.get(timeout=HANGING_S) for _ in processes)
    for process in processes:
        process.join(HANGING_S)
    joined = [number for number in found if number > 0]
    assert joined, found
    rows = pl.scan_delta(str(tmp_path)).collect()
    assert rows["id"].n_unique() == rows.height == 60 + 20 * whats.count("append")
    kept = {Path(path).name for path in DeltaTable(str(tmp_path)).file_uris()}
    on_disk = {path.name for path in tmp_path.rglob("joined-*.parquet")}
    assert on_disk <= kept, "what was not committed is removed"


@given(
    parts=st.lists(
        st.tuples(st.integers(1, 30), st.sampled_from(["iex", "sip"]), st.sampled_from(["05", "06"])),
        min_size=1,
        max_size=8,
    ),
    new_column=st.integers(0, 8),
)
@settings(max_examples=examples(25), deadline=None)
def test_rows_partitions_and_statistics_stay_as_they_are(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[int, str, str]], new_column: int
) -> None:
    folder = tmp_path_factory.mktemp("table")
    first, partitions = 0, set()
    for index, (count, feed, day) in enumerate(parts):
        more = {"later": pl.lit(index)} if index >= new_column else {}
        append(folder, make(first, count, feed, f"2026-01-{day}", **more))
        first += count
        partitions.add((feed, day))
    table = DeltaTable(str(folder))
    before = pl.scan_delta(str(folder)).collect().sort("id")
    joined = compact(table, SMALL, as_differences=["id"])
    assert pl.scan_delta(str(folder)).collect().sort("id").equals(before)
    assert len(table.file_uris()) == len(partitions)
    assert joined == len(parts) - sum(
        [part[1:] for part in parts].count(each) == 1 for each in {part[1:] for part in parts}
    )
    for file in pa.table(table.get_add_actions()).to_pylist():
        inside = before.filter(feed=file["partition"]["feed"], date=file["partition"]["date"])
        assert file["num_records"] == inside.height
        assert (file["min"]["id"], file["max"]["id"]) == (inside["id"].min(), inside["id"].max())
    for number in range(0, first, 7):
        assert pl.scan_delta(str(folder)).filter(pl.col("id") == number).collect().height == 1
    assert compact(table, SMALL) == 0, "nothing is left to join"


def test_large_files_stay(tmp_path: Path) -> None:
    for number in range(3):
        append(tmp_path, make(number * 10, 10))
    table = DeltaTable(str(tmp_path))
    sizes = [file["size_bytes"] for file in pa.table(table.get_add_actions()).to_pylist()]
    assert compact(table, min(sizes)) == 0
    assert compact(table, sum(sizes[:2]) + 1) == 2
    assert len(table.file_uris()) == 2


@pytest.mark.parametrize("error", [OSError("no space"), KeyboardInterrupt()])
def test_a_compaction_that_fails_leaves_the_table_and_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    for number in range(3):
        append(tmp_path, make(number * 10, 10))
    table = DeltaTable(str(tmp_path))

    def fail(*_: Any, **__: Any) -> None:
        raise error

    commit: Callable[..., Any] = fail
    monkeypatch.setattr(DeltaTable, "create_write_transaction", commit)
    with pytest.raises(type(error)):
        compact(table, SMALL)
    assert not list(tmp_path.rglob("joined-*"))
    assert pl.scan_delta(str(tmp_path)).collect().height == 30


def test_a_migration_over_a_compaction_that_came_first_changes_nothing(tmp_path: Path) -> None:
    """With delta-rs alone, both commits succeed, and all rows are there twice."""
    for number in range(3):
        append(tmp_path, make(number * 10, 10))
    late = DeltaTable(str(tmp_path))
    old = list_files(late)
    assert compact(DeltaTable(str(tmp_path)), SMALL) == 3
    assert not commit_exactly(late, [], old, mode="overwrite")
    assert not commit_exactly(late, [], old)
    append(tmp_path, make(30, 10))
    assert not commit_exactly(late, [], list_files(late) - {max(list_files(late))}, mode="overwrite")
    assert pl.scan_delta(str(tmp_path)).collect()["id"].n_unique() == 40
