"""The simulator as a server: streams and REST on one port, and its statistics.

GET  /simulator/stats    counts of sent messages by stream and type
POST /simulator/faults   a JSON list of faults that replaces the active ones
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import multiprocessing
import os
import signal
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from multiprocessing.connection import Connection
from pathlib import Path

import uvloop
from aiohttp import web

from mdstream.errors import AddressInUseError, ConfigError, Exit, MdstreamError
from mdstream.simulator.connection import StreamConnection
from mdstream.simulator.faults import Faults
from mdstream.simulator.markets import MARKETS
from mdstream.simulator.rest_service import RestService
from mdstream.simulator.sender import Sent, Shared
from mdstream.simulator.simulator_settings import SimulatorSettings
from mdstream.simulator.source import MarketSource
from mdstream.system import children
from mdstream.system.shared_places import open_named

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Simulator:
    """A running simulator; use it as an async context manager. `port` is the real one if 0 was given."""

    # Written when it starts.
    port: int
    _runner: web.AppRunner | None
    # Written by connections.
    faults: Faults
    sent: dict[str, Sent]

    def __init__(self, settings: SimulatorSettings, source: MarketSource | None = None) -> None:
        self.settings = settings
        self.port = settings.port
        self.faults = Faults(settings.faults)
        self.sent = {name: Sent() for name in settings.streams}
        self._rest = RestService(settings, self.faults, source)
        self._runner = None
        self._shared = Shared(settings, self.faults, self.sent, source=source)

    @property
    def secure(self) -> bool:
        return bool(self.settings.tls_certificate)

    @property
    def stream_url(self) -> str:
        return f"{'wss' if self.secure else 'ws'}://{self.settings.host}:{self.port}"

    @property
    def data_url(self) -> str:
        return f"{'https' if self.secure else 'http'}://{self.settings.host}:{self.port}"

    async def __aenter__(self) -> Simulator:
        settings = self.settings
        if settings.ticks and not Path(settings.ticks).is_file():
            raise ConfigError(f"ticks: no file {settings.ticks!r}")
        if settings.sent_log:
            try:
                self._shared.sent_log = open_named(Path(settings.sent_log))  # closed below
            except OSError as error:
                raise ConfigError(f"--sent-log {settings.sent_log!r}: {error.strerror}") from error
        self._runner = web.AppRunner(self._application(), access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        site = web.TCPSite(self._runner, settings.host, settings.port, ssl_context=self._tls(), backlog=512)
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            if error.errno == errno.EADDRINUSE:
                raise AddressInUseError(
                    f"{settings.host}:{settings.port} is in use: end the program that listens "
                    "there, or choose another port with --port (0 takes any free one)"
                ) from error
            raise ConfigError(f"cannot listen on {settings.host}:{settings.port}: {error}") from error
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        if self._shared.sent_log is not None:
            self._shared.sent_log.close()

    def _tls(self) -> ssl.SSLContext | None:
        settings = self.settings
        if not settings.tls_certificate:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(settings.tls_certificate, settings.tls_key or None)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"cannot use certificate {settings.tls_certificate}: {error}") from error
        return context

    def _application(self) -> web.Application:
        application = web.Application()
        paths = {
            path: MARKETS[name]
            for name in self.settings.streams
            for path in MARKETS[name].spec.feeds.values()
        }

        @web.middleware
        async def streams_first(request: web.Request, handler: Handler) -> web.StreamResponse:
            # A stream and its archive may share one path; the upgrade distinguishes them.
            market = paths.get(request.path)
            if market is None or request.headers.get("Upgrade", "").lower() != "websocket":
                return await handler(request)
            fault = self.faults.strikes("upgrade", market.name)
            if fault is not None:
                return web.Response(status=int(fault.number), text="refused on demand")
            return await StreamConnection(self._shared, market, request).run()

        application.middlewares.append(streams_first)
        application.router.add_routes(
            [
                web.get("/simulator/stats", self._stats),
                web.post("/simulator/faults", self._replace_faults),
                *self._rest.routes(),
            ]
        )
        return application

    async def _stats(self, _: web.Request) -> web.Response:
        stats = {name: sent.as_dict() for name, sent in self.sent.items()}
        return web.json_response({"streams": stats, "rest_requests": self._rest.requests})

    async def _replace_faults(self, request: web.Request) -> web.Response:
        try:
            self.faults.replace(await request.json())
        except (ConfigError, ValueError, TypeError) as error:
            return web.json_response({"message": str(error)}, status=400)
        return web.json_response({"message": "ok"})


@contextlib.asynccontextmanager
async def _stop_signal() -> AsyncIterator[asyncio.Event]:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    yield stop


def run(settings: SimulatorSettings, source: MarketSource | None = None, label: str = "") -> Simulator:
    """Serve until SIGINT or SIGTERM; return the simulator with its counts. `label` describes the data."""
    label = label or f"(seed {settings.seed})"

    async def serve() -> Simulator:
        async with _stop_signal() as stop, Simulator(settings, source) as simulator:
            what = "replay" if source is not None else "simulator"
            print(
                f"{what} on {simulator.stream_url} and {simulator.data_url} {label}; Ctrl-C ends it",
                flush=True,
            )
            await stop.wait()
            return simulator

    return uvloop.run(serve())


def main(settings: SimulatorSettings, pipe: Connection) -> None:
    """Run the embedded simulator's process: report its port over `pipe`, serve until `pipe` is closed."""
    children.ignore_terminal()
    parent = multiprocessing.parent_process()

    def watch() -> None:
        assert parent is not None
        parent.join()
        os._exit(Exit.ORPHANED)

    threading.Thread(target=watch, daemon=True).start()

    async def serve() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_reader(pipe.fileno(), stop.set)
        async with Simulator(settings) as simulator:
            pipe.send(("port", simulator.port))
            await stop.wait()

    try:
        uvloop.run(serve())
    except MdstreamError as error:
        pipe.send(("failed", str(error)))
        os._exit(error.exit_code)
