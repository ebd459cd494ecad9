"""What does it cost to receive WebSocket payloads into a slab, on one core?

    websockets      its asyncio API, `recv` after `recv`: the engine's portable way
    sans-io         its core without I/O, on a buffered protocol of asyncio
    aiohttp         its client
    picows          a frame parser in C: the engine's way
    session-…       the engine's whole session with either package: stamps, control messages, back-pressure

A simulator in a separate process sends stock quotes at full speed, 1, 2, 20 or 100 messages per payload.
All subjects copy each payload into the same kind of slab, with its receive time. The result is
`ns_per_payload`, the receiver's CPU time; the simulator can limit the rate. All take turns, on uvloop; the
tables show medians.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import Case, Plan, Record, Table, cell
from benchmarks.subjects import Subject, answer, read_requests, start_simulator

TAKES_S = (65.0, 9.0)
"""Seconds on 2 cores: in full, and with `--quick`."""

TURNS = 3
TURN_S = 0.5
PER_PAYLOAD = (1, 2, 20, 100)
SUBJECTS = ("websockets", "sans-io", "aiohttp", "picows", "session-websockets", "session-picows")

_AUTH = '{"action":"auth","key":"k","secret":"s"}'
_SUBSCRIBE = '{"action":"subscribe","quotes":["*"]}'


class Sink:
    """A slab that is filled repeatedly, with counters of payloads and bytes."""

    def __init__(self) -> None:
        from mdstream.handoff.slab import Slab

        self.payloads = self.bytes = 0
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            self._slab = Slab.create(Path(folder) / "slab", 512 * 1024)
        self._slab.begin(1)

    def take(self, payload: bytes) -> None:
        self.offer(payload, 0, time.time_ns())

    def offer(self, payload: bytes, kind: int, recv_ns: int, is_last: bool = False) -> bool:
        slab = self._slab
        if not slab.fits(len(payload)):
            slab.begin(1)
        slab.append(payload, kind, recv_ns)
        self.payloads += 1
        self.bytes += len(payload)
        return True

    async def put(self, payload: bytes, kind: int, recv_ns: int) -> None:
        self.offer(payload, kind, recv_ns)

    def mark_gap(self) -> None:
        return


# -- the subjects: each receives until it is cancelled


async def _websockets(url: str, sink: Sink) -> None:
    from websockets.asyncio.client import connect

    async with connect(url, compression=None, max_queue=1024, proxy=None, close_timeout=0.1) as socket:
        await socket.send(_AUTH)
        await socket.send(_SUBSCRIBE)
        while True:
            sink.take(await socket.recv(decode=False))


async def _sans_io(url: str, sink: Sink) -> None:
    from websockets.client import ClientProtocol
    from websockets.frames import Frame, Opcode
    from websockets.uri import parse_uri

    class Buffered(asyncio.BufferedProtocol):
        def __init__(self) -> None:
            self._core = ClientProtocol(parse_uri(url))
            self._memory = bytearray(256 * 1024)
            self._transport: Any = None

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self._transport = transport
            self._core.send_request(self._core.connect())
            self._flush()

        def get_buffer(self, sizehint: int) -> bytearray:
            return self._memory

        def buffer_updated(self, nbytes: int) -> None:
            self._core.receive_data(bytes(memoryview(self._memory)[:nbytes]))
            for event in self._core.events_received():
                if isinstance(event, Frame) and event.opcode in (Opcode.TEXT, Opcode.BINARY):
                    sink.take(bytes(event.data))
                elif not isinstance(event, Frame):  # the handshake is done
                    self._core.send_text(_AUTH.encode())
                    self._core.send_text(_SUBSCRIBE.encode())
            self._flush()

        def _flush(self) -> None:
            for data in self._core.data_to_send():
                self._transport.write(data)

    where = parse_uri(url)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(Buffered, where.host, where.port)
    try:
        await asyncio.Event().wait()
    finally:
        transport.close()


async def _aiohttp(url: str, sink: Sink) -> None:
    import aiohttp

    async with aiohttp.ClientSession() as session, session.ws_connect(url, compress=0) as socket:
        await socket.send_str(_AUTH)
        await socket.send_str(_SUBSCRIBE)
        async for message in socket:
            data = message.data
            sink.take(data.encode() if isinstance(data, str) else data)


async def _picows(url: str, sink: Sink) -> None:
    from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

    class Listener(WSListener):
        def on_ws_connected(self, transport: WSTransport) -> None:
            transport.send(WSMsgType.TEXT, _AUTH.encode())
            transport.send(WSMsgType.TEXT, _SUBSCRIBE.encode())

        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            sink.take(frame.get_payload_as_bytes())

    transport, _ = await ws_connect(Listener, url, read_buffer_init_size=256 * 1024)
    try:
        await asyncio.Event().wait()
    finally:
        transport.disconnect(graceful=False)


def _session(library: str) -> Callable[[str, Sink], Awaitable[None]]:
    async def receive(url: str, sink: Sink) -> None:
        from mdstream.session.stream import StreamSession
        from mdstream.session.target import Target
        from mdstream.settings import from_mapping
        from mdstream.streams import STREAMS
        from mdstream.wire.subscription import Subscriptions

        base = url.removesuffix("/v2/iex")
        config = from_mapping(
            {
                "stream_url": base,
                "data_url": base.replace("ws", "http", 1),
                "websocket": library,
                "credentials": {"key_id": "k", "secret_key": "s"},
            }
        )
        wanted = Subscriptions(wanted={"quotes": {"*"}})
        target = Target.of(STREAMS["stocks"], config.stream("stocks"), config.connection("stocks"))
        session = StreamSession(target, wanted, sink, lambda text: None, lambda channel: None)
        await session.run()

    return receive


RECEIVERS: dict[str, Callable[[str, Sink], Awaitable[None]]] = {
    "websockets": _websockets,
    "sans-io": _sans_io,
    "aiohttp": _aiohttp,
    "picows": _picows,
    "session-websockets": _session("websockets"),
    "session-picows": _session("picows"),
}


async def serve(subject: str) -> None:
    """Run a subject: receive for `TURN_S` from the address of each request."""
    for wanted in read_requests():
        sink = Sink()
        receiving = asyncio.ensure_future(RECEIVERS[subject](wanted["url"], sink))
        while sink.payloads < 2_000 and not receiving.done():
            await asyncio.sleep(0.005)
        if receiving.done():
            receiving.result()
            raise RuntimeError(f"{subject}: the simulator closed the connection")
        start, cpu, before = time.perf_counter(), time.process_time(), sink.payloads
        await asyncio.sleep(TURN_S)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        payloads = sink.payloads - before
        receiving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await receiving
        answer({"payloads_per_s": payloads / seconds, "ns_per_payload": cpu / payloads * 1e9})


# -- the comparison


def run(plan: Plan) -> list[Record]:
    """Measure everything."""
    sizes = plan.choose(PER_PAYLOAD, (20,))
    cases = [
        Case("receive", subject, {"messages_per_payload": size}) for size in sizes for subject in SUBJECTS
    ]
    with contextlib.ExitStack() as stack:
        urls = {}
        for size in sizes:
            flags = ("--rate", "0", "--messages-per-payload", str(size))
            urls[size] = stack.enter_context(start_simulator(*flags))[0] + "/v2/iex"
        subjects = {
            name: stack.enter_context(Subject("benchmarks.bench_receive", name)) for name in SUBJECTS
        }

        def measure(case: Case) -> dict[str, float]:
            size = case.params["messages_per_payload"]
            found = subjects[case.subject].ask(url=urls[size])
            return {
                **found,
                "messages_per_s": found["payloads_per_s"] * size,
                "ns_per_message": found["ns_per_payload"] / size,
            }

        return plan.in_turns("receive", cases, measure, plan.choose(TURNS, 1))


def tables(records: Sequence[Record]) -> list[Table]:
    """Return the tables of the records: CPU ns per payload, by messages per payload."""
    sizes = sorted({r["params"]["messages_per_payload"] for r in records})
    rows = []
    for subject in dict.fromkeys(r["subject"] for r in records):
        found = {r["params"]["messages_per_payload"]: r for r in records if r["subject"] == subject}
        rows.append(
            (
                subject,
                *(cell(found[size], "ns_per_payload", digits=0) for size in sizes),
                *(f"{found[size]['ns_per_message']:,.0f}" for size in sizes),
                *(f"{found[size]['messages_per_s'] / 1e6:.2f}" for size in sizes),
            )
        )
    headings = (
        "CPU ns",
        *(f"per payload of {n}" for n in sizes),
        *(f"per message, {n}" for n in sizes),
        *(f"M messages/s, {n}" for n in sizes),
    )
    return [Table("Receiving on one core", headings, rows)]


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve(sys.argv[1]))
