"""One client's stream connection, from the server's side."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import aiohttp
import msgpack
import orjson
from aiohttp import web

from mdstream.simulator.encode import ENCODINGS, Encoding
from mdstream.simulator.generator import Message
from mdstream.simulator.markets import Market
from mdstream.simulator.sender import Sender, Shared
from mdstream.venues.alpaca.auth import KEY_HEADER, SECRET_HEADER
from mdstream.venues.alpaca.refusals import STREAM_TEXTS

log = logging.getLogger(__name__)

_SETTLE_S = 0.05
"""After a change of subscriptions, the sender waits this long for another change."""


class StreamConnection:
    """Speaks the protocol to one client, and sends it the messages that it subscribed to."""

    _key: str
    """The client's key, once it is authenticated."""
    _has_place: bool
    """Whether it has the only connection that its key may have to this endpoint."""
    _subscribed: dict[str, list[str]]
    _changed: asyncio.Event
    """Set when the subscriptions have changed, until the sender is restarted."""
    _tasks: list[asyncio.Task[None]]

    def __init__(self, shared: Shared, market: Market, request: web.Request) -> None:
        self._shared = shared
        self._settings = shared.settings
        self._market = market
        self._spec = market.spec
        self._path = request.path
        self._request = request
        self._socket = web.WebSocketResponse(
            max_msg_size=64 * 1024, compress=False, autoclose=True, heartbeat=15
        )
        content_type = request.headers.get("Content-Type", "application/json")
        self._encoding: Encoding = ENCODINGS["msgpack" if "msgpack" in content_type else "json"]
        self._sent = shared.sent[market.name]
        self._key = ""
        self._has_place = False
        self._subscribed = {}
        self._changed = asyncio.Event()
        self._tasks = []
        self._sender = Sender(shared, market, self._encoding, self._transport, self._error)

    def _transport(self) -> asyncio.Transport:
        transport = self._request.transport
        if transport is None:
            raise ConnectionResetError("the client is gone")
        return transport

    async def run(self) -> web.StreamResponse:
        """Serve the client until either side ends the connection."""
        try:
            await self._socket.prepare(self._request)
        except ConnectionResetError:
            return web.Response()  # the client closed the connection in the handshake
        self._sent.connections += 1
        started = time.monotonic()
        try:
            self._send([{"T": "success", "msg": "connected"}])
            await self._by_headers()
            self._start(self._watch_auth(started))
            self._start(self._flow())
            async for message in self._socket:
                if message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                    await self._handle(message.type, message.data)
        except (ConnectionResetError, asyncio.IncompleteReadError):
            pass  # the client has closed the connection
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._leave()
        return self._socket

    # -- from the client

    async def _handle(self, kind: aiohttp.WSMsgType, data: Any) -> None:
        message = self._decode(kind, data)
        match message.get("action") if isinstance(message, dict) else None:
            case "auth":
                await self._auth(str(message.get("key", "")), str(message.get("secret", "")))
            case "subscribe" | "unsubscribe" as action:
                self._subscribe(action, message)
            case _:
                self._error(400)

    def _decode(self, kind: aiohttp.WSMsgType, data: Any) -> Any:
        binary = kind is aiohttp.WSMsgType.BINARY
        if binary is not self._encoding.binary:
            return None
        try:
            return msgpack.unpackb(data) if binary else orjson.loads(data)
        except (ValueError, TypeError, msgpack.UnpackException):
            return None

    async def _by_headers(self) -> None:
        headers = self._request.headers
        key, secret = headers.get(KEY_HEADER), headers.get(SECRET_HEADER)
        if key and secret:
            await self._auth(key, secret)

    async def _auth(self, key: str, secret: str) -> None:
        if self._key:
            self._error(403)
            return
        await asyncio.sleep(self._settings.latency_ms / 1000)
        if self._spec.codecs == ("msgpack",) and not self._encoding.binary:
            self._error(412)
            return
        fault = self._shared.faults.strikes("auth", self._spec.name)
        if fault is not None:
            self._error(int(fault.number))
            return
        expected = self._settings.credentials
        if not (key and secret):
            self._error(402)
            return
        if expected and (key, secret) != (expected.key_id, expected.secret_key):
            self._error(402)
            return
        place = (self._path, key)
        if place in self._shared.taken:
            self._error(406)
            return
        self._shared.taken.add(place)
        self._has_place = True
        self._key = key
        self._send([{"T": "success", "msg": "authenticated"}])

    def _leave(self) -> None:
        if self._has_place:
            self._shared.taken.discard((self._path, self._key))
            self._has_place = False

    def _subscribe(self, action: str, message: dict[str, Any]) -> None:
        if not self._key:
            self._error(401)
            return
        asked = {c: s for c, s in message.items() if c != "action" and s}
        code = self._fault_in(asked)
        after = {c: list(s) for c, s in self._subscribed.items()}
        for channel, symbols in asked.items() if not code else ():
            before = after.get(channel, [])
            after[channel] = (
                list(dict.fromkeys([*before, *symbols]))
                if action == "subscribe"
                else [s for s in before if s not in symbols]
            )
        limit = self._settings.symbol_limit
        if not code and limit and len({s for listed in after.values() for s in listed}) > limit:
            code = 405
        if code:
            self._error(code)
            return
        self._subscribed = after
        self._send([self._acknowledgement()])
        self._changed.set()

    def _fault_in(self, asked: dict[str, Any]) -> int:
        """Return the error code for a request; 0 if it is valid."""
        invalid = self._shared.faults.invalid_symbols(self._spec.name)
        for channel, symbols in asked.items():
            if channel not in self._spec.subscriptions:
                return 410
            if not isinstance(symbols, list) or not all(isinstance(s, str) for s in symbols):
                return 400
            if "*" in symbols and channel in self._spec.no_wildcard:
                return 413
            if any(s in invalid or not self._market.is_symbol(s) for s in symbols if s != "*"):
                return 400
        return 0

    def _acknowledgement(self) -> Message:
        full = {channel: self._subscribed.get(channel, []) for channel in self._spec.subscriptions}
        for channel, with_channel in self._spec.added_by_server.items():
            full[channel] = full.get(with_channel, [])
        return {"T": "subscription", **full}

    # -- to the client

    def _send(self, messages: list[Message]) -> None:
        encoding = self._encoding
        payload = encoding.payload([encoding.message(m) for m in messages])
        self._transport().write(encoding.wrap(payload))

    def _error(self, code: int) -> None:
        self._send([{"T": "error", "code": code, "msg": STREAM_TEXTS.get(code, "error")}])

    async def _watch_auth(self, started: float) -> None:
        await asyncio.sleep(max(0.0, started + self._settings.auth_timeout_s - time.monotonic()))
        if not self._key:
            self._error(404)
            await self._socket.close()

    async def _flow(self) -> None:
        """Send the subscribed messages; restart whenever the subscriptions change."""
        while True:
            await self._changed.wait()
            while self._changed.is_set():
                self._changed.clear()
                await asyncio.sleep(_SETTLE_S)
            sender = asyncio.create_task(self._sender.send(self._subscribed))
            changed = asyncio.create_task(self._changed.wait())
            try:
                await asyncio.wait({sender, changed}, return_when=asyncio.FIRST_COMPLETED)
                if sender.done():
                    sender.result()
                    await changed
            finally:
                for task in (sender, changed):
                    task.cancel()
                await asyncio.gather(sender, changed, return_exceptions=True)

    def _start(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        task.add_done_callback(_log_failure)
        self._tasks.append(task)


def _log_failure(task: asyncio.Task[None]) -> None:
    if task.cancelled() or task.exception() is None:
        return
    error = task.exception()
    if not isinstance(error, ConnectionResetError):
        log.error("a connection of the simulator failed", exc_info=error)
