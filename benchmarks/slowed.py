"""`python -m benchmarks.slowed [PERCENT]`: check that `compare` detects a slower decoder.

A copy of the sources gets a decoder that takes PERCENT (20) longer for each batch: it spins for that share
of its kernels' time. `decode` is measured with the original and then with the copy, and both are compared.
The exit code is 0 if `compare` reports every case of the kernels as worse, and no other case; else 1.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.compare import find_changes
from benchmarks.harness import read

_ROOT = Path(__file__).resolve().parents[1]
_PACKAGES = ("mdstream", "workers", "benchmarks")
_DECODER = "workers/decoding/decoder.py"
_TURNS = "3"
_SPIN = """

def _slowed(function, share):
    import time

    def slower(*arguments):
        began = time.perf_counter_ns()
        found = function(*arguments)
        until = time.perf_counter_ns() + share * (time.perf_counter_ns() - began)
        while time.perf_counter_ns() < until:
            pass
        return found

    return slower


Decoder.by_kernels = _slowed(Decoder.by_kernels, {share})
"""


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.slowed", description=__doc__)
    parser.add_argument(
        "percent", nargs="?", type=_percent, default=20.0, metavar="PERCENT", help="slowdown (20)"
    )
    percent = parser.parse_args().percent
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "slowed"
        for name in _PACKAGES:
            shutil.copytree(_ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        decoder = copy / _DECODER
        decoder.write_text(decoder.read_text() + _SPIN.format(share=percent / 100))
        subprocess.run([sys.executable, "-m", "workers.warm"], cwd=copy, check=True)
        before, after = (_measure(where, Path(folder)) for where in (_ROOT, copy))
        found = find_changes(read(before), read(after))
    ours = [c for c in found if c.case.startswith("decode kernel-")]
    seen = {c.case for c in ours if c.worse}
    others = {c.case for c in found if c.worse} - {c.case for c in ours}
    missed = {c.case for c in ours} - seen
    for what, cases in (("detected", seen), ("missed", missed), ("false alarm", others)):
        for case in sorted(cases):
            print(f"{what}: {case}")
    print(
        f"the kernels' {len(seen) + len(missed)} cases, {percent:g}% slower: {len(seen)} detected, "
        f"{len(missed)} missed; {len(others)} false alarms"
    )
    sys.exit(bool(missed or others or not seen))


def _percent(text: str) -> float:
    try:
        percent = float(text)
    except ValueError:
        percent = 0.0
    if not 0 < percent <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a percentage: give more than 0, up to 1000")
    return percent


def _measure(where: Path, folder: Path) -> Path:
    into = folder / f"{where.name}.json"
    command = [sys.executable, "-m", "benchmarks", "decode", "--turns", _TURNS, "--json", str(into)]
    subprocess.run(command, cwd=where, check=True)
    return into


if __name__ == "__main__":
    main()
