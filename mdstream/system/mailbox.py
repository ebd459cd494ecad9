"""Messages of a child process to its owner, of which neither ever waits for the other.

    child ─► bounded queue ─► thread ─► pipe ─► as much as has arrived ─► whole messages ─► owner

The owner takes what the pipe holds, and keeps the beginning of a message until the rest arrives. A child
that is stopped in the middle of a message, or sends a very long one, does not hold it up.
"""

from __future__ import annotations

import os
import pickle
import queue
import struct
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

QUEUED = 10_000
"""Messages that may wait for the owner before log records are dropped."""
_LENGTH = struct.Struct("!Q")
_READ_BYTES = 1 << 18


class Outbox:
    """Sends a child's messages to its owner on a thread of its own, so that no sender waits.

    Nothing else may write to `pipe`, and nothing may make it non-blocking, as an event loop does that
    watches it: a message could then be sent in part.
    """

    # Written by `put`, on the sender's thread.
    dropped: int
    """Log records that were dropped."""

    def __init__(self, pipe: Connection) -> None:
        self.dropped = 0
        self._pipe = pipe
        self._queue: queue.SimpleQueue[tuple[str, Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._send, name="outbox", daemon=True)
        self._thread.start()

    def put(self, kind: str, content: Any) -> None:
        """Queue one message. While `QUEUED` messages wait, log records are dropped and counted."""
        if kind == "log" and self._queue.qsize() >= QUEUED:
            self.dropped += 1
        else:
            self._queue.put((kind, content))

    def close(self) -> None:
        """Send what is queued, then stop."""
        if self.dropped:
            self._queue.put(("logs lost", self.dropped))
        self._queue.put(None)
        self._thread.join(2.0)

    def _send(self) -> None:
        while (message := self._queue.get()) is not None:
            data = pickle.dumps(message)
            rest = memoryview(_LENGTH.pack(len(data)) + data)
            try:
                while rest:
                    rest = rest[os.write(self._pipe.fileno(), rest) :]
            except OSError:
                return  # the owner is dead, and this process will end soon


class Inbox:
    """Receives the messages of an `Outbox` from the other end of its pipe."""

    # Written by `receive`.
    _arrived: bytearray
    """Bytes of messages that were not returned yet."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._arrived = bytearray()

    def receive(self) -> Iterator[tuple[str, Any]]:
        """Return the messages that have arrived. Raises EOFError or OSError once there will be no more."""
        while not self._pipe.closed and self._pipe.poll():
            if not (data := os.read(self._pipe.fileno(), _READ_BYTES)):
                raise EOFError
            self._arrived += data
            yield from self._take()

    def _take(self) -> Iterator[tuple[str, Any]]:
        """Return and remove the whole messages."""
        arrived = self._arrived
        while len(arrived) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(arrived)[0]
            if len(arrived) < end:
                return
            message = pickle.loads(arrived[_LENGTH.size : end])
            del arrived[:end]
            yield message
