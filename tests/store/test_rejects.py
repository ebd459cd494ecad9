"""Rejected payloads are kept on disk; what cannot be kept is counted."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest

from mdstream.errors import ConfigError, NoStoreError
from mdstream.handoff.rejects import RejectRow
from mdstream.store.catalogue import scan
from mdstream.store.export import export_file
from mdstream.store.rejects import RejectFile, find_obstacle, reject_path

ROWS = [
    RejectRow("json", "batch 1, payload 2, message 3", "why", b'{"T":"x"}', 1_700_000_000_000_000_000),
    RejectRow("msgpack", "batch 1, payload 4", "not msgpack", b"\xff", 1),
]


def test_a_reject_is_kept_with_its_place_and_reason(tmp_path: Path) -> None:
    rejects = RejectFile(reject_path(str(tmp_path), "run", "stocks"))
    rejects.keep(ROWS)
    first, second = map(orjson.loads, rejects.path.read_bytes().splitlines())
    assert first["bytes"] == '{"T":"x"}'
    assert (first["place"], first["reason"]) == ("batch 1, payload 2, message 3", "why")
    assert second["bytes_base64"] == "/w=="
    assert second["received"] == "1970-01-01T00:00:00+00:00"


def test_a_file_continues_that_of_a_killed_predecessor(tmp_path: Path) -> None:
    for _ in range(2):
        rejects = RejectFile(tmp_path / "x", limit=1000)
        rejects.keep(ROWS)
    assert len(rejects.path.read_bytes().splitlines()) == 4
    rejects.keep(ROWS * 3)
    assert (len(rejects.path.read_bytes().splitlines()), rejects.lost) == (4, 6)


def test_what_finds_no_room_is_counted(tmp_path: Path) -> None:
    rejects = RejectFile(tmp_path / "full", limit=10)
    rejects.keep(ROWS)
    rejects.keep(ROWS)
    assert rejects.lost == 4


def test_a_folder_that_cannot_be_used_is_known_before_the_first_reject(tmp_path: Path) -> None:
    assert find_obstacle(str(tmp_path / "new" / "folder"), "run") == ""
    file = tmp_path / "file"
    file.touch()
    assert find_obstacle(str(file), "run") == f"{file} is not a folder"


@pytest.mark.cases("V7")
def test_rejects_of_history_are_rows_of_the_dataset(tmp_path: Path) -> None:
    rejects = RejectFile(tmp_path / "_mdstream" / "rejects" / "stocks.trades.jsonl")
    rejects.keep([*ROWS, *ROWS])
    with rejects.path.open("a") as file:
        file.write('{"recv_ns":1,"kind":"trades","rejected":[],"payload":""}\n')
    RejectFile(tmp_path / "_mdstream" / "rejects" / "stocks.bars.jsonl").keep(ROWS[1:])
    found = scan("stocks.rejects", tmp_path).collect()
    assert found.drop("feed", "date").sort("recv_ts").rows() == [
        (row.kind, row.place, row.reason, row.data, datetime.fromtimestamp(row.recv_ns // 10**9, UTC))
        for row in (ROWS[1], ROWS[1], ROWS[1], ROWS[0], ROWS[0])
    ]
    assert scan("stocks.rejects", tmp_path, start="2020-01-01").collect().height == 2
    with pytest.raises(ConfigError, match="has no symbols"):
        scan("stocks.rejects", tmp_path, symbols="A")
    with pytest.raises(NoStoreError, match=r"no crypto\.rejects"):
        scan("crypto.rejects", tmp_path)
    export_file(scan("stocks.rejects", tmp_path), tmp_path / "x.csv")
    assert "whole payload" not in (tmp_path / "x.csv").read_text()
    assert ",/w==," in (tmp_path / "x.csv").read_text()


def make_file(store: Path, rows: list[RejectRow] = ROWS) -> RejectFile:
    """Return the file of rejects of a backfill of stock trades, with some rows."""
    rejects = RejectFile(store / "_mdstream" / "rejects" / "stocks.trades.jsonl")
    rejects.keep(rows, "sip", "sip AAPL 2026-01-05")
    return rejects


@pytest.mark.parametrize("cut", [2, 30, 90])
def test_a_line_that_was_cut_costs_no_other(
    tmp_path: Path, cut: int, caplog: pytest.LogCaptureFixture
) -> None:
    path = make_file(tmp_path).path
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    (left,) = scan("stocks.rejects", tmp_path).collect()["reason"]
    assert left == ROWS[0].reason
    assert "lines that were cut: 1" in caplog.text
    export_file(scan("stocks.rejects", tmp_path), tmp_path / "x.parquet")
    make_file(tmp_path)  # the next backfill
    assert path.read_bytes() == whole[:-cut] + b"\n" + whole
    assert scan("stocks.rejects", tmp_path).collect().height == 3
    path.write_bytes(whole[:-cut] + whole)  # as version 0.2 added
    assert scan("stocks.rejects", tmp_path).collect().height == 3


@pytest.mark.parametrize("line", [b"{}", b"5", b"null", b"\xff", b"[1]", b'{"place":1,"bytes":5}'])
def test_a_line_that_is_none_is_left_out(tmp_path: Path, line: bytes) -> None:
    with make_file(tmp_path).path.open("ab") as file:
        file.write(line + b"\n")
    assert scan("stocks.rejects", tmp_path).collect().height == 2


def test_rejects_of_history_have_their_feed(tmp_path: Path) -> None:
    make_file(tmp_path)
    assert scan("stocks.rejects", tmp_path, feed="sip").collect()["feed"].to_list() == ["sip", "sip"]
    assert scan("stocks.rejects", tmp_path, feed="iex").collect().is_empty()
    with pytest.raises(ConfigError, match="has no timeframe"):
        scan("stocks.rejects", tmp_path, timeframe="1Day")


def test_a_reject_of_a_shard_that_is_fetched_again_counts_once(tmp_path: Path) -> None:
    rejects = make_file(tmp_path, [ROWS[0], ROWS[0]._replace(place="another")])
    later = [row._replace(recv_ns=row.recv_ns + 10**12) for row in (*ROWS, ROWS[0])]
    rejects.keep(later, "sip", "sip AAPL 2026-01-05")
    rejects.keep(later[:1], "sip", "sip AAPL 2026-01-06")
    found = scan("stocks.rejects", tmp_path).collect()
    assert sorted(found["place"]) == ["another", *[ROWS[0].place] * 3, ROWS[1].place]
