"""A connection by `websockets`, which supports permessage-deflate."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import websockets
from websockets.asyncio.client import ClientConnection, connect

from mdstream.config import is_loopback
from mdstream.session.sockets.interface import (
    CLOSE_TIMEOUT_S,
    OPEN_TIMEOUT_S,
    PING_EVERY_S,
    PING_TIMEOUT_S,
    Receive,
    close_error,
    connect_error,
    refusal_error,
)
from mdstream.session.target import Target, upgrade_headers

_BUFFERED = 1024
"""Most received payloads that wait; then reading pauses."""

_log = logging.getLogger("mdstream.websocket")
_log.setLevel(logging.WARNING)


class WebsocketsSocket:
    """`Socket` over a connection of `websockets`."""

    lost: asyncio.Future[None]
    _outgoing: asyncio.Queue[bytes | str]
    """Messages to send; added by `send`, taken by the sender task."""
    _resumed: asyncio.Event
    """Set when reading may continue; waited for by the reader task."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self._resumed = asyncio.Event()
        self._outgoing = asyncio.Queue()
        self._sender = asyncio.create_task(self._send())

    def start(self, receive: Receive) -> None:
        self.lost = asyncio.create_task(self._read(receive))

    def send(self, message: bytes | str) -> None:
        self._outgoing.put_nowait(message)

    def resume(self) -> None:
        self._resumed.set()

    async def close(self) -> None:
        """End the tasks; `open_socket` closes the connection."""
        tasks = [task for task in (self._sender, getattr(self, "lost", None)) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, receive: Receive) -> None:
        recv = self.connection.recv
        try:
            while True:
                if not receive(await recv(decode=False), False):
                    await self._resumed.wait()
                    self._resumed.clear()
        except websockets.ConnectionClosed as error:
            close = error.rcvd or error.sent
            raise close_error(close.code if close else None, close.reason if close else "") from error

    async def _send(self) -> None:
        while True:
            message = await self._outgoing.get()
            try:
                await self.connection.send(message)
            except websockets.ConnectionClosed:
                return  # the reader raises the error


@asynccontextmanager
async def open_socket(target: Target) -> AsyncIterator[WebsocketsSocket]:
    """See `session.sockets.open_socket`."""
    try:
        connection = await _Connect(
            target.url,
            additional_headers=upgrade_headers(target),
            user_agent_header="mdstream",
            compression="deflate" if target.compression else None,
            ssl=target.tls,
            open_timeout=OPEN_TIMEOUT_S,
            close_timeout=CLOSE_TIMEOUT_S,
            ping_interval=PING_EVERY_S,
            ping_timeout=PING_TIMEOUT_S,
            max_size=target.max_payload,
            max_queue=_BUFFERED,
            proxy=None if is_loopback(target.url) else True,
            logger=_log,
        )
    except websockets.InvalidStatus as error:
        response = error.response
        raise refusal_error(target.url, response.status_code, dict(response.headers.raw_items())) from error
    except (OSError, websockets.WebSocketException, EOFError) as error:
        raise connect_error(target.url, error) from error
    socket = WebsocketsSocket(connection)
    try:
        yield socket
    finally:
        await socket.close()
        await connection.close()


class _Connect(connect):
    """A connection that follows no redirect: the keys are for this server only."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc
