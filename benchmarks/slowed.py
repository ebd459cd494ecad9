"""`python -m benchmarks.slowed [PERCENT]`: does `compare` see a decoder that became slower?

A copy of the sources, in a folder of its own, gets a decoder whose every batch takes PERCENT (20) longer:
it spins for that share of what its kernels took. `decode` is measured as it is and there, one after the
other, and both are compared. The exit code is 0 if `compare` names every case of the kernels as worse and
no case of anything else; it tells otherwise.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.compare import changes
from benchmarks.harness import read

_ROOT = Path(__file__).resolve().parents[1]
_PACKAGES = ("mdstream", "workers", "benchmarks")
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
        "percent", nargs="?", type=_percent, default=20.0, metavar="PERCENT", help="by how much (20)"
    )
    percent = parser.parse_args().percent
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "slowed"
        for name in _PACKAGES:
            shutil.copytree(_ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        with (copy / "workers" / "decoder.py").open("a") as decoder:
            decoder.write(_SPIN.format(share=percent / 100))
        subprocess.run([sys.executable, "-m", "workers.warm"], cwd=copy, check=True)
        before, after = (_measure(where, Path(folder)) for where in (_ROOT, copy))
        found = changes(read(before), read(after))
    ours = [c for c in found if c.case.startswith("decode kernel-")]
    seen = {c.case for c in ours if c.worse}
    others = {c.case for c in found if c.worse} - {c.case for c in ours}
    missed = {c.case for c in ours} - seen
    for what, cases in (("seen", seen), ("missed", missed), ("wrongly blamed", others)):
        for case in sorted(cases):
            print(f"{what}: {case}")
    print(
        f"the kernels' {len(seen) + len(missed)} cases, {percent:g}% slower: {len(seen)} seen, "
        f"{len(missed)} missed; {len(others)} others blamed"
    )
    sys.exit(bool(missed or others or not seen))


def _percent(text: str) -> float:
    try:
        percent = float(text)
    except ValueError:
        percent = 0.0
    if not 0 < percent <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is no percentage: give more than 0, up to 1000")
    return percent


def _measure(where: Path, folder: Path) -> Path:
    into = folder / f"{where.name}.json"
    command = [sys.executable, "-m", "benchmarks", "decode", "--turns", _TURNS, "--json", str(into)]
    subprocess.run(command, cwd=where, check=True)
    return into


if __name__ == "__main__":
    main()
