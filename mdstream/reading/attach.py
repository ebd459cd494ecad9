"""The readers' entry: attach to a running engine, read its frames, follow new rows.

The docstrings are the reference of all that readers can do, which makes this file long.
"""

from __future__ import annotations

import contextlib
import math
import re
import threading
import time
from collections.abc import Sequence
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

import polars as pl
import polars.selectors as cs

from mdstream.errors import ConfigError, NoRunError, UnknownNameError
from mdstream.frames import rundir
from mdstream.reading.arguments import list_names, list_symbols, require
from mdstream.reading.bars import BarLength, build_bars, compare_bars, merge_bars
from mdstream.reading.chains import keep_expiry
from mdstream.reading.filters import FrameArguments, Since, filter_rows, keep_sessions, to_seconds
from mdstream.reading.open_frames import OpenFrames
from mdstream.reading.reader import FrameReader
from mdstream.reading.tail import Tail, TailArguments, TailOptions, Tails, label_rows
from mdstream.reading.zones import Zone, read_zone, show_in_zone
from mdstream.streams import STREAMS
from mdstream.streams.books import book_channel
from mdstream.system.paths import require_path
from mdstream.telemetry.state import FeedState, read_stream

if TYPE_CHECKING:
    import duckdb
    import pandas
    import pyarrow as pa


_QUOTED = re.compile(r"""('(?:[^']|'')*')|"(\w+)"\."(\w+)\"""")
_NO_RELATION = re.compile(r"relation '(.+?)' was not found")
"""What Polars says of a table that a query names and nothing has."""
_CODED = cs.categorical()


def attach(run: str | None = None, directory: str | Path | None = None) -> Attachment:
    """Attach to a running engine of the same user and return a reader of its frames.

        run = mdstream.attach()
        run.frame("stocks.trades")

    `run` is the name of a run or the path of its folder; by default, the newest one that runs. If several
    run, a warning says which one was taken. `directory` is the folder of runs if the engine has the setting
    `frames.directory`.

    Raises `NoRunError` if no such engine runs, and `ConfigError` for an empty name or path.
    """
    root = None if directory is None else Path(require_path("directory", directory))
    return Attachment(rundir.find(run, root))


class Attachment:
    """A reader of one run's frames; `attach` returns it. Threads may share it.

    It maps the shared memory of the run read-only. The engine never waits for a reader, however slow.

    Errors that all methods have in common: `UnknownNameError` (a `KeyError`), with the nearest known names,
    for a frame that the run does not have or a symbol that it does not follow; `ConfigError` for an
    argument that cannot be used. A frame that the run has not created yet is empty.

    Once the run has ended, frames that were opened before can still be read, as far as they were opened.
    For all others `NoRunError` is raised.
    """

    path: Path
    """Folder of the run."""
    run: str
    """Name of the run."""
    _open: OpenFrames
    # Written by `metrics`, under `lock`.
    _states: dict[str, FeedState]
    """Counters of each feed, by stream."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open = OpenFrames(path)
        self.run = self._open.run
        self._states = {}

    def __repr__(self) -> str:
        state = "" if self.alive else " (ended)"
        return f"<mdstream run {self.run}{state}: {', '.join(self.frames) or 'no frames yet'}>"

    @property
    def info(self) -> dict[str, Any]:
        """Contents of the run's `run.json`: settings and processes, for people."""
        if "started" not in self._open.facts.info:
            self._open.facts.refresh()
        return self._open.facts.info

    @property
    def alive(self) -> bool:
        """Whether the engine still runs."""
        return rundir.is_alive(self.path)

    @property
    def frames(self) -> list[str]:
        """Sorted names of all frames: `<stream>.<channel>`, and `telemetry.*` about the engine itself."""
        return self._open.names

    def rows(self, name: str) -> int:
        """Return how many rows were ever published in a frame, including those that were dropped since.

        The rows of a view are those of the frame that it reads.
        """
        if (found := self._open.view(name)) is not None:
            name = found[0]
        with self.lock:
            if (keyed := self._open.keyed_reader(name)) is not None:
                return keyed.rows
            return sum(reader.rows for reader in self.parts(name))

    def frame(
        self,
        name: str,
        *,
        symbols: str | Sequence[str] | None = None,
        since: Since | None = None,
        session: str | Sequence[str] | None = None,
        tz: Zone | None = None,
    ) -> pl.DataFrame:
        """Return a frame as it is now, as a zero-copy DataFrame.

            run.frame("stocks.trades")
            run.frame("stocks.trades", symbols=["AAPL", "MSFT"], since=timedelta(minutes=5))

        A call takes about half a millisecond, however many rows there are. Later rows are not added: call
        again. Memory that the engine drops later stays readable as long as the DataFrame exists. Times are
        `Datetime("ns", "UTC")`, prices Float64, symbols and codes Categorical.

        `symbols` keeps the rows of these symbols; of articles, those that name one of them. `since` keeps
        the rows whose time is not before a moment. It is a datetime with its zone (also as a string in ISO
        8601), a date (its midnight in UTC), a timedelta before now (also as a string: `5m`, `90s`,
        `1h30m`), or nanoseconds since 1970, if not before 2000. The time is `ts`, of articles
        `created_at`. `session` keeps the rows of sessions of the market, whatever the data feed: `regular`,
        `pre`, `post`, `overnight`, or a list of these. Daily bars are in none of them. Each returns a copy.

        `tz` is the zone of the times that are returned, and of a `since` without one: "America/New_York", a
        zone of `zoneinfo`, or a fixed offset of whole hours, as `timezone(timedelta(hours=-5))`.

        Keyed frames (`stocks.latest`, `crypto.books`) are copied, each row as it was at one moment. Views
        (`options.chains`, `news.latest`, `news.by_symbol`) are computed, which takes milliseconds.
        """
        zone = None if tz is None else read_zone(tz)
        frame = self._read(name)
        self._check_symbols(name, symbols)
        kept = keep_sessions(filter_rows(frame, symbols, since, zone), session, name)
        return show_in_zone(kept, zone)

    def _read(self, name: str) -> pl.DataFrame:
        """Return all rows of a frame or view as they are now."""
        if (found := self._open.view(name)) is not None:
            source, view = found
            return view.make(self._read(source))
        with self.lock:
            if (keyed := self._open.keyed_reader(name)) is not None:
                return keyed.read()
            pieces = [label_rows(reader, _read_part(reader)) for reader in self.parts(name)]
            if not pieces:
                return self._open.read_empty(name)
            return pieces[0] if len(pieces) == 1 else pl.concat(pieces, rechunk=False)

    def _check_symbols(self, name: str, symbols: str | Sequence[str] | None) -> None:
        """Raise `UnknownNameError` if the stream of frame `name` does not know one of `symbols`."""
        if symbols is not None:
            with self.lock:
                self._open.facts.check_symbols(name.partition(".")[0], list_symbols(symbols))

    def latest(
        self, stream: str, *, symbols: str | Sequence[str] | None = None, tz: Zone | None = None
    ) -> pl.DataFrame:
        """Return the last trade and quote of each symbol of `stream`, a row for each symbol.

            run.latest("stocks", symbols="AAPL")

        Columns are those of trades and quotes with the prefix `trade_` or `quote_`. Each row is a copy of
        one moment. For `news`, it returns the last revision of each article instead. `tz` as for `frame`.
        """
        require(str, stream=stream)
        return self.frame(f"{stream}.latest", symbols=symbols, tz=tz)

    def book(self, symbol: str) -> pl.DataFrame:
        """Return the ten best levels of a symbol's order book, a row for each, the best (`level` 1) first.

            run.book("BTC/USD").select("level", "bid_price", "bid_size", "ask_price", "ask_size")

        All rows are from one moment. Prices and sizes are Float64, null where a side has fewer levels.
        `bid_levels` and `ask_levels` count the levels that the engine keeps, at most 1,000 of a side.
        `complete` is false until the service has sent the whole book. Empty for a followed symbol that has
        no book yet.

        Raises `UnknownNameError` for a symbol that no stream with order books follows, and if no stream of
        the run has order books.
        """
        require(str, symbol=symbol)
        names = [name for name in self._open.facts.declared_frames if name.endswith(".books")]
        if not names:
            having = [spec.name for spec in STREAMS.values() if book_channel(spec)]
            raise self._no_stream("book", "order books", having)
        with self.lock:
            stream = self._open.facts.choose_stream([name.partition(".")[0] for name in names], symbol)
        return self.frame(f"{stream}.books", symbols=symbol)

    def chain(self, underlying: str, *, expiry: date | str | None = None) -> pl.DataFrame:
        """Return the option chain of an underlying, a row for each contract; of one expiry or of all.

            run.chain("AAPL", expiry=date(2026, 12, 18))

        `underlying` is its symbol (`BRK.B`) or what its contracts begin with (`BRKB`). Contracts that were
        adjusted after a split or merger have a root of their own, such as `AAPL1`. Columns: `strike` and
        prices (Float64), `expiry` (Date), `right` ("call" or "put"), bid, ask, mid, last, implied
        volatility and Greeks, and the times of the last quote, trade and Greeks. Quotes and trades come
        from the stream, Greeks from the last snapshot. Sorted by expiry, strike and right.

        `expiry` is a date, also as a string. Raises `UnknownNameError` for an underlying that the run
        neither follows nor has contracts of, for an expiry of none of its contracts, and if the run has no
        options.
        """
        require(str, underlying=underlying)
        for name in self._open.facts.declared_chains:
            with self.lock:
                root = self._open.facts.resolve_root(name.partition(".")[0], underlying)
            found = self.frame(name).filter(pl.col("root") == root)
            return found if expiry is None else keep_expiry(found, underlying, expiry)
        raise self._no_stream("chain", "option chains", [s.name for s in STREAMS.values() if s.chain])

    def _no_stream(self, call: str, what: str, having: list[str]) -> UnknownNameError:
        """Return the error of a run none of whose streams has `what`; the streams `having` it do."""
        runs = ", ".join(self._open.facts.streams) or "no stream"
        return UnknownNameError(
            f"{call}: no {what} in run {self.run}, which has {runs}; "
            f"add {' or '.join(having)} to its streams",
            having,
        )

    def bars(
        self,
        stream: str,
        every: str = "1m",
        *,
        symbols: str | Sequence[str] | None = None,
        since: Since | None = None,
        session: str | Sequence[str] | None = None,
        tz: Zone | None = None,
    ) -> pl.DataFrame:
        """Return the bars of a stream as they are now, a row for each, sorted by symbol and time.

            run.bars("stocks", "5m", symbols="AAPL")
            run.bars("crypto", "1000 trades")

        `every` is a time (`30s`, `5m`, `1h`, `1d`; days are those of New York) or what is traded
        (`1000 trades`, `50000 volume`, `1000000 dollars`). Bars of time are merged from those that the
        engine builds, with all corrections. Bars of what is traded are built from the trades as received.

        Columns: `symbol`, `ts` (start of the bar), `open`, `high`, `low`, `close`, `vwap` (Float64),
        `volume`, `trade_count`, `vwap_volume`, `revised`, `complete` and `recv_ts`. Bars of what is traded
        also have their number, `bar`; in these, `ts` and `end` are the times of the first and last trade.

        `session` builds them from what is in these sessions alone: of the hour from 9:00 in New York,
        `regular` is the half from 9:30. `tz` as for `frame`.

        Raises `UnknownNameError` for a stream without trades, and `ConfigError` for another length.
        """
        require(str, stream=stream)
        zone = None if tz is None else read_zone(tz)
        length = BarLength.parse(every)
        self._check_symbols(f"{stream}.bars", symbols)
        rules = STREAMS[stream].bar_rules if stream in list(STREAMS) else None
        if rules is None:
            having = [name for name in self._open.facts.streams if STREAMS[name].bar_rules]
            raise UnknownNameError.among(having, stream, f"bars: {stream!r} is not a stream with trades")
        # All symbols: a gap in the data of one may be a gap in the data of all.
        source = self.frame(f"{stream}.{length.source}", session=session)
        if length.is_time:
            bars = filter_rows(merge_bars(source, length), symbols, since, zone)
        else:
            bars = filter_rows(build_bars(filter_rows(source, symbols), rules, length), None, since, zone)
        return show_in_zone(bars, zone)

    def metrics(self) -> dict[str, dict[str, Any]]:
        """Return the engine's metrics at this moment: stream → name → value.

            run.metrics()["stocks"]["latency_p99_ms"]

        They are read from the feeds' counters; `telemetry.streams` has a row of them for each second. The
        value of a histogram is a uint64 array of counts by bucket (`telemetry.histogram.upper_ns` returns
        where a bucket ends). `mdstream.telemetry.metrics.STREAM` lists names, kinds, units and meanings.
        """
        try:
            with self.lock:
                for path in (self.path / "feeds").glob("*.state"):
                    if path.stem not in self._states:
                        self._states[path.stem] = FeedState(path)
                if not self.path.exists():
                    raise NoRunError(f"run {self.run} has ended")
                return {name: read_stream(self.path, name, self._states[name]) for name in self._states}
        except FileNotFoundError:
            raise NoRunError(f"run {self.run} has ended") from None

    def compare_bars(self, stream: str) -> pl.DataFrame:
        """Return the service's minute bars of a stream beside those built here, a row for each bar.

        Numbers are in pairs of columns, `open_served` and `open_built` and so on. `differing` lists the
        names of those that differ; all of them if one side lacks the bar. Bars that are incomplete here
        are left out. `vwap` is compared to six digits: the service rounds it.

        Raises `ConfigError` if the service sends no bars of this stream.
        """
        require(str, stream=stream)
        if f"{stream}.bars" not in self.frames or f"{stream}.bars_1m" not in self.frames:
            raise ConfigError(f"compare_bars: the service sends no bars of {stream}")
        return compare_bars(self.frame(f"{stream}.bars"), self.frame(f"{stream}.bars_1m"))

    def lazy(self, name: str, **how: Unpack[FrameArguments]) -> pl.LazyFrame:
        """Return a frame as it is now, as a LazyFrame: Polars optimises the whole query.

        Arguments are those of `frame`.
        """
        return self.frame(name, **how).lazy()

    def sql(self, query: str) -> pl.DataFrame:
        """Return the answer to a SQL query over frames, by their names, as they are now.

            run.sql("select symbol, avg(price) from stocks.trades group by symbol")

        Symbols and codes are strings in the query and in the answer. Raises `UnknownNameError` for a name
        that is not a frame, and `polars.exceptions` for invalid SQL.
        """
        require(str, query=query)
        query = _QUOTED.sub(lambda m: m[1] or f"{m[2]}.{m[3]}", query)  # literals stay as they are
        self._open.check_run()
        known = self._open.known
        frames = {name: self.lazy(name) for name in known if name.lower() in query.lower()}
        # As strings: SQL cannot search categories, nor join those of two streams.
        plain = {name: frame.with_columns(_CODED.cast(pl.String)) for name, frame in frames.items()}
        try:
            return pl.SQLContext(plain, eager=True).execute(query)
        except pl.exceptions.SQLInterfaceError as error:
            if (missing := _NO_RELATION.search(str(error))) is None:
                raise
            problem = f"sql: no frame {missing[1]!r} in run {self.run}"
            raise UnknownNameError.among(known, missing[1], problem) from error

    @overload
    def tail(self, name: str, **how: Unpack[TailArguments]) -> Tail: ...

    @overload
    def tail(self, name: list[str] | tuple[str, ...], **how: Unpack[TailArguments]) -> Tails: ...

    def tail(
        self,
        name: str | list[str] | tuple[str, ...],
        *,
        symbols: str | Sequence[str] | None = None,
        from_start: bool = False,
        poll_s: float = 0.001,
        max_rows: int = 0,
        max_lag: int = 0,
        on_lag: Literal["drop", "raise"] = "drop",
        since: None = None,
    ) -> Tail | Tails:
        """Return an iterator over the new rows of a frame, for `for` or `async for`.

            for new in run.tail("stocks.trades", symbols="AAPL"):
                print(new["price"].mean())

        With several frames, each step yields the name of a frame and its new rows:

            for name, new in run.tail(["stocks.trades", "crypto.trades"]):
                print(name, new.height)

        Each step yields a DataFrame of at least one row. Without new rows it looks again after `poll_s`
        seconds. It ends when the engine ends.

        `from_start` begins with the oldest row that is kept; otherwise the tail begins with the next one.
        `symbols` keeps the rows of these symbols. `max_rows` bounds the rows of one step (0: no bound).

        A tail that is more than `max_lag` rows behind skips the oldest and counts them in its `missed`;
        with `on_lag="raise"` it raises `LagError`. With 0, it may be behind by all rows that the frame
        keeps. The engine never waits for a reader.

        Raises `ConfigError` for views and keyed frames, which have no new rows, and for a `since`.
        """
        if since is not None:
            raise ConfigError(
                "tail: since is not an option, a tail begins with the next row (from_start: with the "
                "oldest); read earlier rows with frame(..., since=...)"
            )
        options = TailOptions(from_start, poll_s, max_rows, max_lag, on_lag)
        if isinstance(name, str):
            return self._follow(name, symbols, options)
        names = list(dict.fromkeys(list_names("tail", "frame", name)))
        if not names:
            raise ConfigError("tail: name at least one frame")
        return Tails({each: self._follow(each, symbols, options) for each in names}, options.poll_s)

    def _follow(self, name: str, symbols: str | Sequence[str] | None, options: TailOptions) -> Tail:
        if (found := self._open.view(name)) is not None:
            raise ConfigError(f"{name} is a view of {found[0]}: follow that")
        with self.lock:
            if self._open.is_keyed(name):
                raise ConfigError(
                    f"{name} is a keyed frame: its rows change in place, so no tail can follow it"
                )
            self.parts(name)  # an unknown frame is reported before an unknown symbol
        self._check_symbols(name, symbols)
        select = None if symbols is None else partial(filter_rows, symbols=symbols)
        return Tail(self, name, options, select)

    def wait_for(
        self,
        name: str,
        where: pl.Expr | None = None,
        *,
        symbols: str | Sequence[str] | None = None,
        timeout: float | timedelta | str | None = None,
    ) -> pl.DataFrame:
        """Wait for new rows of a frame; return the first ones for which `where` holds.

            run.wait_for("stocks.trades", pl.col("price") > 200, symbols="AAPL", timeout=60)

        Returns at least one row. Without `where`, any new row will do.

        Raises `TimeoutError` after `timeout` (seconds, a timedelta, or a string as `5s`; None: never), and
        `NoRunError` if the engine ends before.
        """
        if not isinstance(name, str):
            raise ConfigError("wait_for: name one frame; follow several with tail([...])")
        if where is not None and not isinstance(where, pl.Expr):
            raise ConfigError(f"wait_for: {where!r} is not an expression, such as pl.col('price') > 200")
        seconds = math.inf if timeout is None else to_seconds(timeout, "timeout")
        deadline = time.monotonic() + seconds
        tail = self.tail(name, symbols=symbols)
        while time.monotonic() < deadline:
            new = tail.poll()
            if new is not None and where is not None:
                new = new.filter(where)
            if new is not None and new.height:
                return new
            if not self.alive:
                raise NoRunError(f"run {self.run} ended before {name} had such a row")
            time.sleep(0.005)
        raise TimeoutError(f"{name} had no such row within {seconds:g} s")

    def arrow(self, name: str) -> pa.Table:
        """Return a frame as a pyarrow table, without a copy of numbers and times."""
        return self.frame(name).to_arrow()

    def pandas(self, name: str) -> pandas.DataFrame:
        """Return a copy of a frame as a pandas DataFrame. Needs pandas."""
        return self.frame(name).to_pandas()

    def duckdb(self) -> duckdb.DuckDBPyConnection:
        """Return a DuckDB connection that has all frames, as they are now, by their names. Needs duckdb.

        run.duckdb().sql("select count(*) from stocks.trades")
        """
        import duckdb

        self._open.check_run()
        connection = duckdb.connect()
        for name in self.frames:
            schema, _, view = name.partition(".")
            connection.execute(f'create schema if not exists "{schema}"')
            connection.register(f"{schema}__{view}", self.arrow(name))
            connection.execute(f'create view "{schema}"."{view}" as from "{schema}__{view}"')
        return connection

    def _repr_html_(self) -> str:
        """Return a table of the run's frames, for notebooks."""
        state = "running" if self.alive else "ended"
        with contextlib.suppress(NoRunError):
            rows = [(name, self.rows(name), ", ".join(self.frame(name).columns)) for name in self.frames]
            body = "".join(
                f"<tr><td>{name}</td><td style='text-align:right'>{count:,}</td><td>{columns}</td></tr>"
                for name, count, columns in rows
            )
            return (
                f"<b>mdstream run {self.run}</b>, {state}<table><tr><th>frame</th><th>rows</th>"
                f"<th>columns</th></tr>{body}</table>"
            )
        return f"<b>mdstream run {self.run}</b>, {state}"

    @property
    def lock(self) -> threading.RLock:
        """To be held while `parts` is called and its readers are used."""
        return self._open.lock

    def keep(self) -> None:
        """Open all frames, so that they can be read after the end of the run, as far as they are now.

        Their memory is free again when this object and all DataFrames from it are gone.
        """
        self._open.keep()

    def expect(self, stream: str, symbols: Sequence[str]) -> None:
        """Note that symbols of a stream were subscribed just now, so that they are not unknown."""
        with self.lock:
            self._open.facts.add_symbols(stream, symbols)

    def parts(self, name: str) -> list[FrameReader]:
        """Return the low-level readers of a frame: one for each feed that writes a part of it.

        Most programs want `frame` or `tail`.
        """
        return self._open.parts(name)


def _read_part(reader: FrameReader) -> pl.DataFrame:
    """Return all rows of a part of a frame; after the end of the run, those that were mapped."""
    try:
        return reader.read()[1]
    except NoRunError:
        return reader.read_mapped()
