"""The process behind `mdstream.Engine`: the supervisor, told what to do over standard input.

First line in: the settings. Then commands, a JSON object a line; the end of input means stop, for it
is also what is heard when the process that started the engine has died.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

from mdstream import interrupts, report
from mdstream.errors import MdstreamError
from mdstream.log import line_writer
from mdstream.settings import from_mapping
from mdstream.supervisor import Supervisor


def main() -> int:
    """Run an engine for the process at the other end of standard input."""
    interrupts.ignore()
    config = from_mapping(json.loads(sys.stdin.readline())["config"])
    told = False

    def on_sample(supervisor: Supervisor) -> None:
        nonlocal told
        if not told and all(record.up or record.done for record in supervisor.feeds.values()):
            told = True
            _say("started", run=supervisor.run_id, path=str(supervisor.path))

    supervisor = Supervisor(config, line_writer(config.log.json), on_sample)
    supervisor.watch(sys.stdin.fileno(), lambda: _command(supervisor))
    signal.signal(signal.SIGTERM, lambda *_: supervisor.stop())
    try:
        return int(supervisor.run(lambda run: _say("report", report=report.build(run))))
    except MdstreamError as error:
        _say("failed", reason=str(error), code=int(error.exit_code))
        return int(error.exit_code)


def _say(kind: str, **content: Any) -> None:
    print(json.dumps({"kind": kind, **content}), flush=True)


def _command(supervisor: Supervisor) -> None:
    # Read from the descriptor itself: a buffered reader could hold lines that no wait sees.
    data = os.read(sys.stdin.fileno(), 1 << 16)
    if not data:
        supervisor.unwatch(sys.stdin.fileno())
        supervisor.stop()
        return
    for line in data.splitlines():
        message = json.loads(line)
        match message["command"]:
            case "stop":
                supervisor.stop()
            case "subscribe" | "unsubscribe" as command:
                supervisor.command(
                    message["stream"], command, message["channels"], message["symbols"]
                )


if __name__ == "__main__":
    sys.exit(main())
