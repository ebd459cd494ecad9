"""The raw journal: the bytes of every payload, with the time of receipt.

    FOLDER/<run>/<stream>/000001.mdj.zst, 000002.mdj, …    segments; one record per batch, in order:

    magic · sequence · entries · bytes │ entries: offset, length, kind, compression, recv_ns │ payloads

A gap in the sequence is a hole: batches that were not written, or are lost. A record without entries, at
the end of a journal, names the last of them.

`store.journal_writer` writes it. A batch may be in it twice: readers take each sequence once. A kill may
cut off the last record of a segment; readers ignore that record. Finished segments are compressed.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from mdstream.errors import ConfigError
from mdstream.handoff.compression import Compression
from mdstream.handoff.slab import ENTRY
from mdstream.streams.spec import PayloadKind

PACKED = ".mdj.zst"
RAW = ".mdj"
HEAD = struct.Struct("=8sQQQQ")
"""Head of a record: magic, sequence, entries, bytes, offset in the slab at which these began."""
MAGIC = b"mdjrnl01"
_SEGMENT = re.compile(r"\d+\.mdj(\.zst)?")


class JournalEntry(NamedTuple):
    """One payload, as it was received."""

    kind: PayloadKind
    compression: Compression
    recv_ns: int
    payload: bytes


class Hole(NamedTuple):
    """Batches that a journal lacks: its disk was full, or a segment is gone."""

    batches: int
    after_ns: int
    """Receive time of the last payload before them; 0 if there is none."""


def journal_path(folder: str, run: str, stream: str) -> Path:
    """Return the folder with a stream's segments."""
    return Path(folder) / run / stream


def read_entries(
    folder: Path, on_hole: Callable[[Hole], None] = lambda hole: None
) -> Iterator[JournalEntry]:
    """Iterate over the payloads of a stream's journal, in the order in which they were received.

    `on_hole` is called where batches are missing. Raises `ConfigError` if there is no journal.
    """
    segments = list_segments(folder)
    if not segments:
        raise ConfigError(f"no journal in {folder}")
    done = after_ns = 0
    for path in segments:
        for sequence, table, data in _read_records(path):
            if sequence <= done:
                continue
            if missing := sequence - done - bool(len(table)):
                on_hole(Hole(missing, after_ns))
            done = sequence
            after_ns = int(table["recv_ns"][-1]) if len(table) else after_ns
            for row in table:
                start = int(row["offset"])
                payload = data[start : start + int(row["length"])]
                kind, compression = PayloadKind(int(row["kind"])), Compression(int(row["compression"]))
                yield JournalEntry(kind, compression, int(row["recv_ns"]), payload)


def has_segment(path: Path) -> bool:
    """Return whether a finished segment exists, compressed or not."""
    return path.exists() or path.with_suffix(PACKED).exists()


def segment_number(path: Path) -> int:
    """Return the number of a segment."""
    return int(path.name.partition(".")[0])


def compress(path: Path) -> None:
    """Compress a finished segment. It is safe to repeat after a kill."""
    compressed = path.with_suffix(PACKED)
    partial = compressed.with_suffix(".partial")
    with (
        pa.OSFile(str(path), "rb") as source,
        pa.CompressedOutputStream(pa.OSFile(str(partial), "wb"), "zstd") as into,
    ):
        while chunk := source.read(1 << 20):
            into.write(chunk)
    partial.rename(compressed)
    path.unlink()


def list_segments(folder: Path) -> list[Path]:
    """Return the segments of a journal in order.

    If a segment exists in both forms, return the compressed one: it is complete.
    """
    paths = sorted(path for path in folder.glob("*.mdj*") if _SEGMENT.fullmatch(path.name))
    return [path for _, path in sorted({segment_number(path): path for path in paths}.items())]


def scan_complete_records(path: Path) -> tuple[int, int, int]:
    """Return the length of a segment's complete records, the last one's sequence, and the payloads."""
    length = last = payloads = 0
    for sequence, table, data in _read_records(path):
        length += HEAD.size + table.nbytes + len(data)
        last = sequence
        payloads += len(table)
    return length, last, payloads


def _read_records(path: Path) -> Iterator[tuple[int, Any, bytes]]:
    compression = "zstd" if path.name.endswith(PACKED) else None
    with pa.input_stream(str(path), compression=compression) as file:
        while len(head := file.read(HEAD.size)) == HEAD.size:
            magic, sequence, count, size, begin = HEAD.unpack(head)
            if magic != MAGIC:
                raise ConfigError(f"{path} is not a journal, or is damaged at the start of a record")
            rows, data = file.read(count * ENTRY.itemsize), file.read(size)
            if len(rows) < count * ENTRY.itemsize or len(data) < size:
                return  # a kill cut it off
            table = np.frombuffer(rows, ENTRY).copy()
            table["offset"] -= begin
            yield sequence, table, data
