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
from mdstream.session.retry import CAP_S, FIRST_S, requested_pause
from mdstream.session.target import tls_context
from mdstream.venues.alpaca import auth, error_codes
from mdstream.venues.alpaca.bodies import REASON

log = logging.getLogger(__name__)

stamina.instrumentation.set_on_retry_hooks([])  # the final result is reported, not each retry

_MOST_ERROR_BYTES = 1024 * 1024
"""Largest error body, decompressed."""

_QUIET_S = 10.0
"""Seconds between two log lines about failed requests."""


@dataclass(frozen=True, slots=True)
class Body:
    """The body of a successful answer: bytes as received, time of completion, compression."""

    data: bytes
    recv_ns: int
    compression: Compression


class RestClient:
    """GETs against the data API. Use as an async context manager.

    If the server never answers, requests are no longer retried `first_contact_s` after the first attempt.
    """

    # For readers; written only here.
    requests: int
    """Attempts sent."""
    trouble: str
    """Why the last attempt failed; empty after a successful one."""

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
        # The connector has no limit: a request that waits there has already used its budget.
        connector = aiohttp.TCPConnector(limit=0, ssl=self._tls, ttl_dns_cache=300)
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers=self._headers,
            auto_decompress=False,  # a worker does that
            timeout=aiohttp.ClientTimeout(total=self._config.timeout_s),
            trust_env=not is_loopback(self._base),  # use a proxy if the environment names one
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, path: str, params: Mapping[str, str]) -> Body:
        """GET a body, with retries until the deadline, which begins when the first attempt is sent.

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
        """Wait for a place among the running requests, then for the budget."""
        await self._under_way.acquire()
        try:
            await self.budget.take()
        except BaseException:
            self._under_way.release()
            raise

    def _complain(self, error: Exception) -> None:
        """Log that requests fail: one line for many that fail together."""
        self.trouble = str(error)
        if self._pause_before_retry(error) and time.monotonic() >= self._quiet_until:
            self._quiet_until = time.monotonic() + _QUIET_S
            waits_s = self.budget.waits_s
            hope = f"no requests for {waits_s:.0f} s" if waits_s > 1 else "retrying"
            log.warning("REST: %s; %s", error, hope)

    def _pause_before_retry(self, error: Exception) -> bool | float:
        """Return whether to retry after `error`; a number is the pause that the service requested."""
        if isinstance(error, BadRequestError | CredentialsError | CertificateError):
            return False
        if isinstance(error, ServerError):
            return True if error.retry_after is None else error.retry_after
        return isinstance(error, NetworkError) and not self.is_given_up

    @property
    def is_given_up(self) -> bool:
        """Whether the server has not answered for too long since the first attempt."""
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
            # Redirects are not followed: the keys are for this server only.
            async with self._session.get(
                self._base + path, params=params, allow_redirects=False
            ) as response:
                self._was_answered = True
                data = await response.read()
                recv_ns = time.time_ns()
                self.budget.read_quota(response.headers)
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
            message = f"HTTP {status}: redirected to {where}; if that is the server, set data_url"
        if error_codes.is_passing(status):
            pause = requested_pause(status, headers, time.time())
            if status == error_codes.THROTTLED:
                # All requests wait, not only this one: the quota is for the account.
                self.budget.hold(pause if pause is not None else 1.0)
            return ServerError(message, status, pause)
        if error_codes.is_key_refused(status, message):
            return CredentialsError(message, status)
        return BadRequestError(message, status)


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


def _message(data: bytes) -> str:
    """Return the reason in an error body; other bodies as they are, shortened."""
    try:
        return str(orjson.loads(data)[REASON])[:200]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return data[:200].decode(errors="replace").strip() or "no reason given"
