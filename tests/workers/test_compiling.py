"""The folder for the kernels' machine code, for any home, cache folder and permissions."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
import uvloop

from mdstream.streams import STREAMS
from mdstream.streams.spec import PayloadKind
from tests.commands import now, run_of, started, stopped, streaming
from tests.feed.test_pipeline import payloads
from tests.piping import rig
from tests.running import HANGING_S, until
from workers.kernels import kept
from workers.warm import warm

SHOW = "from workers.kernels import kept; print(kept.CACHE)"


def find_cache(**environment: str) -> Path:
    """Return the folder that a new process chooses."""
    clean = {k: v for k, v in os.environ.items() if k not in ("XDG_CACHE_HOME", "NUMBA_CACHE_DIR")}
    done = subprocess.run(
        [sys.executable, "-c", SHOW],
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=HANGING_S,
        check=True,
    )
    return Path(done.stdout.strip())


def test_the_folder_is_in_the_users_cache_or_where_it_is_set(tmp_path: Path) -> None:
    assert find_cache(HOME=str(tmp_path)).parent == tmp_path / ".cache" / "mdstream"
    for name in ("XDG_CACHE_HOME", "NUMBA_CACHE_DIR"):
        assert find_cache(**{name: str(tmp_path / name)}).parent == tmp_path / name / "mdstream"


def test_without_a_home_that_can_be_written_it_is_with_the_temporary_files(tmp_path: Path) -> None:
    cache = find_cache(HOME="/proc/nowhere", TMPDIR=str(tmp_path))
    assert cache.parent == tmp_path / f"mdstream-{os.getuid()}"


def test_what_nobody_used_for_long_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("kernels-mine", "kernels-old", "kernels-broken", "kernels-young", "other")
    for name in names:
        (tmp_path / name).mkdir()
        if name != "kernels-broken":
            (tmp_path / name / "complete").touch()
    for path in (
        *(tmp_path / n / "complete" for n in ("kernels-mine", "kernels-old", "other")),
        tmp_path / "kernels-broken",
    ):
        os.utime(path, (0, 0))
    monkeypatch.setattr(kept, "CACHE", tmp_path / "kernels-mine")
    kept.drop_unused()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kernels-mine", "kernels-young", "other"]


def test_a_folder_that_others_may_write_is_not_taken(tmp_path: Path) -> None:
    open_to_all = tmp_path / "mdstream"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    cache = find_cache(XDG_CACHE_HOME=str(tmp_path), TMPDIR=str(tmp_path))
    assert cache.parent == tmp_path / f"mdstream-{os.getuid()}"
    cache.parent.chmod(0o777)
    assert find_cache(XDG_CACHE_HOME=str(tmp_path), TMPDIR=str(tmp_path)) == Path("None")


def test_where_they_cannot_be_kept_the_fallback_decoder_decodes(tmp_path: Path) -> None:
    taken = tmp_path / f"mdstream-{os.getuid()}"
    (tmp_path / "mdstream").touch()
    taken.touch()
    report = tmp_path / "report.json"
    env = {"XDG_CACHE_HOME": str(tmp_path), "TMPDIR": str(tmp_path), "NUMBA_CACHE_DIR": ""}
    with started("--streams", "stocks", "--report", str(report), env=env) as process:
        log = streaming(process)
        run = run_of(process)
        until(lambda: now(run)["messages"].min() > 0)
        log += stopped(process)[1]
    assert process.returncode == 0, log
    [line] = [line for line in log.splitlines() if "WARNING" in line]
    assert f"cannot be stored on disk: {taken} cannot be written" in line
    assert "NUMBA_CACHE_DIR" in line
    stocks = json.loads(report.read_text())["streams"]["stocks"]
    assert stocks["committed"] == stocks["messages"] > 0
    assert "compiling" not in log


def test_a_full_disk_is_reported_in_one_line(tmp_path: Path) -> None:
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); "
    code = full + "import runpy, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    code += "runpy.run_module('workers.warm', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=HANGING_S,
        check=False,
        env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)},
    )
    assert done.returncode == 1
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith(f"they cannot be stored in {tmp_path}/mdstream/kernels-")
    assert line.endswith("File too large")
    assert not list(tmp_path.rglob("*.nb?")), "nothing was compiled"


def test_without_room_nothing_is_compiled_in_vain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "CACHE", tmp_path)
    assert not kept.is_complete()
    monkeypatch.setattr(kept, "_ROOM_BYTES", 1 << 62)
    with pytest.raises(OSError, match="less than 10 MB free"):
        kept.is_complete()


@pytest.mark.slow
def test_what_was_damaged_on_disk_is_compiled_anew(tmp_path: Path) -> None:
    assert kept.CACHE is not None
    copy = tmp_path / "mdstream" / kept.CACHE.name
    shutil.copytree(kept.CACHE, copy)
    code, index = min(copy.rglob("*.nbc")), max(copy.rglob("*.nbi"))

    def is_complete() -> str:
        show = "from workers.kernels import kept; print(kept.is_complete())"
        done = subprocess.run(
            [sys.executable, "-c", show],
            capture_output=True,
            text=True,
            check=True,
            timeout=HANGING_S,
            env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)},
        )
        return done.stdout.strip()

    def warm() -> None:
        done = subprocess.run(
            [sys.executable, "-m", "workers.warm"],
            capture_output=True,
            text=True,
            timeout=HANGING_S,
            check=False,
            env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)},
        )
        assert (done.returncode, done.stderr) == (0, "")

    assert is_complete() == "True"
    code.write_bytes(code.read_bytes()[:-100])  # Numba would load it, and might crash
    assert is_complete() == "False"
    code.write_bytes(b"garbage")
    index.write_bytes(index.read_bytes()[:100])
    assert is_complete() == "False"
    warm()
    assert is_complete() == "True"
    assert code.stat().st_size > 1000 or not code.exists()


def count_signatures() -> dict[str, int]:
    """Return the number of argument types that each kernel is compiled for."""
    modules = (m for name, m in sys.modules.items() if name.startswith("workers.kernels."))
    kernels = ((k, v) for m in modules for k, v in vars(m).items() if hasattr(v, "signatures"))
    return {f"{value.py_func.__module__}.{name}": len(value.signatures) for name, value in kernels}


def test_the_first_compilation_covers_all_that_work_needs(tmp_path: Path) -> None:
    """A kernel that work compiles later changes what is stored, and the next start would compile all again."""
    warm()
    before = count_signatures()

    async def go(stream: str) -> None:
        async with rig(stream, 0, tmp_path) as r:
            await r.feed(payloads(stream, 3_000, 7))
            if stream == "stocks":
                cancel = {"T": "x", "S": "AAPL", "i": 1, "x": "D", "p": 1.5, "s": 10, "a": "C", "z": "C"}
                at = "2026-01-05T14:30:00.000000001Z"
                await r.feed(
                    [(orjson.dumps([{**cancel, "t": at}]), PayloadKind.JSON, 1_767_623_400_000_000_000)]
                )
            await r.drain()

    for stream in STREAMS:
        uvloop.run(go(stream))
    assert sum(before.values()) > 10
    assert {n: c for n, c in count_signatures().items() if c != before.get(n) and c} == {}
