"""A folder that cannot be written is refused at the start, in a sentence that names its setting."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mdstream.engine import preparation, report_file
from mdstream.errors import ConfigError
from mdstream.store.folders import check_store
from tests.commands import command

CHECKS: dict[str, Callable[[str], Any]] = {
    "store": check_store,
    "journal": preparation.prepare_journal,
    "report": lambda folder: report_file.check_path(f"{folder}/report.json"),
    "rejects": lambda folder: preparation.check_rejects(folder, "run"),
}


@pytest.mark.parametrize("folder", ["/proc", "/proc/none", "FILE", "FILE/below"])
@pytest.mark.parametrize("setting", CHECKS)
def test_a_folder_that_cannot_be_written_is_refused_by_its_setting(
    tmp_path: Path, setting: str, folder: str
) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ConfigError, match=f"^{setting}: "):
        CHECKS[setting](folder.replace("FILE", str(file)))


@pytest.mark.parametrize("setting", CHECKS)
def test_a_folder_that_can_be_written_is_left_empty(tmp_path: Path, setting: str) -> None:
    CHECKS[setting](str(tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("setting", "flags"),
    [
        ("journal", ["--journal", "/proc/none"]),
        ("store", ["--record", "--store", "/proc/none"]),
        ("report", ["--report", "/proc/none/report.json"]),
    ],
)
def test_a_run_with_an_unusable_folder_ends_with_2(setting: str, flags: list[str]) -> None:
    done = command("run", "--streams", "crypto", "--duration", "1", *flags)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"mdstream: {setting}: ")
