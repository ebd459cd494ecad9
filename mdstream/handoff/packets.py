"""Objects between a feed and its workers, each in one packet.

    feed ──► one pair of sockets ──► the worker that has waited longest
         ◄──                     ◄── all workers

The kernel of the system gives each packet to one reader, so workers share one end without a lock. An object
that is too large for a packet is written to a file in memory, and the packet has the file's descriptor.

Neither side blocks on a socket. The system would assume that the writer waits for the answer, and would
wake the reader on the writer's core while another core is idle. Instead, a bell (an eventfd) for each
packet wakes a waiting process on an idle core.
"""

from __future__ import annotations

import os
import pickle
import socket
from multiprocessing.reduction import DupFd
from typing import Any

READY = 0
"""The number in a worker's first packet; those of tickets are greater."""
MOST_BYTES = 16 * 1024
"""Size of the largest packet; a larger object goes into a file."""
_IN_A_FILE = b"\0"
"""The packet for an object in a file. No pickle begins with this byte."""


class End:
    """One side of the connection: the feed's, or the workers', each of which has a copy."""

    def __init__(self, packets: socket.socket, bell: int, others_bell: int) -> None:
        self.packets = packets
        self.bell = bell
        self._others_bell = others_bell

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.packets, DupFd(self.bell), DupFd(self._others_bell))

    def put(self, item: Any) -> None:
        """Send an object.

        Raises `BlockingIOError` on the feed's side if the socket is full, and another `OSError` if the
        other side is closed.
        """
        data = pickle.dumps(item, pickle.HIGHEST_PROTOCOL)
        if len(data) <= MOST_BYTES:
            self.packets.send(data)
        else:
            self._send_file(data)
        os.eventfd_write(self._others_bell, 1)

    def get(self) -> Any:
        """Return the next object; call it after the bell has rung.

        Raises `EOFError` if the other side is closed, and `BlockingIOError` on the feed's side if there is
        no object.
        """
        data, descriptors, _, _ = socket.recv_fds(self.packets, MOST_BYTES, 1)
        if not data:
            raise EOFError("the other side is closed")
        if not descriptors:
            return pickle.loads(data)
        with open(descriptors[0], "rb") as file:
            file.seek(0)
            return pickle.load(file)

    def read_bell(self) -> None:
        """Wait until the bell rings for this copy. On the feed's side, reset the bell without waiting."""
        os.eventfd_read(self.bell)

    @property
    def is_closed(self) -> bool:
        return self.packets.fileno() < 0

    def close(self, listeners: int = 0) -> None:
        """Close this side, and ring for `listeners` copies of the other side."""
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


def make_pair() -> tuple[End, End]:
    """Return both sides: the feed's, which never waits, and the workers', which always waits."""
    feeds, workers = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    feeds.setblocking(False)
    feeds_bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    workers_bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_SEMAPHORE)
    theirs = End(workers, os.dup(workers_bell), os.dup(feeds_bell))
    return End(feeds, feeds_bell, workers_bell), theirs


def _rebuild(packets: socket.socket, bell: Any, others_bell: Any) -> End:
    return End(packets, bell.detach(), others_bell.detach())
