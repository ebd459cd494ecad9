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

The file is long because each peer has a writer and a reader here, to be compared line by line.
"""

from __future__ import annotations

import collections
import contextlib
import io
import json
import multiprocessing
import shutil
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import polars as pl

import mdstream
from benchmarks.frames_rows import ROOMY, PreparedRows, Rows, fill, open_frame, prepare_rows, stamp

ROWS = 100_000
BATCH = 1_000
COMMIT = 10
"""Rows per commit in `tail`."""
SKIPPED = 50
"""First commits of `tail` that are not counted, as warm-up."""
_TIMEOUT_S = 30.0
_SHM = "/dev/shm"
_TIMES = ("ts", "recv_ts")
_KINDS: dict[str, Any] = {"price": pl.Float64, "size": pl.Int64, "id": pl.UInt64}


def cast_columns(frame: pl.DataFrame) -> pl.DataFrame:
    """Return a frame with the columns cast to the types of the result."""
    times = [pl.col(c).cast(pl.Int64).cast(pl.Datetime("ns", "UTC")) for c in _TIMES]
    return frame.with_columns(*times, *(pl.col(c).cast(t) for c, t in _KINDS.items()))


class Writer(ABC):
    """The writing side of a subject."""

    def __init__(self, rows: PreparedRows, frame: pl.DataFrame, stack: contextlib.ExitStack) -> None:
        self.frame = frame
        """The rows as a DataFrame, from which the alternatives convert theirs."""

    @abstractmethod
    def batches(self, size: int) -> list[Any]:
        """Return the rows in batches of `size`, in the format of `write`."""

    @abstractmethod
    def write(self, batch: Any) -> None: ...

    @abstractmethod
    def stamp(self, batch: Any, nanoseconds: int) -> Any:
        """Return a batch with a receive time."""

    def begin(self) -> None:
        """Prepare for a turn."""
        return

    def serve(self) -> None:
        """Do what the writer has to do for a read."""
        return

    def stored(self) -> int | None:
        """Return the bytes that all rows occupy; None if that is not known."""
        return None

    def place(self) -> Any:
        """Return the argument of the reader's constructor."""
        return None

    def version(self) -> str:
        """Return the versions of the software that it uses."""
        return ""


class Reader(ABC):
    """The reading side of a subject, in a process of its own."""

    @abstractmethod
    def last(self, count: int) -> Any:
        """Return the last `count` rows as a DataFrame of Polars or pandas."""

    def follow(self) -> Iterator[pl.DataFrame]:
        """Yield new rows as they arrive."""
        raise NotImplementedError


# -- ours


class FramesWriter(Writer):
    def __init__(self, rows: PreparedRows, frame: pl.DataFrame, stack: contextlib.ExitStack) -> None:
        super().__init__(rows, frame, stack)
        self._rows = rows
        run, self._writer = stack.enter_context(open_frame(rows, ROOMY))
        self._place = str(run.path)

    def batches(self, size: int) -> list[Rows]:
        return self._rows.batches(size)

    def write(self, batch: Rows) -> None:
        self._writer.append(batch)

    def stamp(self, batch: Rows, nanoseconds: int) -> Rows:
        return stamp(batch, nanoseconds)

    def stored(self) -> int:
        return int(self._writer.bytes / self._writer.rows * ROWS)

    def place(self) -> str:
        return self._place


class FramesReader(Reader):
    poll_s = 0.005
    """Poll interval of a tail while no rows arrive."""

    def __init__(self, place: str) -> None:
        self._run = mdstream.attach(place)

    def last(self, count: int) -> pl.DataFrame:
        return self._run.frame("stocks.trades").tail(count)

    def follow(self) -> Iterator[pl.DataFrame]:
        return iter(self._run.tail("stocks.trades", poll_s=self.poll_s))


class EagerFramesReader(FramesReader):
    poll_s = 0.0002


# -- Redis


class MissingError(Exception):
    """An alternative is not installed."""


def redis_server() -> str:
    """Return the path of redis-server, from the virtual environment or from PATH."""
    own = Path(sys.executable).with_name("redis-server")
    found = str(own) if own.exists() else shutil.which("redis-server")
    if found is None:
        raise MissingError("no redis-server")
    return found


class RedisWriter(Writer):
    """A writer with its own redis-server on a Unix socket: the base of both Redis writers."""

    def __init__(self, rows: PreparedRows, frame: pl.DataFrame, stack: contextlib.ExitStack) -> None:
        super().__init__(rows, frame, stack)
        try:
            import redis
        except ModuleNotFoundError as error:
            raise MissingError("no redis (Python)") from error
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="redis-"))
        self._socket = f"{folder}/socket"
        command = [
            redis_server(),
            "--port",
            "0",
            "--unixsocket",
            self._socket,
            "--save",
            "",
            "--appendonly",
            "no",
            "--maxmemory",
            "2gb",
            "--dir",
            folder,
        ]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        stack.callback(server.wait)
        stack.callback(server.terminate)
        self._redis = redis.Redis(unix_socket_path=self._socket)
        deadline = time.monotonic() + 10
        while True:
            with contextlib.suppress(redis.ConnectionError):
                self._redis.ping()
                break
            if time.monotonic() > deadline or server.poll() is not None:
                raise MissingError("redis-server does not start")
            time.sleep(0.02)

    def begin(self) -> None:
        self._redis.delete("trades")

    def stored(self) -> int | None:
        used = self._redis.memory_usage("trades", samples=0)
        return None if used is None else int(used)

    def place(self) -> str:
        return self._socket

    def version(self) -> str:
        import redis

        info: Any = self._redis.info("server")
        return f"redis-server {info['redis_version']}, redis-py {redis.__version__}"


class RedisRowsWriter(RedisWriter):
    def batches(self, size: int) -> list[Any]:
        rows = _times_to_numbers(self.frame).to_dicts()
        return [rows[i : i + size] for i in range(0, len(rows), size)]

    def write(self, batch: list[dict[str, Any]]) -> None:
        with self._redis.pipeline(transaction=False) as pipe:
            for row in batch:
                pipe.xadd("trades", row, maxlen=ROWS)
            pipe.execute()

    def stamp(self, batch: list[dict[str, Any]], nanoseconds: int) -> Any:
        return [{**row, "recv_ts": nanoseconds} for row in batch]


class RedisArrowWriter(RedisWriter):
    def batches(self, size: int) -> list[Any]:
        return list(self.frame.iter_slices(size))

    def write(self, batch: pl.DataFrame) -> None:
        data = io.BytesIO()
        batch.write_ipc_stream(data)
        self._redis.xadd("trades", {"rows": data.getvalue()}, maxlen=ROWS // batch.height)

    def stamp(self, batch: pl.DataFrame, nanoseconds: int) -> Any:
        return _stamp_frame(batch, nanoseconds)


class RedisReader(Reader):
    def __init__(self, place: str) -> None:
        import redis

        self._redis = redis.Redis(unix_socket_path=place)

    def last(self, count: int) -> pl.DataFrame:
        found: Any = self._redis.xrevrange("trades", count=self.entries_of(count))
        return self.frame([fields for _, fields in reversed(found)])

    def follow(self) -> Iterator[pl.DataFrame]:
        after: Any = "$"
        while True:
            found: Any = self._redis.xread({"trades": after}, block=1000)
            if found:
                ((_, entries),) = found.items() if isinstance(found, dict) else found
                entries = entries[0] if isinstance(found, dict) else entries
                after = entries[-1][0]
                yield self.frame([fields for _, fields in entries])

    def entries_of(self, count: int) -> int:
        return count

    def frame(self, found: list[dict[bytes, bytes]]) -> pl.DataFrame:
        columns = {
            name.decode(): pl.Series([fields[name] for fields in found]).cast(pl.String)
            for name in found[0]
        }
        return cast_columns(pl.DataFrame(columns))


class RedisArrowReader(RedisReader):
    def entries_of(self, count: int) -> int:
        return count // BATCH

    def frame(self, found: list[dict[bytes, bytes]]) -> pl.DataFrame:
        return pl.concat([pl.read_ipc_stream(fields[b"rows"]) for fields in found])


# -- files


class ParquetWriter(Writer):
    def __init__(self, rows: PreparedRows, frame: pl.DataFrame, stack: contextlib.ExitStack) -> None:
        super().__init__(rows, frame, stack)
        folder = tempfile.TemporaryDirectory(dir=_SHM if Path(_SHM).is_dir() else None)
        self._folder = Path(stack.enter_context(folder))
        self._count = 0

    def begin(self) -> None:
        self._count = 0
        for path in self._folder.iterdir():
            path.unlink()

    def batches(self, size: int) -> list[Any]:
        return list(self.frame.iter_slices(size))

    def write(self, batch: pl.DataFrame) -> None:
        path = self._folder / f"{self._count:06}.parquet"
        self._count += 1
        batch.write_parquet(path.with_suffix(".new"))
        path.with_suffix(".new").rename(path)  # readers see a complete file or none

    def stamp(self, batch: pl.DataFrame, nanoseconds: int) -> Any:
        return _stamp_frame(batch, nanoseconds)

    def stored(self) -> int:
        return sum(path.stat().st_size for path in self._folder.iterdir())

    def place(self) -> str:
        return str(self._folder)


class ParquetReader(Reader):
    def __init__(self, place: str) -> None:
        self._pattern = f"{place}/*.parquet"

    def last(self, count: int) -> pl.DataFrame:
        return pl.read_parquet(self._pattern).tail(count)


# -- pandas


class PandasWriter(Writer):
    def __init__(self, rows: PreparedRows, frame: pl.DataFrame, stack: contextlib.ExitStack) -> None:
        super().__init__(rows, frame, stack)
        try:
            import pandas as pd
        except ModuleNotFoundError as error:
            raise MissingError("no pandas") from error
        self._concat = pd.concat
        self._ours, self._theirs = multiprocessing.get_context("spawn").Pipe()
        self._all: Any = None

    def begin(self) -> None:
        self._all = None

    def batches(self, size: int) -> list[Any]:
        return [piece.to_pandas() for piece in self.frame.iter_slices(size)]

    def write(self, batch: Any) -> None:
        if self._all is None:
            self._all = batch
        else:
            self._all = self._concat([self._all, batch], ignore_index=True).tail(ROWS)

    def stamp(self, batch: Any, nanoseconds: int) -> Any:
        return batch

    def serve(self) -> None:
        self._ours.send(self._all.tail(self._ours.recv()))

    def place(self) -> Connection:
        return self._theirs


class PandasReader(Reader):
    def __init__(self, place: Connection) -> None:
        self._pipe = place

    def last(self, count: int) -> Any:
        self._pipe.send(count)
        return self._pipe.recv()


# -- a queue


class QueueWriter(Writer):
    def __init__(self, rows: PreparedRows, frame: pl.DataFrame, stack: contextlib.ExitStack) -> None:
        super().__init__(rows, frame, stack)
        self._queue: Any = multiprocessing.get_context("spawn").Queue()
        stack.callback(self._queue.cancel_join_thread)

    def batches(self, size: int) -> list[Any]:
        rows = _times_to_numbers(self.frame).to_dicts()
        return [rows[i : i + size] for i in range(0, len(rows), size)]

    def write(self, batch: list[dict[str, Any]]) -> None:
        for row in batch:
            self._queue.put(row)

    def stamp(self, batch: list[dict[str, Any]], nanoseconds: int) -> Any:
        return [{**row, "recv_ts": nanoseconds} for row in batch]

    def place(self) -> Any:
        return self._queue


class QueueReader(Reader):
    def __init__(self, place: Any) -> None:
        self._queue = place
        self._kept: collections.deque[dict[str, Any]] = collections.deque(maxlen=ROWS)

    def last(self, count: int) -> pl.DataFrame:
        for _ in range(count):
            self._kept.append(self._queue.get())
        return cast_columns(pl.DataFrame(list(self._kept)))

    def follow(self) -> Iterator[pl.DataFrame]:
        while True:
            rows = [self._queue.get()]
            while not self._queue.empty():
                rows.append(self._queue.get())
            yield cast_columns(pl.DataFrame(rows))


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


def _times_to_numbers(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the frame with times as integers."""
    return frame.with_columns(pl.col(*_TIMES).to_physical())


def _stamp_frame(batch: pl.DataFrame, nanoseconds: int) -> pl.DataFrame:
    return batch.with_columns(recv_ts=pl.lit(nanoseconds).cast(batch.schema["recv_ts"]))


# -- the process of a subject


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
