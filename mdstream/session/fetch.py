"""Fetch the state of all symbols concurrently: one cycle over REST.

    symbols ─► as many groups as the budget allows ─► all requested at once ─► bodies to the pipeline
                    ▲                                        │
                    └── bisected when the service refuses ◄──┘

A group is one symbol while the budget allows that, so a failure affects one symbol only. A larger group
that is refused because of one symbol is requested again without it, or in halves if the service does not
name it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from mdstream.config import StreamConfig
from mdstream.errors import (
    BadRequestError,
    MdstreamError,
    SharedMemoryError,
    UnusableAnswerError,
    first_error,
)
from mdstream.handoff.compression import Compression
from mdstream.handoff.ticket import BodyContents
from mdstream.session.pages import PageRequest, chain_request, pages, state_request
from mdstream.session.rest import Body, RestClient
from mdstream.streams.spec import PayloadKind, StreamSpec
from mdstream.venues.alpaca import limits

log = logging.getLogger(__name__)

NO_DATA = "the service has no data for it"
"""Reason of a symbol that REST answers without."""
_UNUSABLE = "unusable answer"

Commit = Callable[[bytes, PayloadKind, int, Compression, Collection[str]], Awaitable[BodyContents]]
"""Hands a body and the symbols of its request to the pipeline; returns when its rows are in the frames."""


@dataclass(slots=True)
class Cycle:
    """The outcome of one cycle."""

    ok: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    """Symbol → reason."""
    requests: int = 0
    started_ns: int = 0
    """On the monotonic clock, which all streams share."""
    ended_ns: int = 0

    @property
    def duration_s(self) -> float:
        """Seconds from the first request to the last commit, for all symbols of the stream."""
        return (self.ended_ns - self.started_ns) / 1e9


def group(symbols: Sequence[str], allowed: int, largest: int) -> list[list[str]]:
    """Cut `symbols` into at most `allowed` groups, if that is possible with `largest` symbols in a group.

    If there are enough requests, a group is one symbol. If even the largest groups need more requests than
    allowed, the rest waits until the budget refills.
    """
    size = min(largest, max(1, math.ceil(len(symbols) / max(1, allowed))))
    groups: list[list[str]] = []
    length = 0
    for symbol in symbols:
        cost = len(symbol.encode()) + 3
        if not groups or len(groups[-1]) >= size or length + cost > limits.QUERY_BYTES:
            groups.append([])
            length = 0
        groups[-1].append(symbol)
        length += cost
    return groups


class Fetcher:
    """Runs cycles for one stream. `on_chain` is called with each fetched underlying and its contracts."""

    # Written by `cycle`, and by its requests.
    current: Cycle
    """The running cycle with its results so far, or the last one."""
    _since: dict[str, str]
    """By symbol: when the last cycle began that succeeded for it, on streams of events. None before."""

    def __init__(
        self,
        spec: StreamSpec,
        stream: StreamConfig,
        client: RestClient,
        commit: Commit,
        interval_s: float,
        on_chain: Callable[[str, list[str]], None] = lambda underlying, contracts: None,
    ) -> None:
        self._spec = spec
        self._stream = stream
        self._client = client
        self._commit = commit
        self._interval_s = interval_s
        self._on_chain = on_chain
        self._since = {}
        self.current = Cycle()

    async def cycle(self, symbols: Sequence[str], are_new: bool = False) -> Cycle:
        """Fetch all of `symbols` at once. An error of a symbol is not raised but recorded.

        With `are_new`, they are fetched as in a first cycle.
        """
        result = self.current = Cycle(started_ns=time.monotonic_ns())
        requests = self._client.requests
        for symbol in symbols if are_new else ():
            self._since.pop(symbol, None)
        begun = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        chain = self._spec.chain
        chains = [s for s in symbols if chain and not chain.is_contract(s)]
        singles = [s for s in symbols if s not in set(chains)]
        window = min(self._interval_s or limits.WINDOW_S, limits.WINDOW_S)
        allowed = int(self._client.budget.share * window / limits.WINDOW_S) - len(chains)
        urgent = [s for s in singles if s in self._stream.priority]
        others = [s for s in singles if s not in self._stream.priority]
        # Symbols with priority share no request with others, and wait for none.
        groups = self._group_by_since(urgent, allowed)
        groups += self._group_by_since(others, allowed - len(groups))
        try:
            async with asyncio.TaskGroup() as tasks:
                for underlying in chains:
                    tasks.create_task(self._chain(underlying, result))
                for since, members in groups:
                    tasks.create_task(self._group(members, since, result))
        except* SharedMemoryError as errors:
            raise first_error(errors) from None  # no symbol is at fault: there is no room for data
        if self._spec.fetch.since_parameter:
            self._since |= dict.fromkeys(result.ok, begun)
        result.requests = self._client.requests - requests
        result.ended_ns = time.monotonic_ns()
        return result

    def _group_by_since(self, symbols: Sequence[str], allowed: int) -> list[tuple[str, list[str]]]:
        """Return groups of symbols for one request each, with the time since which they lack events.

        A symbol whose request failed lacks those of an earlier time than the others; a new one has no time.
        """
        parts: dict[str, list[str]] = {}
        for symbol in symbols:
            parts.setdefault(self._since.get(symbol, ""), []).append(symbol)
        groups: list[tuple[str, list[str]]] = []
        for since, members in parts.items():
            found = group(members, allowed - len(groups), self._spec.fetch.max_symbols)
            groups += [(since, each) for each in found]
        return groups

    async def _group(self, symbols: list[str], since: str, result: Cycle) -> None:
        fetch = self._spec.fetch
        # The first cycle of a stream of events takes the newest page only: backfills fetch the past.
        only_first = bool(fetch.since_parameter) and not since
        try:
            request = state_request(fetch, self._stream.feed, symbols, since)
            # Records of a list have symbols of their own, and more than those requested.
            found, refused = await self._fetch(request, () if fetch.listed else symbols, only_first)
        except SharedMemoryError:
            raise
        except BadRequestError as error:
            if len(symbols) == 1 or error.code == 403:
                self._fail(symbols, str(error), result)
                return
            async with asyncio.TaskGroup() as tasks:
                for part in _without_culprit(symbols, str(error)):
                    tasks.create_task(self._group(part, since, result))
        except MdstreamError as error:
            self._fail(symbols, str(error), result)
        else:
            # With `since`, the answer lacks symbols without anything new; these have not failed.
            absence_is_ok = bool(fetch.since_parameter) and not refused
            for symbol in symbols:
                if symbol in found or absence_is_ok:
                    self._succeed(symbol, result)
                else:
                    self._fail([symbol], _reason_for_nothing(symbol, found, refused), result)

    async def _chain(self, underlying: str, result: Cycle) -> None:
        chain = self._spec.chain
        assert chain is not None, "else no symbol is an underlying"
        request = chain_request(chain, self._spec.fetch, self._stream.feed, underlying)
        try:
            found, refused = await self._fetch(request, [underlying])
        except SharedMemoryError:
            raise
        except MdstreamError as error:
            self._fail([underlying], str(error), result)
            return
        if not found:
            self._fail([underlying], _reason_for_nothing(underlying, found, refused), result)
            return
        # A contract whose record is unusable is listed all the same.
        contracts = sorted(filter(chain.is_contract, found | refused.keys()))
        if not contracts:
            others = ", ".join(sorted(found)[:3])
            self._fail([underlying], f"its chain names no contract, but {others[:80]!r}", result)
            return
        self._on_chain(underlying, contracts)
        self._succeed(underlying, result)

    async def _fetch(
        self, request: PageRequest, requested: Collection[str], only_first: bool = False
    ) -> tuple[set[str], dict[str, str]]:
        """Fetch all pages of a request and commit each as it arrives.

        Return the symbols that had data, and the symbols with unusable data, with the reason.
        """
        symbols: set[str] = set()
        refused: dict[str, str] = {}
        async with aclosing(pages(self._client, request, partial(self._hand_on, requested))) as answers:
            async for found in answers:
                symbols |= found.symbols
                refused |= found.refused
                if only_first:
                    break
        return symbols, refused

    async def _hand_on(self, requested: Collection[str], body: Body) -> BodyContents:
        kind = self._spec.state_kind
        found = await self._commit(body.data, kind, body.recv_ns, body.compression, requested)
        if found.fault:
            raise UnusableAnswerError(f"{_UNUSABLE}: {found.fault}")
        return found

    def _succeed(self, symbol: str, result: Cycle) -> None:
        result.ok.add(symbol)
        log.debug("%s ok", symbol)

    def _fail(self, symbols: Sequence[str], reason: str, result: Cycle) -> None:
        for symbol in symbols:
            result.failed[symbol] = reason
            log.debug("%s failed: %s", symbol, reason)


def _reason_for_nothing(symbol: str, found: set[str], refused: dict[str, str]) -> str:
    """Return why an answer with data for `found`, and unusable data for `refused`, lacks `symbol`."""
    if symbol in refused:
        return f"{_UNUSABLE}: {refused[symbol]}"
    if refused and not found:
        name, reason = next(iter(refused.items()))
        return f"{_UNUSABLE}: {name[:40]!r}: {reason}" if name else f"{_UNUSABLE}: {reason}"
    return NO_DATA


def _without_culprit(symbols: list[str], reason: str) -> list[list[str]]:
    """Cut a refused group so that repeated cuts isolate the symbol at fault."""
    named = [s for s in symbols if reason.endswith(f": {s}")]
    if len(named) == 1:
        return [named, [s for s in symbols if s != named[0]]]
    middle = len(symbols) // 2
    return [symbols[:middle], symbols[middle:]]
