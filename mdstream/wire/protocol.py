"""One connection to a stream, from the greeting to the flow of data, without any I/O.

    bytes from the server ─► receive() ─► events for the caller
    to_send()  ─► bytes for the server  next_tick() / tick(now) ─► timers

1. The server greets (`connected`). We authenticate by message if the upgrade's headers had no keys, or if
   the server stays silent for `HEADER_AUTH_WAIT_S`.
2. Subscriptions are sent one request at a time; each answer has the server's whole set.
3. Data flows. The caller checks a few bytes of each payload with `is_control`, and passes only control
   messages; later also those that a decoder finds among data.
4. Subscriptions that are refused for now are requested again, at growing intervals.

Data shows that a connection is served. So a request whose answer does not come, or cannot be read, costs
the connection only if no data came since (`_do_without_answer`).

`_ANSWERS` has the answer to each kind of error (`venues.alpaca.refusals.RefusalKind`). The file is long
because the steps share one state.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mdstream.config import Credentials
from mdstream.errors import ServerError
from mdstream.text.masking import clean
from mdstream.venues.alpaca import auth, bodies
from mdstream.venues.alpaca.refusals import RefusalKind, Rule
from mdstream.wire.codec import Codec
from mdstream.wire.final import final, find_error
from mdstream.wire.protocol_events import Note, ProtocolEvent, Ready, Refused, Waiting
from mdstream.wire.state import Event, State, follow
from mdstream.wire.subscription import OMITTED, Refusal, Request, Subscriptions, requests

HEADER_AUTH_WAIT_S = 2.0
ANSWER_WAIT_S = 10.0
"""How long the server may take to greet, to authenticate, and to acknowledge a request."""

SETTLE_S = 1.0
"""How long acknowledgements may lack a requested symbol before it counts as refused: the server may answer
each channel by itself, or twice."""

_BACKLOG_S = 1.0
"""How long to wait for payloads that may be data but are not decoded yet."""

_DOES_WITHOUT = (
    "the acknowledgement of a subscription did not come, or could not be read; data arrives, so that the "
    "connection stays"
)

_MOST_SHOWN = 100
"""Texts of errors that are remembered, so that each is noted once."""

_AUTH_RETRY_S = (0.5, 1.0, 2.0, 3.0, 5.0)
"""Pauses before authenticating again on the same socket while another connection has the place."""


@dataclass(slots=True)
class _Outstanding:
    request: Request
    deadline: float
    settle_at: float | None = None
    """Set by an acknowledgement that lacks a part of the request."""
    rows: dict[str, int | None] = field(default_factory=dict)
    """Rows of each subscribed channel when the request was sent; None if not known yet."""


class StreamProtocol:
    """The protocol state of one connection. A new connection needs a new `StreamProtocol`.

    `subscriptions` outlives it: the wanted, active and refused ones. `rows_of` returns the number of rows
    received on a channel; None while received data is not decoded yet. Final errors raise
    `CredentialsError`, and errors that need a new connection `ServerError`.
    """

    # Written only here.
    state: State
    last_error: tuple[str, float]
    """The last error of the server, and when it came; empty without one."""
    _shown: set[str]
    """Errors that were reported or noted; those of parts of a request are repeated often."""
    _outgoing: deque[bytes | str]
    """Messages that `to_send` will return."""
    _queue: deque[Request]
    """Requests to send, one after another."""
    _outstanding: _Outstanding | None
    """The request that waits for its answer."""
    _deadline: float
    """Deadline of the server's greeting, or of authentication."""
    _auth_at: float | None
    """When to authenticate (again); None if that is not due."""
    _auth_attempts: int
    _again_at: float | None
    """When to request refused subscriptions again; None if that is not due."""
    _again_attempts: int
    """How often that was in vain, in a row."""
    _is_repeat: bool
    """Whether the requests under way repeat refused ones, and nothing has changed by them yet."""
    _does_without: bool
    """Whether a request of this connection had no answer, and data came instead."""

    def __init__(
        self,
        codec: Codec,
        credentials: Credentials,
        subscriptions: Subscriptions,
        now: float,
        headers_sent: bool = False,
        rows_of: Callable[[str], int | None] = lambda channel: 0,
    ) -> None:
        self.state = State.OPENING
        self.last_error = "", -math.inf
        self._shown = set()
        self.subscriptions = subscriptions
        subscriptions.begin()
        self._codec = codec
        self._credentials = credentials
        self._headers_sent = headers_sent
        self._rows_of = rows_of
        self._outgoing = deque()
        self._queue = deque()
        self._outstanding = None
        self._deadline = now + ANSWER_WAIT_S
        self._auth_at = None
        self._auth_attempts = 0
        self._again_at = None
        self._again_attempts = 0
        self._is_repeat = False
        self._does_without = False
        self.is_control: Callable[[bytes], bool] = codec.is_control

    # -- called by the session, in order of time

    def receive(self, payload: bytes, now: float) -> list[ProtocolEvent]:
        """Handle a control payload."""
        return self.receive_messages(self._codec.decode(payload), now)

    def receive_messages(self, messages: Iterable[dict[str, Any]], now: float) -> list[ProtocolEvent]:
        """Handle decoded control messages."""
        happened: list[ProtocolEvent] = []
        for message in messages:
            kind = message.get(bodies.TYPE)
            if kind == bodies.SUCCESS:
                happened += self._succeed(clean(str(message.get("msg"))), now)
            elif kind == bodies.ERROR:
                happened += self._fail(message, now)
            elif kind == bodies.SUBSCRIPTION:
                happened += self._acknowledge(message, now)
        return happened

    def to_send(self) -> list[bytes | str]:
        """Return the messages to send now, in order; text for JSON, bytes for msgpack."""
        out = list(self._outgoing)
        self._outgoing.clear()
        return out

    def next_tick(self) -> float | None:
        """Return the latest time for the next call of `tick`; None without a timer."""
        times = [self._auth_at]
        if self._outstanding is not None:
            times.append(self._outstanding.settle_at or self._outstanding.deadline)
        if self.state in (State.OPENING, State.AUTHENTICATING) and self._auth_at is None:
            times.append(self._deadline)
        if self.state is State.STREAMING:
            times.append(self._again_at)
        return min((t for t in times if t is not None), default=None)

    def tick(self, now: float) -> list[ProtocolEvent]:
        """Handle timers. Raises `ServerError` when an answer is overdue and no data came instead."""
        if self._outstanding is not None:
            self._note_rows(self._outstanding)
        if self._auth_at is not None and now >= self._auth_at:
            self._authenticate(now)
        elif self.state is State.OPENING and now >= self._deadline:
            raise ServerError(f"no greeting within {ANSWER_WAIT_S:.0f} s")
        elif self.state is State.AUTHENTICATING and self._auth_at is None and now >= self._deadline:
            raise ServerError(f"no answer to authentication within {ANSWER_WAIT_S:.0f} s")
        elif self._outstanding is None:
            if self.state is State.STREAMING and self._again_at is not None and now >= self._again_at:
                return self._ask_again(now)
        elif self._outstanding.settle_at is not None:
            if now >= self._outstanding.settle_at:
                return self._settle(now)
        elif now >= self._outstanding.deadline:
            return self._do_without_answer(self._outstanding, now)
        return []

    def change(self, now: float) -> list[ProtocolEvent]:
        """Request the changes after the caller changed the wanted subscriptions."""
        if self.state is State.STREAMING:
            self._queue_changes()
            if self._queue:
                self._follow(Event.CHANGED)
                return self._next_request(now)
        return []

    # -- greeting and authentication

    def _succeed(self, text: str, now: float) -> list[ProtocolEvent]:
        if text == bodies.CONNECTED and self.state is State.OPENING:
            self._follow(Event.CONNECTED)
            if self._headers_sent:
                self._deadline = now + ANSWER_WAIT_S
                self._auth_at = now + HEADER_AUTH_WAIT_S
            else:
                self._authenticate(now)
            return []
        if text == bodies.AUTHENTICATED and self.state is State.AUTHENTICATING:
            return self._on_authenticated(now)
        return [Note(f"unexpected success message {text!r} while {self.state.value}")]

    def _authenticate(self, now: float) -> None:
        self._auth_at = None
        self._deadline = now + ANSWER_WAIT_S
        self._send(auth.message(self._credentials.key_id, self._credentials.secret_key))

    def _on_authenticated(self, now: float) -> list[ProtocolEvent]:
        self._auth_at = None
        self._auth_attempts = 0
        self._follow(Event.AUTHENTICATED)
        self._queue_changes()
        return self._next_request(now)

    # -- subscriptions

    def _queue_changes(self) -> None:
        self._queue.clear()
        self._queue.extend(requests("unsubscribe", self.subscriptions.find_surplus()))
        missing = self.subscriptions.find_missing()
        self._queue.extend(requests("subscribe", missing, self.subscriptions.comes_first))

    def _next_request(self, now: float) -> list[ProtocolEvent]:
        if not self._queue:
            self._queue_changes()  # changes since the last request
        if not self._queue:
            return self._complete(now)
        request = self._queue.popleft()
        self._outstanding = _Outstanding(request, now + ANSWER_WAIT_S)
        self._note_rows(self._outstanding)
        self._send(request.message())
        return []

    def _complete(self, now: float) -> list[ProtocolEvent]:
        """All requests are answered. Nothing is reported if they were repeated in vain."""
        self._follow(Event.ACKNOWLEDGED)
        was_in_vain, self._is_repeat = self._is_repeat, False
        if self.subscriptions.again and self._again_at is None:
            self._again_at = now + self.subscriptions.pause_before_again(self._again_attempts)
        return [] if was_in_vain else [Ready()]

    def _ask_again(self, now: float) -> list[ProtocolEvent]:
        """Request what is refused for now."""
        self._again_at = None
        self._again_attempts += 1
        self._is_repeat = True
        self.subscriptions.ask_again()
        self._queue_changes()
        if not self._queue:
            return []  # none of it is wanted any more
        self._follow(Event.CHANGED)
        return self._next_request(now)

    def _acknowledge(self, message: dict[str, Any], now: float) -> list[ProtocolEvent]:
        if not self.subscriptions.can_read(message):
            return []  # as if it had not come
        self._update(message)
        if self._outstanding is None:
            return []
        if self.subscriptions.shows(self._outstanding.request):
            self._outstanding = None
            return self._next_request(now)
        if self._outstanding.settle_at is None:
            self._outstanding.settle_at = now + SETTLE_S
        return []

    def _update(self, message: Mapping[str, Any]) -> None:
        """Update the active subscriptions from an acknowledgement."""
        refused, count = len(self.subscriptions.refused), self.subscriptions.count
        self.subscriptions.acknowledge(message)
        if len(self.subscriptions.refused) < refused:
            self._again_attempts = 0  # there is room again: do not wait long with the rest
        if self.subscriptions.count != count:
            self._is_repeat = False

    def _note_rows(self, outstanding: _Outstanding) -> None:
        """Note how many rows each subscribed channel has, of those for which it is not known yet."""
        served = (channel for channel, symbols in self.subscriptions.active.items() if symbols)
        for channel in (*(channel for channel, _ in outstanding.request.symbols), *served):
            if outstanding.rows.get(channel) is None:
                outstanding.rows[channel] = self._rows_of(channel)

    def _do_without_answer(self, outstanding: _Outstanding, now: float) -> list[ProtocolEvent]:
        """Continue if data of a subscribed channel came since the request; otherwise raise `ServerError`.

        If it is of a channel of the request, the request counts as served, as far as is known. If it is of
        others, the connection works, and the request is sent again later. Without data, a repeat of what is
        refused is sent again, too, and an unsubscribe counts as done: their connection was in order before,
        and the rule about silence finds that it is dead.
        """
        request, subscriptions = outstanding.request, self.subscriptions
        rows = {channel: self._rows_of(channel) for channel in outstanding.rows}
        if None in (*rows.values(), *outstanding.rows.values()):
            outstanding.deadline = now + _BACKLOG_S
            return []
        flowing = {channel for channel, before in outstanding.rows.items() if rows[channel] != before}
        was_in_order = request.action != "subscribe" or subscriptions.has_refused(request)
        if not flowing and not was_in_order:
            raise ServerError(f"no answer to a subscription within {ANSWER_WAIT_S:.0f} s")
        self._outstanding = None
        happened: list[ProtocolEvent] = []
        if flowing and not self._does_without:
            self._does_without = True
            happened.append(Note(_DOES_WITHOUT))
        if request.action != "subscribe":
            subscriptions.drop(request)
        elif flowing.isdisjoint(channel for channel, _ in request.symbols):
            happened += self._refuse(subscriptions.find_unanswered(request), is_for_now=True)
        else:
            self._update(subscriptions.with_request(request))
        return happened + self._next_request(now)

    def _settle(self, now: float) -> list[ProtocolEvent]:
        """Refuse what the last acknowledgement lacks, because no other one followed."""
        assert self._outstanding is not None
        request, self._outstanding = self._outstanding.request, None
        subscriptions = self.subscriptions
        happened: list[ProtocolEvent] = []
        if request.action == "subscribe":
            lost = [
                Refusal(channel, symbol, OMITTED)
                for channel, symbols in request.symbols
                for symbol in symbols
                if symbol not in subscriptions.active.get(channel, ())
                and symbol in subscriptions.wanted.get(channel, ())
            ]
            happened += self._refuse(lost, is_for_now=True)
        else:  # an incomplete unsubscribe is not repeated
            subscriptions.drop(request)
        return happened + self._next_request(now)

    def _refuse(self, refusals: list[Refusal], is_for_now: bool) -> list[ProtocolEvent]:
        """Note refusals of what is still wanted. Those of what was served before are for now, too."""
        granted, refuse = self.subscriptions.granted, self.subscriptions.refuse
        wanted = self.subscriptions.wanted
        refusals = [r for r in refusals if r.symbol in wanted.get(r.channel, ())]
        new = [r for r in refusals if refuse(r, is_for_now or (r.channel, r.symbol) in granted)]
        return [Refused(tuple(new))] if new else []

    # -- errors

    def _fail(self, message: dict[str, Any], now: float) -> list[ProtocolEvent]:
        """Handle an error. Its text is in what happened, or in what is raised, or in a note of its own."""
        rule, code, text = find_error(message)
        reason = rule.say(code, text) if rule else text
        self.last_error = reason, now
        if rule:
            happened = _ANSWERS[rule.before](self, rule, code, text, now)
        else:
            happened = self._cut_request(reason, now) if self._outstanding else [Note(reason)]
        is_shown = any(isinstance(each, Note | Waiting | Refused) for each in happened)
        if not is_shown and reason not in self._shown:
            happened.insert(0, Note(reason))
        if len(self._shown) >= _MOST_SHOWN:
            self._shown.clear()
        self._shown.add(reason)
        return happened

    def _fail_for_good(self, rule: Rule, code: int, text: str, now: float) -> list[ProtocolEvent]:
        raise final(rule, code, text)

    def _reconnect(self, rule: Rule, code: int, text: str, now: float) -> list[ProtocolEvent]:
        raise ServerError(rule.say(code, text), code)

    def _retry_authentication(self, rule: Rule, code: int, text: str, now: float) -> list[ProtocolEvent]:
        """Authenticate again on the same socket later: another connection has the account's place."""
        if self.state is not State.AUTHENTICATING:
            raise ServerError(f"{text} ({code})", code)
        if self._auth_attempts >= len(_AUTH_RETRY_S):
            raise ServerError(f"{text} ({code}), still after {self._auth_attempts} attempts", code)
        pause = _AUTH_RETRY_S[self._auth_attempts]
        self._auth_attempts += 1
        self._auth_at = now + pause
        self._follow(Event.REFUSED_FOR_NOW)
        return [Waiting(f"{text} ({code}); authenticating again in {pause:.1f} s")]

    def _on_unauthenticated(self, rule: Rule, code: int, text: str, now: float) -> list[ProtocolEvent]:
        """Authenticate again: we are not authenticated yet, or no longer."""
        if self.state is State.OPENING:
            return [Note(f"{text} ({code}) before the greeting")]
        self._outstanding = None
        self.subscriptions.active = {}  # the server has dropped them too
        self._follow(Event.REFUSED_FOR_NOW)
        if self._auth_at is None:
            if self._auth_attempts >= len(_AUTH_RETRY_S):
                raise ServerError(f"{text} ({code}), still after {self._auth_attempts} attempts", code)
            self._auth_attempts += 1
            self._authenticate(now)
        return [Waiting(f"{text} ({code}); authenticating again")]

    def _on_authenticated_twice(self, rule: Rule, code: int, text: str, now: float) -> list[ProtocolEvent]:
        """Continue: both header and message authenticated us."""
        if self.state is State.AUTHENTICATING:
            return self._on_authenticated(now)
        return []

    def _reduce(self, rule: Rule, code: int, text: str, now: float) -> list[ProtocolEvent]:
        """Cut the outstanding request, because a part of it is at fault."""
        if self._outstanding is None:
            return [Note(f"{text} ({code}) without a request of ours")]
        return self._cut_request(rule.say(code, text), now, rule.before)

    def _cut_request(self, reason: str, now: float, kind: RefusalKind | None = None) -> list[ProtocolEvent]:
        """Cut the outstanding request if that may help; otherwise refuse it."""
        assert self._outstanding is not None
        request, self._outstanding = self._outstanding.request, None
        if kind is RefusalKind.SYMBOL:  # invalid on all channels
            parts = request.symbol_halves()
        elif kind is RefusalKind.CHANNEL:  # invalid for all symbols
            parts = request.channels()
        else:
            parts = request.halves()
        refused: list[Refusal] = []
        if len(parts) > 1:
            self._queue.extendleft(reversed(parts))
        elif request.action != "subscribe":  # the server does not know the symbol any more
            self.subscriptions.drop(request)
        else:
            refused = request.refuse(reason)
            if kind in (RefusalKind.LIMIT, RefusalKind.CHANNEL):  # the next requests would be refused too
                refused += self._drop_same_channel(request, reason)
        return self._refuse(refused, kind is RefusalKind.LIMIT) + self._next_request(now)

    def _drop_same_channel(self, refused: Request, reason: str) -> list[Refusal]:
        channel = refused.symbols[0][0]
        dropped: list[Refusal] = []
        for request in list(self._queue):
            if request.action == "subscribe" and [c for c, _ in request.symbols] == [channel]:
                self._queue.remove(request)
                dropped += request.refuse(reason)
        return dropped

    # -- helpers

    def _send(self, message: dict[str, Any]) -> None:
        self._outgoing.append(self._codec.encode(message))

    def _follow(self, event: Event) -> None:
        self.state = follow(self.state, event)


_Answer = Callable[[StreamProtocol, Rule, int, str, float], list[ProtocolEvent]]

_ANSWERS: dict[RefusalKind, _Answer] = {
    RefusalKind.SYMBOL: StreamProtocol._reduce,
    RefusalKind.CHANNEL: StreamProtocol._reduce,
    RefusalKind.LIMIT: StreamProtocol._reduce,
    RefusalKind.WILDCARD: StreamProtocol._reduce,
    RefusalKind.NOT_YET: StreamProtocol._on_unauthenticated,
    RefusalKind.TWICE: StreamProtocol._on_authenticated_twice,
    RefusalKind.OCCUPIED: StreamProtocol._retry_authentication,
    RefusalKind.TEMPORARY: StreamProtocol._reconnect,
    RefusalKind.FINAL: StreamProtocol._fail_for_good,
}
