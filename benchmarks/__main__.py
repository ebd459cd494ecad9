"""`python -m benchmarks NAME`: run benchmarks, print the results and save them."""

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

from benchmarks.harness import Plan, Record, describe_machine, findings
from benchmarks.subjects import SubjectError, exit_on_closed_pipe, exit_on_sigterm
from mdstream.pool.worker_code import COMPILING, compile_kernels
from mdstream.system.shared_places import replace_named, why_not_ours

NAMES = {
    "ordinary": "10 to 2,000 messages/s, one message a payload: CPU time of the engine and of alpaca-py",
    "day": "from silence to 20,000 messages/s a stream and back: workers and latency",
    "fetch": "T_total: all streams and symbols at once, and one after another",
    "decode": "payloads to columns on one core: the kernels and other readers",
    "pages": "pages of history to tables on one core: the kernels, other readers and alpaca-py",
    "bars": "trades to 1-second and 1-minute bars: mdstream, Polars, pandas and a loop",
    "frames": "rows into frames, and frames into other processes: mdstream and common alternatives",
    "receive": "WebSocket payloads into a slab: the engine's session, websockets, picows, aiohttp",
    "pools": "1 MB to another process: which executor, and how to pass the bytes",
    "handoff": "decoding and aggregating inline, and in workers",
    "backfill": "a download of history: mdstream and alpaca-py's client",
    "engine": "four streams at full speed: one process, and feeds with pools",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks",
        description=__doc__,
        epilog="; ".join(f"{name}: {text}" for name, text in NAMES.items()),
    )
    parser.add_argument("name", nargs="+", choices=[*NAMES, "all"], help="benchmarks to run")
    parser.add_argument("--quick", action="store_true", help="measure fewer cases, in fewer turns")
    parser.add_argument("--turns", type=_turns, metavar="N", help="measure every case N times")
    parser.add_argument("--json", metavar="FILE", help="write the records to FILE")
    if "compare" in sys.argv[1:2]:
        parser.error("to compare two runs, use python -m benchmarks.compare BEFORE.json AFTER.json")
    given = parser.parse_args()
    names = list(NAMES) if "all" in given.name else given.name
    modules = {name: importlib.import_module(f"benchmarks.bench_{name}") for name in names}
    if given.json:
        _check(given.json)
    exit_on_sigterm()
    signal.signal(signal.SIGINT, _interrupt)
    with contextlib.suppress(OSError):  # if they cannot be cached, each subject reports it
        if (compiling := compile_kernels()) is not None:  # before the clock starts
            print(COMPILING, file=sys.stderr)
            compiling.communicate()
    records: list[Record] = []
    try:
        _measure(modules, given, records)
    except (KeyboardInterrupt, SubjectError) as error:
        saved = given.json and records
        what = f"finished benchmarks are in {given.json}" if saved else "no benchmark was finished"
        print(f"{str(error) or 'interrupted'}: {what}", file=sys.stderr)
        sys.exit(1 if isinstance(error, SubjectError) else 130)


def _interrupt(number: int, frame: object) -> None:
    """Handle Ctrl-C: report that subjects are stopped, since some take seconds, and raise."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print("\nstopping the subjects ...", file=sys.stderr, flush=True)
    raise KeyboardInterrupt


def _measure(modules: Mapping[str, ModuleType], given: argparse.Namespace, records: list[Record]) -> None:
    """Run the benchmarks of `modules`, and add the records of each to `records`."""
    where = describe_machine()
    seconds = {name: module.TAKES_S[given.quick] for name, module in modules.items()}
    with Plan(given.quick, seconds, given.turns) as plan:
        plan.print(where)
        for name, module in modules.items():
            plan.print(f"\n{name}: {NAMES[name]}")
            start = time.monotonic()
            with plan.question(name):
                found = module.run(plan)
            for table in module.tables(found):
                plan.print(table.text())
            for sentence in findings(module, found):
                plan.print(f"  {sentence}")
            plan.print(f"  ({name} took {time.monotonic() - start:.0f} s)")
            found += plan.record_yardstick()
            records += [{"benchmark": name, **record, "measured": where} for record in found]
            if given.json:
                _write(given.json, records)


def _turns(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of turns: give 1 or more")
    return int(text)


def _check(path: str) -> None:
    """Exit if `path` cannot be written, before anything is measured."""
    file = Path(path)
    if why := why_not_ours(file):
        sys.exit(f"--json {path}: {why}")
    existed = file.exists()
    try:
        file.open("a").close()
    except OSError as error:
        sys.exit(f"--json {path}: {error.strerror}")
    if not existed:
        file.unlink()


def _write(path: str, records: list[Record]) -> None:
    """Write the records so far, so that a later failure does not lose them."""
    with replace_named(Path(path)) as file:
        file.write(json.dumps(records, indent=1).encode() + b"\n")


if __name__ == "__main__":
    with exit_on_closed_pipe():
        main()
