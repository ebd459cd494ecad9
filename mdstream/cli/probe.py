"""Probes: use an endpoint once, as a run does, and return the outcome."""

from __future__ import annotations

import asyncio
import ssl
from urllib.parse import urlsplit

import msgspec

from mdstream.config import Connection, Endpoint, FetchConfig, StreamConfig
from mdstream.errors import MdstreamError
from mdstream.session.budget import Budget
from mdstream.session.rest import RestClient
from mdstream.session.stream import StreamSession
from mdstream.session.target import Target
from mdstream.streams.spec import PayloadKind, StreamSpec
from mdstream.wire.subscription import Subscriptions

_TIMEOUT_S = 12.0
_REACH_S = 5.0

Outcome = tuple[str, str, str, str]
"""The fields of a `Finding`."""


async def probe_data(spec: StreamSpec, stream: StreamConfig, fetch: FetchConfig, data: Endpoint) -> Outcome:
    """Send one request to the REST API, for the first symbol of a stream."""
    base = data.url
    once = msgspec.structs.replace(fetch, attempts=1, timeout_s=_TIMEOUT_S)
    path = spec.fetch.path.format(feed=stream.feed)
    try:
        async with RestClient(once, data, Budget(10)) as client:
            await client.get(path, {"symbols": stream.symbols[0]})
    except MdstreamError as error:
        return "bad", f"data {base}", str(error), "check the key, data_url, and the network"
    return "ok", f"data {base}", "answers", ""


async def probe_reach(url: str) -> Outcome:
    """Check that the host of `url` can be reached, with a valid certificate."""
    host = urlsplit(url).hostname or ""
    try:
        async with asyncio.timeout(_REACH_S):
            _, writer = await asyncio.open_connection(host, 443, ssl=ssl.create_default_context())
            writer.close()
    except (OSError, TimeoutError) as error:
        reason = str(error) or f"no answer within {_REACH_S:.0f} s"
        return ("note", url, f"cannot be reached: {reason}", "needed for live data only")
    return "ok", url, "can be reached", ""


class _Discard:
    """Discards payloads."""

    def offer(self, payload: bytes, kind: PayloadKind, recv_ns: int, is_last: bool = False) -> bool:
        return True

    async def put(self, payload: bytes, kind: PayloadKind, recv_ns: int) -> None:
        return None

    def mark_gap(self) -> None:
        return None


async def probe_stream(spec: StreamSpec, stream: StreamConfig, connection: Connection) -> Outcome:
    """Connect to one stream and authenticate, without subscriptions."""
    name, target = spec.name, Target.of(spec, stream, connection)
    reported = asyncio.Event()
    session = StreamSession(
        target, Subscriptions(), _Discard(), lambda text: reported.set(), lambda channel: 0
    )
    running = asyncio.ensure_future(session.run())
    first = asyncio.ensure_future(reported.wait())
    try:
        await asyncio.wait({running, first}, timeout=_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        if session.ready.is_set():
            return "ok", f"{name} {target.url}", "connects and authenticates", ""
        if running.done():
            running.result()
        reason = session.trouble or f"no answer within {_TIMEOUT_S:.0f} s"
    except MdstreamError as error:
        reason = str(error)
    finally:
        for task in (running, first):
            task.cancel()
        await asyncio.gather(running, first, return_exceptions=True)
    return "bad", f"{name} {target.url}", reason, "check the key, the feed, stream_url, and the network"
