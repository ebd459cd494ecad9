"""Rows that pass through a stream of Redis, over a Unix socket: an entry per row, or per batch."""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.frames_rows import PreparedRows
from benchmarks.frames_sides import (
    BATCH,
    ROWS,
    MissingError,
    Reader,
    Writer,
    cast_columns,
    stamp_frame,
    times_to_numbers,
)


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
        rows = times_to_numbers(self.frame).to_dicts()
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
        return stamp_frame(batch, nanoseconds)


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
