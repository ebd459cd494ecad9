"""The engine from Python: a context manager for scripts and notebooks.

    with mdstream.Engine({"stocks": {"symbols": ["AAPL"]}}) as engine:
        print(engine.frame("stocks.trades"))

The supervisor runs in a process of its own. Nothing here blocks it, and no script needs an `if __name__ ==
"__main__"`. If this process dies, the engine ends too and cleans up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import IO, Any, Unpack, overload

import msgspec
import polars as pl

from mdstream.config import Config
from mdstream.engine.host_process import HostProcess
from mdstream.errors import (
    ConfigError,
    CredentialsError,
    Exit,
    MdstreamError,
    SharedMemoryError,
    UnknownNameError,
)
from mdstream.reading.arguments import list_names, list_symbols, require
from mdstream.reading.attach import Attachment
from mdstream.reading.filters import Since, to_seconds
from mdstream.reading.tail import Tail, TailArguments, Tails
from mdstream.reading.zones import Zone
from mdstream.settings import load_any
from mdstream.streams import STREAMS
from mdstream.streams.symbols import why_no_symbol

_ERRORS: dict[int, type[MdstreamError]] = {
    Exit.CONFIG: ConfigError,
    Exit.CREDENTIALS: CredentialsError,
    Exit.SHARED_MEMORY: SharedMemoryError,
}


_COMPILE_S = 120.0
"""How much longer the first start of a version on a machine may take."""

_ABANDON_S = 10.0
_END_S = 30.0
"""For telemetry, recording and report, after the drain."""
_REPORT_S = 5.0
"""For messages of an ended process that are not read yet."""


class Engine:
    """A running engine. `config` is a `Config`, a mapping of settings, or the path of a TOML file.

    After its end, its frames can still be read, until it starts again or the object is gone.

    Environment variables apply as for the command, unless a `Config` is given. Logs go to standard error,
    or to `log` if given (a file opened for writing).
    """

    # Written by `start` and `stop`.
    _host: HostProcess | None
    _attachment: Attachment | None
    report: dict[str, Any] | None
    """The report of the run, once it has ended."""
    exit_code: Exit | None

    def __init__(
        self, config: Config | Mapping[str, Any] | str | Path | None = None, *, log: IO[str] | None = None
    ) -> None:
        self.config = load_any("Engine", config)
        try:
            _ = None if log is None else log.fileno()
        except (AttributeError, OSError):
            raise ConfigError(f"log: {log!r} is not a file opened for writing") from None
        self._log = log
        self._host = self._attachment = self.report = self.exit_code = None

    def __enter__(self) -> Engine:
        self.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        if self._attachment is None:
            return f"<mdstream Engine, not started: {', '.join(self.config.streams)}>"
        state = f"run {self.run}" if self._attachment.alive else f"ended, run {self.run}"
        return f"<mdstream Engine, {state}: {', '.join(self.config.streams)}>"

    def _repr_html_(self) -> str | None:
        """Return a table of the frames, for notebooks; None before the start."""
        return None if self._attachment is None else self._attachment._repr_html_()

    def start(self) -> None:
        """Start the engine; return when every feed's process is up. Raises the error that prevents it."""
        if self._host is not None:
            raise MdstreamError("the engine is already started: call stop() first")
        self._attachment = self.report = self.exit_code = None
        host = HostProcess(self._log, self._keep_frames)
        try:
            host.send(config=msgspec.to_builtins(self.config))
            answer = host.wait_for(("started", "failed"), self.config.start_timeout_s + _COMPILE_S)
            if answer is None:
                raise MdstreamError("the engine did not start: see its log")
            if answer["kind"] == "failed":
                raise _ERRORS.get(answer["code"], MdstreamError)(answer["reason"])
            self._attachment = Attachment(Path(answer["path"]))
        except BaseException:  # Ctrl-C too: the caller has no engine to stop
            host.stop(_ABANDON_S)
            raise
        self._host = host

    def stop(self) -> dict[str, Any] | None:
        """Drain and end the engine; return the report. Does nothing if it has already ended."""
        host = self._host
        if host is None:
            return self.report
        host.stop(self.config.drain_timeout_s + _END_S)
        report = host.wait_for(["report"], _REPORT_S)
        self.report = report["report"] if report else None
        self.exit_code = host.exit_code
        self._host = None
        return self.report

    def _keep_frames(self) -> None:
        """Open all frames just before the engine removes them. The host's listener calls this."""
        if self._attachment is not None:
            self._attachment.keep()

    @property
    def run(self) -> str:
        """The run's name, for `mdstream.attach(run=...)` in other processes."""
        return self.attachment.run

    @property
    def attachment(self) -> Attachment:
        """This engine's frames, as `mdstream.attach()` returns them."""
        if self._attachment is None:
            raise MdstreamError("the engine is not started: use `with Engine(...)`, or call start()")
        return self._attachment

    @property
    def frames(self) -> list[str]:
        """The names of all frames."""
        return self.attachment.frames

    def frame(
        self,
        name: str,
        *,
        symbols: str | Sequence[str] | None = None,
        since: Since | None = None,
        session: str | Sequence[str] | None = None,
        tz: Zone | None = None,
    ) -> pl.DataFrame:
        """Return frame `name` as it is now; see `Attachment.frame`."""
        return self.attachment.frame(name, symbols=symbols, since=since, session=session, tz=tz)

    def latest(self, stream: str, **how: Any) -> pl.DataFrame:
        """Return the last trade and quote of each symbol; see `Attachment.latest`."""
        return self.attachment.latest(stream, **how)

    def book(self, symbol: str) -> pl.DataFrame:
        """Return the best levels of a symbol's order book; see `Attachment.book`."""
        return self.attachment.book(symbol)

    def chain(self, underlying: str, *, expiry: date | str | None = None) -> pl.DataFrame:
        """Return the option chain of an underlying; see `Attachment.chain`."""
        return self.attachment.chain(underlying, expiry=expiry)

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
        """Return the bars of a stream as they are now; see `Attachment.bars`."""
        return self.attachment.bars(stream, every, symbols=symbols, since=since, session=session, tz=tz)

    def compare_bars(self, stream: str) -> pl.DataFrame:
        """Return the service's minute bars beside those built here; see `Attachment.compare_bars`."""
        return self.attachment.compare_bars(stream)

    @overload
    def tail(self, name: str, **how: Unpack[TailArguments]) -> Tail: ...

    @overload
    def tail(self, name: list[str] | tuple[str, ...], **how: Unpack[TailArguments]) -> Tails: ...

    def tail(self, name: str | list[str] | tuple[str, ...], **how: Unpack[TailArguments]) -> Tail | Tails:
        """Follow one frame or several; see `Attachment.tail`."""
        return self.attachment.tail(name, **how)

    def sql(self, query: str) -> pl.DataFrame:
        """Return the result of a SQL query over frames by their names; see `Attachment.sql`."""
        return self.attachment.sql(query)

    def wait_for(self, name: str, where: pl.Expr | None = None, **how: Any) -> pl.DataFrame:
        """Wait for rows of frame `name`; see `Attachment.wait_for`."""
        return self.attachment.wait_for(name, where, **how)

    def subscribe(self, stream: str, symbols: Sequence[str], channels: Sequence[str] = ()) -> None:
        """Add symbols to a running stream, on `channels` (default: all that the stream follows).

        Without `channels`, new symbols are fetched at once, too. The chain of an underlying is in any case:
        its contracts are subscribed.
        """
        self._change_subscription("subscribe", stream, symbols, channels)
        self.attachment.expect(stream, symbols)

    def unsubscribe(self, stream: str, symbols: Sequence[str], channels: Sequence[str] = ()) -> None:
        """Remove symbols from a running stream, from `channels` (default: all).

        With an underlying go the contracts that are followed for it, except those that were named. A
        contract that is removed is not followed again until it is subscribed.
        """
        self._change_subscription("unsubscribe", stream, symbols, channels)

    def wait(self, timeout: float | timedelta | str | None = None) -> bool:
        """Wait until the engine ends (`duration` reached, or no stream left); return whether it has.

        `timeout` is in seconds, a timedelta, or a string as `5m`; None: no limit.
        """
        seconds = None if timeout is None else to_seconds(timeout, "timeout")
        return self._host is None or self._host.wait(seconds)

    def _change_subscription(
        self, command: str, stream: str, symbols: Sequence[str], channels: Sequence[str]
    ) -> None:
        require(str, stream=stream)
        if stream not in self.config.streams:
            problem = f"{command}: stream {stream!r} is not one of this engine's streams"
            raise UnknownNameError.among(self.config.streams, stream, problem)
        if isinstance(symbols, str) or isinstance(channels, str):
            raise ConfigError(
                f"{command}: symbols and channels must be lists of names, not a single string"
            )
        symbols, channels = list_symbols(symbols), list_names("channels", "channel", channels)
        for symbol in symbols:
            if symbol != "*" and (why := why_no_symbol(symbol)):
                raise ConfigError(f"{command}: {why}")
        offered = STREAMS[stream].subscriptions
        for channel in channels:
            if channel not in offered:
                problem = f"{command}: {stream} has no channel {channel!r}"
                raise UnknownNameError.among(offered, channel, problem)
        if self._host is None:
            raise MdstreamError("the engine is not running: use `with Engine(...)`, or call start()")
        self._host.send(command=command, stream=stream, channels=channels, symbols=symbols)
