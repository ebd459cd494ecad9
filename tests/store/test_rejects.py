"""Rejected payloads are kept on disk; what cannot be kept is counted."""

from __future__ import annotations

from pathlib import Path

import orjson

from mdstream.store.rejects import RejectFile, find_obstacle, reject_path
from mdstream.streams.spec import PayloadKind


def test_a_payload_is_kept_with_its_reasons(tmp_path: Path) -> None:
    rejects = RejectFile(reject_path(str(tmp_path), "run", "stocks"))
    rejects.keep(b'[{"T":"x"}]', PayloadKind.JSON, 1_700_000_000_000_000_000, [(0, "why")])
    rejects.keep(b"\xff", PayloadKind.MSGPACK, 1, [(-1, "not msgpack")])
    first, second = map(orjson.loads, rejects.path.read_bytes().splitlines())
    assert first["payload"] == '[{"T":"x"}]'
    assert first["rejected"] == [{"message": 0, "reason": "why"}]
    assert second["payload_base64"] == "/w=="
    assert second["rejected"] == [{"message": None, "reason": "not msgpack"}]


def test_what_finds_no_room_is_counted(tmp_path: Path) -> None:
    rejects = RejectFile(tmp_path / "full", limit=10)
    rejects.keep(b"payload", PayloadKind.JSON, 1, [(0, "why")])
    assert rejects.lost == 1


def test_a_folder_that_cannot_be_used_is_known_before_the_first_reject(tmp_path: Path) -> None:
    assert find_obstacle(str(tmp_path / "new" / "folder"), "run") == ""
    file = tmp_path / "file"
    file.touch()
    assert find_obstacle(str(file), "run") == f"{file} is not a folder"
