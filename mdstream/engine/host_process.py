"""The host's process as `mdstream.Engine` sees it: commands to its standard input, messages from a pipe.

    Engine ──── commands, a JSON object per line (stdin) ────► host: the supervisor
           ◄─── messages, a JSON object per line (own pipe) ──

The host ends its run only when the listener has answered its report with `kept`, or has died: before that,
the run's frames exist.

Only the host writes to the pipe, so that whatever a process of the engine prints is just output. Each start
creates a new object, so late messages of a former host cannot be mistaken for those of the new one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import threading
from collections.abc import Callable, Sequence
from typing import IO, Any

from mdstream.errors import Exit, MdstreamError
from mdstream.system import children

log = logging.getLogger(__name__)


class HostProcess:
    """One host process, from its start to its end. Its output goes to `log` (None: standard error).

    `keep` is called at the end of the run, while its frames exist.
    """

    # Written by the listening thread, read by `wait_for`; both hold `_arrived`.
    _messages: list[dict[str, Any]]
    _closed: bool
    """Whether the host has closed its pipe: no more messages come."""

    def __init__(self, log: IO[str] | None, keep: Callable[[], None]) -> None:
        self._keep = keep
        self._messages, self._closed = [], False
        self._arrived = threading.Condition()
        ours, theirs = os.pipe()
        try:
            with children.protect_start():  # Ctrl-C belongs to the script or notebook
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
        """How the process ended. A killed one counts as a failed stream."""
        code = self._process.returncode
        return Exit(code) if code in set(Exit) else Exit.STREAM_FAILED

    def send(self, **message: Any) -> None:
        """Send a command. A host that is ending ignores it; its messages say why it ends."""
        line = json.dumps(message) + "\n"
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):  # `stop` closes it, on another thread
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def wait_for(self, kinds: Sequence[str], timeout: float) -> dict[str, Any] | None:
        """Return the first message of one of `kinds`, once it has come.

        Return None if the host ends without one, or after `timeout` seconds.
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
        """Make the run drain and end; kill the host after `timeout` seconds."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            if self._message(["started"]):
                self.send(command="stop")
            else:
                self._process.stdin.close()
        if not self.wait(timeout):
            self._process.kill()
            self._process.wait()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def _end_reading(self) -> None:
        """Keep the frames, and let the host remove them."""
        try:
            self._keep()
        except MdstreamError as error:  # the run's folder was removed
            log.warning("the frames cannot be read any more: %s", error)
        self.send(command="kept")

    def _listen(self, pipe: IO[str]) -> None:
        with pipe:
            for line in pipe:
                if not line.endswith("\n"):
                    break  # the host was killed while it wrote
                message = json.loads(line)
                if message["kind"] == "report":
                    self._end_reading()
                with self._arrived:
                    self._messages.append(message)
                    self._arrived.notify_all()
        with self._arrived:
            self._closed = True
            self._arrived.notify_all()
