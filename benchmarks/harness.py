"""The common parts of all benchmarks: subjects in separate processes, turns, records, tables.

    plan ─► cases (a subject and its parameters) ─► turns, interleaved ─► one record per case

Each turn measures every case once, so that other load on the machine affects all cases equally. A record
holds medians, and in `spread` the least and the greatest value of each measure.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import psutil
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from mdstream.config import usable_cores

Record = dict[str, Any]
Answer = Mapping[str, float]
T = TypeVar("T")


class SubjectError(Exception):
    """A subject or its simulator failed."""


YARDSTICK = "yardstick"
"""The subject without our code, which measures the speed of the machine."""

_END_WAIT_S = 10.0
_SHORT_WAIT_S = 3.0
_YARDSTICK_S = 0.1
_VERSIONS = ("numba", "numpy", "orjson", "polars", "pyarrow", "uvloop", "websockets")


def describe_machine() -> str:
    """Return the time, machine and versions of the measurement, in a line."""
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _VERSIONS)
    cores = usable_cores()
    return f"{when}, {cores} cores of {model}, Python {platform.python_version()}; {versions}"


@dataclass(frozen=True, slots=True)
class Case:
    """One subject with one set of parameters."""

    question: str
    subject: str
    params: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return " ".join([self.subject, *(f"{name}={value}" for name, value in self.params.items())])


class Plan:
    """The amount to measure, and a progress bar with the time left.

    `quick` measures fewer cases in fewer turns; `turns` sets the number of turns. `seconds` is the usual
    duration of each benchmark, from which the bar estimates the time left on this machine.
    """

    # The mutable state: the finished part, in usual seconds; the yardstick's turns.

    def __init__(self, quick: bool, seconds: Mapping[str, float], turns: int | None = None) -> None:
        self.quick = quick
        self._turns = turns
        self._seconds = dict(seconds)
        self._start = time.monotonic()
        self._done = 0.0
        self._yardstick: list[Answer] = []
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.fields[question]:>9}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:3.0f}% {task.fields[left]:>12}  {task.description}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        total = sum(self._seconds.values()) or 1.0
        self._task = self._bar.add_task("", total=total, question="", left="")

    def choose(self, full: T, quick: T) -> T:
        """Return `quick` for a quick plan, else `full`."""
        return quick if self.quick else full

    @contextlib.contextmanager
    def question(self, name: str) -> Iterator[None]:
        """Enclose the measurements of one benchmark."""
        self._yardstick = []
        self._bar.update(self._task, question=name, description="starting")
        yield
        self._done += self._seconds[name]
        self._seconds[name] = 0.0
        self.show_progress(name, 0.0, "")

    def show_progress(self, name: str, share: float, what: str) -> None:
        """Show that `share` of benchmark `name` is done and that `what` runs now."""
        done = self._done + share * self._seconds.get(name, 0.0)
        total = self._bar.tasks[0].total or 1.0
        taken = time.monotonic() - self._start
        rest = taken * (total - done) / done if done / total > 0.01 else total
        left = f"{_minutes(rest)} left" if rest else ""
        self._bar.update(self._task, completed=done, description=what[:60], left=left)

    def in_turns(
        self,
        name: str,
        cases: Sequence[Case],
        measure: Callable[[Case], Answer],
        turns: int,
        share: tuple[float, float] = (0.0, 1.0),
    ) -> list[Record]:
        """Measure every case `turns` times (or the plan's turns), interleaved; return one record per case.

        `share` is the start and end of this part in the progress of benchmark `name`.
        """
        turns = self._turns or turns
        found: list[list[Answer]] = [[] for _ in cases]
        for turn in range(turns):
            self._yardstick.append(measure_yardstick())
            for index, case in enumerate(cases):
                done = (turn * len(cases) + index) / (turns * len(cases))
                self.show_progress(name, share[0] + done * (share[1] - share[0]), case.text)
                found[index].append(measure(case))
        return [record(case, answers) for case, answers in zip(cases, found, strict=True)]

    def record_yardstick(self) -> list[Record]:
        """Return the machine's speed during this benchmark, a record of subject `YARDSTICK`."""
        case = Case(YARDSTICK, YARDSTICK)
        return [record(case, self._yardstick)] if self._yardstick else []

    def print(self, text: str) -> None:
        """Print a result above the bar."""
        self._bar.console.file.flush()
        self._bar.stop()
        print(text, flush=True)
        self._bar.start()

    def __enter__(self) -> Plan:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def record(case: Case, answers: Sequence[Answer]) -> Record:
    """Return the record of a case: medians, and in `spread` the least and greatest values."""
    names = [name for name in answers[0] if all(name in answer for answer in answers)]
    values = {name: [float(answer[name]) for answer in answers] for name in names}
    return {
        "question": case.question,
        "subject": case.subject,
        "params": dict(case.params),
        **{name: statistics.median(each) for name, each in values.items()},
        "spread": {name: [min(each), max(each)] for name, each in values.items()},
        "turns": len(answers),
    }


def measure_yardstick() -> Answer:
    """Return how often per second one core parses, loops and copies, without our code."""
    text = json.dumps([{"S": "AAPL", "p": 187.25 + i, "s": i} for i in range(200)])
    block, rounds, start = bytes(1_000_000), 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < _YARDSTICK_S:
        sum(each["s"] for each in json.loads(text))
        bytearray(block)
        rounds += 1
    return {"rounds_per_s": rounds / spent}


# -- subjects


def select_installed(plan: Plan, subjects: Sequence[str], modules: Mapping[str, str]) -> tuple[str, ...]:
    """Return the subjects whose module is installed, and print the others."""
    found = []
    for subject in subjects:
        module = modules.get(subject)
        if module is None or importlib.util.find_spec(module) is not None:
            found.append(subject)
        else:
            plan.print(f"{subject}: skipped, {module} is not installed")
    return tuple(found)


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


# -- files and tables


def read(path: Path) -> list[Record]:
    """Return the records of a file written by `python -m benchmarks … --json FILE`.

    Raises `OSError` if the file cannot be read, and `ValueError` if it holds no records.
    """
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, list) or not all(map(_is_record, found)):
        raise ValueError(
            f"{path} holds no records: give a file written by `python -m benchmarks … --json FILE`"
        )
    return found


def _are_numbers(*values: Any) -> bool:
    return all(isinstance(value, int | float) and math.isfinite(value) for value in values)


def _is_record(found: Any) -> bool:
    return (
        isinstance(found, dict)
        and all(isinstance(found.get(n), str) for n in ("benchmark", "question", "subject"))
        and isinstance(found.get("params"), dict)
        and isinstance(found.get("turns"), int)
        and isinstance(spread := found.get("spread"), dict)
        and all(
            isinstance(edges, list) and len(edges) == 2 and _are_numbers(found.get(name), *edges)
            for name, edges in spread.items()
        )
    )


def cell(found: Record, name: str, scale: float = 1.0, digits: int = 1) -> str:
    """Return a median as text, with the range of several turns; empty if there is no such measure."""
    if name not in found:
        return ""
    values = (found[name], *found["spread"][name])
    median, least, most = (f"{value / scale:,.{digits}f}" for value in values)
    return median if found["turns"] == 1 else f"{median} ({least}–{most})"


@dataclass(frozen=True, slots=True)
class Table:
    """A table of results; the first column names the row."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]

    def text(self) -> str:
        """Return the table for a terminal."""
        lines = (self.headings, *self.rows)
        widths = [max(len(row[i]) for row in lines) for i in range(len(self.headings))]
        shown = [f"\n{self.title}"]
        for row in lines:
            first, *others = zip(row, widths, strict=True)
            cells = [first[0].ljust(first[1]), *(text.rjust(width) for text, width in others)]
            shown.append("  " + "  ".join(cells))
        return "\n".join(shown)

    def markdown(self) -> str:
        """Return the table in Markdown."""
        rule = "|---" + "|---:" * (len(self.headings) - 1) + "|"
        rows = ["| " + " | ".join(row) + " |" for row in (self.headings, *self.rows)]
        return "\n".join([f"**{self.title}**", "", rows[0], rule, *rows[1:]])


def findings(module: ModuleType, records: Sequence[Record]) -> list[str]:
    """Return the sentences of a benchmark that has `findings`, else none."""
    found: list[str] = module.findings(records) if hasattr(module, "findings") else []
    return found


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
