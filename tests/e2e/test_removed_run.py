"""A run whose folder somebody removes says so within seconds, and ends with a report."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from mdstream.cli import run
from mdstream.errors import Exit
from mdstream.views import summary
from tests.running import HANGING_S, engine, settings, simulator, until


@pytest.mark.cases("M5")
def test_a_run_whose_folder_is_removed_ends_with_the_remedy_and_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with simulator("--rate", "500") as sim:
        values = settings(sim, tmp_path, streams=["crypto", "news"], workers=1)
        values |= {
            "record": True,
            "store": {"path": str(tmp_path / "store")},
            "journal": str(tmp_path / "j"),
        }
        with engine(values) as running:
            until(lambda: running.attachment.rows("crypto.quotes") > 100)
            shutil.rmtree(running.attachment.path)
            assert running.wait(HANGING_S)
    assert running.exit_code == Exit.SHARED_MEMORY
    report = running.report
    assert report is not None
    assert "was removed while the run went on" in report["removed"]
    assert "loginctl enable-linger" in report["removed"]
    assert set(report["streams"]) == {"crypto", "news"}
    assert report["streams"]["crypto"]["committed"] > 100
    assert (report["recorded"]["whole"], report["recorded"]["rows"]) == (False, None)
    written = io.StringIO()
    summary.show(report, Console(file=written, width=400))
    text = written.getvalue()
    assert f"see {tmp_path / 'store'}/live; what was not yet recorded is lost" in text
    assert "mdstream record" not in text
    run._show(report, "")
    assert "details:" not in capsys.readouterr().out
