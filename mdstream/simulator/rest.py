"""The REST half of the simulated service: snapshots, latest, history in pages, news, errors, rate limit."""

from __future__ import annotations

import asyncio
import base64
import itertools
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from mdstream.simulator.answers import Answers, packed, unpacked
from mdstream.simulator.encode import Time, to_json
from mdstream.simulator.faults import Faults
from mdstream.simulator.listings import assets, contracts
from mdstream.simulator.records import DAY, QUOTES, TRADES, History, Series, bar_series, news_record
from mdstream.simulator.settings import SimulatorSettings
from mdstream.simulator.symbols import chain, is_valid
from mdstream.streams import STREAMS
from mdstream.venues.alpaca.auth import KEY_HEADER, SECRET_HEADER
from mdstream.venues.alpaca.bodies import NEXT_PAGE_TOKEN
from mdstream.venues.alpaca.limits import RETRY_HEADER, quota_headers

NEWS_STEP = 3600 * 1_000_000_000

_COMMON = {"symbols", "start", "end", "limit", "page_token", "sort", "feed", "currency", "asof"}


_PARTS = re.compile(r"(\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?)?)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)?")
"""A date or a time to the nanosecond: all but the fraction of a second, that, and the zone."""


class Refusal(Exception):
    """Answered as an HTTP error with a body like the service's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class RateWindow:
    """Requests a minute of each key, counted in whole minutes as the headers tell."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used: dict[str, tuple[int, int]] = {}

    def take(self, key: str) -> tuple[bool, dict[str, str]]:
        """Whether one more request is within the limit, and the headers that say so."""
        minute = int(time.time() // 60)
        since, used = self._used.get(key, (minute, 0))
        used = used + 1 if since == minute else 1
        self._used[key] = (minute, used)
        headers = quota_headers(self._limit, max(0, self._limit - used), (minute + 1) * 60)
        return used <= self._limit, headers


class RestService:
    """Answers the data API's GETs."""

    def __init__(self, settings: SimulatorSettings, faults: Faults) -> None:
        self._settings = settings
        self._faults = faults
        self._window = RateWindow(settings.rate_limit)
        self._answers = Answers()
        self.requests = 0

    def routes(self) -> list[web.RouteDef]:
        """Every path, more specific ones first."""
        routes: list[web.RouteDef] = []

        def add(path: str, stream: str, answer: Callable[..., Any], **fixed: Any) -> None:
            async def handle(request: web.Request) -> web.StreamResponse:
                if "Upgrade" in request.headers:  # news has one path for both
                    raise web.HTTPNotFound
                return await self._guarded(request, stream, lambda: answer(request, stream, **fixed))

            routes.append(web.get(path, handle))

        stocks, options, crypto = "/v2/stocks", "/v1beta1/options", "/v1beta3/crypto/{loc}"
        for what, key in (("trade", "trades"), ("quote", "quotes"), ("bar", "bars")):
            add(f"{stocks}/{key}/latest", "stocks", self._latest, what=what)
            add(f"{crypto}/latest/{key}", "crypto", self._latest, what=what)
            add(f"{stocks}/{{symbol}}/{key}/latest", "stocks", self._latest, what=what)
            add(f"{stocks}/{key}", "stocks", self._history, what=key)
            add(f"{crypto}/{key}", "crypto", self._history, what=key)
            add(f"{stocks}/{{symbol}}/{key}", "stocks", self._history, what=key)
        add(f"{crypto}/latest/orderbooks", "crypto", self._latest, what="orderbook")
        add(f"{options}/trades/latest", "options", self._latest, what="trade")
        add(f"{options}/quotes/latest", "options", self._latest, what="quote")
        add(f"{options}/trades", "options", self._history, what="trades")
        add(f"{options}/bars", "options", self._history, what="bars")
        add(f"{stocks}/snapshots", "stocks", self._snapshots)
        add(f"{stocks}/{{symbol}}/snapshot", "stocks", self._snapshots)
        add(f"{options}/snapshots", "options", self._snapshots)
        add(f"{options}/snapshots/{{underlying}}", "options", self._chain)
        add(f"{crypto}/snapshots", "crypto", self._snapshots)
        add("/v1beta1/news", "news", self._news)
        add("/v2/assets", "stocks", self._assets)
        add("/v2/options/contracts", "options", self._contracts)
        return routes

    async def _guarded(
        self, request: web.Request, stream: str, answer: Callable[[], Any]
    ) -> web.StreamResponse:
        """One answer with everything around it: rate limit, key, faults, delay, errors."""
        self.requests += 1
        delay = self._settings.latency_ms / 1000
        if slow := self._faults.strikes("slow", stream):
            delay += slow.number
        key = request.headers.get(KEY_HEADER, "")
        allowed, headers = self._window.take(key)
        try:
            if not allowed:
                raise Refusal(429, "too many requests")
            if fault := self._faults.strikes("rest", stream):
                headers[RETRY_HEADER] = "1"
                raise Refusal(int(fault.number), "the simulator was told to fail")
            self._check_key(request, key, stream)
            body, status = self._body(request, stream, answer), 200
        except Refusal as refusal:
            body, status = to_json({"message": refusal.message}), refusal.status
        if delay:
            await asyncio.sleep(delay)
        if "gzip" not in request.headers.get("Accept-Encoding", ""):
            body = unpacked(body)
        elif body[:2] == b"\x1f\x8b":
            headers["Content-Encoding"] = "gzip"
        if status == 200 and self._faults.strikes("cut", stream):
            return await _half(request, body, headers)
        return web.Response(body=body, status=status, headers=headers, content_type="application/json")

    def _body(self, request: web.Request, stream: str, answer: Callable[[], Any]) -> bytes:
        """An answer, packed if that is worth it; made up once, if it is about the past."""
        settled = "end" in request.query and self._moment(request, "end", 0) < time.time_ns()
        invalid = ",".join(sorted(self._faults.invalid_symbols(stream)))
        key = (("path", request.path), ("invalid", invalid), *sorted(request.query.items()))
        found = self._answers.get(key) if settled else None
        if found is None:
            found = packed(to_json(answer()))
            if settled:
                self._answers.keep(key, found)
        return found

    def _check_key(self, request: web.Request, key: str, stream: str) -> None:
        expected = self._settings.credentials
        if stream == "crypto":
            return  # open to everyone, as the service's
        secret = request.headers.get(SECRET_HEADER, "")
        if not (key and secret):
            raise Refusal(401, "forbidden.")
        if expected and (key, secret) != (expected.key_id, expected.secret_key):
            raise Refusal(401, "forbidden.")

    # -- answers

    def _latest(self, request: web.Request, stream: str, what: str) -> Any:
        self._check_parameters(request, {"symbols", "feed", "currency"})
        now = time.time_ns()

        def record(symbol: str) -> Any:
            history = History(stream, self._settings.seed, symbol)
            if what == "bar":
                return history.bar(now // DAY * DAY, now // DAY)
            make = {"trade": history.trade, "quote": history.quote, "orderbook": history.orderbook}
            return make[what](now, now // 1_000_000_000)

        if "symbol" in request.match_info:
            symbol = self._valid(stream, [request.match_info["symbol"]])[0]
            return {"symbol": symbol, what: record(symbol)}
        return {what + "s": {symbol: record(symbol) for symbol in self._symbols(request, stream)}}

    def _snapshots(self, request: web.Request, stream: str) -> Any:
        self._check_parameters(request, {"symbols", "feed", "currency", "limit", "page_token"})
        now = time.time_ns()
        if "symbol" in request.match_info:
            symbol = self._valid(stream, [request.match_info["symbol"]])[0]
            return {"symbol": symbol, **History(stream, self._settings.seed, symbol).snapshot(now)}
        symbols = self._symbols(request, stream)
        if stream == "options" and len(symbols) > 100:
            raise Refusal(400, "too many symbols: at most 100")
        found = {s: History(stream, self._settings.seed, s).snapshot(now) for s in symbols}
        if stream == "stocks":
            return found
        return {"snapshots": found, **({NEXT_PAGE_TOKEN: None} if stream == "options" else {})}

    def _chain(self, request: web.Request, stream: str) -> Any:
        underlying = self._valid("stocks", [request.match_info["underlying"]])[0]
        limit = self._limit(request, 100, 1000)
        contracts = chain(underlying)
        first = 0
        if token := request.query.get("page_token"):
            first = contracts.index(_from_token(token)[0]) + 1
        page, now = contracts[first : first + limit], time.time_ns()
        more = first + limit < len(contracts)
        return {
            "snapshots": {s: History(stream, self._settings.seed, s).snapshot(now) for s in page},
            NEXT_PAGE_TOKEN: _token(page[-1], 1) if more else None,
        }

    def _assets(self, request: web.Request, stream: str) -> Any:
        if request.query.get("status", "active") != "active":
            return []
        kind = request.query.get("asset_class", "us_equity")
        return assets(kind)

    def _contracts(self, request: web.Request, stream: str) -> Any:
        limit = self._limit(request, 100, 10_000)
        listed = contracts(
            request.query.get("underlying_symbols", "").split(","),
            request.query.get("status", "active"),
            request.query.get("expiration_date_gte", ""),
            request.query.get("expiration_date_lte", ""),
        )
        first = _from_token(token)[1] if (token := request.query.get("page_token")) else 0
        past = first + limit
        more = past < len(listed)
        return {
            "option_contracts": listed[first:past],
            NEXT_PAGE_TOKEN: _token("contracts", past) if more else None,
        }

    def _history(self, request: web.Request, stream: str, what: str) -> Any:
        extra = {"timeframe", "adjustment"} if what == "bars" else set()
        self._check_parameters(request, _COMMON | extra)
        series: Series | None = {"trades": TRADES, "quotes": QUOTES}.get(what)
        if what == "bars":
            series = bar_series(request.query.get("timeframe", ""))
            if series is None:
                raise Refusal(400, f"invalid timeframe: {request.query.get('timeframe', '')}")
        assert series is not None
        limit = self._limit(request, 1000, 10_000)
        single = request.match_info.get("symbol")
        symbols = [single] if single else self._symbols(request, stream)
        self._valid(stream, symbols)
        found: dict[str, list[Any]] = {}
        last: tuple[str, int] | None = None
        items = self._items(request, stream, series, sorted(symbols))
        for symbol, index, record in itertools.islice(items, limit):
            found.setdefault(symbol, []).append(record)
            last = (symbol, index)
        token = _token(*last) if last and next(items, None) is not None else None
        if single:
            return {what: found.get(single), "symbol": single, NEXT_PAGE_TOKEN: token}
        return {what: found, NEXT_PAGE_TOKEN: token}

    def _items(
        self, request: web.Request, stream: str, series: Series, symbols: list[str]
    ) -> Iterator[tuple[str, int, Any]]:
        """Items from the page token on: by symbol first, then by time."""
        now = time.time_ns()
        start = self._moment(request, "start", now - now % DAY)
        end = min(self._moment(request, "end", now), now)
        down = request.query.get("sort") == "desc"
        after: tuple[str, int] | None = None
        if token := request.query.get("page_token"):
            after = _from_token(token)
        for symbol in symbols:
            if after and symbol < after[0]:
                continue
            history = History(stream, self._settings.seed, symbol)
            indexes = range(start // series.step - 1, end // series.step + 1)
            if after and symbol == after[0]:
                indexes = (
                    range(indexes.start, min(indexes.stop, after[1]))
                    if down
                    else range(max(indexes.start, after[1] + 1), indexes.stop)
                )
            for index in reversed(indexes) if down else indexes:
                record = series.at(history, index, end)
                if start <= record["t"] <= end:
                    yield symbol, index, record

    def _news(self, request: web.Request, stream: str) -> Any:
        self._check_parameters(
            request,
            {
                "start",
                "end",
                "sort",
                "symbols",
                "limit",
                "include_content",
                "exclude_contentless",
                "page_token",
            },
        )
        now = time.time_ns()
        start = self._moment(request, "start", now - 30 * DAY)
        end = min(self._moment(request, "end", now), now)
        limit = self._limit(request, 10, 50)
        symbols = self._symbols(request, stream) if "symbols" in request.query else STREAMS["news"].symbols
        up = request.query.get("sort") == "asc"
        items = [
            (index * NEWS_STEP, symbol)
            for index in range(start // NEWS_STEP, end // NEWS_STEP + 1)
            if start <= index * NEWS_STEP <= end
            for symbol in sorted(symbols)
        ]
        items.sort(reverse=not up)
        first = 0
        if token := request.query.get("page_token"):
            symbol, at = _from_token(token)
            first = items.index((at, symbol)) + 1 if (at, symbol) in items else len(items)
        page = items[first : first + limit]
        more = first + limit < len(items)
        content = request.query.get("include_content", "false").lower() == "true"
        records = [news_record(self._settings.seed, s, at // NEWS_STEP, NEWS_STEP) for at, s in page]
        for record in records if not content else ():
            record["content"] = ""
        return {"news": records, NEXT_PAGE_TOKEN: _token(page[-1][1], page[-1][0]) if more else None}

    # -- parameters

    def _check_parameters(self, request: web.Request, known: set[str]) -> None:
        if unknown := [name for name in request.query if name not in known]:
            raise Refusal(400, f"unexpected parameter(s): {', '.join(unknown)}")

    def _symbols(self, request: web.Request, stream: str) -> list[str]:
        text = request.query.get("symbols", "")
        if not text:
            raise Refusal(400, "symbols is required")
        return self._valid(stream, list(dict.fromkeys(text.split(","))))

    def _valid(self, stream: str, symbols: list[str]) -> list[str]:
        """One bad symbol fails the whole request, as it does at the service."""
        invalid = self._faults.invalid_symbols(stream)
        for symbol in symbols:
            if symbol in invalid or not is_valid(stream, symbol):
                raise Refusal(400, f"invalid symbol: {symbol}")
        return symbols

    def _limit(self, request: web.Request, default: int, most: int) -> int:
        text = request.query.get("limit", str(default))
        if not text.isdigit() or not 1 <= int(text) <= most:
            raise Refusal(400, f"invalid limit: {text}")
        return int(text)

    def _moment(self, request: web.Request, name: str, default: int) -> int:
        text = request.query.get(name)
        if not text:
            return default
        parts = _PARTS.fullmatch(text)
        try:
            whole, fraction, zone = parts.groups(default="") if parts else ("", "", "")
            moment = datetime.fromisoformat(whole + zone)
        except ValueError:
            raise Refusal(400, f"invalid {name}: {text}") from None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return Time(int(moment.timestamp()) * 1_000_000_000 + int(fraction.ljust(9, "0")))


async def _half(request: web.Request, body: bytes, headers: dict[str, str]) -> web.StreamResponse:
    """The first half of an answer, and then no connection any more."""
    response = web.StreamResponse(headers={**headers, "Content-Length": str(len(body))})
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    if request.transport is not None:
        request.transport.close()
    return response


def _token(symbol: str, index: int) -> str:
    return base64.urlsafe_b64encode(f"{symbol}|{index}".encode()).decode()


def _from_token(token: str) -> tuple[str, int]:
    try:
        symbol, _, index = base64.urlsafe_b64decode(token.encode()).decode().rpartition("|")
        return symbol, int(index)
    except ValueError:
        raise Refusal(400, "invalid page_token") from None
