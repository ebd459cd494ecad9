"""Keep a fork server alive when a process is killed while it asks for a child.

`multiprocessing`'s server goes on after a connection that was aborted, but ends after one that was closed
without its descriptors. All feeds share one server, so the death of one of them must not end it. Fork
servers load this module; importing it in a fork server, or in a copy of one, is all that is needed.
"""

from __future__ import annotations

import errno
import os
import socket
from multiprocessing import reduction

_receive = reduction.recvfds


def _receive_descriptors(sock: socket.socket, size: int) -> list[int]:
    """Receive descriptors as `reduction.recvfds` does.

    Raises `ConnectionAbortedError`, which the server survives, if the other process has gone.
    """
    try:
        return list(_receive(sock, size))
    except (EOFError, ConnectionResetError) as error:
        raise ConnectionAbortedError(errno.ECONNABORTED, os.strerror(errno.ECONNABORTED)) from error


reduction.recvfds = _receive_descriptors
