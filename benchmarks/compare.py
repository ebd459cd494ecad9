"""`python -m benchmarks.compare BEFORE.json AFTER.json`: what differs between two runs, and what does not.

A case differs where its turns lie apart from those before and its median by more than 10%, once what all
cases of its benchmark have in common (another day, another load) is taken out. A conclusion, who is faster
than whom, has turned where two subjects lay apart in both runs, the other way round in the second.

Cases measured in one turn (some of --quick) are not judged. The exit code is 1 if a conclusion turned or a
case is worse, 2 if the files cannot be compared, else 0.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import Record, Table

LEAST = 0.10
"""What a median has to differ by."""

_NO_MEASURES = {"benchmark", "question", "subject", "params", "spread", "turns", "measured"}
_NOT_JUDGED = {"workers", "messages_per_batch", "rows", "lost"}


@dataclass(frozen=True, slots=True)
class Change:
    """One measure of one case, before and after; `ratio` is what is left without the drift of all."""

    case: str
    measure: str
    before: float
    after: float
    ratio: float
    apart: bool

    @property
    def differs(self) -> bool:
        return self.apart and abs(self.ratio - 1) > LEAST

    @property
    def worse(self) -> bool:
        better_if_more = self.measure.endswith("per_s")
        return self.differs and (self.ratio < 1 if better_if_more else self.ratio > 1)


def changes(before: Sequence[Record], after: Sequence[Record]) -> list[Change]:
    """Every measure that both runs have, in the order of the second."""
    old = {_key(record): record for record in before}
    pairs = [(old[_key(r)], r) for r in after if _key(r) in old]
    common: dict[tuple[str, str], list[float]] = {}
    for was, now in pairs:
        for name in _measures(was, now):
            common.setdefault((now["benchmark"], name), []).append(now[name] / was[name])
    found = []
    for was, now in pairs:
        for name in _measures(was, now):
            drift = statistics.median(common[now["benchmark"], name])
            least, most = (edge * drift for edge in was["spread"][name])
            low, high = now["spread"][name]
            ratio = now[name] / was[name] / drift
            several = min(was["turns"], now["turns"]) > 1
            apart = several and (low > most or high < least)
            found.append(Change(_text(now), name, was[name], now[name], ratio, apart))
    return found


def turned(before: Sequence[Record], after: Sequence[Record]) -> list[str]:
    """Conclusions that the second run reverses."""
    old, found = _orders(before), []
    for key, sign in _orders(after).items():
        if old.get(key) == -sign:
            where, measure, one, other = key
            more, less = (one, other) if sign > 0 else (other, one)
            found.append(f"{where}, {measure}: {more} is above {less} now, and was below")
    return found


def _orders(records: Sequence[Record]) -> dict[tuple[str, str, str, str], int]:
    """1 or -1 for each two subjects of a case whose turns lie apart, by the first measure."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(
            f"{record['benchmark']} {record['question']} {record['params']}", []
        ).append(record)
    found = {}
    for where, group in groups.items():
        for one, other in itertools.combinations(group, 2):
            if not (names := _measures(one, other)):
                continue
            (low, high), (least, most) = one["spread"][names[0]], other["spread"][names[0]]
            several = min(one["turns"], other["turns"]) > 1
            if several and (low > most or high < least):
                sign = 1 if low > most else -1
                found[where, names[0], one["subject"], other["subject"]] = sign
    return found


def _measures(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return [
        name for name in one
        if name not in _NO_MEASURES | _NOT_JUDGED and one[name] and other.get(name)
    ]  # fmt: skip


def _key(record: Record) -> str:
    names = ("benchmark", "question", "subject", "params")
    return json.dumps([record[name] for name in names], sort_keys=True)


def _text(record: Record) -> str:
    params = " ".join(f"{name}={value}" for name, value in record["params"].items())
    return f"{record['benchmark']} {record['subject']} {params}"


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.compare", description=__doc__)
    parser.add_argument("before", type=Path, help="records of `python -m benchmarks … --json FILE`")
    parser.add_argument("after", type=Path, help="records of a second run")
    given = parser.parse_args()
    try:
        before, after = (json.loads(path.read_text()) for path in (given.before, given.after))
    except (OSError, ValueError) as error:
        parser.error(str(error))
    every = changes(before, after)
    if not every:
        parser.error("the two files have no case in common")
    rows = [
        (
            c.case, c.measure, f"{c.before:,.4g}", f"{c.after:,.4g}", f"{c.ratio:.2f}",
            "worse" if c.worse else "better",
        )
        for c in every if c.differs
    ]  # fmt: skip
    if rows:
        headings = ("", "measure", "before", "after", "ratio, less the drift of all", "")
        print(Table("What differs", headings, rows).text())
    reversed_ = turned(before, after)
    for each in reversed_:
        print(f"turned: {each}")
    worse = sum(c.worse for c in every)
    print(
        f"\n{len(every)} measures of {len(after)} cases: {len(rows)} differ, {worse} of them for the "
        f"worse; {len(reversed_)} conclusions turned."
    )
    sys.exit(bool(reversed_) or worse > 0)


if __name__ == "__main__":
    main()
