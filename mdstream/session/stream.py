"""The stream session: keep one WebSocket connected until the feed stops.

    connect ─► greet, authenticate, subscribe (wire.protocol) ─► payloads to the pipeline ─┐
       ▲                                                                                   │
       └──── backoff: jittered, capped, reset by real data ◄──── lost, refused, mute ◄─────┘

Payloads get a receive time and go to the pipeline; only control messages are decoded here. An error that
another attempt cannot fix (`CredentialsError`, `ConfigError`, `CertificateError`) ends the session, unless
key and address have worked before: then the session tries for some minutes (`session.retry.Doubt`). After
other errors it reconnects.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from mdstream.errors import CertificateError, ConfigError, CredentialsError, NetworkError, ServerError
from mdstream.session.retry import THROTTLED_LEAST_S, Doubt, reconnect_pauses
from mdstream.session.silence import Silence
from mdstream.session.sockets import open_socket
from mdstream.session.sockets.interface import Receive, Socket
from mdstream.session.target import Target
from mdstream.streams.spec import PayloadKind
from mdstream.system.clock import receipts, until_beat
from mdstream.telemetry.events import EventKind, RunEvent, Severity
from mdstream.venues.alpaca.bodies import SUBSCRIPTION, TYPE, is_control
from mdstream.venues.alpaca.refusals import THROTTLED, Place, find_rule
from mdstream.wire.codec import CODECS
from mdstream.wire.final import raise_if_fatal
from mdstream.wire.protocol import StreamProtocol
from mdstream.wire.protocol_events import Note, Ready, Refused, Waiting
from mdstream.wire.state import State
from mdstream.wire.subscription import Refusal, Subscriptions

log = logging.getLogger(__name__)

_SHORT_S = 5.0
"""Connections that are lost within this time of each other are not replaced at once."""

MOST_HELD_BYTES = 32 * 1024 * 1024
"""Payloads of a stream that are held while all buffers are full. Only then reading pauses, and with it the
answers to pings, which are behind the data."""
_RELATED_S = 10.0
"""How long an error of the server may be the cause of a lost connection although data came after it."""
_NAMED = 5
"""Most refused subscriptions that an event names."""


class Sink(Protocol):
    """Destination of payloads: the pipeline."""

    def offer(self, payload: bytes, kind: PayloadKind, recv_ns: int, is_last: bool = False) -> bool:
        """Take a payload, the last one that arrived or not; return False if there is no room for it now."""

    async def put(self, payload: bytes, kind: PayloadKind, recv_ns: int) -> None:
        """Take a payload, waiting for room."""

    def mark_gap(self) -> None:
        """Note that the connection was lost: data is missing before the next payload."""


class StreamSession:
    """Keeps one stream connected and subscribed. `run` ends only by cancellation or a final error.

    `on_event` is called with events of the run; `rows_of` returns the number of rows received on a channel.
    `has_worked`: whether an earlier session with the same target was subscribed.
    """

    # Counters and states for readers; written only here.
    connects: int
    established: int
    """Connections that were authenticated and subscribed."""
    reconnects: int
    control_messages: int
    trouble: str
    """Why the connection was lost; empty while there is one."""
    ready: asyncio.Event

    # The connection, while there is one; written by `_converse`.
    _socket: Socket | None
    _protocol: StreamProtocol | None
    _had_data: bool
    _last_error: tuple[str, float]
    """The server's last error on the last connection, and when it came on the monotonic clock."""

    # Written by `run`, `_doubt` also by `_react`.
    _doubt: Doubt
    _lost_at: float
    """When a connection was lost last, on the monotonic clock."""

    # Payloads without room, with their receive times; added by the receiver, removed by `put_held`.
    _held: deque[tuple[bytes, int]]
    _held_bytes: int
    _holding: asyncio.Event

    # Requests from outside, handled by `_keep_time`.
    _found_late: list[dict[str, Any]]
    """Control messages that workers found among data."""
    _changed: asyncio.Event

    def __init__(
        self,
        target: Target,
        subscriptions: Subscriptions,
        sink: Sink,
        on_event: Callable[[RunEvent], None],
        rows_of: Callable[[str], int | None],
        has_worked: bool = False,
    ) -> None:
        self.subscriptions = subscriptions
        self.ready = asyncio.Event()
        self.connects = 0
        self.established = 0
        self.reconnects = 0
        self.control_messages = 0
        self.trouble = ""
        self._target = target
        self._sink = sink
        self._on_event = on_event
        self._kind = PayloadKind.MSGPACK if target.codec == "msgpack" else PayloadKind.JSON
        self._socket = None
        self._protocol = None
        self._rows_of = rows_of
        self._silence = Silence(target.mute, rows_of)
        self._had_data = False
        self._last_error = "", -math.inf
        self._doubt = Doubt(has_worked)
        self._lost_at = -math.inf
        self._held = deque()
        self._held_bytes = 0
        self._holding = asyncio.Event()
        self._found_late = []
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Connect, stream, and reconnect. Raises errors that another attempt cannot fix."""
        pauses = reconnect_pauses()
        while True:
            self._had_data = False
            self._last_error = "", -math.inf
            established, place = self.established, Place.STREAM
            try:
                self._handle_late_control()
                place = Place.UPGRADE
                async with open_socket(self._target) as socket:
                    place = Place.STREAM
                    self.connects += 1
                    await self._converse(socket)
            except CertificateError:
                raise
            except (CredentialsError, ConfigError) as error:
                left = self._seconds_in_doubt(place, error)
                if not left:
                    raise
                lost: Exception = error
                reason = self._explain(error)
                text = f"refused, although it worked before: {reason}; final in {left:.0f} s"
                severity = Severity.ERROR
            except (ServerError, NetworkError) as error:
                lost, reason = error, self._explain(error)
                text, severity = f"connection lost: {reason}", Severity.WARNING
            if self._had_data and self.established > established:
                pauses = reconnect_pauses()  # the connection worked: start with short pauses again
                if time.monotonic() - self._lost_at < _SHORT_S:
                    next(pauses)
                self._lost_at = time.monotonic()
            self.trouble = reason
            pause = _pause(lost, next(pauses))
            fields = {"reason": self.trouble, "pause_s": pause}
            text = f"{text}; reconnecting in {pause:.1f} s"
            self._report(RunEvent(EventKind.LOST, text, severity, fields))
            self.reconnects += 1
            await asyncio.sleep(pause)

    def _seconds_in_doubt(self, place: Place, error: CredentialsError | ConfigError) -> float:
        """Return how long a refusal still counts as temporary."""
        rule = None if error.code is None else find_rule(place, error.code)
        return self._doubt.seconds_left(rule, time.monotonic()) if rule else 0.0

    def _explain(self, error: Exception) -> str:
        """Return why the connection was lost, with the server's last error if that may be the cause.

        It may be if no data came after it, or if it came only seconds ago.
        """
        text, at = self._last_error
        is_related = self._silence.last_data < at or time.monotonic() - at < _RELATED_S
        if is_related and text not in str(error):
            return f"{error}; last error of the server: {text}"
        return str(error)

    @property
    def progress(self) -> tuple[Any, ...]:
        """What changes whenever the state of the connection does."""
        return self.ready.is_set(), self.established, self.reconnects, self.control_messages

    @property
    def is_settled(self) -> bool:
        """Whether it is connected and subscribed, and no change of subscriptions is under way."""
        protocol = self._protocol
        return self.ready.is_set() and protocol is not None and protocol.state is State.STREAMING

    def change(self) -> None:
        """Send the server a change of `subscriptions.wanted`."""
        self._changed.set()

    def handle_control(self, messages: list[dict[str, Any]]) -> None:
        """Take control messages that a worker found among the data."""
        self.control_messages += len(messages)
        self._found_late += messages
        self._changed.set()

    def _handle_late_control(self) -> None:
        """Handle control messages that were found after their connection was lost.

        An acknowledgement shows that key and address worked. Raises an error if a later one is final.
        """
        found, self._found_late = self._found_late, []
        for message in found:
            if message.get(TYPE) == SUBSCRIPTION:
                self._doubt.succeed()
            if text := raise_if_fatal(message):
                log.warning("%s", text)

    # -- one connection, in order of time

    async def _converse(self, socket: Socket) -> None:
        """Serve a connection until it is lost. Raises the reason."""
        target = self._target
        self._socket = socket
        protocol = self._protocol = StreamProtocol(
            CODECS[target.codec],
            target.credentials,
            self.subscriptions,
            time.monotonic(),
            target.header_auth,
            self._rows_of,
        )
        socket.start(self._receiver(protocol))
        parts: list[asyncio.Future[None]] = [
            asyncio.create_task(self._keep_time(protocol)),
            asyncio.create_task(self._make_room(socket)),
        ]
        try:
            try:
                done, _ = await asyncio.wait({socket.lost, *parts}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in parts:
                    task.cancel()
                await asyncio.gather(*parts, return_exceptions=True)
            await self.put_held()  # received before the connection was lost
            for task in done:
                task.result()
        finally:
            self._last_error = protocol.last_error
            self._socket = self._protocol = None
            self.ready.clear()
            if not self._held:  # else the run ends, and these payloads are still to be put
                self._sink.mark_gap()

    def _receiver(self, protocol: StreamProtocol) -> Receive:
        """Return the function that adds a receive time to each payload and offers it to the sink."""
        offer, kind, held = self._sink.offer, self._kind, self._held
        is_control, now_ns, monotonic = protocol.is_control, receipts.now, time.monotonic
        silence = self._silence

        def receive(payload: bytes, is_last: bool) -> bool:
            recv_ns = now_ns()
            if is_control(payload) and self._handle_if_control(payload, protocol):
                return True
            if held or not offer(payload, kind, recv_ns, is_last):
                held.append((payload, recv_ns))
                self._held_bytes += len(payload)
                self._holding.set()
                return self._held_bytes < MOST_HELD_BYTES
            silence.last_data = monotonic()
            self._had_data = True
            return True

        return receive

    def _handle_if_control(self, payload: bytes, protocol: StreamProtocol) -> bool:
        """Handle a payload of control messages; return False if it has anything else."""
        try:
            messages = CODECS[self._target.codec].decode(payload)
        except ServerError:
            return False  # a worker rejects and keeps it
        if not all(is_control(message) for message in messages):
            return False  # a worker decodes the data, and hands control messages back
        self._take_control(protocol, messages)
        self.control_messages += len(messages)
        return True

    async def _make_room(self, socket: Socket) -> None:
        """Put held payloads as soon as there is room, then resume reading."""
        while True:
            await self._holding.wait()
            await self.put_held()
            socket.resume()

    async def put_held(self) -> None:
        """Put held payloads in order. This time does not count as silence of the server."""
        while self._held:
            payload, recv_ns = self._held[0]
            await self._sink.put(payload, self._kind, recv_ns)
            self._held.popleft()
            self._held_bytes -= len(payload)
            self._silence.last_data = time.monotonic()
            self._had_data = True
        self._holding.clear()

    async def _keep_time(self, protocol: StreamProtocol) -> None:
        """Handle timers: overdue answers, retries, and long silence."""
        while True:
            now = time.monotonic()
            due = protocol.next_tick()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(until_beat(1.0), max(0.01, due - now) if due else 1.0)):
                    await self._changed.wait()
            self._changed.clear()
            now = time.monotonic()
            found, self._found_late = self._found_late, []
            self._take_control(protocol, found)
            self._react(protocol.tick(now))
            self._react(protocol.change(now))
            if not self.ready.is_set() or self._held:
                self._silence.restart()
            elif reason := self._silence.find_fault(now, self.subscriptions):
                raise NetworkError(reason)

    def _take_control(self, protocol: StreamProtocol, messages: list[dict[str, Any]]) -> None:
        """Handle control messages one by one: what one establishes counts before the next one refuses."""
        for message in messages:
            self._react(protocol.receive_messages([message], time.monotonic()))

    def _react(self, happened: list[Any]) -> None:
        for event in happened:
            match event:
                case Ready():
                    self._silence.restart()
                    self.trouble = ""
                    self._doubt.succeed()
                    if not self.ready.is_set():
                        self.established += 1
                        self.ready.set()
                    self._report(_connected_event(self.subscriptions))
                case Refused(refusals):
                    self._report(_refused_event(refusals, self.subscriptions))
                case Waiting(reason):
                    self.trouble = reason
                    self._report(RunEvent(EventKind.WAITING, reason, Severity.WARNING))
                case Note(text):
                    log.warning("%s", text)
        if self._protocol is not None and self._socket is not None:
            for message in self._protocol.to_send():
                self._socket.send(message)

    def _report(self, event: RunEvent) -> None:
        log.log(event.severity, "%s", event.text)
        self._on_event(event)


def _connected_event(subscriptions: Subscriptions) -> RunEvent:
    counts = {c: len(s) for c, s in subscriptions.active.items() if s}
    parts = (f"{c} {'*' if '*' in subscriptions.active[c] else n}" for c, n in counts.items())
    text = f"streaming {', '.join(parts)}" if counts else "connected; nothing to stream yet"
    return RunEvent(EventKind.CONNECTED, text, fields={"subscriptions": counts})


def _refused_event(refusals: Sequence[Refusal], subscriptions: Subscriptions) -> RunEvent:
    reasons = sorted({r.reason for r in refusals})
    names = sorted({f"{r.channel} {r.symbol}" for r in refusals})[:_NAMED]
    lost = sum((r.channel, r.symbol) in subscriptions.granted for r in refusals)
    served = f", {lost} of which were served before," if lost else ""
    text = f"refused {len(refusals)} subscriptions{served} ({', '.join(names)}): {'; '.join(reasons)}"
    fields = {"count": len(refusals), "lost": lost, "subscriptions": names, "reasons": reasons}
    return RunEvent(EventKind.REFUSED, text, Severity.ERROR if lost else Severity.WARNING, fields)


def _pause(error: Exception, pause: float) -> float:
    asked = error.retry_after if isinstance(error, ServerError) else None
    if isinstance(error, ServerError) and error.code == THROTTLED:
        return max(pause, asked or 0.0, THROTTLED_LEAST_S)
    return max(pause, asked or 0.0)
