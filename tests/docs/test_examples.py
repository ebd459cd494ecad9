"""Every Python and shell block in README and docs runs as it stands there.

The blocks of a page share a namespace and a folder. One simulator and one engine serve all pages. What is
changed before a block runs:

- a loop over a tail ends after its first turn, for a tail goes on as long as the engine does;
- `mdstream run` ends after a second; servers and `tail` end once they have shown a line;
- the port 8765 becomes a free one; `make` runs with `-n`, which finds targets and variables only.
"""

from __future__ import annotations

import ast
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import mdstream
from mdstream.cli.app import app
from mdstream.settings import load
from tests import warm
from tests.docs.documents import PAGES, ROOT, Block, blocks
from tests.running import HANGING_S, until

PORT = "8765"
RUN_S = "1"
LANGUAGES = {"python", "sh", "toml", "ini", "text", ""}
MOST_NOT_RUN = 9
"""Blocks that cannot run are few, and become no more."""


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_the_examples_of_a_page_run(
    path: Path, running: mdstream.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(path):
        assert block.language in LANGUAGES, f"{block.place}: a block in {block.language!r} would not run"
        if block.not_run:
            continue
        if block.language == "python":
            exec(_compiled(block), namespace)
        elif block.language == "sh":
            with _Shell(block) as shell:
                shell.run()


def test_few_blocks_are_left_out_and_each_says_why() -> None:
    left_out = [block for path in PAGES for block in blocks(path) if block.not_run]
    assert len(left_out) <= MOST_NOT_RUN
    assert all(block.not_run.startswith("needs ") for block in left_out)


def test_every_mark_of_a_block_that_is_left_out_stands_before_one() -> None:
    for path in PAGES:
        marks = path.read_text(encoding="utf-8").count("<!-- not run: ")
        explained = path.name == "CONTRIBUTING.md"  # it explains the mark
        assert marks - explained == sum(bool(block.not_run) for block in blocks(path)), path.name


def _compiled(block: Block) -> Any:
    """Return a block ready to run, its lines numbered as in the page, its loops over tails cut short."""
    tree = ast.parse("\n" * block.line + block.code, block.place)
    for node in ast.walk(tree):
        if isinstance(node, ast.For | ast.AsyncFor) and "tail" in ast.unparse(node.iter):
            node.body.append(ast.Break())
    return compile(ast.fix_missing_locations(tree), str(block.path), "exec")


class _Shell:
    """Runs the commands of a block; what they start in the background ends with it."""

    def __init__(self, block: Block) -> None:
        self._block = block
        self._port = str(_free_port())
        self._stack = ExitStack()

    def __enter__(self) -> _Shell:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self) -> None:
        for line in self._block.code.replace("\\\n", " ").splitlines():
            words = shlex.split(line.replace(PORT, self._port), comments=True)
            given: dict[str, str] = {}
            while words and "=" in words[0].partition("/")[0]:
                name, _, value = words.pop(0).partition("=")
                given[name] = value
            if words:
                started = time.monotonic()
                self._command(words, given)
                print(f"{self._block.place}: {time.monotonic() - started:.1f} s: {' '.join(words)}")

    def _command(self, words: list[str], given: dict[str, str]) -> None:
        match words:
            case ["make", *rest]:
                self._checked(["make", "-n", f"VENV={sys.prefix}", *rest], given, ROOT)
            case ["export", *pairs]:
                load(environ=dict(pair.split("=", 1) for pair in pairs))  # refuses what is not a setting
            case ["curl", *_]:
                if shutil.which("curl"):
                    self._checked(words, given)
            case ["mdstream", "run", *rest]:
                command = _mdstream("run", *_short(rest))
                done = warm.run(*command[2:], env=_environment(command, given), timeout=HANGING_S)
                self._check(done, command)
            case ["mdstream", "simulate" | "replay" as name, *rest]:
                background = rest[-1:] == ["&"]
                serving = _mdstream(name, *(rest[:-1] if background else rest), "--port", self._port)
                ended = self._stack if background else ExitStack()
                ended.enter_context(_Serving(serving, given, self._block.place))
                if not background:
                    ended.close()
            case ["mdstream", "record", *rest]:
                with _Serving(_mdstream("record", *rest), given, self._block.place, lines=2):
                    pass
            case ["mdstream", *rest]:
                self._in_process(rest, given)
            case _:
                pytest.fail(f"{self._block.place}: {words[0]} would not run: mark the block, with a reason")

    def _checked(self, command: list[str], given: dict[str, str], folder: Path | None = None) -> None:
        done = subprocess.run(
            command,
            env=_environment(command, given),
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=HANGING_S,
        )
        self._check(done, command)

    def _check(self, done: subprocess.CompletedProcess[str], command: list[str]) -> None:
        assert done.returncode == 0, f"{self._block.place}: {' '.join(command)}\n{done.stdout}{done.stderr}"

    def _in_process(self, words: list[str], given: dict[str, str]) -> None:
        """Run a command that ends by itself in this process, which has loaded everything already."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "mdstream.pool.ipc_names.claim", lambda: None
            )  # it is for a process that is ours alone
            for name, value in given.items():
                patch.setenv(name, value)
            code = app(words, prog_name="mdstream", standalone_mode=False)
        assert not code, f"{self._block.place}: mdstream {' '.join(words)} ended with {code}"


class _Serving:
    """A command that goes on until it is stopped. It is ready when it has shown some lines."""

    def __init__(self, command: list[str], given: dict[str, str], place: str, lines: int = 1) -> None:
        self._lines = lines
        self._what = f"{place}: {' '.join(command)}"
        self._shown = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(command, env=_environment(command, given), stdout=self._shown)

    def __enter__(self) -> None:
        try:
            until(lambda: self._is_ready() or self._process.poll() is not None, f"lines of {self._what}")
            assert self._process.poll() is None, f"{self._what} ended by itself"
        except BaseException:
            self._process.kill()
            self._process.wait()
            self._shown.close()
            raise

    def _is_ready(self) -> bool:
        shown = os.pread(self._shown.fileno(), 1_000_000, 0)
        return shown.count(b"\n") >= self._lines

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)
        try:
            code = self._process.wait(HANGING_S)
        finally:
            self._process.kill()
            self._process.wait()
            self._shown.close()
        assert code == 0, f"{self._what} ended with {code}"


def _mdstream(*words: str) -> list[str]:
    return [sys.executable, "-m", "mdstream", *words]


def _short(words: list[str]) -> list[str]:
    """Return the flags of `mdstream run` with a short duration."""
    if "--duration" in words:
        at = words.index("--duration")
        words = words[:at] + words[at + 2 :]
    return [*words, "--duration", RUN_S]


def _environment(command: list[str], given: dict[str, str]) -> dict[str, str]:
    """Return the environment of a command; a server that it names counts alone."""
    named = "--stream-url" in command
    servers = {"MDSTREAM_STREAM_URL", "MDSTREAM_DATA_URL"}
    kept = {name: value for name, value in os.environ.items() if not (named and name in servers)}
    return {**kept, **given}


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
