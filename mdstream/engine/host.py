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
import signal
import sys
from typing import Any

from mdstream import children
from mdstream.engine import report
from mdstream.engine.supervisor import Supervisor
from mdstream.errors import Exit, MdstreamError
from mdstream.log import line_writer
from mdstream.pool import ipc_names
from mdstream.settings import from_mapping


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

    supervisor = Supervisor(config, line_writer(config.log.json), on_sample)
    supervisor.watch(sys.stdin.fileno(), lambda: _handle_lines(supervisor, lines.read()))
    signal.signal(signal.SIGTERM, lambda *_: supervisor.stop())
    _handle_lines(supervisor, first[1:])
    try:
        return int(supervisor.run(lambda run: _send(out, "report", report=report.build(run))))
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


def _handle_lines(supervisor: Supervisor, lines: list[bytes] | None) -> None:
    if lines is None:
        supervisor.unwatch(sys.stdin.fileno())
        supervisor.stop()
        return
    for line in lines:
        message = json.loads(line)
        match message["command"]:
            case "stop":
                supervisor.stop()
            case "subscribe" | "unsubscribe" as command:
                supervisor.command(message["stream"], command, message["channels"], message["symbols"])


if __name__ == "__main__":
    sys.exit(main())
