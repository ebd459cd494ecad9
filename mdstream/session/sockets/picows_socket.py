"""A connection by `picows`, which parses frames in C and calls a function with each."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from picows import (
    WSAutoPingStrategy,
    WSCloseCode,
    WSError,
    WSFrame,
    WSHandshakeError,
    WSListener,
    WSMsgType,
    WSTransport,
    ws_connect,
)
from websockets.proxy import get_proxy
from websockets.uri import parse_uri

from mdstream.config import is_loopback
from mdstream.errors import NetworkError
from mdstream.limits import MOST_FRAGMENTS
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

_log = logging.getLogger("mdstream.picows")
_log.setLevel(logging.CRITICAL)  # our errors repeat what it logs
_READ_BYTES = 256 * 1024

_TEXT, _BINARY = WSMsgType.TEXT, WSMsgType.BINARY
_DATA = (_TEXT, _BINARY, WSMsgType.CONTINUATION)


class PicowsSocket(WSListener):
    """`Socket` over a connection of `picows`."""

    # Written by the callbacks of `picows`, and by `start`.
    lost: asyncio.Future[None]
    _transport: WSTransport | None
    _receive: Receive
    _early: list[bytes]
    """Payloads received before `start`."""
    _partial: bytearray
    """The bytes of an incomplete payload."""
    _fragments: int
    """Number of its fragments so far."""

    def __init__(self, most: int) -> None:
        self.lost = asyncio.get_running_loop().create_future()
        self._most = most
        self._transport = None
        self._early = []
        self._receive = self._keep
        self._partial, self._fragments = bytearray(), 0

    # -- called by the session

    def start(self, receive: Receive) -> None:
        self._receive = receive
        early, self._early = self._early, []
        for payload in early:
            self._hand_on(payload, False)

    def send(self, message: bytes | str) -> None:
        assert self._transport is not None
        if isinstance(message, str):
            self._transport.send(_TEXT, message.encode())
        else:
            self._transport.send(_BINARY, message)

    def resume(self) -> None:
        assert self._transport is not None
        if not self._transport.is_disconnected:
            self._transport.underlying_transport.resume_reading()

    async def close(self) -> None:
        """Send a close frame, and wait a moment for the answer."""
        transport = self._transport
        if transport is None or transport.is_disconnected:
            return
        transport.underlying_transport.resume_reading()
        self._receive = lambda payload, is_last: True
        transport.send_close(WSCloseCode.OK)
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await transport.wait_disconnected()
        except TimeoutError:
            transport.disconnect(graceful=False)
        except WSError:
            pass  # `lost` has it

    # -- called by picows

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = frame.msg_type
        if kind == WSMsgType.CLOSE:
            if not transport.is_close_frame_sent:
                transport.send_close(frame.get_close_code())
            transport.disconnect()
        elif transport.is_close_frame_sent:
            self.on_ws_disconnected(transport)  # after an error picows keeps reading; this is not data
        elif kind in _DATA:
            if frame.fin and not self._fragments:
                self._hand_on(frame.get_payload_as_bytes(), frame.last_in_buffer)
            else:
                self._assemble(frame)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        handshake = transport.close_handshake
        close: Any = (handshake.recv or handshake.sent) if handshake else None
        self._end(close_error(int(close.code), close.reason or "") if close else close_error(None, ""))

    # -- payloads

    def _assemble(self, frame: WSFrame) -> None:
        if self.lost.done():
            return
        self._partial += frame.get_payload_as_bytes()
        self._fragments += 1
        if len(self._partial) > self._most:
            self._end(NetworkError(f"a payload of more than {self._most:,} bytes"))
        elif self._fragments > MOST_FRAGMENTS:
            self._end(NetworkError(f"a payload of more than {MOST_FRAGMENTS:,} fragments"))
        elif frame.fin:
            payload, self._partial, self._fragments = bytes(self._partial), bytearray(), 0
            self._hand_on(payload, frame.last_in_buffer)

    def _hand_on(self, payload: bytes, is_last: bool) -> None:
        if self.lost.done():
            return
        try:
            has_room = self._receive(payload, is_last)
        except Exception as error:
            self._end(error)
            return
        if not has_room and self._transport is not None:
            self._transport.underlying_transport.pause_reading()

    def _keep(self, payload: bytes, is_last: bool) -> bool:
        self._early.append(payload)
        return True

    def _end(self, error: Exception) -> None:
        if not self.lost.done():
            self.lost.set_exception(error)


@asynccontextmanager
async def open_socket(target: Target) -> AsyncIterator[PicowsSocket]:
    """See `session.sockets.open_socket`."""
    socket = PicowsSocket(target.max_payload)
    try:
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            await ws_connect(
                lambda: socket,
                target.url,
                ssl_context=target.tls,
                websocket_handshake_timeout=OPEN_TIMEOUT_S,
                logger_name=_log,
                enable_auto_ping=True,
                auto_ping_idle_timeout=PING_EVERY_S,
                auto_ping_reply_timeout=PING_TIMEOUT_S,
                auto_ping_strategy=WSAutoPingStrategy.PING_WHEN_IDLE,
                max_frame_size=target.max_payload,
                extra_headers={"User-Agent": "mdstream", **upgrade_headers(target)},
                max_redirects=0,  # the keys are for the named server only
                proxy=None if is_loopback(target.url) else get_proxy(parse_uri(target.url)),
                read_buffer_init_size=_READ_BYTES,
            )
    except WSHandshakeError as error:
        if error.response is not None and error.response.status != 101:
            answer = error.response
            raise refusal_error(target.url, int(answer.status), answer.headers) from error
        raise connect_error(target.url, error) from error
    except (OSError, WSError, EOFError) as error:
        raise connect_error(target.url, error) from error
    try:
        yield socket
    finally:
        await socket.close()
        if not socket.lost.cancel():
            socket.lost.exception()  # retrieved, so that asyncio does not log it
