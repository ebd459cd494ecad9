"""Rejects on disk, whether or not the run is recorded: a JSON line for each."""

from __future__ import annotations

import base64
import logging
import os
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from mdstream.errors import StoreError
from mdstream.handoff.rejects import RejectRow
from mdstream.limits import LARGEST_REJECTS
from mdstream.store.folders import why_unwritable

if TYPE_CHECKING:
    import polars as pl

log = logging.getLogger(__name__)

_FIRST = b'{"received":'
"""How a line begins."""


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
    return why_unwritable(existing)


class _Kept(NamedTuple):
    """A line of a file of rejects."""

    feed: str
    shard: str
    row: RejectRow


def scan_kept(store: str | Path, stream: str) -> pl.LazyFrame | None:
    """Return the rejects of a stream's history as its table of rejects has them; None if there are none.

    A reject that came again because its shard was fetched again is there once. Raises `StoreError` if a
    file cannot be read.
    """
    import polars as pl

    folder = Path(store) / "_mdstream" / "rejects"
    files = [] if "://" in str(store) else sorted(folder.glob(f"{stream}.*.jsonl"))
    kept = [each for file in files for each in _take_last(_read_lines(file))]
    if not kept:
        return None
    names = ["feed", "kind", "place", "reason", "bytes", "recv_ts", "recv_ts_ns"]
    rows = [(each.feed, *each.row[:4], *divmod(each.row.recv_ns, 1000)) for each in kept]
    times = pl.col("recv_ts").cast(pl.Datetime("us", "UTC"))
    frame = pl.LazyFrame(rows, names, orient="row").with_columns(times, pl.col("recv_ts_ns").cast(pl.Int16))
    return frame.select("feed", pl.col("recv_ts").dt.date().alias("date"), *names[1:])


def _read_lines(file: Path) -> Iterator[_Kept]:
    """Yield the lines of a file. One that was cut is reported in the log, and left out."""
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise StoreError(f"store: {file} cannot be read: {error.strerror}") from error
    torn = 0
    for line in lines:
        # A line that was added behind a cut one, by a version that did not end that first, is whole.
        for text in (line, line[max(0, line.rfind(_FIRST)) :]):
            try:
                found = _read_line(orjson.loads(text))
            except (ValueError, LookupError, TypeError, AttributeError):
                continue
            if found is not None:
                yield found
            torn += text != line
            break
        else:
            torn += 1
    if torn:
        log.warning("rejects %s: lines that were cut: %d", file, torn)


def _read_line(line: Any) -> _Kept | None:
    """Return a line; None for one of version 0.2, which is for a payload, with a list of reasons."""
    if "rejected" in line:
        return None
    data = line["bytes"].encode() if "bytes" in line else base64.b64decode(line["bytes_base64"])
    row = RejectRow(line["kind"], line["place"], line["reason"], data, int(line["recv_ns"]))
    return _Kept(line.get("feed", ""), line.get("shard", ""), row)


def _take_last(lines: Iterable[_Kept]) -> Iterator[_Kept]:
    """Yield lines, but of equal ones of one shard only those that were received last."""
    latest: dict[_Kept, list[_Kept]] = {}
    for line in lines:
        if not line.shard:
            yield line
            continue
        same = latest.setdefault(line._replace(row=line.row._replace(recv_ns=0)), [])
        if same and same[0].row.recv_ns < line.row.recv_ns:
            same.clear()
        same.append(line)
    for same in latest.values():
        yield from same


class RejectFile:
    """Writes the rejects of one stream, those of a batch at once. Creates the file with the first one.

    `lost` is the number of rejects that a predecessor could not keep.
    """

    # Written by `keep`.
    lost: int
    """Rejects that could not be kept, because the file is full or cannot be written."""
    _file: int
    """Descriptor of the open file; -1 before the first reject."""
    _size: int

    def __init__(self, path: Path, limit: int = LARGEST_REJECTS, lost: int = 0) -> None:
        self.path = path
        self.lost = lost
        self._limit = limit
        self._file = -1
        self._size = 0

    def keep(self, rows: Sequence[RejectRow], feed: str = "", shard: str = "") -> None:
        """Add rejects to the file. If that fails, count them as lost.

        `feed` and `shard` say what was fetched: of a shard that is fetched again, equal rejects count once.
        """
        if self._size >= self._limit:
            self.lost += len(rows)
            return
        try:
            origin = {"feed": feed, "shard": shard} if shard else {}
            self._write(b"".join(_make_line(row, origin) for row in rows))
        except OSError as error:
            if not self.lost:
                log.error("rejects %s: they are counted but not kept: %s", self.path, error)
            self.lost += len(rows)

    def _write(self, data: bytes) -> None:
        if self._file < 0:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            weakref.finalize(self, os.close, self._file)
            self._size = os.fstat(self._file).st_size
            if self._size and os.pread(self._file, 1, self._size - 1) != b"\n":
                data = b"\n" + data  # a predecessor was killed within a line
        if self._size + len(data) > self._limit:
            self._size = self._limit
            raise OSError(f"the file has reached its limit of {self._limit // 1_000_000} MB")
        written = os.write(self._file, data)
        if written < len(data):  # the disk is full: no half line stays
            os.ftruncate(self._file, self._size)
            raise OSError(f"only {written} of {len(data)} bytes could be written")
        self._size += written


def _make_line(row: RejectRow, origin: Mapping[str, str]) -> bytes:
    line: dict[str, Any] = {
        "received": datetime.fromtimestamp(row.recv_ns / 1e9, UTC).isoformat(),
        **origin,
        "recv_ns": row.recv_ns,
        "kind": row.kind,
        "place": row.place,
        "reason": row.reason,
    }
    try:
        line["bytes"] = row.data.decode()
    except UnicodeDecodeError:
        line["bytes_base64"] = base64.b64encode(row.data).decode()
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
