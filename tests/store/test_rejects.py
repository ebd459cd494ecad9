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
