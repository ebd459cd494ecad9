"""The REST part of the simulated service: rate limit, keys, faults and errors around markets' answers."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

from aiohttp import web

from mdstream.simulator.body_cache import BodyCache, compress, decompress, is_compressed
from mdstream.simulator.encode import to_json
from mdstream.simulator.faults import Faults
from mdstream.simulator.markets import MARKETS, Market
from mdstream.simulator.rest_query import Query, RestRefusal
from mdstream.simulator.simulator_settings import SimulatorSettings
from mdstream.simulator.source import MarketSource
from mdstream.venues.alpaca.auth import KEY_HEADER, SECRET_HEADER
from mdstream.venues.alpaca.endpoints import ASSETS_PATH
from mdstream.venues.alpaca.limits import RETRY_HEADER, quota_headers

_NAMESPACE = uuid.UUID("00000000-0000-4000-8000-000000000000")


class RateWindow:
    """Counts the requests of each key in whole minutes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used: dict[str, tuple[int, int]] = {}

    def take(self, key: str) -> tuple[bool, dict[str, str]]:
        """Count a request; return whether it is within the limit, and the headers that say so."""
        minute = int(time.time() // 60)
        since, used = self._used.get(key, (minute, 0))
        used = used + 1 if since == minute else 1
        self._used[key] = (minute, used)
        headers = quota_headers(self._limit, max(0, self._limit - used), (minute + 1) * 60)
        return used <= self._limit, headers


class RestService:
    """Answers the GETs of the data API, and those of the account API that list symbols.

    With a `source` it answers from that, and refuses requests for history, which is in the replayed store.
    """

    requests: int
    """Requests answered so far."""

    def __init__(
        self, settings: SimulatorSettings, faults: Faults, source: MarketSource | None = None
    ) -> None:
        self._settings = settings
        self._faults = faults
        self._source = source
        self._window = RateWindow(settings.rate_limit)
        self._bodies = BodyCache()
        self.requests = 0

    def routes(self) -> list[web.RouteDef]:
        """Return every path, in the order of the markets."""
        found = [web.get(ASSETS_PATH, self._assets)]
        for market in MARKETS.values():
            for route in market.routes:
                answer = route.answer if self._source is None else route.replayed or _refuse
                found.append(web.get(route.path, partial(self._handle, market, answer)))
        return found

    async def _handle(
        self, market: Market, answer: Callable[[Query], Any], request: web.Request
    ) -> web.StreamResponse:
        if "Upgrade" in request.headers:  # a stream and its archive may share one path
            raise web.HTTPNotFound
        return await self._answer_with_faults(request, market, lambda: answer(self._query(request, market)))

    async def _assets(self, request: web.Request) -> web.StreamResponse:
        """List the assets of a class."""
        kind = request.query.get("asset_class", "us_equity")
        market = next((m for m in MARKETS.values() if m.asset_class == kind), None)
        is_active = request.query.get("status", "active") == "active"

        def answer() -> Any:
            if self._source is not None:
                return _refuse()
            return assets(market) if market and is_active else []

        return await self._answer_with_faults(request, market or next(iter(MARKETS.values())), answer)

    def _query(self, request: web.Request, market: Market) -> Query:
        past = partial(market.past, self._settings.seed)
        now = time.time_ns()
        source = self._source
        return Query(
            request.match_info,
            request.query,
            self._settings.seed,
            market.is_symbol,
            self._faults.invalid_symbols(market.name),
            past,
            partial(source.state, market.name)
            if source is not None
            else lambda symbols: {symbol: past(symbol).snapshot(now) for symbol in symbols},
            source.chain if source is not None else market.chain,
            now,
        )

    async def _answer_with_faults(
        self, request: web.Request, market: Market, answer: Callable[[], Any]
    ) -> web.StreamResponse:
        """Apply rate limit, key, faults, delay and errors to an answer."""
        self.requests += 1
        delay = self._settings.latency_ms / 1000
        if slow := self._faults.strikes("slow", market.name):
            delay += slow.number
        key = request.headers.get(KEY_HEADER, "")
        allowed, headers = self._window.take(key)
        try:
            if not allowed:
                raise RestRefusal(429, "too many requests")
            if fault := self._faults.strikes("rest", market.name):
                headers[RETRY_HEADER] = "1"
                raise RestRefusal(int(fault.number), "refused on demand")
            if not market.is_open:
                self._check_key(request, key)
            body, status = self._body(request, market, answer), 200
        except RestRefusal as refusal:
            body, status = to_json({"message": refusal.message}), refusal.status
        if delay:
            await asyncio.sleep(delay)
        if "gzip" not in request.headers.get("Accept-Encoding", ""):
            body = decompress(body)
        elif is_compressed(body):
            headers["Content-Encoding"] = "gzip"
        if status == 200 and self._faults.strikes("cut", market.name):
            return await _half(request, body, headers)
        return web.Response(body=body, status=status, headers=headers, content_type="application/json")

    def _body(self, request: web.Request, market: Market, answer: Callable[[], Any]) -> bytes:
        """Return an answer, compressed if it is large, and cached if it is about the past."""
        query = self._query(request, market)
        settled = "end" in request.query and query.moment("end", 0) < query.now
        invalid = ",".join(sorted(query.invalid))
        key = (("path", request.path), ("invalid", invalid), *sorted(request.query.items()))
        found = self._bodies.get(key) if settled else None
        if found is None:
            found = compress(to_json(answer()))
            if settled:
                self._bodies.keep(key, found)
        return found

    def _check_key(self, request: web.Request, key: str) -> None:
        expected = self._settings.credentials
        secret = request.headers.get(SECRET_HEADER, "")
        if not (key and secret):
            raise RestRefusal(401, "forbidden.")
        if expected and (key, secret) != (expected.key_id, expected.secret_key):
            raise RestRefusal(401, "forbidden.")


def _refuse(*_: Query) -> Any:
    raise RestRefusal(404, "a replay serves streams and snapshots; history is in its store")


def assets(market: Market) -> list[dict[str, Any]]:
    """Return the assets of a market, with the fields that clients check."""
    return [
        {
            "id": str(uuid.uuid5(_NAMESPACE, symbol)),
            "class": market.asset_class,
            "symbol": symbol,
            "status": "active",
            "tradable": True,
            "exchange": market.exchange,
            "name": f"{symbol} of the simulator",
            "marginable": False,
            "shortable": False,
            "easy_to_borrow": False,
            "fractionable": True,
        }
        for symbol in market.universe
    ]


async def _half(request: web.Request, body: bytes, headers: dict[str, str]) -> web.StreamResponse:
    """Send the first half of an answer, then close the connection."""
    response = web.StreamResponse(headers={**headers, "Content-Length": str(len(body))})
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    if request.transport is not None:
        request.transport.close()
    return response
