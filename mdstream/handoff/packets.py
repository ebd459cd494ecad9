"""Objects between a feed and its workers, a packet each.

    feed ──► one pair of sockets ──► whichever worker waits longest
         ◄──                     ◄── all workers

The kernel keeps packets apart and gives each to one reader, so that workers share one end without a lock.
What is too large for a packet travels as a file in memory, of which the packet holds the descriptor.

No side blocks on a socket: the kernel would assume that a writer waits for the answer, and wake the reader
on the writer's own core, where both take turns while another core idles. A bell (an eventfd) is rung for
each packet instead, and wakes a waiting process on an idle core.
"""

from __future__ import annotations

import os
import pickle
import socket
from multiprocessing.reduction import DupFd
from typing import Any

READY = 0
"""The number of a worker's first packet; those of tickets follow."""
MOST_BYTES = 16 * 1024
"""The largest packet; a larger object goes into a file."""
_IN_A_FILE = b"\0"
"""The packet for an object in a file. No pickle begins with this byte."""


class End:
    """One side: the feed's, or the workers', who share it: each was started with a copy."""

    def __init__(self, packets: socket.socket, bell: int, others_bell: int) -> None:
        self.packets = packets
        self.bell = bell
        self._others_bell = others_bell

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.packets, DupFd(self.bell), DupFd(self._others_bell))

    def put(self, item: Any) -> None:
        """Send an object. Raises `BlockingIOError` where the other side is behind and this one does not
        wait; other `OSError` where there is no other side any more.
        """
        data = pickle.dumps(item, pickle.HIGHEST_PROTOCOL)
        if len(data) <= MOST_BYTES:
            self.packets.send(data)
        else:
            self._send_file(data)
        os.eventfd_write(self._others_bell, 1)

    def get(self) -> Any:
        """The next object, once the bell has rung. Raises `EOFError` when the other side is closed, and
        `BlockingIOError` where there is none and this side does not wait.
        """
        data, descriptors, _, _ = socket.recv_fds(self.packets, MOST_BYTES, 1)
        if not data:
            raise EOFError("the other side is closed")
        if not descriptors:
            return pickle.loads(data)
        with open(descriptors[0], "rb") as file:
            file.seek(0)
            return pickle.load(file)

    def hear(self) -> None:
        """The workers' side: wait until the bell rings for this copy. The feed's: note that it has rung."""
        os.eventfd_read(self.bell)

    @property
    def is_closed(self) -> bool:
        return self.packets.fileno() < 0

    def close(self, listeners: int = 0) -> None:
        """Close this side, and ring for so many copies of the other that may wait for something."""
        self.packets.close()
        if listeners:
            os.eventfd_write(self._others_bell, listeners)
        os.close(self.bell)
        os.close(self._others_bell)

    def _send_file(self, data: bytes) -> None:
        descriptor = os.memfd_create("mdstream-packet", os.MFD_CLOEXEC)
        try:
            with open(descriptor, "wb", buffering=0, closefd=False) as file:
                rest = memoryview(data)
                while rest:
                    rest = rest[file.write(rest) :]
            socket.send_fds(self.packets, [_IN_A_FILE], [descriptor])
        finally:
            os.close(descriptor)


def pair() -> tuple[End, End]:
    """Both sides: the feed's, which never waits, and the workers', which always does."""
    feeds, workers = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    feeds.setblocking(False)
    feeds_bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    workers_bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_SEMAPHORE)
    theirs = End(workers, os.dup(workers_bell), os.dup(feeds_bell))
    return End(feeds, feeds_bell, workers_bell), theirs


def _rebuild(packets: socket.socket, bell: Any, others_bell: Any) -> End:
    return End(packets, bell.detach(), others_bell.detach())
