"""The advice of `mdstream doctor` is safe to follow."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
from pathlib import Path

import pytest

from mdstream.cli.doctor import Finding, _machine, _runs
from mdstream.config import FramesConfig
from mdstream.frames.rundir import reap
from mdstream.settings import from_mapping
from mdstream.system.logind import removes_shared_memory


def make_dead_run(root: Path, name: str, **facts: str) -> Path:
    path = root / f"mdstream-{os.getuid()}-{name}"
    path.mkdir()
    (path / "owner.lock").touch()
    (path / "run.json").write_text(json.dumps(facts))
    return path


def collect_findings(root: Path) -> dict[str, Finding]:
    return {each.what: each for each in _runs(FramesConfig(directory=str(root)))}


@pytest.mark.cases("M10")
def test_a_dead_run_that_is_still_to_be_recorded_is_not_to_be_deleted(tmp_path: Path) -> None:
    kept = make_dead_run(tmp_path, "20260105T100000.000-1", store="/data/market")
    gone = make_dead_run(tmp_path, "20260105T100000.000-2")
    found = collect_findings(tmp_path)
    assert found["leftovers of dead runs"].fix.endswith(f"or: rm -r {gone}")
    unrecorded = found["dead run, recording incomplete"]
    assert (unrecorded.verdict, unrecorded.found) == ("note", kept.name)
    assert "rm" not in unrecorded.fix.split()
    assert f"mdstream record --run {kept} --store /data/market" in unrecorded.fix
    with (kept / "recorder.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        at_work = collect_findings(tmp_path)["dead run, recording incomplete"]
    assert (at_work.verdict, at_work.fix) == ("ok", "")


def test_more_workers_than_cores_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    [cores] = [each for each in _machine(from_mapping({"workers": 99})) if each.what == "cores"]
    assert cores.verdict == "note"
    assert "99 workers for each of 4 streams, more than the 2 cores can run" in cores.found
    [cores] = [each for each in _machine(from_mapping({"workers": 2})) if each.what == "cores"]
    assert (cores.verdict, cores.found) == ("ok", "2; workers for each stream: 2")
    [cores] = [each for each in _machine(from_mapping({"workers": "auto"})) if each.what == "cores"]
    assert cores.found == "2; workers for each stream: at most 1"


@pytest.mark.cases("M10")
@pytest.mark.parametrize("lock", ["recorder.lock", "feeds/stocks.lock"])
@pytest.mark.parametrize("facts", [{}, {"store": "/data/market"}], ids=["not recorded", "recorded"])
def test_a_dead_run_that_a_process_works_on_is_not_to_be_deleted(
    tmp_path: Path, lock: str, facts: dict[str, str]
) -> None:
    at_work = make_dead_run(tmp_path, "20260105T100000.000-1", **facts)
    (at_work / "feeds").mkdir()
    with (at_work / lock).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        findings = list(_runs(FramesConfig(directory=str(tmp_path))))
        assert not [each for each in findings if "rm -r" in each.fix]
        assert [each for each in findings if at_work.name in each.found]
        assert reap(tmp_path) == []
    assert at_work.exists()


@pytest.mark.cases("M10")
def test_advice_can_be_pasted_whatever_the_folder_is_called(tmp_path: Path) -> None:
    root = tmp_path / "a b; c"
    root.mkdir()
    gone = make_dead_run(root, "20260105T100000.000-2")
    fix = collect_findings(root)["leftovers of dead runs"].fix
    assert shlex.split(fix.partition("or: ")[2]) == ["rm", "-r", str(gone)]


@pytest.mark.cases("M5")
@pytest.mark.parametrize(
    ("files", "uid", "removes"),
    [
        ({}, 1000, True),
        ({}, 0, False),
        ({"etc/systemd/logind.conf": "[Login]\nRemoveIPC=no\n"}, 1000, False),
        ({"etc/systemd/logind.conf": "[Login]\n#RemoveIPC=no\n"}, 1000, True),
        (
            {
                "etc/systemd/logind.conf": "[Login]\nRemoveIPC=no\n",
                "usr/lib/systemd/logind.conf.d/50.conf": "[Login]\nRemoveIPC=yes\n",
            },
            1000,
            True,
        ),
        ({"etc/systemd/logind.conf": "nonsense"}, 1000, True),
        ({"var/lib/systemd/linger/ann": ""}, 1000, False),
        ({"var/lib/systemd/linger/bob": ""}, 1000, True),
    ],
)
def test_a_logout_that_removes_shared_memory_is_found(
    tmp_path: Path, files: dict[str, str], uid: int, removes: bool
) -> None:
    assert not removes_shared_memory("ann", uid, tmp_path), "logind does not run"
    (tmp_path / "run/systemd/sessions").mkdir(parents=True)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert removes_shared_memory("ann", uid, tmp_path) is removes


@pytest.mark.parametrize(("is_there", "said"), [(True, "cannot be written"), (False, "no ")])
def test_frames_on_disk_have_the_reason_that_is_true(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool, said: str
) -> None:
    folder = tmp_path / "shm"
    if is_there:
        folder.mkdir()
    monkeypatch.setattr("mdstream.frames.rundir.SHARED_MEMORY", folder)
    real = os.access
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != folder and real(path, mode))
    [found] = [each for each in _machine(from_mapping({})) if each.what == "shared memory"]
    assert found.verdict == "note"
    assert said in found.fix
    assert ("no " in found.fix) is not is_there
