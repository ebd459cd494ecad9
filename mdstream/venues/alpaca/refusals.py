"""What the service may refuse, and what each refusal means: one table for the stream and for REST.

A row (`Rule`) names the place of the refusal, its codes, and for REST the shape of the body. It says what
the refusal means before the first success and after it, the exit code if it lasts, and the sentence for the
user. A success is a subscribed connection, or a REST answer with data: the key and the address work.

A key, plan or address that has worked is rarely wrong a moment later: front ends of the service fail, and
its databases of accounts too. So a refusal that would be final counts as temporary for a while after a
success (`RefusalKind.DOUBTFUL`).

Sources: Alpaca's documentation of the stream (2026-08), its Go client (411), older documents (408), its
REST specification (2026-06), users' reports of 403, 404 and HTML after hours of service.
"""

from __future__ import annotations

from collections.abc import Container
from enum import Enum
from functools import partial
from typing import NamedTuple

import orjson

from mdstream.venues.alpaca.auth import KEY_VARIABLE, SECRET_VARIABLE
from mdstream.venues.alpaca.bodies import REASON

DOUBT_S = 300.0
"""How long a refusal that would be final counts as temporary after a success, in seconds."""
FIRST_DOUBT_S = 10.0
"""The same before the first success, for refusals that a front end sent."""

THROTTLED = 429
"""HTTP: too many requests, or too many connections."""


class Place(Enum):
    """Where a refusal is found."""

    STREAM = "error of the stream"
    UPGRADE = "HTTP status at the upgrade"
    REST = "REST answer"


class BodyShape(Enum):
    """Shapes of a REST body."""

    DATA = "JSON"
    """An object or array. Only the first bytes are read."""
    ERROR = "JSON error"
    """An object with `message`, or with `code` and nothing else: the service's form of an error."""
    HTML = "HTML"
    """A page of a front end, not of the service."""
    TEXT = "text"
    """Anything else, also nothing at all."""


class RefusalKind(Enum):
    """What a refusal means."""

    TEMPORARY = "temporary"
    """The service is busy, throttles or failed: the same may succeed later, on a new connection."""
    DOUBTFUL = "temporary, then final"
    """Temporary for `DOUBT_S` (`FIRST_DOUBT_S` before the first success), and final after that."""
    FINAL = "final"
    """Key, plan, address or encoding are wrong."""
    REQUEST = "this request"
    """The symbol or the form of this request; others may succeed."""
    PLAN_LATER = "plan: later"
    """The plan does not include the latest minutes of this data; it does include them later."""
    PLAN = "plan: never"
    """The plan does not include this data."""

    # Meanings of the stream's answers to a request. The connection stays.
    SYMBOL = "symbol"
    """A symbol, or the form of the request: the request as a whole is refused."""
    CHANNEL = "channel"
    """A channel that the stream does not have: none of its symbols will be served."""
    WILDCARD = "wildcard"
    """`*` where it is not allowed."""
    LIMIT = "plan: again"
    """More symbols than the plan allows, as the service counts them; a lost connection may still count. The
    subscriptions stay as they were, and what is refused is requested again."""
    AGAIN = "again"
    """What was served before is refused now: it is requested again."""
    NOT_YET = "not yet"
    """Not authenticated, or no longer: authenticate, on the same connection."""
    TWICE = "harmless"
    """Already authenticated: header and message both arrived."""
    OCCUPIED = "wait"
    """Another connection has the account's only place, or a lost one still has it: authenticate again."""


_MOVED = "HTTP {code}: redirected to {where}; if that is the server, set "
_STUCK = "HTTP {code}: a redirect that does not say where to, as if this were not the service; check "
"""How sentences about redirects begin, with a target and without one; the name of a setting follows."""


class Rule(NamedTuple):
    """A row of the table."""

    place: Place
    codes: Container[int]
    """Error codes of the stream, or HTTP statuses."""
    before: RefusalKind
    """The meaning before the first success; for subscriptions, if this one was never served."""
    after: RefusalKind
    """The meaning after it; for subscriptions, if this one was served before."""
    exit: int
    """The exit code of a run or backfill that ends because of it, or has lost data by it."""
    sentence: str
    """For the user. `{text}` is the service's, `{code}` the code, `{where}` the target of a redirect."""
    shapes: Container[BodyShape] = frozenset(BodyShape)
    words: str = ""
    """A text in small letters that the service's reason contains; empty: any."""

    def kind(self, has_worked: bool) -> RefusalKind:
        """Return what the refusal means, before or after the first success."""
        return self.after if has_worked else self.before

    def say(self, code: int, text: str = "", where: str = "") -> str:
        """Return the sentence for the user."""
        if self.sentence.startswith(_MOVED) and not where:
            return _STUCK.format(code=code) + self.sentence.removeprefix(_MOVED)
        return self.sentence.format(code=code, text=text, where=where)


STREAM_TEXTS: dict[int, str] = {
    400: "invalid syntax",
    401: "not authenticated",
    402: "auth failed",
    403: "already authenticated",
    404: "auth timeout",
    405: "symbol limit exceeded",
    406: "connection limit exceeded",
    407: "slow client",
    408: "v2 not enabled",
    409: "insufficient subscription",
    410: "invalid subscribe action for this feed",
    411: "insufficient scope",
    412: "option messages are only available in MsgPack format",
    413: "star subscription is not allowed for option quotes",
    500: "internal error",
}
"""The error codes of the stream, with the service's texts."""

TIMED_OUT = frozenset({408, 504, 522, 524})
"""HTTP: a front end waited in vain for the service. The same as no answer in time: fewer requests help."""

_FAILED, _CONFIG, _KEY = 1, 2, 3
"""Exit codes: the service failed, a setting is wrong, the key or plan is refused."""

_LATER = frozenset({408, 425, THROTTLED})
_REFUSED = frozenset({401, 403})
_TOO_LONG = frozenset({414, 431})
_PLAN = frozenset({402, 403, 409, 422})
_FRONT_END = frozenset({BodyShape.HTML})
_SERVICE = frozenset(BodyShape) - _FRONT_END
_CHECK_KEY = f"check {KEY_VARIABLE} and {SECRET_VARIABLE}"


def _stream(code: int, before: RefusalKind, after: RefusalKind | None = None, advice: str = "") -> Rule:
    sentence = "{text} ({code})" + (f"; {advice}" if advice else "")
    return Rule(Place.STREAM, {code}, before, after or before, _FAILED, sentence)


def _final(code: int, advice: str) -> Rule:
    return Rule(
        Place.STREAM, {code}, RefusalKind.FINAL, RefusalKind.DOUBTFUL, _KEY, "{text} ({code}): " + advice
    )


_upgrade = partial(Rule, Place.UPGRADE)
_rest = partial(Rule, Place.REST)

_ANY = frozenset(BodyShape)
_SHOWN = "HTTP {code}: {text}"
_NO_DATA = "HTTP {code}, but no data: {text}"
_NO_STREAM = "HTTP {code} instead of a connection"
_RECENT = "does not permit querying recent"
_OTHER_FEED = "choose another data feed with --feed"
_SIGN = f"sign it, or {_OTHER_FEED}"

RULES: tuple[Rule, ...] = (
    # -- error messages of the stream
    _stream(400, RefusalKind.SYMBOL, RefusalKind.AGAIN),
    _stream(401, RefusalKind.NOT_YET),
    _final(402, _CHECK_KEY),
    _stream(403, RefusalKind.TWICE),
    _stream(404, RefusalKind.TEMPORARY),
    _stream(405, RefusalKind.LIMIT, advice="requested again, because a lost connection may still count"),
    _stream(406, RefusalKind.OCCUPIED),
    _stream(407, RefusalKind.TEMPORARY),
    _final(408, "this API is not enabled for the account"),
    _final(409, f"the plan does not include this feed; {_OTHER_FEED}"),
    _stream(410, RefusalKind.CHANNEL, RefusalKind.AGAIN),
    _final(411, "the key may not read market data"),
    _final(412, 'this stream is served in msgpack only; set codec = "msgpack"'),
    _stream(413, RefusalKind.WILDCARD, RefusalKind.AGAIN),
    _stream(500, RefusalKind.TEMPORARY),
    # -- an HTTP status instead of a stream
    _upgrade(range(300, 400), RefusalKind.FINAL, RefusalKind.DOUBTFUL, _CONFIG, _MOVED + "stream_url"),
    _upgrade(_REFUSED, RefusalKind.FINAL, RefusalKind.DOUBTFUL, _KEY, f"HTTP {{code}}: {_CHECK_KEY}"),
    _upgrade(_LATER, RefusalKind.TEMPORARY, RefusalKind.TEMPORARY, _FAILED, _NO_STREAM),
    _upgrade(
        range(400, 500),
        RefusalKind.FINAL,
        RefusalKind.DOUBTFUL,
        _CONFIG,
        "HTTP {code}: this server has no such stream; check stream_url and the feed",
    ),
    _upgrade(range(1000), RefusalKind.TEMPORARY, RefusalKind.TEMPORARY, _FAILED, _NO_STREAM),
    # -- answers of REST
    _rest({200}, RefusalKind.TEMPORARY, RefusalKind.TEMPORARY, _FAILED, _NO_DATA, _ANY - {BodyShape.DATA}),
    _rest(range(201, 300), RefusalKind.TEMPORARY, RefusalKind.TEMPORARY, _FAILED, _NO_DATA),
    _rest(range(300, 400), RefusalKind.REQUEST, RefusalKind.DOUBTFUL, _FAILED, _MOVED + "data_url"),
    _rest(_TOO_LONG, RefusalKind.REQUEST, RefusalKind.REQUEST, _FAILED, _SHOWN),
    _rest(_LATER, RefusalKind.TEMPORARY, RefusalKind.TEMPORARY, _FAILED, _SHOWN),
    _rest(_PLAN, RefusalKind.PLAN_LATER, RefusalKind.PLAN_LATER, _FAILED, _SHOWN, _SERVICE, _RECENT),
    _rest(
        _PLAN,
        RefusalKind.PLAN,
        RefusalKind.PLAN,
        _KEY,
        f"{_SHOWN}; {_OTHER_FEED}",
        _SERVICE,
        "subscription",
    ),
    _rest(_PLAN, RefusalKind.PLAN, RefusalKind.PLAN, _KEY, f"{_SHOWN}: {_SIGN}", _SERVICE, "agreement"),
    _rest(
        _REFUSED, RefusalKind.DOUBTFUL, RefusalKind.DOUBTFUL, _KEY, f"{_SHOWN}; {_CHECK_KEY}", _FRONT_END
    ),
    _rest(_REFUSED, RefusalKind.FINAL, RefusalKind.DOUBTFUL, _KEY, f"{_SHOWN}; {_CHECK_KEY}"),
    _rest(range(400, 500), RefusalKind.DOUBTFUL, RefusalKind.DOUBTFUL, _FAILED, _SHOWN, _FRONT_END),
    _rest(range(400, 500), RefusalKind.REQUEST, RefusalKind.DOUBTFUL, _FAILED, _SHOWN, {BodyShape.TEXT}),
    _rest(range(400, 500), RefusalKind.REQUEST, RefusalKind.REQUEST, _FAILED, _SHOWN),
    # The service or its front end failed: 500 to 504, and 520 to 527 and 530 of its content network.
    _rest(range(1000), RefusalKind.TEMPORARY, RefusalKind.TEMPORARY, _FAILED, _SHOWN),
)
"""All refusals. The first row that fits counts."""


def find_rule(place: Place, code: int, shape: BodyShape = BodyShape.ERROR, text: str = "") -> Rule | None:
    """Return the rule for a refusal; None for a code of the stream that is not known.

    `shape` and `text` are those of the body of a REST answer.
    """
    text = text.lower()
    for rule in RULES:
        if rule.place is place and code in rule.codes and shape in rule.shapes and rule.words in text:
            return rule
    return None


# -- bodies


def shape_of(start: bytes) -> BodyShape:
    """Return the shape of a body by its `start`, which is all of it if it is short."""
    start = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    if start[:1] == b"<":
        return BodyShape.HTML
    if start[:1] not in (b"{", b"["):
        return BodyShape.TEXT
    return BodyShape.ERROR if _is_error(start) else BodyShape.DATA


def reason_in(data: bytes) -> str:
    """Return the reason in an error body; other bodies as they are, on one line, shortened."""
    try:
        return str(orjson.loads(data)[REASON])[:200]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        text = " ".join(data[:400].decode(errors="replace").split())
        return text[:200] or "no reason given"


def _is_error(start: bytes) -> bool:
    if REASON.encode() not in start and b'"code"' not in start:
        return False
    try:
        body = orjson.loads(start)
    except orjson.JSONDecodeError:
        return False  # longer than an error is
    if not isinstance(body, dict) or not _DATA_MEMBERS.isdisjoint(body):
        return False  # a note beside data is no error
    return isinstance(body.get(REASON), str) or body.keys() == {"code"}


_DATA_MEMBERS = frozenset({"trades", "quotes", "bars", "orderbooks", "snapshots", "next_page_token"})
"""Members of a body with data; each page has the last one."""
