"""`python -m benchmarks NAME [--json FILE]`: run one benchmark and show what it measured."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

NAMES = {
    "fetch": "T_total: all streams and symbols at once against one after another",
    "frames": "rows into frames, and frames into other processes: ours against what is used today",
    "bars": "trades to bars of a second and of a minute: ours against Polars, pandas and a loop",
    "decode": "payloads to columns on one core: the kernels against the libraries",
}


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument(
        "name", choices=NAMES, help="; ".join(f"{n}: {t}" for n, t in NAMES.items())
    )
    parser.add_argument("--json", metavar="FILE", help="write the records there")
    given = parser.parse_args()
    module = importlib.import_module(f"benchmarks.bench_{given.name}")
    print(f"{NAMES[given.name]}\n{header()}\n")
    records: list[dict[str, Any]] = module.run()
    if given.json:
        Path(given.json).write_text(json.dumps(records, indent=2) + "\n")


def header() -> str:
    """Where and with what this was measured."""
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"{when}, {os.cpu_count()} cores of {model}, Python {platform.python_version()}"


if __name__ == "__main__":
    main()
