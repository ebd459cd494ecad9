"""`python -m benchmarks.compare BEFORE.json AFTER.json`: show what differs between two runs.

Drift is the median change of all cases of a benchmark (another day, another load). A case differs if its
turns do not overlap with those before, and its median changed by more than 10%, both without the drift. The
drift is judged too: it differs if it exceeds by more than 15% the change of the machine's speed, which a
yardstick without our code measures. Each case is then judged without the machine's change only.
More lost messages are always worse, and so is a case that is missing from a repeated benchmark. A
conclusion (which of two subjects is faster) is reversed if the two do not overlap in either run, and their
order changed.

Listed, but not judged: cases measured in one turn (all of --quick), new cases, benchmarks that only one of
the files has, and the drift of benchmarks without a yardstick. The exit code is 1 if a conclusion is
reversed or a case is worse or missing, 2 if the files cannot be compared, else 0.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import YARDSTICK, Record, Table, read
from benchmarks.subjects import exit_on_closed_pipe

MIN_CHANGE = 0.10
"""Least relative change of a median that counts."""
MIN_DRIFT = 0.15
"""Least change of all cases that counts: machines differ in more than the yardstick measures."""

_MAX_LISTED = 10
_NO_MEASURES = {"benchmark", "question", "subject", "params", "spread", "turns", "measured"}
_NOT_JUDGED = {"workers", "messages_per_batch", "rows", "lost"}


@dataclass(frozen=True, slots=True)
class Change:
    """One measure of one case, or of all cases of a benchmark, before and after.

    `ratio` is the change without the drift, or without the machine's change.
    """

    case: str
    measure: str
    before: float
    after: float
    ratio: float
    judged: bool
    differs: bool

    @property
    def worse(self) -> bool:
        better_if_more = self.measure.endswith("per_s")
        return self.differs and (self.ratio < 1 if better_if_more else self.ratio > 1)


@dataclass(frozen=True, slots=True)
class Pair:
    """One case in both runs."""

    was: Record
    now: Record

    @property
    def measures(self) -> list[str]:
        return _measures(self.was, self.now)

    @property
    def several(self) -> bool:
        """Whether both runs measured the case more than once."""
        return bool(self.was["turns"] > 1 and self.now["turns"] > 1)


def pair_cases(before: Sequence[Record], after: Sequence[Record]) -> list[Pair]:
    """Return the cases that are in both runs, in the order of the second."""
    old = {_key(record): record for record in before}
    return [Pair(old[_key(r)], r) for r in _cases(after) if _key(r) in old]


def find_changes(before: Sequence[Record], after: Sequence[Record]) -> list[Change]:
    """Return the change of every measure in both runs, in the order of the second; then the drifts."""
    both = pair_cases(before, after)
    ratios: dict[tuple[str, str], list[float]] = {}
    for pair in both:
        for name in pair.measures:
            ratios.setdefault((pair.now["benchmark"], name), []).append(pair.now[name] / pair.was[name])
    common = {of: statistics.median(each) for of, each in ratios.items()}
    shared = list(_compare_shared(common, ratios, _speeds(before), _speeds(after)))
    drift = common | {of: machine for of, machine, change in shared if change.differs}
    found = [_change(pair, name, drift) for pair in both for name in pair.measures]
    lost = [
        Change(_describe(p.now), "lost", p.was["lost"], p.now["lost"], float("inf"), True, True)
        for p in both
        if p.now.get("lost", 0) > p.was.get("lost", 0)
    ]
    return [*found, *lost, *(change for _, _, change in shared)]


def _change(pair: Pair, name: str, drift: Mapping[tuple[str, str], float]) -> Change:
    common = drift[pair.now["benchmark"], name]
    least, most = (edge * common for edge in pair.was["spread"][name])
    low, high = pair.now["spread"][name]
    ratio = pair.now[name] / pair.was[name] / common
    apart = pair.several and (low > most or high < least)
    return Change(
        _describe(pair.now),
        name,
        pair.was[name],
        pair.now[name],
        ratio,
        pair.several,
        apart and abs(ratio - 1) > MIN_CHANGE,
    )


def _compare_shared(
    drift: Mapping[tuple[str, str], float],
    ratios: Mapping[tuple[str, str], Sequence[float]],
    before: Mapping[str, float],
    after: Mapping[str, float],
) -> Iterator[tuple[tuple[str, str], float, Change]]:
    """Yield the benchmark and measure, the machine's change, and the drift without that change."""
    for (benchmark, name), common in drift.items():
        exponent = _speed_exponent(name)
        if exponent is None or benchmark not in before or benchmark not in after:
            continue
        machine = (after[benchmark] / before[benchmark]) ** exponent
        left = common / machine
        # The smaller of the two changes, because the yardstick or the drift may be wrong.
        ratio = min(left, common, key=lambda each: abs(each - 1))
        cases = len(ratios[benchmark, name])
        judged = (left - 1) * (common - 1) > 0
        change = Change(
            f"{benchmark}: all {cases} cases together",
            name,
            1.0,
            common,
            ratio,
            judged,
            judged and abs(ratio - 1) > MIN_DRIFT,
        )
        yield (benchmark, name), machine, change


def _speed_exponent(measure: str) -> int | None:
    """Return 1 for a rate, -1 for a time, None for a measure that does not depend on the machine."""
    if measure.endswith("per_s"):
        return 1
    return -1 if measure.endswith(("_ns", "_us", "_ms", "_s", "seconds")) else None


def find_reversals(before: Sequence[Record], after: Sequence[Record]) -> list[str]:
    """Return the conclusions that the second run reverses, one sentence each."""
    old, found = _orders(before), []
    for key, sign in _orders(after).items():
        if old.get(key) == -sign:
            where, measure, one, other = key
            more, less = (one, other) if sign > 0 else (other, one)
            found.append(f"{where}, {measure}: {more} is above {less} now, and was below")
    return found


def find_missing(before: Sequence[Record], after: Sequence[Record]) -> list[str]:
    """Return the cases that the second run lacks, of benchmarks in both runs."""
    again = {record["benchmark"] for record in _cases(after)}
    return [_describe(r) for r in _select_absent(before, after) if r["benchmark"] in again]


def find_unjudged(before: Sequence[Record], after: Sequence[Record]) -> list[str]:
    """Return what is in the files but is not judged, one sentence each."""
    both = pair_cases(before, after)
    found = [
        f"not judged, measured in one turn: {_count_by_benchmark(p.now for p in both if not p.several)}",
        f"not judged, only in the second run: {_count_by_benchmark(_select_absent(after, before))}",
        f"not judged, only in the first run: {_count_by_benchmark(_select_unrepeated(before, after))}",
    ]
    speeds = _speeds(before).keys() & _speeds(after).keys()
    without = dict.fromkeys(p.now["benchmark"] for p in both if p.now["benchmark"] not in speeds)
    found.append(f"drift not judged, without a yardstick: {', '.join(without)}")
    return [sentence for sentence in found if not sentence.endswith(": ")]


def _count_by_benchmark(records: Iterable[Record]) -> str:
    counts = Counter(record["benchmark"] for record in records)
    return ", ".join(f"{count} of {name}" for name, count in counts.items())


def _select_absent(these: Sequence[Record], others: Sequence[Record]) -> Iterator[Record]:
    known = {_key(record) for record in others}
    return (record for record in _cases(these) if _key(record) not in known)


def _select_unrepeated(before: Sequence[Record], after: Sequence[Record]) -> Iterator[Record]:
    again = {record["benchmark"] for record in _cases(after)}
    return (record for record in _cases(before) if record["benchmark"] not in again)


def _cases(records: Iterable[Record]) -> Iterator[Record]:
    return (record for record in records if record["subject"] != YARDSTICK)


def _speeds(records: Sequence[Record]) -> dict[str, float]:
    """Return the yardstick's rate in each benchmark."""
    return {r["benchmark"]: r["rounds_per_s"] for r in records if r["subject"] == YARDSTICK}


def _orders(records: Sequence[Record]) -> dict[tuple[str, str, str, str], int]:
    """Return 1 or -1 for each two subjects of a case whose turns do not overlap in the first measure."""
    groups: dict[str, list[Record]] = {}
    for record in _cases(records):
        groups.setdefault(f"{record['benchmark']} {record['question']} {record['params']}", []).append(
            record
        )
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
        name for name in one if name not in _NO_MEASURES | _NOT_JUDGED and one[name] and other.get(name)
    ]


def _key(record: Record) -> str:
    names = ("benchmark", "question", "subject", "params")
    return json.dumps([record[name] for name in names], sort_keys=True)


def _describe(record: Record) -> str:
    params = " ".join(f"{name}={value}" for name, value in record["params"].items())
    return f"{record['benchmark']} {record['subject']} {params}"


def _read_unique(path: Path) -> list[Record]:
    """Return the records of a file. Raises `ValueError` if it has a case twice."""
    found = read(path)
    counts = Counter(map(_key, found))
    twice = next((record for record in found if counts[_key(record)] > 1), None)
    if twice is not None:
        raise ValueError(f"{path} has a case twice: {_describe(twice)}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("before", type=Path, help="records of `python -m benchmarks … --json FILE`")
    parser.add_argument("after", type=Path, help="records of a second run")
    given = parser.parse_args()
    try:
        before, after = _read_unique(given.before), _read_unique(given.after)
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")
    except ValueError as error:
        parser.error(str(error))
    every = find_changes(before, after)
    if not every:
        parser.error("the two files have no case in common")
    rows = [
        (
            c.case,
            c.measure,
            f"{c.before:,.4g}",
            f"{c.after:,.4g}",
            f"{c.ratio:.2f}",
            "worse" if c.worse else "better",
        )
        for c in every
        if c.differs
    ]
    if rows:
        headings = ("", "measure", "before", "after", "ratio without drift", "")
        print(Table("Differences", headings, rows).text())
    reversals, missing = find_reversals(before, after), find_missing(before, after)
    for each in reversals:
        print(f"reversed: {each}")
    for each in missing[:_MAX_LISTED]:
        print(f"missing: {each}")
    if len(missing) > _MAX_LISTED:
        print(f"missing: {len(missing) - _MAX_LISTED} more; --quick measures fewer cases than make bench")
    print()
    for sentence in find_unjudged(before, after):
        print(sentence)
    worse, judged = sum(c.worse for c in every), sum(c.judged for c in every)
    print(
        f"{judged} of {len(every)} measures judged: {len(rows)} differ, {worse} of them are worse; "
        f"{len(reversals)} conclusions are reversed, {len(missing)} cases are missing."
    )
    sys.exit(bool(reversals or missing) or worse > 0)


if __name__ == "__main__":
    with exit_on_closed_pipe():
        main()
