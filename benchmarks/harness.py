"""What all questions have in common: subjects in processes of their own, turns, records, tables.

    plan ─► cases (a subject and its parameters) ─► turns, interleaved ─► a record a case

Each case is measured once a turn, all of them before any is measured again, so that whatever else the
machine does meets all alike. A record holds medians, and in `spread` the best and worst of each.
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
    """A subject, or the simulator that it asks, does not work here."""


YARDSTICK = "yardstick"
"""The subject that none of our code is in: what it did tells how fast the machine was."""

_END_WAIT_S = 10.0
_HURRIED_WAIT_S = 3.0
_YARDSTICK_S = 0.1
_VERSIONS = ("numba", "numpy", "orjson", "polars", "pyarrow", "uvloop", "websockets")


def machine() -> str:
    """Where and with what this is measured, in a line."""
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
    """How much is to be measured, and a bar that says what runs and how long is left.

    With `quick`, fewer turns of fewer cases; with `turns`, so many of each case. `seconds` is what each
    question took where this was written; from how far it has come, the bar tells the rest on this machine.
    """

    # The mutable state: what is done, in the seconds of the table; the yardstick's turns.

    def __init__(self, quick: bool, seconds: Mapping[str, float], turns: int | None = None) -> None:
        self.quick = quick
        self._turns = turns
        self._seconds = dict(seconds)
        self._began = time.monotonic()
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

    def of(self, full: T, quick: T) -> T:
        """What to take of two sizes."""
        return quick if self.quick else full

    @contextlib.contextmanager
    def question(self, name: str) -> Iterator[None]:
        """Around all that one question measures."""
        self._yardstick = []
        self._bar.update(self._task, question=name, description="starting")
        yield
        self._done += self._seconds[name]
        self._seconds[name] = 0.0
        self.say(name, 0.0, "")

    def say(self, name: str, share: float, what: str) -> None:
        """So much of question `name` is done, and `what` runs now."""
        done = self._done + share * self._seconds.get(name, 0.0)
        total = self._bar.tasks[0].total or 1.0
        taken = time.monotonic() - self._began
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
        """Measure every case `turns` times (or as often as the plan was told), interleaved; a record each.
        `share`: from where to where in question `name` this is.
        """
        turns = self._turns or turns
        found: list[list[Answer]] = [[] for _ in cases]
        for turn in range(turns):
            self._yardstick.append(yardstick())
            for index, case in enumerate(cases):
                done = (turn * len(cases) + index) / (turns * len(cases))
                self.say(name, share[0] + done * (share[1] - share[0]), case.text)
                found[index].append(measure(case))
        return [record(case, answers) for case, answers in zip(cases, found, strict=True)]

    def yardstick(self) -> list[Record]:
        """How fast the machine was in this question: a record of subject `YARDSTICK`."""
        case = Case(YARDSTICK, YARDSTICK)
        return [record(case, self._yardstick)] if self._yardstick else []

    def print(self, text: str) -> None:
        """Show a result, above the bar."""
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
    """Medians of what was measured, and in `spread` the least and the most."""
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


def yardstick() -> Answer:
    """How often a second one core parses, loops and copies: none of it is our code."""
    text = json.dumps([{"S": "AAPL", "p": 187.25 + i, "s": i} for i in range(200)])
    block, rounds, began = bytes(1_000_000), 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < _YARDSTICK_S:
        sum(each["s"] for each in json.loads(text))
        bytearray(block)
        rounds += 1
    return {"rounds_per_s": rounds / spent}


# -- subjects


def present(plan: Plan, subjects: Sequence[str], modules: Mapping[str, str]) -> tuple[str, ...]:
    """The subjects that can be measured here; those whose module is not installed are named."""
    found = []
    for subject in subjects:
        module = modules.get(subject)
        if module is None or importlib.util.find_spec(module) is not None:
            found.append(subject)
        else:
            plan.print(f"{subject}: left out, {module} is not installed")
    return tuple(found)


@contextlib.contextmanager
def started(
    *command: str, stdin: int | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A process that is over when this is, with all that it started. Ctrl-C does not reach it, for its
    group is its own: it ends as ever, by the end of its `stdin`, or is told to when it has none or takes
    its time.
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
        patience_s = _END_WAIT_S
    except BaseException:
        patience_s = _HURRIED_WAIT_S
        if process.stdin is None:
            process.terminate()
        raise
    finally:
        below = _below(process.pid)
        with contextlib.suppress(BrokenPipeError):
            if process.stdin is not None:
                process.stdin.close()
        for force in (process.terminate, lambda: os.killpg(process.pid, signal.SIGKILL)):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience_s)
                break
            force()
        process.wait()
        _, left = psutil.wait_procs(below, _END_WAIT_S)  # they see that their parent is gone
        for each in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        assert process.stdout is not None
        process.stdout.close()


def _below(pid: int) -> list[psutil.Process]:
    """What a process has started, and what that has."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


class Subject:
    """A subject's process, `python -m MODULE ARGUMENTS`: it answers a JSON line for each one it is sent,
    and first says one by itself.
    """

    def __init__(self, *command: str, environment: Mapping[str, str] | None = None) -> None:
        self._name = " ".join(command)
        command = (sys.executable, "-m", *command)
        with contextlib.ExitStack() as stack:  # one that does not start ends, too
            self._process = stack.enter_context(
                started(*command, stdin=subprocess.PIPE, environment=environment)
            )
            self.first = self._answer()
            self._ending = stack.pop_all()

    def ask(self, **what: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SubjectError(f"{self._name} ended: see above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Subject:
        return self

    def __exit__(self, *error: Any) -> None:
        self._ending.__exit__(*error)


def once(*command: str) -> dict[str, Any]:
    """What a process prints that does one thing and ends."""
    with started(sys.executable, "-m", *command) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        if process.wait():
            raise SubjectError(f"{' '.join(command)} ended with {process.returncode}: see above")
    answer: dict[str, Any] = json.loads(said)
    return answer


@contextlib.contextmanager
def until_nobody_reads() -> Iterator[None]:
    """Around a program: a closed pipe (`| head`) ends it, without a traceback."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def end_when_told() -> None:
    """In a subject's process: SIGTERM ends it as `sys.exit` does, and what it opened is closed."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def asked(first: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
    """In a subject's process: say `first`, then yield what is asked until nobody asks any more."""
    end_when_told()
    answer(first or {})
    for line in sys.stdin:
        yield json.loads(line)


def answer(what: Mapping[str, Any]) -> None:
    """In a subject's process: answer."""
    print(json.dumps(what), flush=True)


@contextlib.contextmanager
def simulator(*flags: str) -> Iterator[tuple[str, str]]:
    """The simulator in a process of its own, with more `flags`: its stream's and its REST address."""
    with started(sys.executable, "-m", "mdstream", "simulate", "--port", "0", *flags) as process:
        assert process.stdout is not None
        found = re.search(r"(ws://\S+) and (http://\S+) ", process.stdout.readline())
        if found is None:
            raise SubjectError("the simulator did not start: see above")
        yield found[1], found[2]
        process.terminate()


# -- what people see


def read(path: Path) -> list[Record]:
    """The records that `python -m benchmarks … --json FILE` wrote.

    Raises `OSError` if the file cannot be read, and `ValueError` if it holds no such records.
    """
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(found, list) or not all(map(_is_record, found)):
        raise ValueError(
            f"{path} holds no records of benchmarks: give what `python -m benchmarks … --json FILE` wrote"
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
    """A median, with best and worst where it was measured more than once; empty if there is none."""
    if name not in found:
        return ""
    values = (found[name], *found["spread"][name])
    median, least, most = (f"{value / scale:,.{digits}f}" for value in values)
    return median if found["turns"] == 1 else f"{median} ({least}–{most})"


@dataclass(frozen=True, slots=True)
class Table:
    """What was measured, for people: the first column is what a row is about."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]

    def text(self) -> str:
        """For a terminal."""
        lines = (self.headings, *self.rows)
        widths = [max(len(row[i]) for row in lines) for i in range(len(self.headings))]
        shown = [f"\n{self.title}"]
        for row in lines:
            first, *others = zip(row, widths, strict=True)
            cells = [first[0].ljust(first[1]), *(text.rjust(width) for text, width in others)]
            shown.append("  " + "  ".join(cells))
        return "\n".join(shown)

    def markdown(self) -> str:
        """For a document."""
        rule = "|---" + "|---:" * (len(self.headings) - 1) + "|"
        rows = ["| " + " | ".join(row) + " |" for row in (self.headings, *self.rows)]
        return "\n".join([f"**{self.title}**", "", rows[0], rule, *rows[1:]])


def findings(module: ModuleType, records: Sequence[Record]) -> list[str]:
    """What a benchmark's records say in sentences, where it has a `findings`."""
    found: list[str] = module.findings(records) if hasattr(module, "findings") else []
    return found


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
