"""Rejected payloads, kept on disk: one JSON line each, with its origin and the reasons."""

from __future__ import annotations

import base64
import logging
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from mdstream.streams.spec import PayloadKind

log = logging.getLogger(__name__)

LIMIT_BYTES = 256 * 1024 * 1024
"""Limit of one stream's file. Beyond it, rejects are counted but not kept."""


def reject_path(folder: str, run_id: str, stream: str) -> Path:
    """Return the file for one stream of one run; `folder` empty means `$XDG_STATE_HOME/mdstream`."""
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    base = Path(folder) if folder else Path(state) / "mdstream"
    return base / run_id / f"{stream}-rejects.jsonl"


def find_obstacle(folder: str, run_id: str) -> str:
    """Return why rejects cannot be kept in `folder`; empty if they can."""
    path = reject_path(folder, run_id, "x").parent
    existing = next(p for p in (path, *path.parents) if p.exists())
    if not existing.is_dir():
        return f"{existing} is not a folder"
    return "" if os.access(existing, os.W_OK | os.X_OK) else f"{existing} cannot be written"


class RejectFile:
    """Writes the rejects of one stream. Creates the file with the first one.

    `lost` is the number of rejects that a predecessor could not keep.
    """

    # Written by `keep`.
    lost: int
    """Rejects that could not be kept, because the file is full or cannot be written."""

    def __init__(self, path: Path, limit: int = LIMIT_BYTES, lost: int = 0) -> None:
        self.path = path
        self.lost = lost
        self._limit = limit

    def keep(self, payload: bytes, kind: PayloadKind, recv_ns: int, reasons: list[tuple[int, str]]) -> None:
        """Keep a payload with its reasons: pairs of message index (-1: the whole payload) and text."""
        line: dict[str, Any] = {
            "received": datetime.fromtimestamp(recv_ns / 1e9, UTC).isoformat(),
            "recv_ns": recv_ns,
            "kind": kind.name.lower(),
            "rejected": [
                {"message": None if index < 0 else index, "reason": reason} for index, reason in reasons
            ],
        }
        try:
            line["payload"] = payload.decode()
        except UnicodeDecodeError:
            line["payload_base64"] = base64.b64encode(payload).decode()
        self._append(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))

    def _append(self, data: bytes) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            size = self.path.stat().st_size if self.path.exists() else 0
            if size + len(data) > self._limit:
                raise OSError(f"the file has reached its limit of {self._limit // 1_000_000} MB")
            with self.path.open("ab") as file:
                file.write(data)
        except OSError as error:
            if not self.lost:
                log.error("rejects %s: payloads are counted but not kept: %s", self.path, error)
            self.lost += 1
