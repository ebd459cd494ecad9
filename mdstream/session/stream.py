"""The stream session: one WebSocket, kept connected for as long as the feed wants it.

    connect ─► greet, authenticate, subscribe (wire.Protocol) ─► payloads to the pipeline ─┐
       ▲                                                                                   │
       └──── backoff: jittered, capped, reset by real data ◄──── lost, refused, mute ◄─────┘

What comes in is stamped and handed on; only control messages are looked into. Errors that another
attempt cannot mend (`CredentialsError`, `CertificateError`) end the session; all others reconnect.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any
from typing import Protocol as Interface
from urllib.parse import urlsplit

import websockets
from websockets.asyncio.client import ClientConnection, connect

from mdstream.config import Config, Credentials
from mdstream.errors import (
    CertificateError,
    ConfigError,
    CredentialsError,
    NetworkError,
    ServerError,
)
from mdstream.session.retry import THROTTLED_LEAST_S, backoff, pause_asked_for
from mdstream.session.silence import MuteLimits, Silence
from mdstream.streams.spec import PayloadKind, StreamSpec, is_control
from mdstream.wire.codec import CODECS
from mdstream.wire.final import raise_if_fatal
from mdstream.wire.protocol import Note, Protocol, Ready, Refused, Waiting
from mdstream.wire.state import State
from mdstream.wire.subscription import Subscriptions

log = logging.getLogger(__name__)

_OPEN_TIMEOUT_S = 15.0
_MESSAGES_BUFFERED = 1024
"""WebSocket messages received but not taken yet; when full, reading pauses."""


class Sink(Interface):
    """Where payloads go."""

    def offer(self, payload: bytes, kind: PayloadKind, recv_ns: int) -> bool:
        """Take a payload, unless there is no room for it at this moment."""

    async def put(self, payload: bytes, kind: PayloadKind, recv_ns: int) -> None:
        """Take a payload, waiting for room."""

    def seam(self) -> None:
        """The connection is lost: what comes next does not follow upon what came."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where and how to connect."""

    url: str
    codec: str
    credentials: Credentials
    header_auth: bool
    compression: bool
    tls: ssl.SSLContext | None
    max_payload: int
    mute: MuteLimits

    @classmethod
    def of(cls, config: Config, spec: StreamSpec) -> Target:
        """The target that `config` names for stream `spec`."""
        stream = config.stream(spec.name)
        base, _ = config.urls()
        return cls(
            url=base + spec.feeds[stream.feed],
            codec=stream.codec,
            credentials=config.credentials,
            header_auth=config.auth == "headers",
            compression=config.compression,
            tls=tls_context(config) if base.startswith("wss:") else None,
            max_payload=config.handoff.max_payload_mb * 1024 * 1024,
            mute=MuteLimits.of(spec, stream.mute_after_s),
        )


def is_loopback(url: str) -> bool:
    """Whether `url` names this machine, which no proxy stands before."""
    return urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")


def tls_context(config: Config) -> ssl.SSLContext:
    """Verification by the system's authorities, or by `ca_file` alone."""
    return ssl.create_default_context(cafile=config.ca_file or None)


class StreamSession:
    """Keeps one stream connected and subscribed. `run` returns only by cancellation or fatal error.

    `on_event` is told, in a sentence, what a person following the run wants to know; `rows_of` counts
    the rows that a channel has brought so far.
    """

    # The mutable state: the connection and its protocol while there is one, and counters.

    def __init__(
        self,
        target: Target,
        subscriptions: Subscriptions,
        sink: Sink,
        on_event: Callable[[str], None],
        rows_of: Callable[[str], int | None],
    ) -> None:
        self.subscriptions = subscriptions
        self.ready = asyncio.Event()
        self.connects = 0
        self.established = 0
        """Connections that came as far as to be authenticated and subscribed."""
        self.reconnects = 0
        self.control_messages = 0
        self.trouble = ""
        """Why there is no connection, or was none lately; empty while all is well."""
        self._target = target
        self._sink = sink
        self._tell = on_event
        self._kind = PayloadKind.MSGPACK if target.codec == "msgpack" else PayloadKind.JSON
        self._socket: ClientConnection | None = None
        self._protocol: Protocol | None = None
        self._silence = Silence(target.mute, rows_of)
        self._had_data = False
        self._stalled = False
        self._found_late: list[dict[str, Any]] = []
        self._changed = asyncio.Event()

    @property
    def state(self) -> State:
        return self._protocol.state if self._protocol else State.CLOSED

    async def run(self) -> None:
        """Connect, stream, and reconnect. Raises what no further attempt can mend."""
        pauses = backoff()
        while True:
            self._had_data = self._stalled = False
            self._heed_late_words()
            established = self.established
            try:
                async with self._connection() as socket:
                    self.connects += 1
                    await self._converse(socket)
            except (CredentialsError, CertificateError, ConfigError):
                raise
            except (ServerError, NetworkError) as error:
                if self._had_data and self.established > established:
                    pauses = backoff()  # it worked: begin again with short pauses
                self.trouble = str(error)
                pause = _pause(error, next(pauses))
                self._say(f"connection lost: {error}; reconnecting in {pause:.1f} s")
                self.reconnects += 1
                await asyncio.sleep(pause)

    def change(self) -> None:
        """Have the server follow a change of `subscriptions.wanted`."""
        self._changed.set()

    def handle_control(self, messages: list[dict[str, Any]]) -> None:
        """Take control messages that a worker found among the data; the conversation sees to them."""
        self.control_messages += len(messages)
        self._found_late += messages
        self._changed.set()

    def _heed_late_words(self) -> None:
        """Control messages found after their connection was gone: only what is final still matters."""
        found, self._found_late = self._found_late, []
        for message in found:
            raise_if_fatal(message)

    # -- one connection, in the order of its life

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[ClientConnection]:
        """A connection, with the library's exceptions translated to ours, on the way in and out."""
        target = self._target
        headers = {"Content-Type": CODECS[target.codec].content_type}
        if target.header_auth:
            headers["APCA-API-KEY-ID"] = target.credentials.key_id
            headers["APCA-API-SECRET-KEY"] = target.credentials.secret_key
        try:
            async with _Connect(
                target.url,
                additional_headers=headers,
                user_agent_header="mdstream",
                compression="deflate" if target.compression else None,
                ssl=target.tls,
                open_timeout=_OPEN_TIMEOUT_S,
                close_timeout=1,
                ping_interval=10,
                ping_timeout=60,
                max_size=target.max_payload,
                max_queue=_MESSAGES_BUFFERED,
                proxy=None if is_loopback(target.url) else True,
                logger=_library_log,
            ) as socket:
                self._socket = socket
                yield socket
        except websockets.InvalidStatus as error:
            raise _refused_upgrade(error, target.url) from error
        except websockets.ConnectionClosed as error:
            raise NetworkError(_closed(error)) from error
        except ssl.SSLCertVerificationError as error:
            raise CertificateError(
                f"the certificate of {target.url} does not verify: {error.verify_message}; "
                "set ca_file if the server has a private authority"
            ) from error
        except TimeoutError as error:
            raise NetworkError(
                f"no connection to {target.url} within {_OPEN_TIMEOUT_S:.0f} s"
            ) from error
        except (OSError, websockets.WebSocketException, EOFError) as error:
            raise NetworkError(f"cannot reach {target.url}: {error}") from error
        finally:
            self._socket = self._protocol = None
            self.ready.clear()

    async def _converse(self, socket: ClientConnection) -> None:
        target = self._target
        codec = CODECS[target.codec]
        self._protocol = Protocol(
            codec, target.credentials, self.subscriptions, time.monotonic(), target.header_auth
        )
        reader = asyncio.create_task(self._read(socket, self._protocol))
        keeper = asyncio.create_task(self._keep_time(self._protocol))
        try:
            done, _ = await asyncio.wait({reader, keeper}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (reader, keeper):
                task.cancel()
            await asyncio.gather(reader, keeper, return_exceptions=True)
            self._sink.seam()

    async def _read(self, socket: ClientConnection, protocol: Protocol) -> None:
        """Receive, stamp, hand on. Nothing else happens here."""
        receive, offer, kind = socket.recv, self._sink.offer, self._kind
        is_control, now_ns, monotonic = protocol.is_control, time.time_ns, time.monotonic
        silence = self._silence
        while True:
            payload: bytes = await receive(decode=False)
            recv_ns = now_ns()
            if is_control(payload):
                await self._control(payload, protocol, recv_ns)
                continue
            if not offer(payload, kind, recv_ns):
                self._stalled = True  # it is we who are silent now, not the server
                await self._sink.put(payload, kind, recv_ns)
                self._stalled = False
            silence.last_data = monotonic()
            self._had_data = True

    async def _control(self, payload: bytes, protocol: Protocol, recv_ns: int) -> None:
        try:
            messages = CODECS[self._target.codec].decode(payload)
        except ServerError:
            await self._sink.put(payload, self._kind, recv_ns)  # to be rejected, and kept
            return
        if not all(is_control(message) for message in messages):
            # Data came along with it: a worker makes rows of it, and hands back what is control.
            await self._sink.put(payload, self._kind, recv_ns)
            return
        await self._react(protocol.receive_messages(messages, time.monotonic()))
        self.control_messages += len(messages)

    async def _keep_time(self, protocol: Protocol) -> None:
        """Whatever waits for a time: answers overdue, retries due, silence that lasts too long."""
        while True:
            now = time.monotonic()
            due = protocol.due()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(1.0, max(0.01, due - now)) if due else 1.0):
                    await self._changed.wait()
            self._changed.clear()
            now = time.monotonic()
            found, self._found_late = self._found_late, []
            happened = protocol.receive_messages(found, now)
            await self._react(happened + protocol.tick(now) + protocol.change(now))
            if protocol.state is not State.STREAMING or self._stalled:
                self._silence.restart()
            elif reason := self._silence.broken(now, self.subscriptions):
                raise NetworkError(reason)

    async def _react(self, happened: list[Any]) -> None:
        for event in happened:
            match event:
                case Ready():
                    self._silence.restart()
                    self.trouble = ""
                    if not self.ready.is_set():
                        self.established += 1
                        self.ready.set()
                    self._say(_summary(self.subscriptions))
                case Refused(refusals):
                    reasons = {r.reason for r in refusals}
                    names = ", ".join(sorted({f"{r.channel} {r.symbol}" for r in refusals})[:5])
                    self._say(
                        f"refused {len(refusals)} subscriptions ({names}): {'; '.join(reasons)}"
                    )
                case Waiting(reason):
                    self.trouble = reason
                    self._say(reason)
                case Note(text):
                    log.warning("%s", text)
        if self._protocol is not None and self._socket is not None:
            for message in self._protocol.to_send():
                await self._socket.send(message)

    def _say(self, text: str) -> None:
        log.info("%s", text)
        self._tell(text)


def _summary(subscriptions: Subscriptions) -> str:
    counts = {c: len(s) for c, s in subscriptions.active.items() if s}
    parts = (f"{c} {'*' if '*' in subscriptions.active[c] else n}" for c, n in counts.items())
    named = ", ".join(parts)
    return f"streaming {named}" if named else "connected; nothing to stream yet"


def _pause(error: Exception, pause: float) -> float:
    asked = error.retry_after if isinstance(error, ServerError) else None
    if isinstance(error, ServerError) and error.code == 429:
        return max(pause, asked or 0.0, THROTTLED_LEAST_S)
    return max(pause, asked or 0.0)


class _Connect(connect):
    """A connection to the very server that was named: the keys are for no other."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


def _refused_upgrade(error: websockets.InvalidStatus, url: str) -> Exception:
    """What an HTTP status in place of a WebSocket means."""
    response = error.response
    status = response.status_code
    if 300 <= status < 400:
        where = response.headers.get("Location", "nowhere")[:200]
        return ConfigError(
            f"{url} answered HTTP {status}: sent on to {where}; if that is the server, set stream_url"
        )
    if status in (401, 403):
        return CredentialsError(
            f"{url} answered HTTP {status}: check APCA_API_KEY_ID and APCA_API_SECRET_KEY", status
        )
    if 400 <= status < 500 and status not in (408, 425, 429):
        return ConfigError(
            f"{url} answered HTTP {status}: no such stream there; check stream_url and the feed"
        )
    asked = pause_asked_for(status, dict(response.headers.raw_items()), time.time())
    return ServerError(f"HTTP {status} in place of a connection", status, asked)


def _closed(error: websockets.ConnectionClosed) -> str:
    close = error.rcvd or error.sent
    if close is None:
        return "closed without a word"
    return f"closed with {close.code}{' ' + close.reason if close.reason else ''}"


_library_log = logging.getLogger("mdstream.websocket")
_library_log.setLevel(logging.WARNING)
