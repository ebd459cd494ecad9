"""The REST client: pooled connections, deadlines, retries, the request budget.

place (concurrency) ─► budget ─► attempt ─► answer
        ▲                           │ refused, lost, late: `venues.alpaca.refusals` says what it means
        └────────── pause ◄─────────┘ temporary: once more, until attempts or deadline are used up
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import os
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import aiohttp
import orjson

from mdstream.config import Endpoint, FetchConfig, is_loopback
from mdstream.errors import (
    BadRequestError,
    CertificateError,
    CredentialsError,
    DecompressionError,
    Exit,
    LateError,
    MdstreamError,
    NetworkError,
    PlanError,
    ServerError,
    UnusableAnswerError,
)
from mdstream.handoff.compression import Compression, decompress, decompressed_start
from mdstream.limits import LARGEST_BODY, LARGEST_ERROR, LARGEST_UNPACKED, LONGEST_HEADER, MOST_HEADERS
from mdstream.session.budget import Budget
from mdstream.session.concurrency import Concurrency
from mdstream.session.retry import Doubt, backoff, requested_pause
from mdstream.session.target import tls_context
from mdstream.system.clock import receipts
from mdstream.venues.alpaca import auth
from mdstream.venues.alpaca.refusals import (
    THROTTLED,
    TIMED_OUT,
    BodyShape,
    Place,
    RefusalKind,
    find_rule,
    reason_in,
    shape_of,
)

log = logging.getLogger(__name__)

_START_BYTES = 4096
"""How much of an answer is looked at, decompressed, to recognise an error with the status of a success."""

_MOST_SHOWN = 120
"""Characters of why an answer cannot be read."""

_CONNECT_SHARE = 0.5
"""How much of the timeout of an attempt the connection may take."""

_THROTTLED_TEXT = "too many requests"
"""What a body says that throttles with the status of a success."""

_GIVE_UP_SLACK_S = 0.01

_QUIET_S = 10.0
"""Seconds between two log lines about failed requests."""


@dataclass(frozen=True, slots=True)
class Body:
    """The body of a successful answer: bytes as received, time of completion, compression."""

    data: bytes
    recv_ns: int
    compression: Compression

    def parse(self, what: str) -> Any:
        """Return the JSON of a small body. Raises `UnusableAnswerError` for `what` if it is not JSON."""
        try:
            return orjson.loads(decompress(self.data, self.compression, LARGEST_UNPACKED))
        except (DecompressionError, orjson.JSONDecodeError) as error:
            raise UnusableAnswerError(f"unusable answer of {what}: {error}") from error


class RestClient:
    """GETs against the data API. Use as an async context manager.

    If the server cannot be reached from the start, requests are no longer retried `first_contact_s` after
    the first attempt. A server that is reached but late has until the deadline of a request.
    """

    # For readers; written only here.
    requests: int
    """Attempts sent."""
    trouble: str
    """Why the last attempt failed; empty after a successful one."""

    _session: aiohttp.ClientSession | None
    """Set by `__aenter__`."""

    # Written by `_once`.
    _answered_at: float | None
    """When the server answered last, or the first attempt began, on the monotonic clock."""
    _was_reached: bool
    """Whether there ever was a connection."""
    _was_answered: bool
    _doubt: Doubt

    # Written by `_pause`.
    _retries_at: list[float]
    """When the requests that failed will be sent again, on the monotonic clock."""

    # Written by `_complain`.
    _quiet_until: float

    def __init__(
        self, config: FetchConfig, endpoint: Endpoint, budget: Budget, first_contact_s: float = math.inf
    ) -> None:
        self.budget = budget
        self.requests = 0
        self._config = config
        self.concurrency = Concurrency(config.concurrency)
        self._base = endpoint.url
        is_tls = endpoint.url.startswith("https:")
        self._tls: ssl.SSLContext | bool = tls_context(endpoint.ca_file) if is_tls else False
        self._headers = {
            **auth.headers(endpoint.credentials.key_id, endpoint.credentials.secret_key),
            "User-Agent": "mdstream",
            "Accept-Encoding": "gzip",
        }
        self.trouble = ""
        self._session = None
        self._first_contact_s = first_contact_s
        self._answered_at = None
        self._was_reached = self._was_answered = False
        self._doubt = Doubt()
        self._retries_at = []
        self._quiet_until = 0.0

    async def __aenter__(self) -> RestClient:
        # The connector has no limit: a request that waits there has already used its budget.
        connector = aiohttp.TCPConnector(limit=0, ssl=self._tls, ttl_dns_cache=300)
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers=self._headers,
            auto_decompress=False,  # a worker does that
            timeout=aiohttp.ClientTimeout(
                total=self._config.timeout_s, sock_connect=self._config.timeout_s * _CONNECT_SHARE
            ),
            trust_env=not is_loopback(self._base),  # use a proxy if the environment names one
            max_line_size=LONGEST_HEADER,
            max_field_size=LONGEST_HEADER,
            max_headers=MOST_HEADERS,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, path: str, params: Mapping[str, str]) -> Body:
        """GET a body, with retries until the deadline. Time that it waits for its turn does not count.

        Raises `BadRequestError` (sending it again is useless), `CredentialsError`, `ServerError` or
        `NetworkError` (the last attempt's reason).
        """
        spent_s, pauses = 0.0, backoff()
        for attempt in itertools.count(1):
            await self._wait_turn()
            started = time.monotonic()
            try:
                return await self._once(path, params)
            except (ServerError, NetworkError) as error:
                self._complain(error)
                pause = next(pauses)
                if isinstance(error, ServerError) and error.retry_after is not None:
                    pause = error.retry_after
                spent_s += time.monotonic() - started + pause
                is_last = attempt >= self._config.attempts or spent_s > self._config.deadline_s
                if is_last or not self._is_temporary(error):
                    raise
            finally:
                self.concurrency.release()
            await self._pause(pause)
        raise AssertionError("the loop above returns or raises")

    async def _pause(self, seconds: float) -> None:
        """Wait before the same request is sent again."""
        at = time.monotonic() + seconds
        self._retries_at.append(at)
        try:
            await asyncio.sleep(seconds)
        finally:
            self._retries_at.remove(at)

    async def _wait_turn(self) -> None:
        """Wait for a place among the running requests, then for the budget."""
        await self.concurrency.acquire()
        try:
            await self._take_budget()
        except BaseException:
            self.concurrency.release()
            raise

    async def _take_budget(self) -> None:
        """Wait for the budget. Raises `NetworkError` if the server is given up meanwhile."""
        left_s = self._first_contact_s - self._silent_s
        if self._was_answered or self._answered_at is None or math.isinf(left_s):
            await self.budget.take()
            return
        try:
            async with asyncio.timeout(max(0.0, left_s) + _GIVE_UP_SLACK_S):
                await self.budget.take()
        except TimeoutError:
            if self.is_given_up:
                raise NetworkError(self.trouble) from None
            await self.budget.take()

    def _complain(self, error: Exception) -> None:
        """Log that requests fail: one line for many that fail together."""
        self.trouble = str(error)
        if self._is_temporary(error) and time.monotonic() >= self._quiet_until:
            self._quiet_until = time.monotonic() + _QUIET_S
            waits_s = self.budget.waits_s
            hope = f"no requests for {waits_s:.0f} s" if waits_s > 1 else "retrying"
            if isinstance(error, ServerError) and error.final_in is not None:
                hope = f"final in {error.final_in:.0f} s; {hope}"
            log.warning("REST: %s; %s", error, hope)

    def _is_temporary(self, error: Exception) -> bool:
        """Return whether the same request may succeed later."""
        if isinstance(error, NetworkError):
            is_mute = isinstance(error, LateError) and self._silent_s > self._config.deadline_s
            return not (isinstance(error, CertificateError) or is_mute or self.is_given_up)
        return not isinstance(error, BadRequestError)

    @property
    def has_worked(self) -> bool:
        """Whether the service has ever answered with data."""
        return self._doubt.has_worked

    @property
    def retries(self) -> int:
        """How many requests have failed, and wait to be sent again."""
        return len(self._retries_at)

    @property
    def retries_in_s(self) -> float:
        """Seconds until the first of them is sent again; 0 if there is none."""
        return max(0.0, min(self._retries_at, default=0.0) - time.monotonic())

    @property
    def is_given_up(self) -> bool:
        """Whether the server has not answered since the first attempt, and is no longer waited for."""
        longest = self._first_contact_s
        if self._was_reached:
            longest = max(longest, self._config.deadline_s)
        return not self._was_answered and self._silent_s > longest

    @property
    def _silent_s(self) -> float:
        """How long the server has not answered any request, in seconds."""
        return 0.0 if self._answered_at is None else time.monotonic() - self._answered_at

    async def _once(self, path: str, params: Mapping[str, str]) -> Body:
        assert self._session is not None, "use RestClient as a context manager"
        self.requests += 1
        number = self.concurrency.send()
        if self._answered_at is None:
            self._answered_at = time.monotonic()
        try:
            # Redirects are not followed: the keys are for this server only.
            async with self._session.get(
                self._base + path, params=params, allow_redirects=False
            ) as response:
                data = await _read(response)
                recv_ns = receipts.now()
                self._was_reached = self._was_answered = True
                self._answered_at = time.monotonic()
                self.budget.read_quota(response.headers)
                if response.status in TIMED_OUT:
                    self._note_time_out(number)
                elif response.status < 500:
                    self.concurrency.answer()
                compression = _compression(response.headers.get("Content-Encoding", ""))
                if response.status == 200 and _is_data(data, compression):
                    self.trouble = ""
                    self._doubt.succeed()
                    return Body(data, recv_ns, compression)
                data = decompress(data, compression, LARGEST_ERROR)
                raise self._error_of(response.status, data, response.headers)
        except DecompressionError as error:
            raise NetworkError(f"the answer of {self._base} cannot be read: {error}") from error
        except aiohttp.ClientConnectorCertificateError as error:
            raise CertificateError(f"the certificate of {self._base} does not verify: {error}") from error
        except aiohttp.ConnectionTimeoutError as error:
            self._note_time_out(number)
            raise NetworkError(f"cannot reach {self._base}: no connection in time") from error
        except TimeoutError as error:
            self._was_reached = True  # there is a connection
            self._note_time_out(number)
            raise LateError(f"no answer from {self._base} within {self._config.timeout_s:g} s") from error
        except (aiohttp.ClientPayloadError, aiohttp.ClientResponseError) as error:
            # The rest of aiohttp's text has a status that the server did not send, and the URL.
            text = error.message if isinstance(error, aiohttp.ClientResponseError) else str(error)
            why = text.partition(": <")[0]
            short = " ".join(why.split())[:_MOST_SHOWN] or type(error).__name__
            raise NetworkError(f"the answer of {self._base} cannot be read: {short}") from error
        except (aiohttp.ClientError, OSError) as error:
            raise NetworkError(f"cannot reach {self._base}: {_reason(error)}") from error

    def _note_time_out(self, number: int) -> None:
        """Send fewer requests at a time: the server does not keep up."""
        if self.concurrency.time_out(number):
            most = int(self.concurrency.limit)
            log.warning("REST: %s does not answer in time; at most %d requests at a time", self._base, most)

    def _error_of(self, status: int, data: bytes, headers: Mapping[str, str]) -> MdstreamError:
        """Return the error for an answer that is not data."""
        text = reason_in(data)
        rule = find_rule(Place.REST, status, shape_of(data), text)
        assert rule is not None, "the last row of REST has all statuses"
        message = rule.say(status, text, headers.get("Location", "")[:200])
        left = self._doubt.seconds_left(rule, time.monotonic())
        if left:
            pause = requested_pause(status, headers, time.time())
            if status == THROTTLED or (status == 200 and _THROTTLED_TEXT in text.lower()):
                # All requests wait, not only this one: the quota is for the account.
                self.budget.hold(pause if pause is not None else 1.0)
            return ServerError(message, status, pause, left if left < math.inf else None)
        if rule.before is RefusalKind.PLAN:
            return PlanError(message, status)
        return (
            CredentialsError(message, status)
            if rule.exit == Exit.CREDENTIALS
            else BadRequestError(message, status)
        )


def _is_data(data: bytes, compression: Compression) -> bool:
    """Return whether the body of a success looks like data."""
    return shape_of(decompressed_start(data, compression, _START_BYTES)) is BodyShape.DATA


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Read the body of an answer. Raises `DecompressionError` if it is too long; the rest is not read."""
    most = LARGEST_BODY if response.status == 200 else LARGEST_ERROR
    pieces, size = [], 0
    async for piece in response.content.iter_any():
        pieces.append(piece)
        size += len(piece)
        if size > most:
            raise DecompressionError(f"it has more than {most:,} bytes")
    return b"".join(pieces)


def _reason(error: Exception) -> str:
    """Return why there is no connection, without the rest of aiohttp's text."""
    number = getattr(error, "errno", None)
    return os.strerror(number) if isinstance(number, int) and number > 0 else str(error)


def _compression(encoding: str) -> Compression:
    """Return the compression of a Content-Encoding."""
    match encoding.lower():
        case "" | "identity":
            return Compression.PLAIN
        case "gzip" | "x-gzip":
            return Compression.GZIP
    raise DecompressionError(f"it is compressed as {encoding[:40]!r}, which was not requested")
