"""The host's process as `mdstream.Engine` sees it: commands to its standard input, messages from a pipe.

    Engine ──── commands, a JSON object a line (stdin) ────► host: the supervisor
           ◄─── messages, a JSON object a line (own pipe) ──

The pipe is the host's alone, so that whatever a process of the engine prints is just output. Each start
has an object of its own: what a former host still says can never be taken for the new one's.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
from collections.abc import Sequence
from typing import IO, Any

from mdstream import children
from mdstream.errors import Exit


class HostProcess:
    """One host process, from its start to its end. Its output goes to `log` (None: standard error)."""

    # Written by the listening thread, read by `wait_for`, both under `_arrived`.
    _messages: list[dict[str, Any]]
    _closed: bool
    """Whether the host has closed its pipe: no more messages come."""

    def __init__(self, log: IO[str] | None) -> None:
        self._messages, self._closed = [], False
        self._arrived = threading.Condition()
        ours, theirs = os.pipe()
        try:
            with children.starting():  # Ctrl-C belongs to the script or notebook
                self._process = subprocess.Popen(
                    children.python("-m", "mdstream.engine.host", str(theirs)),
                    stdin=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    pass_fds=(theirs,),
                )
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        threading.Thread(target=self._listen, args=(os.fdopen(ours),), daemon=True).start()

    @property
    def exit_code(self) -> Exit:
        """How the process ended; a killed one counts as a failed stream."""
        code = self._process.returncode
        return Exit(code) if code in set(Exit) else Exit.STREAM_FAILED

    def send(self, **message: Any) -> None:
        """Send a command. One that ends at this moment does not get it; its messages say why it ends."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def wait_for(self, kinds: Sequence[str], timeout: float) -> dict[str, Any] | None:
        """Wait for a message of one of `kinds`; return None if the host ends without one, or after
        `timeout` seconds.
        """
        with self._arrived:
            self._arrived.wait_for(lambda: self._message(kinds) or self._closed, timeout)
            return self._message(kinds)

    def _message(self, kinds: Sequence[str]) -> dict[str, Any] | None:
        return next((m for m in self._messages if m["kind"] in kinds), None)

    def wait(self, timeout: float | None) -> bool:
        """Wait for the process to end; return whether it has."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self, timeout: float) -> None:
        """Have the run drain and end, as the end of its input does; kill it after `timeout` seconds."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        if not self.wait(timeout):
            self._process.kill()
            self._process.wait()

    def _listen(self, pipe: IO[str]) -> None:
        with pipe:
            for line in pipe:
                if not line.endswith("\n"):
                    break  # killed while it wrote
                with self._arrived:
                    self._messages.append(json.loads(line))
                    self._arrived.notify_all()
        with self._arrived:
            self._closed = True
            self._arrived.notify_all()
