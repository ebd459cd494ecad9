"""`python -m benchmarks.compare BEFORE.json AFTER.json`: what differs between two runs, and what does not.

A case differs where its turns lie apart from those before and its median by more than 10%, once what all
cases of its benchmark have in common (another day, another load) is taken out. What they have in common is
judged by itself: it differs from what the machine's own speed explains, which a yardstick of none of our
code tells, by more than 15%; then each case is judged less the machine's alone. A message lost where none
was is always worse, and so is a case that is gone from a benchmark that was measured again. A conclusion,
who is faster than whom, has turned where two subjects lay apart in both runs, the other way round in the
second.

Named, but not judged: cases measured in one turn (all of --quick), cases that are new, benchmarks that one
of the files lacks, and what cases have in common where a file has no yardstick. The exit code is 1 if a
conclusion turned or anything is worse, 2 if the files cannot be compared, else 0.
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

from benchmarks.harness import YARDSTICK, Record, Table, read, until_nobody_reads

LEAST = 0.10
"""What a median has to differ by."""
LEAST_SHARED = 0.15
"""What all cases together have to differ by: a machine's cores differ in more than the yardstick sees."""

_MOST_GONE = 10
_NO_MEASURES = {"benchmark", "question", "subject", "params", "spread", "turns", "measured"}
_NOT_JUDGED = {"workers", "messages_per_batch", "rows", "lost"}


@dataclass(frozen=True, slots=True)
class Change:
    """One measure of one case, or of all cases of a benchmark, before and after; `ratio` is what is left
    without the drift of all, or without the machine's.
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
    """A case of both runs."""

    was: Record
    now: Record

    @property
    def measures(self) -> list[str]:
        return _measures(self.was, self.now)

    @property
    def several(self) -> bool:
        """Whether the case was measured more than once in both."""
        return bool(self.was["turns"] > 1 and self.now["turns"] > 1)


def pairs(before: Sequence[Record], after: Sequence[Record]) -> list[Pair]:
    """The cases of both runs, in the order of the second."""
    old = {_key(record): record for record in before}
    return [Pair(old[_key(r)], r) for r in _cases(after) if _key(r) in old]


def changes(before: Sequence[Record], after: Sequence[Record]) -> list[Change]:
    """Every measure that both runs have, in the order of the second; then what cases have in common."""
    both = pairs(before, after)
    ratios: dict[tuple[str, str], list[float]] = {}
    for pair in both:
        for name in pair.measures:
            ratios.setdefault((pair.now["benchmark"], name), []).append(pair.now[name] / pair.was[name])
    common = {of: statistics.median(each) for of, each in ratios.items()}
    shared = list(_shared(common, ratios, _speeds(before), _speeds(after)))
    drift = common | {of: machine for of, machine, change in shared if change.differs}
    found = [_change(pair, name, drift) for pair in both for name in pair.measures]
    lost = [
        Change(_text(p.now), "lost", p.was["lost"], p.now["lost"], float("inf"), True, True)
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
        _text(pair.now),
        name,
        pair.was[name],
        pair.now[name],
        ratio,
        pair.several,
        apart and abs(ratio - 1) > LEAST,
    )


def _shared(
    drift: Mapping[tuple[str, str], float],
    ratios: Mapping[tuple[str, str], Sequence[float]],
    before: Mapping[str, float],
    after: Mapping[str, float],
) -> Iterator[tuple[tuple[str, str], float, Change]]:
    """What all cases of a benchmark have in common, less what the machine's speed explains; beside it the
    benchmark and measure, and the machine's share.
    """
    for (benchmark, name), common in drift.items():
        kind = _kind(name)
        if kind is None or benchmark not in before or benchmark not in after:
            continue
        machine = (after[benchmark] / before[benchmark]) ** kind
        left = common / machine
        # No more than the yardstick or the cases' own drift has it: one of both may be off.
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
            judged and abs(ratio - 1) > LEAST_SHARED,
        )
        yield (benchmark, name), machine, change


def _kind(measure: str) -> int | None:
    """1 for a rate, -1 for a time, None for what no speed of a machine changes."""
    if measure.endswith("per_s"):
        return 1
    return -1 if measure.endswith(("_ns", "_us", "_ms", "_s", "seconds")) else None


def turned(before: Sequence[Record], after: Sequence[Record]) -> list[str]:
    """Conclusions that the second run reverses."""
    old, found = _orders(before), []
    for key, sign in _orders(after).items():
        if old.get(key) == -sign:
            where, measure, one, other = key
            more, less = (one, other) if sign > 0 else (other, one)
            found.append(f"{where}, {measure}: {more} is above {less} now, and was below")
    return found


def gone(before: Sequence[Record], after: Sequence[Record]) -> list[str]:
    """Cases that a benchmark of both runs has no longer."""
    again = {record["benchmark"] for record in _cases(after)}
    return [_text(r) for r in _lacking(before, after) if r["benchmark"] in again]


def unjudged(before: Sequence[Record], after: Sequence[Record]) -> list[str]:
    """What is in the files and is not judged, a sentence each."""
    both = pairs(before, after)
    found = [
        f"not judged, measured in one turn: {_counted(p.now for p in both if not p.several)}",
        f"not judged, only after: {_counted(_lacking(after, before))}",
        f"not measured again: {_counted(_unrepeated(before, after))}",
    ]
    speeds = _speeds(before).keys() & _speeds(after).keys()
    without = dict.fromkeys(p.now["benchmark"] for p in both if p.now["benchmark"] not in speeds)
    found.append(f"what all cases have in common is not judged, without a yardstick: {', '.join(without)}")
    return [sentence for sentence in found if not sentence.endswith(": ")]


def _counted(records: Iterable[Record]) -> str:
    counts = Counter(record["benchmark"] for record in records)
    return ", ".join(f"{count} of {name}" for name, count in counts.items())


def _lacking(these: Sequence[Record], others: Sequence[Record]) -> Iterator[Record]:
    known = {_key(record) for record in others}
    return (record for record in _cases(these) if _key(record) not in known)


def _unrepeated(before: Sequence[Record], after: Sequence[Record]) -> Iterator[Record]:
    again = {record["benchmark"] for record in _cases(after)}
    return (record for record in _cases(before) if record["benchmark"] not in again)


def _cases(records: Iterable[Record]) -> Iterator[Record]:
    return (record for record in records if record["subject"] != YARDSTICK)


def _speeds(records: Sequence[Record]) -> dict[str, float]:
    """What the yardstick did in each benchmark."""
    return {r["benchmark"]: r["rounds_per_s"] for r in records if r["subject"] == YARDSTICK}


def _orders(records: Sequence[Record]) -> dict[tuple[str, str, str, str], int]:
    """1 or -1 for each two subjects of a case whose turns lie apart, by the first measure."""
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


def _text(record: Record) -> str:
    params = " ".join(f"{name}={value}" for name, value in record["params"].items())
    return f"{record['benchmark']} {record['subject']} {params}"


def _once(path: Path) -> list[Record]:
    """The records of a file. Raises `ValueError` where a case is in it twice."""
    found = read(path)
    counts = Counter(map(_key, found))
    twice = next((record for record in found if counts[_key(record)] > 1), None)
    if twice is not None:
        raise ValueError(f"{path} has a case twice: {_text(twice)}")
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
        before, after = _once(given.before), _once(given.after)
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")
    except ValueError as error:
        parser.error(str(error))
    every = changes(before, after)
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
        headings = ("", "measure", "before", "after", "ratio, less the drift", "")
        print(Table("What differs", headings, rows).text())
    reversed_, lost_cases = turned(before, after), gone(before, after)
    for each in reversed_:
        print(f"turned: {each}")
    for each in lost_cases[:_MOST_GONE]:
        print(f"gone: {each}")
    if len(lost_cases) > _MOST_GONE:
        print(f"gone: {len(lost_cases) - _MOST_GONE} more; --quick measures fewer cases than make bench")
    print()
    for sentence in unjudged(before, after):
        print(sentence)
    worse, judged = sum(c.worse for c in every), sum(c.judged for c in every)
    print(
        f"{judged} of {len(every)} measures judged: {len(rows)} differ, {worse} of them for the worse; "
        f"{len(reversed_)} conclusions turned, {len(lost_cases)} cases are gone."
    )
    sys.exit(bool(reversed_ or lost_cases) or worse > 0)


if __name__ == "__main__":
    with until_nobody_reads():
        main()
