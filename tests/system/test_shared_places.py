"""What another user puts into a shared place is neither read, nor written, nor executed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest

from mdstream.config import StoreConfig
from mdstream.engine import report_file
from mdstream.errors import ConfigError, NoRunError
from mdstream.frames import rundir
from mdstream.frames.rundir import RunDirectory
from mdstream.recording import process
from mdstream.store.export import check_catalogue, check_file, export_file
from mdstream.system.shared_places import (
    is_out_of_reach,
    is_private,
    open_named,
    open_new,
    replace_named,
    why_not_ours,
)
from tests.running import HANGING_S

OTHER_USER = 65534
NAME = f"mdstream-{os.getuid()}-29990101T000000.000-1"
"""The name of a run that would be the newest."""

as_two_users = pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")


@contextlib.contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder of runs into which everybody can write. It has no sticky bit: Linux follows links in it."""
    with tempfile.TemporaryDirectory() as temporary:  # other users cannot reach `tmp_path`
        os.chmod(temporary, 0o755)
        folder = Path(temporary, "shared")
        folder.mkdir()
        folder.chmod(0o777)
        yield folder


def act_as_other(code: str, *arguments: object) -> None:
    """Run Python code as another user."""
    # The interpreter may be in a folder of root alone, so the user changes after the start.
    code = f"import os, sys; os.setgid({OTHER_USER}); os.setuid({OTHER_USER}); {code}"
    command = [sys.executable, "-I", "-S", "-c", code, *map(str, arguments)]
    subprocess.run(command, check=True, timeout=HANGING_S)


def make_bait(folder: Path) -> Path:
    """Make a folder that looks like a dead run which is not recorded yet; its log holds something precious."""
    folder.mkdir()
    (folder / "owner.lock").touch()
    (folder / "recorder.log").write_text("precious")
    (folder / "run.json").write_text('{"store": "/nowhere/chosen-by-others"}')
    return folder


def link_to_ours(root: Path) -> Path:
    (root / NAME).symlink_to(make_bait(root.parent / "bait"))
    return root / NAME


def link_of_another(root: Path) -> Path:
    act_as_other("os.symlink(sys.argv[1], sys.argv[2])", make_bait(root.parent / "bait"), root / NAME)
    return root / NAME


def folder_of_another(root: Path) -> Path:
    act_as_other("os.mkdir(sys.argv[1], 0o700)", root / NAME)
    for path in make_bait(root.parent / "bait").iterdir():
        act_as_other("open(sys.argv[1], 'w').write(sys.argv[2])", root / NAME / path.name, path.read_text())
    return root / NAME


def folder_open_to_all(root: Path) -> Path:
    make_bait(root / NAME).chmod(0o777)
    return root / NAME


BAITS = [
    link_to_ours,
    folder_open_to_all,
    pytest.param(link_of_another, marks=as_two_users),
    pytest.param(folder_of_another, marks=as_two_users),
]


@pytest.mark.cases("U1")
@pytest.mark.parametrize("make", BAITS)
def test_what_only_looks_like_a_run_of_this_user_is_left_alone(
    root: Path, make: Callable[[Path], Path]
) -> None:
    bait = make(root)
    with RunDirectory(root) as ours:
        assert rundir.find(None, root) == ours.path
        assert rundir.list_runs(root) == [ours.path]
        with pytest.raises(NoRunError):
            rundir.find(NAME.removeprefix(f"mdstream-{os.getuid()}-"), root)
        with pytest.raises(NoRunError, match="is not read"):
            rundir.find(str(bait), root)
    assert rundir.find_unrecorded(root) == {}
    assert list(process.start_for_dead_runs(root, StoreConfig("s"))) == []
    with pytest.raises(OSError, match=NAME):
        process.start(bait, StoreConfig("s"))
    assert rundir.reap(root) == []
    assert (bait / "recorder.log").read_text() == "precious"


@pytest.mark.cases("U1")
def test_a_file_is_opened_in_a_checked_folder_and_no_link_is_followed(tmp_path: Path) -> None:
    folder, target = tmp_path / "folder", tmp_path / "target"
    folder.mkdir(0o700)
    target.write_text("precious")
    (folder / "link").symlink_to(target)
    with pytest.raises(OSError, match="symbolic links"):
        open_new(folder, "link")
    assert target.read_text() == "precious"
    with umask(0), open(open_new(folder, "new"), "w") as file:
        file.write("x")
    assert (folder / "new").stat().st_mode & 0o777 == 0o600


@pytest.mark.cases("U1")
def test_a_run_is_private_whatever_the_umask_is(root: Path) -> None:
    with umask(0), RunDirectory(root) as ours:
        assert ours.path.stat().st_mode & 0o777 == 0o700
        assert is_private(ours.path)


SHOW = "from workers.kernels import kept; print(kept.CACHE or kept._OBSTACLE)"


def find_cache(cache: Path, temporary: Path, mask: int = 0o022) -> str:
    """Return the folder of the kernels that a new process chooses, or why there is none."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "TMPDIR": str(temporary)}
    with umask(mask):
        done = subprocess.run(
            [sys.executable, "-c", SHOW], env=environment, capture_output=True, text=True, timeout=HANGING_S
        )
    return done.stdout.strip() or done.stderr.splitlines()[-1]


def make_base_a_link(base: Path, name: str) -> None:
    (base.parent / "elsewhere" / name).mkdir(parents=True)
    base.symlink_to(base.parent / "elsewhere")


def make_folder_a_link(base: Path, name: str) -> None:
    (base.parent / "elsewhere" / name).mkdir(parents=True)
    base.mkdir(0o700)
    (base / name).symlink_to(base.parent / "elsewhere" / name)


def open_base_to_all(base: Path, name: str) -> None:
    base.mkdir()
    base.chmod(0o777)


def open_folder_to_all(base: Path, name: str) -> None:
    (base / name).mkdir(parents=True)
    (base / name).chmod(0o777)


def give_base_away(base: Path, name: str) -> None:
    (base / name).mkdir(parents=True)
    os.chown(base, OTHER_USER, OTHER_USER)


def give_folder_away(base: Path, name: str) -> None:
    (base / name).mkdir(parents=True)
    os.chown(base / name, OTHER_USER, OTHER_USER)


def open_the_place_to_all(base: Path, name: str) -> None:
    base.parent.chmod(0o777)


TRAPS = [
    make_base_a_link,
    make_folder_a_link,
    open_base_to_all,
    open_folder_to_all,
    open_the_place_to_all,
    pytest.param(give_base_away, marks=as_two_users),
    pytest.param(give_folder_away, marks=as_two_users),
]


@pytest.mark.cases("U2")
@pytest.mark.parametrize("trap", TRAPS)
def test_kernels_are_not_loaded_from_where_others_can_write(
    tmp_path: Path, trap: Callable[[Path, str], None]
) -> None:
    cache, temporary = tmp_path / "cache", tmp_path / "temporary"
    cache.mkdir()
    temporary.mkdir(0o700)
    good = Path(find_cache(cache, temporary))
    assert good.parent == cache / "mdstream"
    good.rmdir()
    good.parent.rmdir()
    trap(cache / "mdstream", good.name)
    found = Path(find_cache(cache, temporary))
    assert found.parent == temporary / f"mdstream-{os.getuid()}"
    assert is_out_of_reach(found)


@pytest.mark.cases("U2")
def test_the_kernels_folder_is_private_whatever_the_umask_is(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    found = Path(find_cache(tmp_path / "cache", tmp_path, mask=0))
    assert found.parent == tmp_path / "cache" / "mdstream"
    assert {p.stat().st_mode & 0o777 for p in (found, found.parent)} == {0o700}


@pytest.mark.cases("U2")
def test_without_any_safe_place_no_kernel_is_stored(tmp_path: Path) -> None:
    cache, temporary = tmp_path / "cache", tmp_path / "temporary"
    for folder in (cache, temporary):
        folder.mkdir()
        folder.chmod(0o777)
    assert "is not this user's alone" in find_cache(cache, temporary)


# -- files that the user names


def plant_link(place: Path, target: Path) -> None:
    act_as_other("os.symlink(sys.argv[1], sys.argv[2])", target, place)


def plant_chain(place: Path, target: Path) -> None:
    """A link of ours that leads to one of another user."""
    plant_link(place.with_name("between"), target)
    place.symlink_to("between")


def plant_loose_link(place: Path, target: Path) -> None:
    plant_link(place, target.with_name("not-there-yet"))


def plant_file(place: Path, target: Path) -> None:
    act_as_other("open(sys.argv[1], 'w').close(); os.chmod(sys.argv[1], 0o666)", place)


def plant_pipe(place: Path, target: Path) -> None:
    act_as_other("os.mkfifo(sys.argv[1]); os.chmod(sys.argv[1], 0o666)", place)


def plant_hard_link(place: Path, target: Path) -> None:
    """As another user could, where `fs.protected_hardlinks` is 0."""
    os.link(target, place)


PLANTS = [
    pytest.param(plant_link, marks=as_two_users),
    pytest.param(plant_chain, marks=as_two_users),
    pytest.param(plant_loose_link, marks=as_two_users),
    pytest.param(plant_file, marks=as_two_users),
    pytest.param(plant_pipe, marks=as_two_users),
    plant_hard_link,
]


def write_in_place(path: Path) -> None:
    with open_named(path) as file:
        file.write(b"rows")


def write_whole(path: Path) -> None:
    with replace_named(path) as file:
        file.write(b"rows")


def write_report(path: Path) -> None:
    report_file.write({}, path)


def write_rows(path: Path) -> None:
    export_file(pl.LazyFrame({"ts": [1]}), path.with_name("x.csv"), force=True)


WRITERS: list[Callable[[Path], None]] = [write_in_place, write_whole, write_report, write_rows]


@pytest.mark.parametrize("is_sticky", [False, True])
@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("plant", PLANTS)
def test_what_another_user_planted_where_a_file_is_named_is_not_written_to(
    root: Path, plant: Callable[[Path, Path], None], write: Callable[[Path], None], is_sticky: bool
) -> None:
    root.chmod(0o1777 if is_sticky else 0o777)
    target, place = root.parent / "precious", root / "x.csv"
    target.write_text("precious")
    plant(place, target)
    before = sorted(root.iterdir())
    assert why_not_ours(place)
    with pytest.raises((PermissionError, ConfigError), match=r"belongs to|another name"):
        write(place)
    assert target.read_text() == "precious"
    assert not target.with_name("not-there-yet").exists()
    assert sorted(root.iterdir()) == before
    with pytest.raises(ConfigError, match=r"belongs to|another name"):
        report_file.check_path(place)
    with pytest.raises(ConfigError, match=r"--to .* (belongs to|has another name)"):
        check_file(place, force=True)


@as_two_users
@pytest.mark.parametrize("name", [".x.csv.partial", "x.csv.partial", "x.csv.new"])
def test_a_link_at_a_predictable_name_beside_a_file_is_not_followed(root: Path, name: str) -> None:
    target = root.parent / "precious"
    target.write_text("precious")
    plant_link(root / name, target)
    write_rows(root / "x.csv")
    assert target.read_text() == "precious"
    assert (root / "x.csv").read_text() == "ts\n1\n"
    assert sorted(each.name for each in root.iterdir()) == sorted([name, "x.csv"])


@pytest.mark.parametrize("write", WRITERS)
def test_links_and_files_of_this_user_are_written_to(root: Path, write: Callable[[Path], None]) -> None:
    place, target = root / "x.csv", root.parent / "mine.csv"
    for _ in range(2):
        write(place)
    place.rename(target)
    os.chmod(target, 0o640)
    (root / "between").symlink_to("../mine.csv")
    place.symlink_to("between")
    target.write_text("before")
    write(place)
    assert target.read_bytes() not in (b"", b"before")
    assert place.is_symlink()
    assert target.stat().st_mode & 0o777 == 0o640
    assert why_not_ours(place) == ""


def test_a_file_that_is_not_completed_leaves_what_was_there(root: Path) -> None:
    place = root / "x.csv"
    place.write_text("before")
    with pytest.raises(ValueError, match="broken"), replace_named(place) as file:
        file.write(b"half")
        raise ValueError("broken")
    assert place.read_text() == "before"
    assert list(root.iterdir()) == [place]


@pytest.mark.parametrize("write", [write_in_place, write_whole, write_report])
def test_devices_and_open_files_may_be_named(root: Path, write: Callable[[Path], None]) -> None:
    write(Path("/dev/null"))
    reading, writing = os.pipe()
    try:
        write(Path(f"/dev/fd/{writing}"))
        assert os.read(reading, 100)
    finally:
        os.close(reading)
        os.close(writing)


def test_a_long_name_and_a_circle_of_links(root: Path) -> None:
    name = "x" * 255
    write_whole(root / name)
    assert (root / name).read_bytes() == b"rows"
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        write_whole(root / "a")


@as_two_users
@pytest.mark.parametrize("part", ["", "data", "data/quote_tick", "data/quote_tick/AAPL.XNAS"])
def test_a_catalogue_does_not_lead_through_links_of_another_user(root: Path, part: str) -> None:
    catalogue, elsewhere = root / "catalogue", root.parent / "elsewhere"
    elsewhere.mkdir()
    place = catalogue / part
    place.parent.mkdir(parents=True, exist_ok=True)
    for folder in (catalogue, *catalogue.rglob("*")):
        if folder.exists():
            folder.chmod(0o777)
    plant_link(place, elsewhere)
    with pytest.raises(ConfigError, match=r"--to .* is a link that belongs to the user"):
        check_catalogue("stocks.quotes", catalogue, "XNAS")
