"""The table of metrics, and the code that must agree with it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from mdstream.frames.rundir import RunDirectory, state_path
from mdstream.streams.spec import Channel
from mdstream.telemetry import schema
from mdstream.telemetry.metrics import (
    CORE,
    MACHINE,
    PROCESS,
    STREAM,
    Metric,
    MetricKind,
    Source,
    find_losses,
    group_values,
)
from mdstream.telemetry.sampler import CoreSample, MachineSample, ProcessSample
from mdstream.telemetry.state import COMMITTED, HISTOGRAMS, LENGTHS, LIVE, FeedState, read_stream

ROOT = Path(__file__).resolve().parents[2]
TABLES = {"stream": STREAM, "process": PROCESS, "core": CORE, "machine": MACHINE}
EVERY = [
    pytest.param(metric, id=f"{scope}-{metric.name}") for scope, rows in TABLES.items() for metric in rows
]
SUFFIXES = {
    "_s": "seconds",
    "_ms": "milliseconds",
    "_ns": "nanoseconds",
    "_bytes": "bytes",
    "_percent": "percent",
}
BASE_UNITS = {
    "seconds": "seconds",
    "milliseconds": "seconds",
    "nanoseconds": "seconds",
    "bytes": "bytes",
    "percent": "ratio",
}


@pytest.mark.parametrize("metric", EVERY)
def test_each_metric_has_a_kind_a_unit_and_a_sentence_of_help(metric: Metric) -> None:
    assert metric.kind in MetricKind
    assert re.fullmatch(r"[a-z]+( [a-z]+)*", metric.unit)
    assert re.fullmatch(r"(Whether )?[A-Z0-9][^\n]{3,}[^.]\.", metric.help), metric.help
    assert (metric.kind is MetricKind.HISTOGRAM) is (metric.source is Source.BUCKETS)
    assert not metric.is_loss or metric.kind is MetricKind.COUNTER


@pytest.mark.parametrize("metric", EVERY)
def test_the_name_of_a_measurement_ends_with_its_unit(metric: Metric) -> None:
    suffix = next((s for s in SUFFIXES if metric.name.endswith(s)), "")
    if suffix:
        assert metric.unit == SUFFIXES[suffix]
    elif metric.unit in BASE_UNITS:
        assert metric.kind is MetricKind.HISTOGRAM or metric.name.startswith("bytes")


def make_prometheus_name(scope: str, metric: Metric) -> str:
    """Return the name of a metric by the rules of Prometheus: base units, and `_total` for counters."""
    name = metric.name
    for suffix in SUFFIXES:
        name = name.removesuffix(suffix)
    unit = BASE_UNITS.get(metric.unit)
    parts = ["mdstream", scope, name, *([unit] if unit and unit not in name.split("_") else [])]
    return "_".join(parts) + "_total" * (metric.kind is MetricKind.COUNTER)


@pytest.mark.parametrize("scope", TABLES)
def test_names_are_unique_and_convert_to_those_of_prometheus(scope: str) -> None:
    shown = [metric for metric in TABLES[scope] if not metric.is_internal]
    assert len({metric.name for metric in TABLES[scope]}) == len(TABLES[scope])
    names = {make_prometheus_name(scope, m) for m in shown if not re.search(r"_p\d+_ms$", m.name)}
    assert len(names) == sum(not re.search(r"_p\d+_ms$", m.name) for m in shown)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in names)


def test_the_words_of_a_state_are_the_table() -> None:
    kept = {
        metric.name for metric in STREAM if metric.source in (Source.LIVE, Source.COMMITTED, Source.LENGTH)
    }
    assert {*LIVE, *COMMITTED} == kept
    assert set(LENGTHS) < set(COMMITTED)
    assert list(HISTOGRAMS) == [m.name for m in STREAM if m.kind is MetricKind.HISTOGRAM]


def test_each_word_is_counted_somewhere() -> None:
    text = "".join(
        p.read_text() for room in ("feed", "engine") for p in (ROOT / "mdstream" / room).glob("*.py")
    )
    assert [name for name in LIVE if f'"{name}"' not in text and name != "sequence"] == []
    counted = set(COMMITTED) - set(LENGTHS)
    assert [name for name in counted if not re.search(rf"\b{name}=", text)] == []


def test_a_sample_is_a_row_of_the_frame_and_the_report_has_all_of_it() -> None:
    with RunDirectory() as run:
        state = FeedState.create(state_path(run.path, "stocks"))
        values = read_stream(run.path, "stocks", state)
    numbers = [m.name for m in STREAM if m.is_column]
    assert [c.name for c in schema.STREAMS.columns] == ["ts", "stream", "state", *numbers]
    assert set(values) == {*numbers, *HISTOGRAMS}
    assert len(schema.STREAMS.columns) <= 63, "a head has one bit per column"
    marked = {name: position for position, name in enumerate(numbers)}
    found = group_values(marked)
    flat = [v for value in found.values() for v in (value.values() if isinstance(value, dict) else [value])]
    assert sorted(flat) == list(marked.values()), "each value occurs once"
    assert (found["committed"], found["pool"]["size"]) == (marked["committed"], marked["pool_size"])
    assert found["latency"]["p99_ms"] == marked["latency_p99_ms"]


@pytest.mark.parametrize(
    ("sample", "rows", "channel"),
    [
        (ProcessSample, PROCESS, schema.PROCESSES),
        (CoreSample, CORE, schema.CORES),
        (MachineSample, MACHINE, schema.MACHINE),
    ],
)
def test_samples_have_the_metrics_of_the_table(
    sample: type[NamedTuple], rows: tuple[Metric, ...], channel: Channel
) -> None:
    fields = set(sample._fields)
    assert {m.name for m in rows if m.source is Source.SAMPLE} <= fields
    others = {m.name for m in rows if m.source is Source.SUPERVISOR}
    assert {column.name for column in channel.columns} == fields | others | {"ts"}


def test_losses_are_sentences_and_none_where_nothing_is_lost() -> None:
    losses = [metric.name for metric in (*STREAM, *MACHINE) if metric.is_loss]
    assert {"updates_untracked", "rejects_lost", "telemetry_rows_lost"} <= set(losses)
    assert find_losses(dict.fromkeys(losses, 0)) == []
    sentences = find_losses(dict.fromkeys(losses, 1234))
    assert len(sentences) == len(losses)
    assert "1,234 rejected messages that could not be kept on disk" in sentences
