"""The published results of the benchmarks are the measured ones."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import psutil
import pytest

from benchmarks import bench_pages, compare, figures, handoff_line, pictures, publish, scaling, traffic
from benchmarks.harness import Case, Plan, Record, Table, cell, read, record, select_installed
from benchmarks.subjects import Subject
from mdstream.frames.rundir import default_root
from tests.running import HANGING_S, until

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "benchmarks" / "results" / "results.json"


@pytest.fixture(scope="module")
def records() -> list[Record]:
    found: list[Record] = json.loads(RECORDS.read_text())
    return found


def test_results_and_readme_say_what_the_records_say(records: list[Record]) -> None:
    found, elsewhere = publish.group_by_benchmark(records), publish.read_other_machines(RECORDS.parent)
    assert set(found) == set(publish.NAMES)
    assert (ROOT / "benchmarks" / "RESULTS.md").read_text() == publish.render_results(found, elsewhere)
    known = records + publish.flatten(elsewhere)
    documents = [(ROOT / name).read_text() for name in publish.DOCUMENTS]
    for text in documents:
        assert text == publish.insert_figures(text, known), "run python -m benchmarks.publish"
    assert sum(len(publish._TABLE.findall(text)) for text in documents) == 1
    marks = {name for text in documents for _, name, _, _ in publish._MARK.findall(text)}
    assert marks == set(figures.INLINE)


def test_every_record_has_its_place_and_its_rate(records: list[Record]) -> None:
    for each in records:
        assert {"benchmark", "question", "subject", "params", "spread", "turns", "measured"} <= set(each)
        for name, (least, most) in each["spread"].items():
            assert least <= each[name] <= most


def test_pictures_and_the_page_are_made_of_them(records: list[Record]) -> None:
    found = publish.group_by_benchmark(records)
    drawn = {name: pictures.draw(name, mine) for name, mine in found.items()}
    assert {name for name, data in drawn.items() if data} == set(pictures.PICTURES)
    assert all(data.startswith(b"\x89PNG") for data in drawn.values() if data)
    page = publish.render_page(found, {name: data for name, data in drawn.items() if data})
    assert page.count("<img") == len(pictures.PICTURES)


def test_a_figure_that_was_not_measured_is_no_figure() -> None:
    with pytest.raises(LookupError, match="no record of decode, kernel-json"):
        publish.insert_figures("x <!-- figure decode --><!-- end -->", [])


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
    single = handoff_line._make_messages("quotes", codec, 30)[:2_000]
    payloads = [form.payload(single[i : i + 20]) for i in range(0, len(single), 20)]
    later = handoff_line.shift_minutes(payloads, codec, 7)

    def plain(data: bytes) -> list[dict[str, Any]]:
        if codec == "json":
            found: list[dict[str, Any]] = orjson.loads(data)
            return [{**m, "t": _minute(m["t"])} for m in found]
        decompressed = msgpack.unpackb(data, timestamp=3)
        return [{**m, "t": int(m["t"].timestamp()) // 60} for m in decompressed]

    for before, after in zip(payloads, later, strict=True):
        assert [{**m, "t": m["t"] + 7} for m in plain(before)] == plain(after)


def _minute(text: str) -> int:
    hour, minute = map(int, text[11:16].split(":"))
    return hour * 60 + minute


def test_the_model_of_more_workers_ends_at_the_feed() -> None:
    def make_record(workers: int, **costs: float) -> Record:
        answers = [{"workers": float(workers), "messages_per_s": 2e6, **costs}]
        return record(Case("handoff", str(workers)), answers)

    rate = scaling.fit_model([make_record(0), make_record(1, feed_ns=100.0, worker_ns=300.0)])
    assert rate is not None
    assert [rate(n) for n in (0, 1, 2)] == pytest.approx([2e6, 1e9 / 300, 2e9 / 300])
    assert rate(3) == rate(16) == pytest.approx(1e7)
    assert scaling.fit_model([make_record(0)]) is None


def test_a_peer_that_is_not_installed_is_named_and_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    with Plan(quick=True, seconds={}) as plan:
        here = select_installed(
            plan, ("ours", "polars", "peer"), {"polars": "polars", "peer": "no_such_peer"}
        )
    assert here == ("ours", "polars")
    assert "peer: skipped, no_such_peer is not installed" in capsys.readouterr().out


def test_documents_are_made_of_a_whole_run_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, records: list[Record]
) -> None:
    part = tmp_path / "part.json"
    part.write_text(json.dumps([r for r in records if r["benchmark"] != "pages"]))
    before = (ROOT / "benchmarks" / "RESULTS.md").read_text()
    monkeypatch.setattr("sys.argv", ["publish", str(part)])
    with pytest.raises(SystemExit, match="lacks pages"):
        publish.main()
    assert (ROOT / "benchmarks" / "RESULTS.md").read_text() == before


def make_rated_record(workers: int, rate: float, batch: float = 100.0, **params: Any) -> Record:
    answers = [{"workers": float(workers), "messages_per_s": rate, "messages_per_batch": batch}]
    return record(Case("handoff", str(workers), params), answers)


def test_amdahls_fit_finds_the_fraction_that_the_rates_were_made_of() -> None:
    def speed_up(processes: int) -> float:
        return 1 / (0.3 + 0.7 / processes)

    case = [
        make_rated_record(0, 1e6),
        *(make_rated_record(n, 1e6 * speed_up(min(n + 1, 8))) for n in (1, 2, 4, 8)),
    ]
    assert scaling.parallel_fraction(case, cores=8) == pytest.approx(0.7)
    assert scaling.parallel_fraction([make_rated_record(0, 1e6), make_rated_record(1, 0.9e6)], cores=2) == 0


def test_a_pool_breaks_even_between_what_is_surely_slower_and_what_is_surely_faster() -> None:
    def sweep(*gains: tuple[float, float, float]) -> list[list[Record]]:
        found = []
        for size, least, most in gains:
            pool = make_rated_record(1, 1e6 * (least + most) / 2, size)
            pool["spread"]["messages_per_s"] = [1e6 * least, 1e6 * most]
            found.append([make_rated_record(0, 1e6, size), pool])
        return found

    cases = sweep((100, 0.7, 0.8), (1_000, 0.9, 1.1), (10_000, 1.1, 1.3), (100_000, 0.9, 1.4))
    assert scaling.break_even(cases) == (100, 10_000)
    assert scaling.break_even(sweep((100, 1.1, 1.2), (1_000, 1.2, 1.3))) == (0, 100)
    assert scaling.break_even(sweep((100, 0.7, 0.8), (1_000, 0.9, 1.1))) == (100, float("inf"))
    assert scaling.break_even(sweep((100, 0.8, 0.9))) is None


def test_every_reader_of_pages_makes_the_same_of_one(tmp_path: Path) -> None:
    pytest.importorskip("duckdb")
    (page,) = traffic.pages(1)
    (truth,) = orjson.loads(gzip.decompress(page))["trades"].values()
    for subject in ("orjson-polars", "polars", "pyarrow", "duckdb"):
        read = bench_pages.prepare(subject, str(tmp_path))(page)
        frame = read if isinstance(read, pl.DataFrame) else pl.from_arrow(read)
        assert isinstance(frame, pl.DataFrame)
        rows = frame.with_columns(pl.col("t").dt.replace_time_zone(None)).rows(named=True)
        assert [(r["i"], r["p"], r["c"]) for r in rows] == [(r["i"], r["p"], r["c"]) for r in truth]
        assert [r["t"].isoformat() for r in rows] == [_to_iso(r["t"]) for r in truth]


def _to_iso(text: str) -> str:
    """Return an RFC 3339 time with microseconds, as `datetime` formats it."""
    return datetime.fromisoformat(text[:26].rstrip("Z")).isoformat()


def make_run(**rates: tuple[float, float, float]) -> list[Record]:
    """Return a run with three turns of each subject."""
    return [
        {**record(Case("q", name), [{"messages_per_s": r} for r in turns]), "benchmark": "b"}
        for name, turns in rates.items()
    ]


BEFORE = make_run(
    kernel=(10.0, 10.1, 10.2), polars=(1.0, 1.02, 1.04), floor=(99, 100, 101), pyarrow=(5, 5.1, 5.2)
)


def test_a_subject_that_became_a_fifth_slower_is_seen_on_a_box_that_is_slower_too() -> None:
    after = make_run(
        kernel=(7.6, 7.7, 7.8), polars=(0.9, 0.92, 0.94), floor=(89, 90, 91), pyarrow=(4.5, 4.6, 4.7)
    )
    found = compare.find_changes(BEFORE, after)
    assert [c.case for c in found if c.worse] == ["b kernel "]
    assert not any(c.differs and not c.worse for c in found)
    assert not compare.find_reversals(BEFORE, after)


def test_two_identical_runs_differ_in_nothing_and_a_turned_conclusion_is_reported() -> None:
    assert not any(c.differs for c in compare.find_changes(BEFORE, BEFORE))
    after = make_run(kernel=(4.0, 4.1, 4.2), pyarrow=(5, 5.1, 5.2))
    (line,) = compare.find_reversals(BEFORE, after)
    assert "pyarrow is above kernel now" in line


ALONE = make_run(kernel=(10.0, 10.1, 10.2), workers=(20.0, 20.2, 20.4))
"""A benchmark with only subjects of our own."""


def add_yardstick(records: list[Record], rounds: float) -> list[Record]:
    found = record(Case("yardstick", "yardstick"), [{"rounds_per_s": rounds}])
    return [*records, {**found, "benchmark": "b"}]


def slow_down(records: list[Record], by: float) -> list[Record]:
    def scale(each: Record) -> Record:
        low, high = each["spread"]["messages_per_s"]
        spread = {"messages_per_s": [low / by, high / by]}
        return {**each, "messages_per_s": each["messages_per_s"] / by, "spread": spread}

    return [scale(each) for each in records]


def test_what_became_slower_in_every_subject_is_seen_beside_the_yardstick() -> None:
    before = add_yardstick(ALONE, 100.0)
    found = compare.find_changes(before, add_yardstick(slow_down(ALONE, 1.2), 101.0))
    assert [(c.case, c.worse) for c in found if c.differs] == [
        ("b kernel ", True),
        ("b workers ", True),
        ("b: all 2 cases together", True),
    ]
    on_a_slow_day = compare.find_changes(before, add_yardstick(slow_down(ALONE, 1.2), 83.0))
    assert not any(c.differs for c in on_a_slow_day)


def test_what_cannot_be_judged_is_named() -> None:
    gone = make_run(polars=(1.0, 1.1, 1.2))
    once = [{**record(Case("q", "once"), [{"messages_per_s": 1.0}]), "benchmark": "b"}]
    assert compare.find_unjudged([*ALONE, *gone, *once], [*ALONE, *once]) == [
        "not judged, measured in one turn: 1 of b",
        "drift not judged, without a yardstick: b",
    ]
    assert compare.find_missing([*ALONE, *gone], ALONE) == ["b polars "]
    assert not compare.find_missing([*ALONE, {**gone[0], "benchmark": "other"}], ALONE)
    assert not compare.find_unjudged(add_yardstick(ALONE, 1.0), add_yardstick(ALONE, 1.0))


def test_a_lost_message_is_worse() -> None:
    after = [{**ALONE[0], "lost": 1.0}, ALONE[1]]
    before = [{**ALONE[0], "lost": 0.0}, ALONE[1]]
    (found,) = (c for c in compare.find_changes(before, after) if c.differs)
    assert (found.measure, found.worse) == ("lost", True)


@pytest.mark.parametrize("text", ["", "[1, 2]", "NaN", '{"a": 1}', '[{"benchmark": "b"}]'])
def test_a_file_of_no_records_is_reported(text: str, tmp_path: Path) -> None:
    path = tmp_path / "malformed.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"malformed\.json"):
        read(path)


@pytest.mark.parametrize("subject", ["crew, ticket", "pool, ticket"])
def test_a_pool_as_a_subject_answers(subject: str) -> None:
    with Subject("benchmarks.bench_pools", subject) as pool:
        assert pool.first == {"subject": subject}
        assert pool.ask(under_way=1)["task_us"] > 0


def test_an_interrupted_benchmark_leaves_nothing_behind(tmp_path: Path) -> None:
    runs, out = default_root(), tmp_path / "out.json"
    command = [sys.executable, "-m", "benchmarks", "handoff", "--quick", "--json", str(out)]
    process = psutil.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until(lambda: list(runs.iterdir()))
    time.sleep(0.5)
    children = process.children(recursive=True)
    assert children
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=HANGING_S)
    expected = "stopping the subjects ...\ninterrupted: no benchmark was finished"
    assert (process.returncode, said.decode().strip()) == (130, expected)
    _, alive = psutil.wait_procs(children, timeout=HANGING_S)
    assert not alive
    assert not list(runs.iterdir())
    assert not out.exists()
