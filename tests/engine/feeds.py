"""Feeds in real processes that follow a script, without markets or workers."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

from mdstream.system.mailbox import Outbox

Step = tuple[Any, ...]
"""`send` kind content · `expect` command · `set` counter value · `exit` code · `hang`."""

UP: Sequence[Step] = [("send", "up", None)]
DRAIN: Sequence[Step] = [("expect", "drain"), ("exit", 0)]


def play(script: Sequence[Step], assignment: Any, pipe: Connection) -> None:
    """Follow `script`. Send each received command back as a log record."""
    outbox = Outbox(pipe)
    for name, *arguments in script:
        match name:
            case "send":
                outbox.put(*arguments)
            case "expect":
                while True:
                    command = pipe.recv()
                    outbox.put("log", {"stream": assignment.stream, "command": list(command)})
                    if command[0] == arguments[0]:
                        break
            case "set":
                from mdstream.frames.rundir import state_path
                from mdstream.telemetry.state import FeedState

                state = FeedState(state_path(assignment.run, assignment.stream), write=True)
                state[arguments[0]] = arguments[1]
            case "exit":
                outbox.close()
                os._exit(*arguments)
            case "hang":
                time.sleep(60)


def play_one(scripts: Mapping[str, Sequence[Sequence[Step]]], assignment: Any, pipe: Connection) -> None:
    """Follow the script of this stream and generation. The last script is for all later generations too."""
    own = scripts[assignment.stream]
    play(own[min(assignment.generation, len(own) - 1)], assignment, pipe)
