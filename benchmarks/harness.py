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
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from mdstream.config import usable_cores

Record = dict[str, Any]
Answer = Mapping[str, float]
T = TypeVar("T")


YARDSTICK = "yardstick"
"""The subject without our code, which measures the speed of the machine."""

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

    _done: float
    """The finished part, in usual seconds."""
    _yardstick: list[Answer]
    """The yardstick's turns."""

    def __init__(self, quick: bool, seconds: Mapping[str, float], turns: int | None = None) -> None:
        self.quick = quick
        self._turns = turns
        self._seconds = dict(seconds)
        self._start = time.monotonic()
        self._done = 0.0
        self._yardstick = []
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
