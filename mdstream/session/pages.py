"""Answers that come in pages: one generator for everything that pages.

    request ─► GET ─► body ─► read(body) ─► answer ─► to the caller ─► its token ─► the next GET ─┐
                ▲                                                                                 │
                └─────────────────────────────────────────────────────────────────────────────────┘

`state_request`, `chain_request` and `history_request` say what is asked. `read` is the caller's, for only
what decodes a body knows its token. A caller that keeps the token of the last answer can resume from there
(`PageRequest.token`), in another process or after days; where the service no longer knows it, it refuses
the request, and `is_stale_token` is true.

An answer without end is given up with a `ServerError`: after a token that came before, after
`PageRequest.most_pages` pages, or after `MOST_EMPTY_PAGES` in a row that hold nothing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar
from urllib.parse import quote

from mdstream.errors import BadRequestError, ServerError
from mdstream.session.rest import Body
from mdstream.streams.rest_spec import Chain, Fetch, History
from mdstream.venues.alpaca import parameters
from mdstream.venues.alpaca.limits import CHAIN_PAGE

MOST_PAGES = 100_000
"""Pages of one request: a thousand million rows of history."""
MOST_STATE_PAGES = 100
"""Pages of one request for the state of symbols."""
MOST_EMPTY_PAGES = 100


class Client(Protocol):
    """What sends the requests: `session.rest.RestClient`."""

    async def get(self, path: str, params: Mapping[str, str]) -> Body:
        """Return the answer's body, or raise why there is none."""


class Answer(Protocol):
    """What a caller makes of a page."""

    @property
    def page_token(self) -> str:
        """The token of the next page; empty if this is the last."""

    @property
    def is_empty(self) -> bool:
        """Whether the page held nothing."""


A = TypeVar("A", bound=Answer)


@dataclass(frozen=True, slots=True)
class PageRequest:
    """A GET whose answer comes in pages; `token` is that of the page to begin with, empty for the first."""

    path: str
    parameters: Mapping[str, str]
    token: str = ""
    most_pages: int = MOST_PAGES

    def query(self, token: str) -> dict[str, str]:
        """The parameters of the request for the page of `token`."""
        return {**self.parameters, **({parameters.PAGE_TOKEN: token} if token else {})}


async def pages(
    client: Client, request: PageRequest, read: Callable[[Body], Awaitable[A]]
) -> AsyncGenerator[A, None]:
    """Yield what `read` makes of each page, in order, until one names no next page.

    A page is requested when the one before has been taken, and not before its caller asks. Raises what
    `client.get` and `read` raise, and `ServerError` where there is no end.
    """
    token, seen, empty = request.token, {request.token}, 0
    while True:
        answer = await read(await client.get(request.path, request.query(token)))
        token = answer.page_token
        empty = empty + 1 if answer.is_empty else 0
        if token and (why := why_endless(token, seen, empty, request.most_pages)):
            raise ServerError(why)
        yield answer
        if not token:
            return
        seen.add(token)


def why_endless(token: str, seen: Collection[str], empty: int, most_pages: int) -> str:
    """Why an answer that names `token` next must be given up; empty if it may go on.

    `seen` are the tokens of all pages so far, that of the first included; `empty` is how many of the last
    pages held nothing.
    """
    if token in seen:
        return f"page token {token[:40]!r} came twice"
    if len(seen) >= most_pages:
        return f"an answer of over {most_pages:,} pages"
    if empty >= MOST_EMPTY_PAGES:
        return f"{empty} pages in a row without a record, and no end"
    return ""


def is_stale_token(error: BadRequestError, token: str) -> bool:
    """Whether a request for the page of `token` was refused because the service no longer knows that."""
    return bool(token) and "token" in str(error)


# -- what is asked


def state_request(fetch: Fetch, feed: str, symbols: Sequence[str], since: str = "") -> PageRequest:
    """The state of symbols; of what comes with the time, only what is new since then."""
    query = {**fetch.fixed, parameters.SYMBOLS: ",".join(symbols)}
    if fetch.feed_parameter:
        query[parameters.FEED] = feed
    if fetch.since_parameter and since:
        query[fetch.since_parameter] = since
    return PageRequest(fetch.path.format(feed=feed), query, most_pages=MOST_STATE_PAGES)


def chain_request(chain: Chain, fetch: Fetch, feed: str, underlying: str) -> PageRequest:
    """The state of all contracts of an underlying."""
    query = {**fetch.fixed, parameters.LIMIT: str(CHAIN_PAGE)}
    if fetch.feed_parameter:
        query[parameters.FEED] = feed
    path = chain.path.format(symbol=quote(underlying, safe=""), feed=feed)
    return PageRequest(path, query, most_pages=MOST_STATE_PAGES)


def history_request(
    history: History,
    feed: str,
    symbols: Sequence[str],
    span: tuple[int, int],
    kind_of_bars: Mapping[str, str] | None = None,
    token: str = "",
) -> PageRequest:
    """The records of symbols (none: of all there are) from the first to before the second time of `span`
    (ns since 1970), in their order. `kind_of_bars` holds `timeframe` and `adjustment`, as far as there are.
    """
    first, past = span
    query = {
        **history.fixed,
        parameters.START: parameters.format_time(first),
        parameters.END: parameters.format_time(past - 1),  # both ends are inside
        parameters.LIMIT: str(history.limit),
        parameters.SORT: parameters.ASCENDING,
    }
    if symbols:
        query[parameters.SYMBOLS] = ",".join(symbols)
    if history.feed_parameter:
        query[parameters.FEED] = feed
    query |= {name: value for name, value in (kind_of_bars or {}).items() if value}
    return PageRequest(history.path.format(feed=feed), query, token)
