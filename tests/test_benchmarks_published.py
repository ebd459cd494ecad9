"""What is published of the benchmarks is what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from benchmarks import bench_handoff, figures, pictures, publish
from benchmarks.harness import Case, Plan, Record, Table, cell, record

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "benchmarks" / "results" / "results.json"


@pytest.fixture(scope="module")
def records() -> list[Record]:
    found: list[Record] = json.loads(RECORDS.read_text())
    return found


def test_results_and_readme_say_what_the_records_say(records: list[Record]) -> None:
    found = publish.by_benchmark(records)
    assert set(found) == set(publish.NAMES)
    assert (ROOT / "benchmarks" / "RESULTS.md").read_text() == publish.results(found)
    readme = (ROOT / "README.md").read_text()
    assert readme == publish.with_figures(readme, records), "run python -m benchmarks.publish"
    assert {name for _, name, _, _ in publish._MARK.findall(readme)} == set(figures.FIGURES)


def test_every_record_has_its_place_and_its_rate(records: list[Record]) -> None:
    for each in records:
        assert {"benchmark", "question", "subject", "params", "spread", "turns", "measured"} <= set(
            each
        )
        for name, (least, most) in each["spread"].items():
            assert least <= each[name] <= most


def test_pictures_and_the_page_are_made_of_them(records: list[Record]) -> None:
    found = publish.by_benchmark(records)
    drawn = {name: pictures.draw(name, mine) for name, mine in found.items()}
    assert {name for name, data in drawn.items() if data} == set(pictures.DRAWN)
    assert all(data.startswith(b"\x89PNG") for data in drawn.values() if data)
    page = publish.page(found, {name: data for name, data in drawn.items() if data})
    assert page.count("<img") == len(pictures.DRAWN)


def test_a_figure_that_was_not_measured_is_no_figure() -> None:
    with pytest.raises(LookupError, match="no record of decode, kernel-json"):
        publish.with_figures("x <!-- figure decode --><!-- end -->", [])


def test_cases_are_measured_in_turn_and_medians_shown() -> None:
    asked: list[str] = []
    values = iter([1.0, 10.0, 3.0, 30.0, 2.0, 20.0])

    def measure(case: Case) -> dict[str, float]:
        asked.append(case.subject)
        return {"messages_per_s": next(values)}

    with Plan(False, {"q": 1.0}) as plan, plan.question("q"):
        one, other = plan.in_turns("q", [Case("q", "a"), Case("q", "b")], measure, 3)
    assert asked == ["a", "b"] * 3
    assert one["messages_per_s"] == 2.0
    assert one["spread"]["messages_per_s"] == [1.0, 3.0]
    assert other["turns"] == 3
    assert cell(other, "messages_per_s") == "20.0 (10.0–30.0)"
    assert cell(other, "nothing") == ""


def test_tables_for_terminals_and_documents() -> None:
    table = Table("Title", ("", "ns"), [("a", "1"), ("longer", "1,000")])
    assert table.text().splitlines()[1:] == [
        "Title",
        "             ns",
        "  a           1",
        "  longer  1,000",
    ]
    assert table.markdown().splitlines()[2:] == [
        "|  | ns |",
        "|---|---:|",
        "| a | 1 |",
        "| longer | 1,000 |",
    ]


@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_payloads_of_a_later_minute_are_the_same_but_for_their_times(codec: str) -> None:
    import msgpack

    from mdstream.simulator.encode import ENCODINGS

    form = ENCODINGS[codec]
    single = bench_handoff._messages("quotes", codec, 30)[:2_000]
    payloads = [form.payload(single[i : i + 20]) for i in range(0, len(single), 20)]
    later = bench_handoff.later(payloads, codec, 7)

    def plain(data: bytes) -> list[dict[str, Any]]:
        if codec == "json":
            found: list[dict[str, Any]] = orjson.loads(data)
            return [{**m, "t": _minute(m["t"])} for m in found]
        unpacked = msgpack.unpackb(data, timestamp=3)
        return [{**m, "t": int(m["t"].timestamp()) // 60} for m in unpacked]

    for before, after in zip(payloads, later, strict=True):
        assert [{**m, "t": m["t"] + 7} for m in plain(before)] == plain(after)


def _minute(text: str) -> int:
    hour, minute = map(int, text[11:16].split(":"))
    return hour * 60 + minute


def test_the_model_of_more_workers_ends_at_the_feed() -> None:
    def measured(workers: int, **costs: float) -> Record:
        answers = [{"workers": float(workers), "messages_per_s": 2e6, **costs}]
        return record(Case("handoff", str(workers)), answers)

    rate = bench_handoff.fitted([measured(0), measured(1, feed_ns=100.0, worker_ns=300.0)])
    assert rate is not None
    assert [rate(n) for n in (0, 1, 2)] == pytest.approx([2e6, 1e9 / 300, 2e9 / 300])
    assert rate(3) == rate(16) == pytest.approx(1e7)
    assert bench_handoff.fitted([measured(0)]) is None
