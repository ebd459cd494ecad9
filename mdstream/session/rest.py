"""The REST client: pooled connections, deadlines, retries, the request budget."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType

import aiohttp
import orjson
import stamina

from mdstream.config import Endpoint, FetchConfig, is_loopback
from mdstream.errors import (
    BadRequestError,
    CertificateError,
    CredentialsError,
    DecompressionError,
    NetworkError,
    ServerError,
)
from mdstream.handoff.compression import Compression, decompress
from mdstream.session.budget import Budget
from mdstream.session.retry import CAP_S, FIRST_S, pause_asked_for
from mdstream.session.target import tls_context
from mdstream.venues.alpaca import auth, error_codes
from mdstream.venues.alpaca.bodies import REASON

log = logging.getLogger(__name__)

stamina.instrumentation.set_on_retry_hooks([])  # the result of a request says what finally happened

_MOST_ERROR_BYTES = 1024 * 1024
"""Of an error's body, decompressed."""

_QUIET_S = 10.0
"""Seconds between two log lines about requests that failed and are retried."""


@dataclass(frozen=True, slots=True)
class Body:
    """A successful answer: its bytes as received, when they were complete, and how they are compressed."""

    data: bytes
    recv_ns: int
    compression: Compression


class RestClient:
    """GETs against the data API. Use as an async context manager.

    A server that was never reached is given up `first_contact_s` after the first attempt.
    """

    # For readers; written here only.
    requests: int
    """Attempts sent."""
    trouble: str
    """Why the last attempt failed; empty after one that did not."""

    _session: aiohttp.ClientSession | None
    """Set by `__aenter__`."""

    # Written by `_once`.
    _unanswered_since: float | None
    """When the first attempt began, on the monotonic clock."""
    _was_answered: bool

    # Written by `_complain`.
    _quiet_until: float

    def __init__(
        self, config: FetchConfig, endpoint: Endpoint, budget: Budget, first_contact_s: float = math.inf
    ) -> None:
        self.budget = budget
        self.requests = 0
        self._config = config
        self._under_way = asyncio.Semaphore(config.concurrency)
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
        self._unanswered_since = None
        self._was_answered = False
        self._quiet_until = 0.0

    async def __aenter__(self) -> RestClient:
        # The connector has no limit: a request that waited there would already have spent its budget.
        connector = aiohttp.TCPConnector(limit=0, ssl=self._tls, ttl_dns_cache=300)
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers=self._headers,
            auto_decompress=False,  # a worker does that
            timeout=aiohttp.ClientTimeout(total=self._config.timeout_s),
            trust_env=not is_loopback(self._base),  # a proxy, where the environment names one
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, path: str, params: Mapping[str, str]) -> Body:
        """GET a body, with retries within the deadline, which begins when the first attempt may go out.

        Raises `BadRequestError` (sending it again is useless), `CredentialsError`, `ServerError` or
        `NetworkError` (the last attempt's reason).
        """
        await self._wait_turn()
        waited = True
        async for attempt in stamina.retry_context(
            on=self._pause_before_retry,
            attempts=self._config.attempts,
            timeout=self._config.deadline_s,
            wait_initial=FIRST_S,
            wait_max=CAP_S,
        ):
            with attempt:
                if not waited:
                    await self._wait_turn()
                waited = False
                try:
                    return await self._once(path, params)
                except (ServerError, NetworkError) as error:
                    self._complain(error)
                    raise
                finally:
                    self._under_way.release()
        raise AssertionError("the loop above returns or raises")

    async def _wait_turn(self) -> None:
        """Wait for a place among the requests under way, then for the budget."""
        await self._under_way.acquire()
        try:
            await self.budget.take()
        except BaseException:
            self._under_way.release()
            raise

    def _complain(self, error: Exception) -> None:
        """Log that the server fails: one line for many requests that fail at a time."""
        self.trouble = str(error)
        if self._pause_before_retry(error) and time.monotonic() >= self._quiet_until:
            self._quiet_until = time.monotonic() + _QUIET_S
            waits_s = self.budget.waits_s
            hope = f"no requests for {waits_s:.0f} s" if waits_s > 1 else "retrying"
            log.warning("REST: %s; %s", error, hope)

    def _pause_before_retry(self, error: Exception) -> bool | float:
        """Whether to retry after `error`; a number is the pause the service asked for."""
        if isinstance(error, BadRequestError | CredentialsError | CertificateError):
            return False
        if isinstance(error, ServerError):
            return True if error.retry_after is None else error.retry_after
        return isinstance(error, NetworkError) and not self.is_nobody_there

    @property
    def is_nobody_there(self) -> bool:
        """Whether the server was given up: it has not answered since the first attempt."""
        since = self._unanswered_since
        return (
            not self._was_answered
            and since is not None
            and time.monotonic() - since > self._first_contact_s
        )

    async def _once(self, path: str, params: Mapping[str, str]) -> Body:
        assert self._session is not None, "use RestClient as a context manager"
        self.requests += 1
        if self._unanswered_since is None:
            self._unanswered_since = time.monotonic()
        try:
            # Redirects are not followed: the keys are for this server alone.
            async with self._session.get(
                self._base + path, params=params, allow_redirects=False
            ) as response:
                self._was_answered = True
                data = await response.read()
                recv_ns = time.time_ns()
                self.budget.hear(response.headers)
                compression = _compression(response.headers.get("Content-Encoding", ""))
                if response.status == 200:
                    self.trouble = ""
                    return Body(data, recv_ns, compression)
                data = decompress(data, compression, _MOST_ERROR_BYTES)
                raise self._error_of(response.status, data, response.headers)
        except DecompressionError as error:
            raise NetworkError(f"the answer of {self._base} cannot be read: {error}") from error
        except aiohttp.ClientConnectorCertificateError as error:
            raise CertificateError(f"the certificate of {self._base} does not verify: {error}") from error
        except TimeoutError as error:
            raise NetworkError(f"no answer within {self._config.timeout_s:g} s") from error
        except (aiohttp.ClientPayloadError, aiohttp.ClientResponseError) as error:
            why = " ".join(str(error).split())
            raise NetworkError(f"the answer of {self._base} cannot be read: {why}") from error
        except (aiohttp.ClientError, OSError) as error:
            raise NetworkError(f"cannot reach {self._base}: {_reason(error)}") from error

    def _error_of(self, status: int, data: bytes, headers: Mapping[str, str]) -> Exception:
        message = f"HTTP {status}: {_message(data)}"
        if error_codes.is_redirect(status):
            where = headers.get("Location", "nowhere")[:200]
            message = f"HTTP {status}: sent on to {where}; if that is the server, set data_url"
        if error_codes.is_passing(status):
            pause = pause_asked_for(status, headers, time.time())
            if status == error_codes.THROTTLED:
                # Everyone waits, not only this request: the budget is the account's.
                self.budget.hold(pause if pause is not None else 1.0)
            return ServerError(message, status, pause)
        if error_codes.is_key_refused(status, message):
            return CredentialsError(message, status)
        return BadRequestError(message, status)


def _reason(error: Exception) -> str:
    """Return why there is no connection, without aiohttp's words around it."""
    number = getattr(error, "errno", None)
    return os.strerror(number) if isinstance(number, int) and number > 0 else str(error)


def _compression(encoding: str) -> Compression:
    """Return what a Content-Encoding means."""
    match encoding.lower():
        case "" | "identity":
            return Compression.PLAIN
        case "gzip" | "x-gzip":
            return Compression.GZIP
    raise DecompressionError(f"it is compressed as {encoding[:40]!r}, which was not asked for")


def _message(data: bytes) -> str:
    """The reason in an error body; other bodies as they are, shortened."""
    try:
        return str(orjson.loads(data)[REASON])[:200]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return data[:200].decode(errors="replace").strip() or "no reason given"
