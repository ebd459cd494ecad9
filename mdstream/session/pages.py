"""Fetch answers that come in pages: one generator for all such requests.

    request ─► GET ─► body ─► read(body) ─► answer ─► to the caller ─► its token ─► the next GET ─┐
                ▲                                                                                 │
                └─────────────────────────────────────────────────────────────────────────────────┘

`state_request`, `chain_request` and `history_request` make requests. The caller provides `read`, because
only the decoder of a body knows its token. A caller that keeps the token of the last answer can resume from
there (`PageRequest.token`), in another process or after days. If the service no longer knows the token, it
refuses the request, and `is_stale_token` is true.

An endless answer fails with an `EndlessAnswerError`: after a repeated token, a token that is too
long (`LONGEST_TOKEN`), `PageRequest.most_pages` pages, or `MOST_EMPTY_PAGES` empty pages in a row. An
answer that `read` cannot use is requested again.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar
from urllib.parse import quote

from mdstream.errors import BadRequestError, EndlessAnswerError, UnusableAnswerError
from mdstream.limits import LONGEST_TOKEN, MOST_EMPTY_PAGES, MOST_PAGES, MOST_STATE_PAGES, MOST_UNUSABLE
from mdstream.session.rest import Body
from mdstream.session.retry import backoff
from mdstream.streams.rest_spec import Chain, Fetch, HistorySpec
from mdstream.venues.alpaca import parameters
from mdstream.venues.alpaca.limits import CHAIN_PAGE

log = logging.getLogger(__name__)


class Client(Protocol):
    """Sends requests; `session.rest.RestClient` is one."""

    async def get(self, path: str, params: Mapping[str, str]) -> Body:
        """Return the answer's body. Raises an error if there is none."""


class Answer(Protocol):
    """A page as `read` returns it."""

    @property
    def page_token(self) -> str:
        """The token of the next page; empty if this is the last."""

    @property
    def is_empty(self) -> bool:
        """Whether the page had no records."""


A = TypeVar("A", bound=Answer)


@dataclass(frozen=True, slots=True)
class PageRequest:
    """A GET whose answer comes in pages; `token` is that of the first page to fetch, empty for page one."""

    path: str
    parameters: Mapping[str, str]
    token: str = ""
    most_pages: int = MOST_PAGES

    def query(self, token: str) -> dict[str, str]:
        """Return the parameters of the request for the page of `token`."""
        return {**self.parameters, **({parameters.PAGE_TOKEN: token} if token else {})}


async def pages(
    client: Client, request: PageRequest, read: Callable[[Body], Awaitable[A]]
) -> AsyncGenerator[A, None]:
    """Yield the result of `read` for each page, in order, until a page has no token.

    The next page is requested only when the caller asks for it. Raises the errors of `client.get` and
    `read`, and `EndlessAnswerError`.
    """
    token, seen, empty = request.token, {request.token}, 0
    while True:
        answer = await _read_page(client, request, token, read)
        token = answer.page_token
        empty = empty + 1 if answer.is_empty else 0
        if token and (why := why_endless(token, seen, empty, request.most_pages)):
            raise EndlessAnswerError(why)
        yield answer
        if not token:
            return
        seen.add(token)


async def _read_page(
    client: Client, request: PageRequest, token: str, read: Callable[[Body], Awaitable[A]]
) -> A:
    """Return the result of `read` for one page, which is requested again if it is unusable."""
    for pause in itertools.islice(backoff(), MOST_UNUSABLE - 1):
        body = await client.get(request.path, request.query(token))
        try:
            return await read(body)
        except UnusableAnswerError as error:
            log.warning("REST: %s; requesting it again", error)
        await asyncio.sleep(pause)
    return await read(await client.get(request.path, request.query(token)))


def why_endless(token: str, seen: Collection[str], empty: int, most_pages: int) -> str:
    """Return why an answer with this next `token` counts as endless; empty if it does not.

    `seen` has the tokens of all pages so far, including the first; `empty` is the number of empty pages in
    a row.
    """
    if len(token) > LONGEST_TOKEN:
        return f"page token of {len(token):,} characters"
    if token in seen:
        return f"page token {token[:40]!r} came twice"
    if len(seen) >= most_pages:
        return f"an answer of over {most_pages:,} pages"
    if empty >= MOST_EMPTY_PAGES:
        return f"{empty} pages in a row without a record, and no end"
    return ""


def is_stale_token(error: BadRequestError, token: str) -> bool:
    """Return whether the service refused a request because it no longer knows `token`."""
    return bool(token) and "token" in str(error)


# -- requests


def state_request(fetch: Fetch, feed: str, symbols: Sequence[str], since: str = "") -> PageRequest:
    """Return a request for the state of symbols; for streams of events, only records since a time."""
    query = {**fetch.fixed, parameters.SYMBOLS: ",".join(symbols)}
    if fetch.feed_parameter:
        query[parameters.FEED] = feed
    if fetch.since_parameter and since:
        query[fetch.since_parameter] = since
    return PageRequest(fetch.path.format(feed=feed), query, most_pages=MOST_STATE_PAGES)


def chain_request(chain: Chain, fetch: Fetch, feed: str, underlying: str) -> PageRequest:
    """Return a request for the state of all contracts of an underlying."""
    query = {**fetch.fixed, parameters.LIMIT: str(CHAIN_PAGE)}
    if fetch.feed_parameter:
        query[parameters.FEED] = feed
    path = chain.path.format(symbol=quote(underlying, safe=""), feed=feed)
    return PageRequest(path, query, most_pages=MOST_STATE_PAGES)


def history_request(
    history: HistorySpec,
    feed: str,
    symbols: Sequence[str],
    span: tuple[int, int],
    more: Mapping[str, str] | None = None,
    token: str = "",
) -> PageRequest:
    """Return a request for the records of `symbols` (none: all symbols) in the half-open `span` (ns since
    1970), sorted by time. `more` are further parameters; empty ones are not sent.
    """
    first, past = span
    query = {
        **history.fixed,
        parameters.START: parameters.format_time(first),
        parameters.END: parameters.format_time(past - 1),  # inclusive
        parameters.LIMIT: str(history.limit),
        parameters.SORT: parameters.ASCENDING,
    }
    if symbols:
        query[parameters.SYMBOLS] = ",".join(symbols)
    if history.feed_parameter:
        query[parameters.FEED] = feed
    query |= {name: value for name, value in (more or {}).items() if value}
    return PageRequest(history.path.format(feed=feed), query, token)
