"""The readers' way in: attach to a running engine, look at its frames, follow what is new."""

from __future__ import annotations

import contextlib
import json
import math
import re
import threading
import time
from collections.abc import Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import polars as pl
import polars.selectors as cs

from mdstream.errors import ConfigError, NoRunError
from mdstream.frames import rundir
from mdstream.frames.layout import is_keyed, read_schema
from mdstream.reading.bars import Every, compared, longer, of_trades
from mdstream.reading.keyed_frame_reader import KeyedFrameReader
from mdstream.reading.narrow import Since, narrowed
from mdstream.reading.reader import Categories, FrameReader
from mdstream.reading.tail import Follow, Tail, labelled
from mdstream.reading.views import View, view_of, views_in
from mdstream.streams import STREAMS
from mdstream.telemetry.state import FeedState, read_stream

if TYPE_CHECKING:
    import duckdb
    import pandas
    import pyarrow as pa


_NAME = re.compile(r"\w+\.\w+")
_FRAME_S = 10.0
"""How long a frame that is not there may take to appear."""
_QUOTED = re.compile(r"""('(?:[^']|'')*')|"(\w+)"\."(\w+)\"""")
_coded = cs.categorical()


def attach(run: str | None = None, directory: str | Path | None = None) -> Attachment:
    """Attach to the running engine, or to run `run`; any process of the same user may.

    `directory` is where the engine keeps its runs, if it was told to (`frames.directory`).
    Raises `NoRunError` where nothing runs.
    """
    return Attachment(rundir.find(run, Path(directory) if directory else None))


class Attachment:
    """A reader's view of one run; threads may share it. However slow or dead the reader is, the engine does
    not wait for it.
    """

    # The mutable state: readers and categories, as they were asked for. `lock` guards them and all they
    # have mapped.

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = threading.RLock()
        self.info: dict[str, Any] = json.loads((path / "run.json").read_text())
        self.run: str = self.info["run"]
        self._readers: dict[str, FrameReader] = {}
        self._keyed_readers: dict[str, KeyedFrameReader] = {}
        self._categories: dict[str, dict[str, Categories]] = {}
        self._states: dict[str, FeedState] = {}

    def __repr__(self) -> str:
        return f"<mdstream run {self.run}: {', '.join(self.frames)}>"

    @property
    def alive(self) -> bool:
        """Whether the engine still runs."""
        return rundir.is_alive(self.path)

    @property
    def frames(self) -> list[str]:
        """Names of all frames: `<stream>.<channel>`, and the engine's own `telemetry.*`."""
        names = {path.name.partition("@")[0] for path in self._folders("*")}
        return sorted(names | views_in(self.path / "frames"))

    def rows(self, name: str) -> int:
        """Rows ever published in frame `name`, or in the one that view `name` shows, with those that
        retention has dropped.
        """
        if (found := self._view(name)) is not None:
            name = found[0]
        with self.lock:
            if (keyed := self._keyed_reader(name)) is not None:
                return keyed.rows
            return sum(reader.rows for reader in self.parts(name))

    def frame(
        self, name: str, *, symbols: str | Sequence[str] | None = None, since: Since | None = None
    ) -> pl.DataFrame:
        """Frame `name` as it stands now, as a zero-copy DataFrame.

        Rows that come later are not in it: call again, which costs some half a millisecond, however many
        rows there are. Views (`options.chains`, `news.latest`) and books are made anew at each call and
        cost milliseconds. Times are
        `Datetime("ns", "UTC")`, prices Float64, symbols and codes categoricals. Memory that the
        engine drops later stays readable as long as the DataFrame lives.

        `symbols` keeps rows of these symbols only (articles that name one of them), `since` rows whose
        time (`ts`; of articles `created_at`) is not before a moment: a datetime with its zone, a
        timedelta (so long ago), or nanoseconds. What is kept is a copy then.
        """
        if (found := self._view(name)) is not None:
            source, view = found
            return narrowed(view.make(self.frame(source)), symbols, since)
        with self.lock:
            if (keyed := self._keyed_reader(name)) is not None:
                frame = keyed.read()
            else:
                pieces = [labelled(reader, reader.read()[1]) for reader in self.parts(name)]
                frame = pieces[0] if len(pieces) == 1 else pl.concat(pieces, rechunk=False)
        return narrowed(frame, symbols, since)

    def latest(self, stream: str, *, symbols: str | Sequence[str] | None = None) -> pl.DataFrame:
        """The last trade and quote of each symbol of `stream`, with their times: a row a symbol, each as it
        was at one moment. A copy, for the engine keeps it up to date in place. Of `news`: each article
        once, as it reads now; `symbols` keeps those that name one of them.
        """
        return self.frame(f"{stream}.latest", symbols=symbols)

    def book(self, symbol: str) -> pl.DataFrame:
        """The best levels of a symbol's order book, a row a level, from the best one (`level` 1) on.

        All are of one moment. `bid_levels` and `ask_levels` tell how many levels are known, of which the
        best 1,000 of a side are kept (what is dropped is counted in the report); the book is
        `complete` if it has begun with a reset.
        """
        names = [name for name in self.frames if name.endswith(".books")]
        if not names:
            raise KeyError(f"no frame of order books in run {self.run}")
        found = [self.frame(name, symbols=symbol) for name in names]
        return next((frame for frame in found if frame.height), found[0])

    def chain(self, root: str, *, expiry: date | None = None) -> pl.DataFrame:
        """The option chain of `root` (an underlying's, mostly), of all expiries or one.

        A row a contract: `strike`, `expiry`, `right`, bid, ask, mid, last, implied volatility and Greeks,
        and when each of these was the case. Quotes and trades are the stream's last ones, Greeks those of
        the last snapshot.
        """
        for name in self.frames:
            if name.endswith(".chains"):
                found = self.frame(name).filter(pl.col("root") == root)
                return found if expiry is None else found.filter(pl.col("expiry") == expiry)
        raise KeyError(f"no option chains in run {self.run}")

    def bars(
        self,
        stream: str,
        every: str = "1m",
        *,
        symbols: str | Sequence[str] | None = None,
        since: Since | None = None,
    ) -> pl.DataFrame:
        """Bars of `stream` as they are now, a row a bar, sorted by symbol and time.

            run.bars("stocks", "5m", symbols="AAPL")

        `every` is a time (`30s`, `5m`, `1h`, `1d`; days are those of New York) or what is traded (`1000
        trades`, `50000 volume`, `1000000 dollars`). Bars of time are made of those the engine builds, with
        all corrections; those of what is traded of the trades as they came.
        """
        length = Every.parse(every)
        rules = STREAMS[stream].bar_rules if stream in list(STREAMS) else None
        if rules is None:
            raise ConfigError(f"bars: {stream} is no stream with trades to make them of")
        # Of all symbols: what was missed of one may have been missed of all.
        source = self.frame(f"{stream}.{length.source}")
        if length.is_time:
            return narrowed(longer(source, length), symbols, since)
        return narrowed(of_trades(narrowed(source, symbols, None), rules, length), None, since)

    def metrics(self) -> dict[str, dict[str, Any]]:
        """Return the engine's metrics as they are at this moment: stream → name → value.

            run.metrics()["stocks"]["latency_p99_ms"]

        They are read from the feeds' counters; `telemetry.streams` has a row of them for each second. The
        value of a histogram is its counts by bucket, a uint64 array (`telemetry.histogram.upper_ns` says
        where a bucket ends). Names, kinds, units and meanings are in `mdstream.telemetry.metrics.STREAM`.
        Raises `NoRunError` where the run has ended.
        """
        try:
            with self.lock:
                for path in (self.path / "feeds").glob("*.state"):
                    if path.stem not in self._states:
                        self._states[path.stem] = FeedState(path)
                if self.path.exists():
                    return {name: read_stream(self.path, name, self._states[name]) for name in self._states}
        except FileNotFoundError:
            pass  # it ended just now
        raise NoRunError(f"run {self.run} has ended")

    def compare_bars(self, stream: str) -> pl.DataFrame:
        """The service's minute bars of `stream` beside those built here, a row a bar.

        `differing` names the numbers that are not the same: all of them where one side lacks the bar. Bars
        that are not complete here are left out, and so is `vwap` beyond the sixth digit, which the service
        does not send.
        """
        if f"{stream}.bars" not in self.frames or f"{stream}.bars_1m" not in self.frames:
            raise ConfigError(f"compare_bars: the service sends no bars of {stream}")
        return compared(self.frame(f"{stream}.bars"), self.frame(f"{stream}.bars_1m"))

    def lazy(self, name: str) -> pl.LazyFrame:
        """Frame `name` as it stands now, for a query that Polars optimises as a whole."""
        return self.frame(name).lazy()

    def sql(self, query: str) -> pl.DataFrame:
        """The answer to a SQL query over frames by their names, as they stand now.

            run.sql("select symbol, avg(price) from stocks.trades group by symbol")

        Symbols and codes are texts in it. Raises Polars' errors where it is no query, or names what is no
        frame.
        """
        query = _QUOTED.sub(lambda m: m[1] or f"{m[2]}.{m[3]}", query)  # texts stay as they are
        frames = {name: self.lazy(name) for name in self._there() if name.lower() in query.lower()}
        # Texts, as SQL knows them: categories can neither be searched nor joined with those of others.
        plain = {name: frame.with_columns(_coded.cast(pl.String)) for name, frame in frames.items()}
        return pl.SQLContext(plain, eager=True).execute(query)

    def tail(
        self,
        name: str,
        *,
        symbols: str | Sequence[str] | None = None,
        from_start: bool = False,
        poll_s: float = 0.001,
        max_rows: int = 0,
        max_lag: int = 0,
        on_lag: Literal["drop", "raise"] = "drop",
    ) -> Tail:
        """Follow frame `name`: iterate, with `for` or `async for`, over DataFrames of new rows.

        Begins with the next row, or with the oldest that is kept if `from_start`. Ends when the
        engine does. `symbols` keeps rows of these only. `max_rows` bounds the rows of one DataFrame.

        A reader may be as far behind as the frame keeps rows, or `max_lag` rows if that is given;
        what it did not read in time is dropped and counted in the tail's `missed`, or, with
        `on_lag="raise"`, ends it with `LagError`. The engine never waits for a reader.
        """
        if (found := self._view(name)) is not None:
            raise ConfigError(f"{name} is a view of {found[0]}: follow that")
        with self.lock:
            if self._keyed_reader(name) is not None:
                raise ConfigError(
                    f"{name} is a keyed frame: its rows change in place, so no tail can follow it"
                )
        narrow = None
        if symbols is not None:
            narrow = partial(narrowed, symbols=symbols, since=None)
        return Tail(self, name, Follow(from_start, poll_s, max_rows, max_lag, on_lag), narrow)

    def wait_for(
        self,
        name: str,
        where: pl.Expr | None = None,
        *,
        symbols: str | Sequence[str] | None = None,
        timeout: float | None = None,
    ) -> pl.DataFrame:
        """Wait for rows of frame `name` that are yet to come: the first ones for which `where` holds.

            run.wait_for("stocks.trades", pl.col("price") > 200, symbols="AAPL", timeout=60)

        A frame that is not there yet is waited for some seconds. Raises `TimeoutError` after `timeout`
        seconds, and `NoRunError` if the engine ends before.
        """
        started = time.monotonic()
        deadline = math.inf if timeout is None else started + timeout
        tail: Tail | None = None
        absent = False
        while time.monotonic() < deadline:
            if tail is None:
                try:
                    tail = self.tail(name, symbols=symbols, from_start=absent)
                except KeyError:
                    absent = True  # all of its rows are yet to come
                    if time.monotonic() - started > _FRAME_S:
                        raise
            new = tail.poll() if tail is not None else None
            if new is not None and where is not None:
                new = new.filter(where)
            if new is not None and new.height:
                return new
            if not self.alive:
                raise NoRunError(f"run {self.run} ended before {name} had such a row")
            time.sleep(0.005)
        raise TimeoutError(f"{name} had no such row within {timeout:g} s")

    def arrow(self, name: str) -> pa.Table:
        """Frame `name` as a pyarrow table; numbers and times are not copied."""
        return self.frame(name).to_arrow()

    def pandas(self, name: str) -> pandas.DataFrame:
        """Frame `name` as a pandas DataFrame: a copy. Needs pandas."""
        return self.frame(name).to_pandas()

    def duckdb(self) -> duckdb.DuckDBPyConnection:
        """A DuckDB connection with each frame, as it stands now, as a view. Needs duckdb."""
        import duckdb

        connection = duckdb.connect()
        for name in self._there():
            schema, _, view = name.partition(".")
            connection.execute(f'create schema if not exists "{schema}"')
            connection.register(f"{schema}__{view}", self.arrow(name))
            connection.execute(f'create view "{schema}"."{view}" as from "{schema}__{view}"')
        return connection

    def _repr_html_(self) -> str:
        """For notebooks: the run and its frames."""
        state = "running" if self.alive else "ended"
        with contextlib.suppress(NoRunError):
            rows = [(name, self.rows(name), _columns_of(self.frame(name))) for name in self.frames]
            body = "".join(
                f"<tr><td>{name}</td><td style='text-align:right'>{count:,}</td><td>{columns}</td></tr>"
                for name, count, columns in rows
            )
            return (
                f"<b>mdstream run {self.run}</b>, {state}<table><tr><th>frame</th><th>rows</th>"
                f"<th>columns</th></tr>{body}</table>"
            )
        return f"<b>mdstream run {self.run}</b>, {state}"

    def _folders(self, pattern: str) -> list[Path]:
        found = (self.path / "frames").glob(pattern)
        return sorted(path for path in found if (path / "head").exists())

    def _there(self) -> list[str]:
        """The names of all frames. Raises `NoRunError` where there are none any more."""
        if not self.path.exists():
            raise NoRunError(f"run {self.run} has ended")
        return self.frames

    def _view(self, name: str) -> tuple[str, View] | None:
        return view_of(self.path / "frames", name) if _NAME.fullmatch(name) else None

    def _keyed_reader(self, name: str) -> KeyedFrameReader | None:
        """Return the reader of keyed frame `name`; None if it is not a keyed frame."""
        if not _NAME.fullmatch(name):
            return None
        if name not in self._keyed_readers:
            folder = self.path / "frames" / name
            if not (folder / "head").exists() or not is_keyed(read_schema(folder)):
                return None
            categories = self._categories.setdefault(name.partition(".")[0], {})
            self._keyed_readers[name] = KeyedFrameReader(folder, categories)
        return self._keyed_readers[name]

    def parts(self, name: str) -> list[FrameReader]:
        """The readers of a frame: one, or one for each process that writes a part of it. To be called, and
        read, under `lock`.
        """
        folders: list[Path] = []
        if _NAME.fullmatch(name):
            folders = self._folders(name) or self._folders(name + "@*")
        if not folders:
            if not self.path.exists():
                raise NoRunError(f"run {self.run} has ended")
            raise KeyError(f"no frame {name!r} in run {self.run}; there are {', '.join(self.frames)}")
        for folder in folders:
            if folder.name not in self._readers:
                stream = folder.name.partition(".")[0]
                categories = self._categories.setdefault(stream, {})
                self._readers[folder.name] = FrameReader(folder, categories)
        return [self._readers[folder.name] for folder in folders]


def _columns_of(frame: pl.DataFrame) -> str:
    return ", ".join(frame.columns)
