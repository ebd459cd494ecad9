"""Run the tests while a load keeps all cores busy: `python -m tests.loaded TURNS [FLAGS OF PYTEST]`.

No test may depend on the speed of the machine. This program finds the tests that do.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time

AT_MOST_S = 3600.0


def burn() -> None:
    """Keep a core busy while the parent process exists, but not longer than an hour."""
    end, parent = time.monotonic() + AT_MOST_S, os.getppid()
    while time.monotonic() < end and os.getppid() == parent:
        sum(range(100_000))


def main() -> int:
    turns, flags = int(sys.argv[1]), sys.argv[2:]
    load = [
        multiprocessing.get_context("spawn").Process(target=burn, daemon=True)
        for _ in os.sched_getaffinity(0)
    ]
    for process in load:
        process.start()
    for turn in range(1, turns + 1):
        began = time.monotonic()
        code = subprocess.run([sys.executable, "-m", "pytest", *flags], check=False).returncode
        print(
            f"turn {turn} of {turns}: exit code {code} after {time.monotonic() - began:.0f} s", flush=True
        )
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
