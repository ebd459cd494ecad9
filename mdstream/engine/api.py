"""The engine from Python: a context manager for scripts and notebooks.

    with mdstream.Engine({"stocks": {"symbols": ["AAPL"]}}) as engine:
        print(engine.frame("stocks.trades"))

The supervisor runs in a process of its own, so that nothing here blocks it, and no script needs an
`if __name__ == "__main__"`. Should this process die, the engine ends too and cleans up.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import msgspec
import polars as pl

from mdstream.config import Config
from mdstream.errors import ConfigError, CredentialsError, Exit, MdstreamError, SharedMemoryError
from mdstream.interrupts import deaf_children
from mdstream.reading.attach import Attachment
from mdstream.reading.narrow import Since
from mdstream.reading.tail import Tail
from mdstream.settings import check, from_mapping, load
from mdstream.streams import STREAMS

_ERRORS: dict[int, type[MdstreamError]] = {
    Exit.CONFIG: ConfigError,
    Exit.CREDENTIALS: CredentialsError,
    Exit.SHARED_MEMORY: SharedMemoryError,
}


_COMPILE_S = 120.0
"""The first run of a version on a machine may take so much longer to start."""

_ABANDON_S = 10.0


class Engine:
    """A running engine. `config` is a `Config`, a mapping of settings, or the path of a TOML file.

    Environment variables count as for the command, unless a `Config` is given. Logs go to standard
    error, or to `log` if given (a file opened for writing).
    """

    # The mutable state: the supervisor's process, and what it told at the end.

    def __init__(
        self, config: Config | Mapping[str, Any] | str | Path | None = None, *, log: IO[str] | None = None
    ) -> None:
        self.config = _config(config)
        self.report: dict[str, Any] | None = None
        """The report of the run, once it has ended."""
        self.exit_code: Exit | None = None
        self._log = log
        self._process: subprocess.Popen[str] | None = None
        self._attachment: Attachment | None = None
        self._messages: list[dict[str, Any]] = []
        self._heard = threading.Condition()

    def __enter__(self) -> Engine:
        self.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the engine; returns when every feed's process is up. Raises what prevents that."""
        if self._process is not None:
            raise MdstreamError("the engine is started already: stop() it first")
        self._messages, self._attachment, self.report, self.exit_code = [], None, None, None
        with deaf_children():  # Ctrl-C belongs to the script or notebook
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mdstream.engine.host"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True).start()
        try:
            self._send({"config": msgspec.to_builtins(self.config)})
            started = self._await("started", self.config.start_timeout_s + _COMPILE_S)
        except BaseException:  # Ctrl-C too: whoever did not get an engine cannot stop it
            self._abandon()
            raise
        self._attachment = Attachment(Path(started["path"]))

    def stop(self) -> dict[str, Any] | None:
        """Drain and end the engine; returns the report. Harmless where it has ended already."""
        process = self._process
        if process is None:
            return self.report
        if process.poll() is None:
            self._send({"command": "stop"})
        try:
            process.wait(self.config.drain_timeout_s + 30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with self._heard:
            self._heard.wait_for(lambda: self._message("closed") is not None, 5)
        report = self._message("report")
        self.report = report["report"] if report else None
        self._forget(process)
        code = process.returncode
        self.exit_code = Exit(code) if code in set(Exit) else Exit.STREAM_FAILED
        return self.report

    def _abandon(self) -> None:
        """End a process that did not come up."""
        process = self._process
        if process is None:
            return
        self._forget(process)  # the end of its input tells it to stop and clean up
        try:
            process.wait(_ABANDON_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _forget(self, process: subprocess.Popen[str]) -> None:
        """Close the way to a process that has ended, or shall."""
        self._process = None
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()

    @property
    def run(self) -> str:
        """The run's name, for `mdstream.attach(run=...)` in other processes."""
        return self.attachment.run

    @property
    def attachment(self) -> Attachment:
        """This engine's frames, as `mdstream.attach()` gives them."""
        if self._attachment is None:
            raise MdstreamError("the engine is not started: use `with Engine(...)`, or start()")
        return self._attachment

    @property
    def frames(self) -> list[str]:
        """Names of all frames."""
        return self.attachment.frames

    def frame(
        self, name: str, *, symbols: str | Sequence[str] | None = None, since: Since | None = None
    ) -> pl.DataFrame:
        """Frame `name` as it stands now; see `Attachment.frame`."""
        return self.attachment.frame(name, symbols=symbols, since=since)

    def latest(self, stream: str, **how: Any) -> pl.DataFrame:
        """The last trade and quote of each symbol; see `Attachment.latest`."""
        return self.attachment.latest(stream, **how)

    def tail(self, name: str, **how: Any) -> Tail:
        """Follow frame `name`; see `Attachment.tail`."""
        return self.attachment.tail(name, **how)

    def sql(self, query: str) -> pl.DataFrame:
        """A SQL query over frames by their names; see `Attachment.sql`."""
        return self.attachment.sql(query)

    def wait_for(self, name: str, where: pl.Expr | None = None, **how: Any) -> pl.DataFrame:
        """Wait for rows of frame `name`; see `Attachment.wait_for`."""
        return self.attachment.wait_for(name, where, **how)

    def subscribe(self, stream: str, symbols: Sequence[str], channels: Sequence[str] = ()) -> None:
        """Add symbols to a running stream, on `channels` (all that the stream follows by default)."""
        self._subscription("subscribe", stream, symbols, channels)

    def unsubscribe(self, stream: str, symbols: Sequence[str], channels: Sequence[str] = ()) -> None:
        """Take symbols off a running stream."""
        self._subscription("unsubscribe", stream, symbols, channels)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the engine ends by itself (`duration`, or every stream failed); False if not yet."""
        if self._process is None:
            return True
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _subscription(
        self, command: str, stream: str, symbols: Sequence[str], channels: Sequence[str]
    ) -> None:
        if stream not in self.config.streams:
            raise ConfigError(f"{command}: stream {stream!r} does not run")
        if isinstance(symbols, str) or isinstance(channels, str):
            raise ConfigError(f"{command}: symbols and channels are lists of names, not one text")
        offered = STREAMS[stream].subscriptions
        for channel in channels:
            if channel not in offered:
                raise ConfigError(
                    f"{command}: {stream} has no channel {channel!r}; choose from " + ", ".join(offered)
                )
        self._send(
            {"command": command, "stream": stream, "channels": list(channels), "symbols": list(symbols)}
        )

    # -- talking with the host process: a JSON object a line, both ways

    def _send(self, message: dict[str, Any]) -> None:
        if self._process is None or self._process.stdin is None:
            raise MdstreamError("the engine does not run: use `with Engine(...)`, or start()")
        with contextlib.suppress(BrokenPipeError):  # it is ending; its messages say why
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def _listen(self, stdout: IO[str]) -> None:
        with stdout:
            for line in stdout:
                with self._heard:
                    self._messages.append(json.loads(line))
                    self._heard.notify_all()
        with self._heard:
            self._messages.append({"kind": "closed"})
            self._heard.notify_all()

    def _message(self, kind: str) -> dict[str, Any] | None:
        return next((m for m in self._messages if m["kind"] == kind), None)

    def _await(self, kind: str, timeout: float) -> dict[str, Any]:
        deadline = time.monotonic() + timeout
        with self._heard:
            self._heard.wait_for(
                lambda: self._message(kind) or self._message("closed"), deadline - time.monotonic()
            )
        message = self._message(kind)
        if message is not None:
            return message
        failed = self._message("failed") or {"reason": "the engine did not start", "code": 1}
        raise _ERRORS.get(failed["code"], MdstreamError)(failed["reason"])


def _config(config: Config | Mapping[str, Any] | str | Path | None) -> Config:
    match config:
        case Config():
            return check(config)
        case None:
            return load()
        case str() | Path():
            return load(config)
        case _:
            from_mapping(config)  # names its own errors before anything is merged
            return load(flags=config)
