"""WebSocket connections: one interface, two libraries behind it.

`websockets` supports compression. `picows` does not, and needs a fraction of its time for a payload.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from mdstream.session.sockets.interface import Socket
from mdstream.session.target import Target


def open_socket(target: Target) -> AbstractAsyncContextManager[Socket]:
    """Open a connection to `target`. Raises `NetworkError` or `ServerError` (another attempt may help),
    `CredentialsError`, `CertificateError` or `ConfigError` (no attempt will help).
    """
    if target.library == "picows":
        from mdstream.session.sockets import picows_socket

        return picows_socket.open_socket(target)
    from mdstream.session.sockets import websockets_socket

    return websockets_socket.open_socket(target)
