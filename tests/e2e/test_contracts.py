"""The contracts of underlyings, with a server of which the test changes chains, limits and answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack
import polars as pl
import pytest
from aiohttp import WSMsgType, web

import mdstream
from mdstream.errors import Exit
from mdstream.frames import rundir
from tests.running import HANGING_S, engine, settings, simulator, until

CHANNELS = ("trades", "quotes")
QUOTE = {"t": "2026-12-01T10:00:00Z", "bp": 1, "bs": 1, "ap": 2, "as": 1, "bx": "C", "ax": "C", "c": "A"}


def make_contracts(underlying: str, *days: int) -> set[str]:
    return {f"{underlying}4012{day:02d}C{strike:08d}" for day in days for strike in (100_000, 101_000)}


@dataclass
class Service:
    """Chains over REST, and a stream that acknowledges subscriptions and sends no data."""

    days: tuple[int, ...] = (1, 2)
    limit: int = 100
    """How many symbols each channel may have."""
    is_down: bool = False
    """Whether REST answers 500."""
    url: str = ""
    active: dict[str, set[str]] = field(default_factory=lambda: {c: set() for c in CHANNELS})
    refusals: int = 0
    fetched: list[str] = field(default_factory=list)
    """The paths of the requests over REST."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._stream(request)
        self.fetched.append(request.path)
        if self.is_down:
            return web.Response(status=500, text="down")
        name = request.path.rpartition("/")[2]
        contracts = request.query["symbols"].split(",") if name == "snapshots" else ()
        contracts = contracts or make_contracts(name, *self.days)
        return web.json_response({"snapshots": {c: {"latestQuote": QUOTE} for c in contracts}})

    async def _stream(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)

        async def send(**message: Any) -> None:
            await socket.send_bytes(msgpack.packb([message]))

        await send(T="success", msg="connected")
        active: dict[str, set[str]] = {c: set() for c in CHANNELS}
        async for each in socket:
            if each.type != WSMsgType.BINARY:
                break
            asked = msgpack.unpackb(each.data)
            if (action := asked.pop("action")) == "auth":
                await send(T="success", msg="authenticated")
                continue
            change = set.union if action == "subscribe" else set.difference
            after = {c: change(active[c], set(asked.get(c, ()))) for c in CHANNELS}
            if any(len(symbols) > self.limit for symbols in after.values()):
                self.refusals += 1
                await send(T="error", code=405, msg="symbol limit exceeded")
                continue
            active = self.active = after
            await send(T="subscription", **{c: sorted(symbols) for c, symbols in active.items()})
        return socket

    def is_serving(self, *contracts: set[str]) -> bool:
        return all(symbols == set().union(*contracts) for symbols in self.active.values())


@contextlib.contextmanager
def serve(service: Service) -> Iterator[Service]:
    loop, ready = asyncio.new_event_loop(), threading.Event()

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", service.answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        service.url = f"127.0.0.1:{runner.addresses[0][1]}"
        return runner

    def run() -> None:
        runner = loop.run_until_complete(start())
        loop.call_soon(ready.set)
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(HANGING_S)
    try:
        yield service
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(HANGING_S)


def options(service: Service, folder: Path, interval_s: float, *symbols: str) -> dict[str, Any]:
    values = settings(None, folder, streams=["options"])
    return values | {
        "options": {"symbols": [*symbols], "chain_contracts": 4},
        "stream_url": f"ws://{service.url}",
        "data_url": f"http://{service.url}",
        "fetch": {"interval_s": interval_s, "budget_per_minute": 100_000, "attempts": 1},
    }


def states_of(running: mdstream.Engine) -> dict[str, str]:
    """The last state of each symbol."""
    rows = running.frame("telemetry.symbols").with_columns(pl.col("symbol", "state").cast(pl.String))
    return dict(zip(rows["symbol"], rows["state"], strict=True))


def kill_feed(running: mdstream.Engine) -> None:
    os.kill(running.attachment.metrics()["options"]["pid"], signal.SIGKILL)


def test_contracts_follow_the_days_within_the_limit_of_the_plan(tmp_path: Path) -> None:
    named = f"SPY401201C{100_000:08d}"
    with serve(Service(limit=9)) as service:
        with engine(options(service, tmp_path, 0.3, "SPY", "QQQ", named)) as running:
            until(lambda: service.is_serving(make_contracts("SPY", 1, 2), make_contracts("QQQ", 1, 2)))
            for first in (2, 3, 5):
                service.days = (first, first + 1)
                now = [make_contracts(name, *service.days) for name in ("SPY", "QQQ")]
                until(lambda now=now: service.is_serving({named}, *now))  # type: ignore[misc]
            until(lambda: states_of(running) == dict.fromkeys(("SPY", "QQQ", named), "ok"))
            running.unsubscribe("options", ["QQQ"])
            until(lambda: service.is_serving({named}, make_contracts("SPY", 5, 6)))
    assert service.refusals == 0, "places are left before others are taken"
    assert running.exit_code == Exit.OK


def test_an_underlying_whose_contracts_are_all_refused_is_not_served(tmp_path: Path) -> None:
    with serve(Service(limit=0)) as service:
        with engine(options(service, tmp_path, 0, "SPY")) as running:
            until(lambda: states_of(running).get("SPY") == "failed")
            rows = running.frame("telemetry.symbols").filter(pl.col("symbol").cast(pl.String) == "SPY")
            assert "symbol limit exceeded" in str(rows["reason"][-1])
            service.limit = 4
            until(lambda: states_of(running).get("SPY") == "ok")


def test_a_feed_that_replaces_a_killed_one_subscribes_while_rest_is_away(tmp_path: Path) -> None:
    with serve(Service()) as service:
        with engine(options(service, tmp_path, 0, "SPY")) as running:
            until(lambda: service.is_serving(make_contracts("SPY", 1, 2)))
            running.subscribe("options", ["QQQ"])
            both = make_contracts("SPY", 1, 2), make_contracts("QQQ", 1, 2)
            until(lambda: service.is_serving(*both))
            assert sorted(path.rpartition("/")[2] for path in service.fetched) == ["QQQ", "SPY"]
            service.is_down, service.active = True, {c: set() for c in CHANNELS}
            kill_feed(running)
            until(lambda: service.is_serving(*both))
            until(lambda: running.attachment.metrics()["options"]["subscriptions"] == 16)
    assert running.exit_code == Exit.OK


def test_a_stream_that_served_subscriptions_and_ends_with_none_has_failed(tmp_path: Path) -> None:
    with serve(Service()) as service:
        with engine(options(service, tmp_path, 0, "SPY")) as running:
            run = running.attachment
            until(lambda: run.metrics()["options"]["subscriptions"] == 8)
            rundir.contracts_path(run.path, "options").unlink()
            service.is_down = True
            kill_feed(running)
            until(lambda: run.metrics()["options"]["restarts"] == 1)
            until(lambda: run.metrics()["options"]["subscriptions"] == 0)
        report = running.report
    assert running.exit_code == Exit.STREAM_FAILED
    assert report is not None
    assert report["streams"]["options"]["reason"].startswith("none of its subscriptions is served any more")


@pytest.mark.parametrize("stream", ["stocks", "crypto"])
def test_a_new_symbol_is_fetched_once_without_an_interval(stream: str, tmp_path: Path) -> None:
    first, second = {"stocks": ("AAPL", "MSFT"), "crypto": ("BTC/USD", "ETH/USD")}[stream]
    with simulator() as sim:
        values = settings(sim, tmp_path, streams=[stream]) | {stream: {"symbols": [first]}}
        with engine(values) as running:
            run = running.attachment
            until(lambda: run.rows(f"{stream}.snapshots") == 1)
            running.subscribe(stream, [second])
            until(lambda: run.rows(f"{stream}.snapshots") == 2)
            running.subscribe(stream, [second])  # it is not new
            running.unsubscribe(stream, [first, second])
            until(lambda: run.metrics()[stream]["subscriptions"] == 0)
            assert run.metrics()[stream]["fetch_requests"] == 2
    assert running.exit_code == Exit.OK, "the user wants none"
