"""The processes of the subjects: how a benchmark starts them, asks them, and stops them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import psutil

_END_WAIT_S = 10.0
_SHORT_WAIT_S = 3.0


class SubjectError(Exception):
    """A subject or its simulator failed."""


@contextlib.contextmanager
def run_process(
    *command: str, stdin: int | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run a process within the block; at the end, stop it and all its descendants.

    It has its own process group, so Ctrl-C does not reach it. It stops at the end of its `stdin`. If it has
    none or does not stop in time, it gets SIGTERM, then SIGKILL.
    """
    process = subprocess.Popen(
        command,
        stdin=stdin,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
        env={**os.environ, **(environment or {})},
    )
    try:
        yield process
        timeout_s = _END_WAIT_S
    except BaseException:
        timeout_s = _SHORT_WAIT_S
        if process.stdin is None:
            process.terminate()
        raise
    finally:
        descendants = _descendants(process.pid)
        with contextlib.suppress(BrokenPipeError):
            if process.stdin is not None:
                process.stdin.close()
        for force in (process.terminate, lambda: os.killpg(process.pid, signal.SIGKILL)):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout_s)
                break
            force()
        process.wait()
        _, left = psutil.wait_procs(descendants, _END_WAIT_S)  # they exit after their parent
        for process_left in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process_left.kill()
        assert process.stdout is not None
        process.stdout.close()


def _descendants(pid: int) -> list[psutil.Process]:
    """Return all descendants of a process."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


class Subject:
    """A subject's process, `python -m MODULE ARGUMENTS`.

    It first sends one JSON line, then one for each request line.
    """

    def __init__(self, *command: str, environment: Mapping[str, str] | None = None) -> None:
        self._name = " ".join(command)
        command = (sys.executable, "-m", *command)
        with contextlib.ExitStack() as stack:  # also stops a process that fails to start
            self._process = stack.enter_context(
                run_process(*command, stdin=subprocess.PIPE, environment=environment)
            )
            self.first = self._answer()
            self._stack = stack.pop_all()

    def ask(self, **what: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SubjectError(f"{self._name} stopped: see above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Subject:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)


def run_once(*command: str) -> dict[str, Any]:
    """Run `python -m` with the command, and return the JSON that it prints."""
    with run_process(sys.executable, "-m", *command) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        if process.wait():
            raise SubjectError(f"{' '.join(command)} failed with exit code {process.returncode}: see above")
    answer: dict[str, Any] = json.loads(output)
    return answer


@contextlib.contextmanager
def exit_on_closed_pipe() -> Iterator[None]:
    """Exit without a traceback if the reader of stdout closes the pipe (`| head`)."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def exit_on_sigterm() -> None:
    """Make SIGTERM exit this process like `sys.exit`, so that contexts close."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def read_requests(first: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
    """In a subject's process: send `first`, then yield the requests until stdin ends."""
    exit_on_sigterm()
    answer(first or {})
    for line in sys.stdin:
        yield json.loads(line)


def answer(what: Mapping[str, Any]) -> None:
    """In a subject's process: send an answer."""
    print(json.dumps(what), flush=True)


@contextlib.contextmanager
def start_simulator(*flags: str) -> Iterator[tuple[str, str]]:
    """Run the simulator in a separate process; yield its stream address and its REST address."""
    with run_process(sys.executable, "-m", "mdstream", "simulate", "--port", "0", *flags) as process:
        assert process.stdout is not None
        found = re.search(r"(ws://\S+) and (http://\S+) ", process.stdout.readline())
        if found is None:
            raise SubjectError("the simulator did not start: see above")
        yield found[1], found[2]
        process.terminate()
