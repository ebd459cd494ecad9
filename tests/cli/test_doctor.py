"""The advice of `mdstream doctor` is safe to follow."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import pytest

from mdstream.cli.doctor import Finding, _machine, _runs
from mdstream.config import FramesConfig
from mdstream.settings import from_mapping


def make_dead_run(root: Path, name: str, **facts: str) -> Path:
    path = root / f"mdstream-{os.getuid()}-{name}"
    path.mkdir()
    (path / "owner.lock").touch()
    (path / "run.json").write_text(json.dumps(facts))
    return path


def collect_findings(root: Path) -> dict[str, Finding]:
    return {each.what: each for each in _runs(FramesConfig(directory=str(root)))}


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
    assert cores.verdict == "ok"
