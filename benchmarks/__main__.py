"""`python -m benchmarks NAME`: measure, show, and keep what was measured."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from benchmarks.harness import (
    Plan,
    Record,
    SubjectError,
    end_when_told,
    findings,
    machine,
    until_nobody_reads,
)
from mdstream.pool.pool import COMPILING, compile_kernels

NAMES = {
    "fetch": "T_total: all streams and symbols at once against one after another",
    "decode": "payloads to columns on one core: the kernels against the libraries",
    "pages": "pages of history to tables on one core: the kernels against the libraries and alpaca-py",
    "bars": "trades to bars of a second and of a minute: ours against Polars, pandas and a loop",
    "frames": "rows into frames, and frames into other processes: ours against what is used today",
    "receive": "WebSocket payloads into a slab: the engine's session, websockets, picows, aiohttp",
    "pools": "a megabyte to another process: which executor, and which way for the bytes",
    "handoff": "decoding and aggregating inline against handed to workers",
    "backfill": "a history from the service to where it is used: mdstream against alpaca-py's client",
    "engine": "four streams flat out: one process that does everything against feeds and pools",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks",
        description=__doc__,
        epilog="; ".join(f"{name}: {text}" for name, text in NAMES.items()),
    )
    parser.add_argument("name", nargs="+", choices=[*NAMES, "all"], help="what to measure")
    parser.add_argument("--quick", action="store_true", help="fewer turns of fewer cases")
    parser.add_argument(
        "--turns", type=_turns, metavar="N", help="measure every case so often, whatever is usual"
    )
    parser.add_argument("--json", metavar="FILE", help="write the records there")
    if "compare" in sys.argv[1:2]:
        parser.error("two runs are compared by python -m benchmarks.compare BEFORE.json AFTER.json")
    given = parser.parse_args()
    names = list(NAMES) if "all" in given.name else given.name
    modules = {name: importlib.import_module(f"benchmarks.bench_{name}") for name in names}
    if given.json:
        _check(given.json)
    end_when_told()
    signal.signal(signal.SIGINT, _interrupted)
    with contextlib.suppress(OSError):  # where they cannot be kept, each subject says so
        if (compiling := compile_kernels()) is not None:  # which is nothing to measure
            print(COMPILING, file=sys.stderr)
            compiling.communicate()
    records: list[Record] = []
    try:
        _measure(modules, given, records)
    except (KeyboardInterrupt, SubjectError) as error:
        kept = given.json and records
        what = f"benchmarks that were over are in {given.json}" if kept else "none was over"
        print(f"{str(error) or 'interrupted'}: {what}", file=sys.stderr)
        sys.exit(1 if isinstance(error, SubjectError) else 130)


def _interrupted(number: int, frame: object) -> None:
    """Ctrl-C: what runs is ended first, which takes some of the peers their time."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print("\nending what runs ...", file=sys.stderr, flush=True)
    raise KeyboardInterrupt


def _measure(modules: Mapping[str, ModuleType], given: argparse.Namespace, records: list[Record]) -> None:
    """Measure all of `modules`, and add to `records` as each is done."""
    where = machine()
    seconds = {name: module.TAKES_S[given.quick] for name, module in modules.items()}
    with Plan(given.quick, seconds, given.turns) as plan:
        plan.print(where)
        for name, module in modules.items():
            plan.print(f"\n{name}: {NAMES[name]}")
            began = time.monotonic()
            with plan.question(name):
                found = module.run(plan)
            for table in module.tables(found):
                plan.print(table.text())
            for sentence in findings(module, found):
                plan.print(f"  {sentence}")
            plan.print(f"  ({name} took {time.monotonic() - began:.0f} s)")
            found += plan.yardstick()
            records += [{"benchmark": name, **record, "measured": where} for record in found]
            if given.json:
                _write(given.json, records)


def _turns(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of turns: give 1 or more")
    return int(text)


def _check(path: str) -> None:
    """Better told now than after all is measured."""
    file = Path(path)
    was_there = file.exists()
    try:
        file.open("a").close()
    except OSError as error:
        sys.exit(f"--json {path}: {error.strerror}")
    if not was_there:
        file.unlink()


def _write(path: str, records: list[Record]) -> None:
    """The records so far: what was measured is kept, whatever comes after."""
    coming = Path(f"{path}.new")
    coming.write_text(json.dumps(records, indent=1) + "\n")
    coming.replace(path)


if __name__ == "__main__":
    with until_nobody_reads():
        main()
