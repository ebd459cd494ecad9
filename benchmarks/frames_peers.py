"""The last rows of stocks trades as a DataFrame in another process: our frames and common alternatives.

    mdstream       FrameWriter.append ─► /dev/shm ─► attach().frame(), tail()
    mdstream-eager the same, with a tail that polls every 0.2 ms instead of every 5 (only in `tail`)
    redis-rows     XADD, one entry per row, pipelined ─► redis-server, Unix socket ─► XREVRANGE, XREAD
    redis-arrow    XADD, one entry (an Arrow stream) per batch ─► the same
    parquet        one file per batch in /dev/shm ─► read all files
    pandas         concat, cut to the last rows ─► pickled through a pipe on each request
    queue          multiprocessing.Queue, one dict per row ─► get, and build a DataFrame

Each subject is a process with a child that reads. It takes requests as JSON lines on standard input: write
all rows and read them, or commit at a rate. Each gets its rows in its own format; the conversion is not
counted. Each returns the same columns: numbers, times with their zone, texts.
"""

from __future__ import annotations

import collections
import contextlib
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

import polars as pl

import mdstream
from benchmarks.frames_local import (
    PandasReader,
    PandasWriter,
    ParquetReader,
    ParquetWriter,
    QueueReader,
    QueueWriter,
)
from benchmarks.frames_ours import EagerFramesReader, FramesReader, FramesWriter
from benchmarks.frames_redis import RedisArrowReader, RedisArrowWriter, RedisReader, RedisRowsWriter
from benchmarks.frames_rows import ROOMY, PreparedRows, fill, open_frame, prepare_rows
from benchmarks.frames_sides import BATCH, COMMIT, ROWS, MissingError, Reader, Writer

SKIPPED = 50
"""First commits of `tail` that are not counted, as warm-up."""
_TIMEOUT_S = 30.0

SUBJECTS: dict[str, tuple[type[Writer], Callable[[Any], Reader]]] = {
    "mdstream": (FramesWriter, FramesReader),
    "mdstream-eager": (FramesWriter, EagerFramesReader),
    "redis-rows": (RedisRowsWriter, RedisReader),
    "redis-arrow": (RedisArrowWriter, RedisArrowReader),
    "parquet": (ParquetWriter, ParquetReader),
    "pandas": (PandasWriter, PandasReader),
    "queue": (QueueWriter, QueueReader),
}
READ = tuple(name for name in SUBJECTS if name != "mdstream-eager")
TAILED = ("mdstream", "mdstream-eager", "redis-rows", "redis-arrow", "queue")
"""Subjects whose readers can get only new rows; the others read everything again."""


def subject_process(subject: str) -> None:
    """Run a subject: handle each request line on standard input, and answer with a line."""
    with contextlib.ExitStack() as stack:
        rows = prepare_rows("trades", ROWS)
        try:
            writer = SUBJECTS[subject][0](rows, _as_polars(rows), stack)
        except MissingError as error:
            print(json.dumps({"missing": str(error)}), flush=True)
            return
        context = multiprocessing.get_context("spawn")
        pipe, theirs = context.Pipe()
        child = context.Process(target=reader_process, args=(subject, writer.place(), theirs), daemon=True)
        child.start()
        assert pipe.recv() == "ready"
        large, small = writer.batches(BATCH), writer.batches(COMMIT)[:1_000]
        print(json.dumps({"subject": subject, "version": writer.version()}), flush=True)
        for line in sys.stdin:
            request = json.loads(line)
            if "rate" in request:
                answer = follow(writer, small, pipe, request["rate"], request["commits"])
            else:
                answer = write_and_read(writer, large, pipe)
            print(json.dumps(answer), flush=True)
        child.kill()
        child.join()


def _as_polars(rows: PreparedRows) -> pl.DataFrame:
    """Return the rows as our reader returns them, with texts instead of categories."""
    with open_frame(rows, ROOMY) as (run, writer):
        fill(writer, rows, ROWS)
        frame = mdstream.attach(run.run).frame("stocks.trades")
        return frame.with_columns(pl.col(pl.Categorical).cast(pl.String)).rechunk()


def write_and_read(writer: Writer, batches: Sequence[Any], pipe: Connection) -> dict[str, Any]:
    """Return the seconds and CPU seconds to write all rows, and the seconds to read them."""
    writer.begin()
    cpu, start = time.process_time(), time.perf_counter()
    for batch in batches:
        writer.write(batch)
    written = time.perf_counter() - start
    pipe.send(("last", ROWS))
    writer.serve()
    read, height, check = pipe.recv()
    # Up to here, because a thread of this process pickles and sends the rows of a queue.
    cpu = time.process_time() - cpu
    expected = [ROWS, int(writer.frame["size"].sum()), int(writer.frame["id"][-1])]
    if [height, *check] != expected:
        raise RuntimeError(f"read {[height, *check]}, expected {expected}")
    return {"write_s": written, "write_cpu_s": cpu, "read_s": read, "stored": writer.stored()}


def follow(
    writer: Writer, batches: Sequence[Any], pipe: Connection, rate: float, commits: int
) -> dict[str, Any]:
    """Commit at a rate; return the age of each commit when the reader had its rows."""
    writer.begin()
    pipe.send(("follow", commits))
    assert pipe.recv() == "following"
    time.sleep(0.2)
    start = time.monotonic()
    for number in range(commits):
        while (left := start + number / rate - time.monotonic()) > 0:
            time.sleep(left)
        batch = batches[number % len(batches)]
        writer.write(writer.stamp(batch, time.monotonic_ns()))
    if not pipe.poll(_TIMEOUT_S):
        raise RuntimeError(f"the reader has not seen every commit after {_TIMEOUT_S:.0f} s")
    ages: list[int] = pipe.recv()
    return {"ages_ns": ages, "rate": (commits - 1) / (time.monotonic() - start)}


def reader_process(subject: str, place: Any, pipe: Connection) -> None:
    """Run the child, which reads on each command."""
    reader = SUBJECTS[subject][1](place)
    pipe.send("ready")
    while True:
        try:
            command, count = pipe.recv()
        except EOFError:
            return
        if command == "last":
            start = time.perf_counter()
            frame = reader.last(count)
            seconds = time.perf_counter() - start
            sizes, ids = frame["size"], frame["id"]
            pipe.send((seconds, len(frame), [int(sizes.sum()), int(ids[-1:].max())]))
        else:
            new = reader.follow()
            pipe.send("following")
            pipe.send(_ages(new, count))


def _ages(new: Iterator[pl.DataFrame], commits: int) -> list[int]:
    """Return the ns from just before each commit until all its rows were in a DataFrame here."""
    seen: collections.Counter[int] = collections.Counter()
    ages: list[int] = []
    while len(ages) < commits:
        frame = next(new)
        now = time.monotonic_ns()
        stamps = frame["recv_ts"].to_physical().to_list()
        seen.update(stamps)
        ages += [now - stamp for stamp in dict.fromkeys(stamps) if seen[stamp] == COMMIT]
    return ages[SKIPPED:]


if __name__ == "__main__":
    subject_process(sys.argv[1])
