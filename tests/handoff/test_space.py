"""Space in shared memory: missing bytes and missing inodes raise the same error."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mdstream.errors import NoSpaceError, RunRemovedError
from mdstream.frames.chunk import Chunk
from mdstream.frames.head import Head
from mdstream.handoff.slab import Slab
from mdstream.handoff.space import Shortages, create_file
from mdstream.streams.spec import Column, Kind
from mdstream.telemetry.state import FeedState
from tests.running import tmpfs

COLUMNS = (Column("price", Kind.FLOAT, required=True),)


def use_up_inodes(folder: Path) -> None:
    with pytest.raises(OSError, match="No space"):
        for number in range(10_000):
            (folder / f"filler-{number}").touch()


@pytest.mark.parametrize(
    "create",
    [
        lambda folder: Slab.create(folder / "slab", 4096),
        lambda folder: Chunk.create(folder / "0.arrow", COLUMNS, 64, ()),
        Head.create,
        lambda folder: FeedState.create(folder / "stocks.state"),
    ],
    ids=["slab", "chunk", "head", "state"],
)
def test_a_file_system_without_inodes_is_a_lack_of_room(
    tmp_path: Path, create: Callable[[Path], object]
) -> None:
    with tmpfs(tmp_path / "shm", 8, inodes=50) as folder:
        use_up_inodes(folder)
        before = sorted(folder.iterdir())
        with pytest.raises(NoSpaceError, match="nr_inodes") as caught:
            create(folder)
        assert caught.value.is_out_of_inodes
        assert sorted(folder.iterdir()) == before
        (folder / "filler-0").unlink()
        create(folder)


def test_a_file_that_finds_no_bytes_leaves_nothing(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "shm", 1) as folder:
        with pytest.raises(NoSpaceError, match="enlarge it"):
            create_file(folder / "large", 2_000_000)
        assert not list(folder.iterdir())
        os.close(create_file(folder / "small", 1000))
        assert (folder / "small").stat().st_size == 1000


def test_other_errors_are_not_a_lack_of_room(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        create_file(tmp_path / "file" / "file", 10)


@pytest.mark.cases("M5")
def test_a_folder_that_is_gone_is_a_removed_run(tmp_path: Path) -> None:
    with pytest.raises(RunRemovedError, match="RemoveIPC"):
        create_file(tmp_path / "missing" / "file", 10)


def test_a_shortage_is_new_once_and_lasts_until_it_ends() -> None:
    shortages = Shortages()
    assert shortages.begin("slab", 10.0)
    assert not shortages.begin("slab", 12.0)
    assert shortages.begin("rows", 12.0)
    assert shortages.seconds("slab", 15.0) == 5.0
    shortages.end("slab")
    assert shortages.seconds("slab", 20.0) == 0.0
    assert shortages.seconds("rows", 20.0) == 8.0
