"""What the README shows works as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.running import engine, settings, simulator

README = Path(__file__).parents[2] / "README.md"


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def run(code: str, timeout: float = 60) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_readers_read_as_the_readme_says(tmp_path: Path) -> None:
    first, asking, *_ = blocks()
    # A tail goes on as long as the engine does.
    first = re.sub(r"(?m)^(for new in .*)\n(.*)$", r"\1\n\2\n    break", first)
    attach = first.partition("print(run.frames)")[0]
    with simulator("--rate", "2000") as sim, engine(settings(sim, tmp_path)):
        assert "stocks.quotes" in run(first)
        run(attach + asking)


def test_an_engine_is_a_context_manager_as_the_readme_says(tmp_path: Path) -> None:
    [block] = [b for b in blocks() if "mdstream.Engine(" in b]
    block = block.replace("        ...", "        break")
    code = f"import os; os.environ['MDSTREAM_REJECTS'] = {str(tmp_path)!r}; import mdstream\n" + block
    shown = run(code)
    assert "'state': 'stopped'" in shown
