"""The process behind `mdstream.Engine`: the supervisor, with commands from standard input.

The first line of input holds the settings. Each further line is a command, a JSON object. The end of the
input means stop: it also comes when the process that started the engine dies. Messages go out through a
pipe of their own, whose descriptor is the only argument. Whatever a process of the engine prints goes to
standard error.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from typing import Any

from mdstream.engine.supervisor import Supervisor
from mdstream.errors import Exit, MdstreamError
from mdstream.log import line_writer
from mdstream.pool import ipc_names
from mdstream.settings import from_mapping
from mdstream.system import children

_KEEP_S = 5.0
"""How long the frames of a run that has ended wait for a reader that wants to keep them."""


def main() -> int:
    """Run an engine for the process at the other end of standard input."""
    children.ignore_terminal()
    ipc_names.claim()
    out = int(sys.argv[1])
    os.set_inheritable(out, False)
    with contextlib.suppress(OSError):  # there may be no standard error
        os.dup2(2, 1)
    lines = _Lines(sys.stdin.fileno())
    first = lines.read()
    while first == []:
        first = lines.read()
    if first is None:
        return int(Exit.INTERRUPTED)  # the other end closed before it sent settings
    config = from_mapping(json.loads(first[0])["config"])
    reported = False

    def on_sample(supervisor: Supervisor) -> None:
        nonlocal reported
        if not reported and supervisor.is_up:
            reported = True
            _send(out, "started", run=supervisor.run_id, path=str(supervisor.path))

    def finish(supervisor: Supervisor) -> None:
        from mdstream.engine import report  # it loads Polars, which the run does not need

        _send(out, "report", report=report.build(supervisor))
        commands.wait_until_kept()

    supervisor = Supervisor(config, line_writer(config.log.json), on_sample)
    commands = _CommandHandler(supervisor, lines)
    supervisor.watch(sys.stdin.fileno(), lambda: commands.handle(lines.read()))
    signal.signal(signal.SIGTERM, lambda *_: supervisor.stop())
    commands.handle(first[1:])
    try:
        return int(supervisor.run(finish))
    except MdstreamError as error:
        _send(out, "failed", reason=str(error), code=int(error.exit_code))
        return int(error.exit_code)


def _send(out: int, kind: str, **content: Any) -> None:
    """Write a whole message to descriptor `out`; a pipe may take a long one in parts."""
    data = json.dumps({"kind": kind, **content}).encode() + b"\n"
    with contextlib.suppress(BrokenPipeError):  # the process that started the engine is gone
        while data:
            data = data[os.write(out, data) :]


class _Lines:
    """Lines of a descriptor, as they arrive. A buffered reader could hold lines that no wait notices."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._rest = b""

    def read(self) -> list[bytes] | None:
        """Wait for input; return the lines that one read completes, None at the end."""
        data = os.read(self._descriptor, 1 << 16)
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        return lines


class _CommandHandler:
    """Handles what the process at the other end of standard input wants."""

    # Written by `handle`.
    _is_kept: bool
    """Whether the other end has opened all frames that it wants to keep, or is gone."""

    def __init__(self, supervisor: Supervisor, lines: _Lines) -> None:
        self._supervisor = supervisor
        self._lines = lines
        self._is_kept = False

    def handle(self, lines: list[bytes] | None) -> None:
        """Handle lines of input; None is its end."""
        supervisor = self._supervisor
        if lines is None:
            self._is_kept = True
            supervisor.unwatch(sys.stdin.fileno())
            if not supervisor.draining:  # a second stop would abort the drain
                supervisor.stop()
            return
        for line in lines:
            message = json.loads(line)
            match message["command"]:
                case "stop":
                    supervisor.stop()
                case "kept":
                    self._is_kept = True
                case "subscribe" | "unsubscribe" as command:
                    supervisor.command(message["stream"], command, message["channels"], message["symbols"])

    def wait_until_kept(self) -> None:
        """Wait until the other end has opened the frames of the run, which are removed next."""
        deadline = time.monotonic() + _KEEP_S
        while not self._is_kept and (left := deadline - time.monotonic()) > 0:
            if select.select([sys.stdin.fileno()], [], [], left)[0]:
                self.handle(self._lines.read())


if __name__ == "__main__":
    sys.exit(main())
