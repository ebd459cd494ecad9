"""The stream session with the real simulator, and with the failures of real servers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextvars import ContextVar
from typing import Any

import msgspec
import orjson
import pytest
import trustme
import uvloop
from websockets.asyncio.server import ServerConnection, serve

from mdstream.config import Config
from mdstream.errors import CertificateError, ConfigError, CredentialsError
from mdstream.session import retry, stream
from mdstream.session.retry import AT_ONCE_S, RECONNECT_GROWTH, RECONNECT_S
from mdstream.session.stream import StreamSession
from mdstream.session.target import Target
from mdstream.settings import check, from_mapping
from mdstream.simulator.server import Simulator
from mdstream.simulator.simulator_settings import SimulatorSettings
from mdstream.streams import STREAMS
from mdstream.streams.spec import PayloadKind, StreamSpec
from mdstream.telemetry.events import EventKind, RunEvent, Severity
from mdstream.wire import protocol
from mdstream.wire.subscription import Subscriptions
from tests.running import HANGING_S

WANTED = {
    "stocks": {"trades": {"AAPL", "MSFT"}, "quotes": {"AAPL"}},
    "options": {"trades": {"AAPL261218C00200000"}, "quotes": {"AAPL261218C00200000"}},
    "crypto": {"orderbooks": {"BTC/USD"}},
    "news": {"news": {"AAPL"}},
    "perps": {"trades": {"BTC-PERP"}, "pricing": {"BTC-PERP"}},
}


LIBRARY = ContextVar("LIBRARY", default="picows")
"""The library that opens the connections of a test."""


@pytest.fixture(params=["picows", "websockets"], autouse=True)
def library(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run each test of this module with both libraries."""
    token = LIBRARY.set(request.param)
    yield request.param
    LIBRARY.reset(token)


class Sink:
    """A replacement for the pipeline that keeps the payloads."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.room = 1 << 60
        self.gaps = 0
        self.session: Any = None
        self.running: Any = None

    def offer(self, payload: bytes, kind: PayloadKind, recv_ns: int, is_last: bool = False) -> bool:
        assert abs(recv_ns - time.time_ns()) < HANGING_S * 1e9
        if len(self.payloads) >= self.room:
            return False
        self.payloads.append(payload)
        return True

    def rows(self, spec: StreamSpec, subscription: str) -> int:
        types = [t for c in spec.channels if subscription in c.subscriptions for t in c.types]
        return sum(p.count(f'"T":"{t}"'.encode()) for p in self.payloads for t in types)

    async def put(self, payload: bytes, kind: PayloadKind, recv_ns: int) -> None:
        while not self.offer(payload, kind, recv_ns):
            await asyncio.sleep(0.01)

    def mark_gap(self) -> None:
        self.gaps += 1


def make_target(config: Config, stream: str = "stocks") -> Target:
    return Target.of(STREAMS[stream], config.stream(stream), config.connection(stream))


class Case:
    """A simulator, and a session that connects to it."""

    def __init__(self, sim: Simulator, stream: str, **config: Any) -> None:
        self.sim, self.sink, self.events = sim, Sink(), list[RunEvent]()
        values = {
            "stream_url": sim.stream_url,
            "data_url": sim.data_url,
            "credentials": {"key_id": "k", "secret_key": "s"},
            "websocket": LIBRARY.get(),
            **config,
        }
        self.config: Config = from_mapping(values)
        self.subscriptions = Subscriptions(wanted={c: set(s) for c, s in WANTED[stream].items()})
        self.session = StreamSession(
            make_target(self.config, stream),
            self.subscriptions,
            self.sink,
            self.events.append,
            lambda channel: self.sink.rows(STREAMS[stream], channel),
        )

    @property
    def said(self) -> list[str]:
        return [event.text for event in self.events]

    @property
    def session_errors(self) -> list[RunEvent]:
        return [event for event in self.events if event.severity is Severity.ERROR]

    @property
    def lost_pauses(self) -> list[float]:
        return [event.fields["pause_s"] for event in self.events if event.kind is EventKind.LOST]

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(HANGING_S):
            while not condition():
                await asyncio.sleep(0.01)


def play(
    story: Callable[[Case], Awaitable[None]],
    stream: str = "stocks",
    config: dict[str, Any] | None = None,
    **sim: Any,
) -> None:
    """Run `story` and a session at the same time. A fatal error of the session ends both."""

    async def main() -> None:
        async with Simulator(SimulatorSettings(port=0, **sim)) as simulator:
            case = Case(simulator, stream, **(config or {}))
            running = asyncio.ensure_future(case.session.run())
            story_task = asyncio.ensure_future(story(case))
            try:
                await asyncio.wait({running, story_task}, return_when=asyncio.FIRST_COMPLETED)
                for task in (running, story_task):
                    if task.done():
                        task.result()
            finally:
                for task in (running, story_task):
                    task.cancel()
                await asyncio.gather(running, story_task, return_exceptions=True)

    uvloop.run(main())


async def wait_for_data(case: Case) -> None:
    before = len(case.sink.payloads)
    await case.until(lambda: len(case.sink.payloads) > before + 3)


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("auth", ["message", "headers"])
def test_every_stream_connects_authenticates_and_flows(stream: str, auth: str) -> None:
    async def story(case: Case) -> None:
        await wait_for_data(case)
        assert case.session.ready.is_set()
        active = {c: s for c, s in case.subscriptions.active.items() if c in WANTED[stream]}
        assert active == WANTED[stream]

    play(story, stream, {"auth": auth}, rate=2000)


def test_any_stream_may_be_had_in_msgpack() -> None:
    async def story(case: Case) -> None:
        await wait_for_data(case)
        assert case.sink.payloads[0][0] == 0x91

    play(story, "crypto", {"crypto": {"codec": "msgpack"}})


def test_compression_is_off_unless_asked_for() -> None:
    async def story(case: Case) -> None:
        await wait_for_data(case)
        socket: Any = case.session._socket
        if LIBRARY.get() == "websockets":
            assert socket.connection.protocol.extensions == []
        else:
            assert "Sec-WebSocket-Extensions" not in socket._transport.request.headers

    play(story)


@contextlib.asynccontextmanager
async def open_session(
    talk: Callable[[ServerConnection], Awaitable[None]],
    subscriptions: Subscriptions | None = None,
    **config: Any,
) -> AsyncIterator[Any]:
    """Open a session with a server that runs `talk`; yield its sink and the texts of its events."""
    async with serve(talk, "127.0.0.1", 0, max_size=None) as server:
        values = {
            "stream_url": f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}",
            "data_url": "http://127.0.0.1:1",
            "websocket": LIBRARY.get(),
            "handoff": {"max_payload_mb": 1},
            **config,
        }
        sink, said = Sink(), list[str]()
        session = StreamSession(
            make_target(from_mapping(values)),
            subscriptions or Subscriptions(),
            sink,
            lambda event: said.append(event.text),
            lambda channel: sink.rows(STREAMS["stocks"], channel),
        )
        running = asyncio.ensure_future(session.run())
        sink.session, sink.running = session, running
        try:
            async with asyncio.timeout(HANGING_S):
                yield sink, said
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


def test_compression_is_had_where_it_is_asked_for() -> None:
    async def main() -> None:
        extensions: list[Any] = []

        async def talk(socket: ServerConnection) -> None:
            extensions.extend(socket.protocol.extensions)
            await socket.send("[]" * 1000)
            await socket.wait_closed()

        async with open_session(talk, compression=True) as (sink, _):
            while not sink.payloads:
                await asyncio.sleep(0.01)
        assert sink.payloads == [b"[]" * 1000]
        assert len(extensions) == 1

    uvloop.run(main())


def test_a_payload_in_fragments_is_one_payload() -> None:
    async def main() -> None:
        async def talk(socket: ServerConnection) -> None:
            await socket.send('[{"whole":1}]')
            await socket.send(iter(['[{"T":"t"', ',"x":1}', "]"]))
            await socket.send(iter([b"[", b"]"]))
            await socket.wait_closed()

        async with open_session(talk) as (sink, _):
            while len(sink.payloads) < 3:
                await asyncio.sleep(0.01)
            assert sink.payloads == [b'[{"whole":1}]', b'[{"T":"t","x":1}]', b"[]"]

    uvloop.run(main())


@pytest.mark.parametrize("fragments", [1, 3])
def test_a_payload_above_the_limit_ends_the_connection_and_is_reported(fragments: int) -> None:
    async def main() -> None:
        async def talk(socket: ServerConnection) -> None:
            part = "x" * (1_500_000 // fragments)
            await socket.send(iter([part] * fragments) if fragments > 1 else part)
            await socket.wait_closed()

        async with open_session(talk) as (sink, said):
            while not said:
                await asyncio.sleep(0.01)
            assert "connection lost" in said[0]
            assert sink.payloads == []

    uvloop.run(main())


def test_how_the_server_closed_the_connection_is_reported() -> None:
    async def main() -> None:
        async def talk(socket: ServerConnection) -> None:
            await socket.close(1012, "coming back soon")

        async with open_session(talk) as (_, said):
            while not said:
                await asyncio.sleep(0.01)
            assert "closed with 1012 coming back soon" in said[0]

    uvloop.run(main())


def test_what_was_read_before_a_connection_was_lost_is_handed_on_when_there_is_room() -> None:
    async def main() -> None:
        connections = 0

        async def talk(socket: ServerConnection) -> None:
            nonlocal connections
            connections += 1
            for number in range(200 if connections == 1 else 0):
                await socket.send(f'[{{"n":{number}}}]')
            await asyncio.sleep(0.3)
            socket.transport.abort()

        async with open_session(talk) as (sink, said):
            sink.room = 5
            while len(sink.payloads) < 5:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.6)
            assert len(sink.payloads) == 5
            sink.room = 1 << 60
            while not said:
                await asyncio.sleep(0.01)
            expected = [f'[{{"n":{number}}}]'.encode() for number in range(len(sink.payloads))]
            assert sink.payloads == expected
            assert len(expected) > 5

    uvloop.run(main())


@pytest.mark.parametrize("code", [402, 409, 411, 412])
def test_fatal_codes_end_the_session_at_once(code: int) -> None:
    async def story(case: Case) -> None:
        await case.until(lambda: False)

    with pytest.raises(CredentialsError) as caught:
        play(story, faults=(f"auth={code}",))
    assert caught.value.code == code


def test_a_wrong_key_is_fatal_and_never_reported() -> None:
    async def story(case: Case) -> None:
        await case.until(lambda: False)

    with pytest.raises(CredentialsError, match="APCA_API_KEY_ID") as caught:
        play(
            story,
            config={"credentials": {"key_id": "hidden-key", "secret_key": "hidden-secret"}},
            credentials=msgspec.convert({"key_id": "a", "secret_key": "b"}, type(Config().credentials)),
        )
    assert "hidden" not in str(caught.value)


def test_a_second_connection_waits_on_its_socket_until_the_first_one_leaves() -> None:
    async def story(case: Case) -> None:
        keys = {"credentials": {"key_id": "other", "secret_key": "other"}}
        first, second = Case(case.sim, "stocks", **keys), Case(case.sim, "stocks", **keys)
        holding = asyncio.ensure_future(first.session.run())
        await wait_for_data(first)
        waiting = asyncio.ensure_future(second.session.run())
        await second.until(lambda: any("406" in text for text in second.said))
        await wait_for_data(first)  # the first connection continues
        assert second.sink.payloads == []
        holding.cancel()
        await wait_for_data(second)
        assert second.session.connects == 1, "the second session must keep its socket"
        waiting.cancel()
        await asyncio.gather(holding, waiting, return_exceptions=True)

    play(story)


@pytest.mark.parametrize(
    "faults",
    [("drop@0.3*1",), ("error=407@0.3*1",), ("error=500@0.3*1",), ("auth=404*1",), ("upgrade=503*1",)],
)
def test_lost_connections_come_back_and_everything_is_subscribed_again(faults: tuple[str, ...]) -> None:
    async def story(case: Case) -> None:
        await case.until(lambda: case.session.reconnects == 1)
        await case.until(case.session.ready.is_set)
        await wait_for_data(case)
        active = {c: s for c, s in case.subscriptions.active.items() if c in WANTED["stocks"]}
        assert active == WANTED["stocks"]
        # A refused upgrade loses no connection.
        assert case.sink.gaps == (not faults[0].startswith("upgrade"))

    play(story, faults=faults)


def test_http_429_at_the_upgrade_waits_for_seconds() -> None:
    async def story(case: Case) -> None:
        started = time.monotonic()
        await wait_for_data(case)
        assert time.monotonic() - started >= 5.0

    play(story, faults=("upgrade=429*1",))


@pytest.mark.cases("S4")
@pytest.mark.parametrize(
    "fault",
    [f"upgrade={status}" for status in (302, 401, 403, 404, 410)]
    + [f"auth={code}" for code in (402, 408, 409, 411, 412)],
)
def test_a_refusal_of_what_has_worked_is_temporary_and_loud(fault: str) -> None:
    async def story(case: Case) -> None:
        await wait_for_data(case)
        case.sim.faults.replace([f"{fault}*2"])
        case.session.handle_control([{"code": 407, "msg": "slow client", "T": "error"}])
        await case.until(lambda: len(case.session_errors) == 2)
        for event in case.session_errors:
            assert event.kind is EventKind.LOST
            assert fault.partition("=")[2] in event.text
            assert "although it worked before" in event.text
        await wait_for_data(case)
        assert case.session.trouble == ""

    play(story)


@pytest.mark.cases("S4")
@pytest.mark.parametrize(
    ("fault", "error"),
    [("upgrade=403", CredentialsError), ("upgrade=404", ConfigError), ("auth=409", CredentialsError)],
)
def test_a_refusal_that_lasts_for_minutes_is_final(
    fault: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "DOUBT_S", 1.0)

    async def story(case: Case) -> None:
        await wait_for_data(case)
        case.sim.faults.replace([fault])
        case.session.handle_control([{"code": 407, "msg": "slow client", "T": "error"}])
        await case.until(lambda: False)

    with pytest.raises(error):
        play(story)


@pytest.mark.cases("S14")
def test_a_lost_connection_is_replaced_at_once() -> None:
    async def story(case: Case) -> None:
        await case.until(lambda: case.session.established == 2)
        assert case.lost_pauses == [pytest.approx(0, abs=AT_ONCE_S)]
        await wait_for_data(case)

    play(story, faults=("drop@0.5*1",))


@pytest.mark.parametrize(
    ("status", "error"), [(401, CredentialsError), (403, CredentialsError), (404, ConfigError)]
)
def test_other_4xx_at_the_upgrade_are_fatal(status: int, error: type[Exception]) -> None:
    async def story(case: Case) -> None:
        await case.until(lambda: False)

    with pytest.raises(error, match=f"HTTP {status}"):
        play(story, faults=(f"upgrade={status}",))


def test_a_mute_socket_is_reconnected_after_its_channels_limit() -> None:
    async def story(case: Case) -> None:
        await wait_for_data(case)
        started = time.monotonic()
        await case.until(lambda: case.session.reconnects == 1)
        assert time.monotonic() - started > 0.7
        assert any("no quotes for 1 s" in text for text in case.said)
        await wait_for_data(case)

    play(story, config={"stocks": {"mute_after_s": {"quotes": 1.0}}}, faults=("mute@0.5*1",))


def test_a_channel_that_stopped_is_missed_while_others_flow() -> None:
    async def story(case: Case) -> None:
        await case.until(lambda: case.session.reconnects)
        assert any("connected but no statuses for 1 s" in text for text in case.said)
        await case.until(lambda: case.sink.rows(STREAMS["stocks"], "trades") > 10)

    def prepare(case: Case) -> Awaitable[None]:
        case.subscriptions.wanted = {"trades": {"AAPL"}, "statuses": {"AAPL"}}
        return story(case)

    play(prepare, config={"stocks": {"mute_after_s": {"statuses": 1.0}}}, rate=30)


def test_a_quiet_channel_alone_is_not_taken_for_dead() -> None:
    async def story(case: Case) -> None:
        case.subscriptions.wanted = {"statuses": {"AAPL"}}
        await case.until(case.session.ready.is_set)
        await asyncio.sleep(2.5)
        assert case.session.reconnects == 0

    play(story, config={"stocks": {"mute_after_s": {"quotes": 1.0}}}, rate=0.01)


def test_subscriptions_change_without_a_reconnect() -> None:
    async def story(case: Case) -> None:
        await wait_for_data(case)
        case.subscriptions.wanted["trades"] = {"TSLA"}
        case.session.change()
        await case.until(lambda: case.subscriptions.active.get("trades") == {"TSLA"})
        await case.until(lambda: any(b'"S":"TSLA"' in p for p in case.sink.payloads[-50:]))
        assert case.session.connects == 1

    play(story)


def test_a_malformed_symbol_is_refused_and_the_others_flow() -> None:
    async def story(case: Case) -> None:
        await case.until(case.session.ready.is_set)
        assert ("trades", "not a symbol") in case.subscriptions.refused
        assert case.subscriptions.active["trades"] == {"AAPL", "MSFT"}
        await wait_for_data(case)

    def prepare(case: Case) -> Awaitable[None]:
        case.subscriptions.wanted["trades"].add("not a symbol")
        return story(case)

    play(prepare, config={})


def test_a_symbol_limit_refuses_what_is_beyond_it() -> None:
    async def story(case: Case) -> None:
        await case.until(case.session.ready.is_set)
        assert len(case.subscriptions.active["trades"]) == 5
        assert len(case.subscriptions.refused) == 7

    def prepare(case: Case) -> Awaitable[None]:
        case.subscriptions.wanted = {"trades": {f"S{i}" for i in range(12)}}
        return story(case)

    play(prepare, symbol_limit=5)


def test_symbols_with_priority_are_served_where_there_is_a_limit() -> None:
    first = {"S11", "S7", "S10", "S9", "S8"}

    async def story(case: Case) -> None:
        await case.until(case.session.ready.is_set)
        assert case.subscriptions.active["trades"] == first

    def prepare(case: Case) -> Awaitable[None]:
        case.subscriptions.wanted = {"trades": {f"S{i}" for i in range(12)}}
        case.subscriptions.comes_first = first.__contains__
        return story(case)

    play(prepare, symbol_limit=5)


def test_a_star_on_option_quotes_is_refused_and_trades_flow() -> None:
    async def story(case: Case) -> None:
        await case.until(case.session.ready.is_set)
        assert set(case.subscriptions.refused) == {("quotes", "*")}
        assert case.subscriptions.active["trades"] == {"*"}

    def prepare(case: Case) -> Awaitable[None]:
        case.subscriptions.wanted = {"trades": {"*"}, "quotes": {"*"}}
        return story(case)

    play(prepare, "options")


@pytest.mark.parametrize("held", [10_000, stream.MOST_HELD_BYTES])
def test_no_room_means_that_reading_pauses_and_nothing_is_lost(
    monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    monkeypatch.setattr(stream, "MOST_HELD_BYTES", held)

    async def story(case: Case) -> None:
        case.sink.room = 100
        await case.until(lambda: len(case.sink.payloads) == 100)
        await asyncio.sleep(1.0)
        assert len(case.sink.payloads) == 100
        case.sink.room = 1 << 60
        await case.until(lambda: len(case.sink.payloads) == 20_000)

    play(story, rate=0, messages=20_000)


@pytest.mark.cases("M8")
def test_pings_are_answered_while_nothing_has_room() -> None:
    async def main() -> None:
        answered = asyncio.Event()

        async def talk(socket: ServerConnection) -> None:
            for _ in range(200):
                await socket.send("[" + " " * 50_000 + "]")
            await (await socket.ping())
            answered.set()
            await socket.wait_closed()

        async with open_session(talk) as (sink, _):
            sink.room = 0
            async with asyncio.timeout(HANGING_S):
                await answered.wait()
            assert not sink.payloads
            sink.room = 1 << 60
            while len(sink.payloads) < 200:
                await asyncio.sleep(0.01)

    uvloop.run(main())


@pytest.mark.cases("M8")
def test_what_is_held_at_the_end_of_a_run_is_put_when_there_is_room() -> None:
    async def story(case: Case) -> None:
        case.sink.room = 100
        await case.until(lambda: case.session._held_bytes > 100_000)

    left: list[Case] = []

    async def follow(case: Case) -> None:
        left.append(case)
        await story(case)

    play(follow, rate=0, messages=20_000)
    [case] = left
    held, gaps = len(case.session._held), case.sink.gaps
    assert gaps == 0, "no gap is noted before the payloads that are held"
    case.sink.room = 1 << 60
    asyncio.run(case.session.put_held())
    assert len(case.sink.payloads) == 100 + held > 1_000
    assert case.session._held_bytes == 0


def test_a_stall_of_ours_is_not_taken_for_a_mute_server() -> None:
    async def story(case: Case) -> None:
        case.sink.room = 10
        await case.until(lambda: len(case.sink.payloads) == 10)
        await asyncio.sleep(4.0)
        case.sink.room = 1 << 60
        await wait_for_data(case)
        assert case.session.reconnects == 0

    play(story, config={"stocks": {"mute_after_s": {"quotes": 2.5}}})


def test_control_messages_found_among_the_data_are_seen_to() -> None:
    async def story(case: Case) -> None:
        await wait_for_data(case)
        # A worker returns a control message that the session did not recognise.
        case.session.handle_control([{"code": 407, "msg": "slow client", "T": "error"}])
        await case.until(lambda: any("slow client (407)" in text for text in case.said))
        await wait_for_data(case)
        assert case.session.reconnects == 1

    play(story)


def test_data_behind_a_control_message_goes_to_the_workers_with_it() -> None:
    async def story(case: Case) -> None:
        await wait_for_data(case)
        socket = case.session._protocol
        assert socket is not None
        shared = b'[{"T":"success","msg":"hello"},{"T":"t","S":"AAPL","p":1}]'
        before = case.session.control_messages
        assert case.session._receiver(socket)(shared, False)
        assert shared in case.sink.payloads
        assert case.session.control_messages == before, "a worker finds and returns it"

    play(story)


def test_a_final_error_found_after_the_connection_was_lost_counts() -> None:
    async def story(case: Case) -> None:
        await case.until(lambda: case.session.reconnects == 1)
        case.session.handle_control([{"T": "error", "code": 409, "msg": "insufficient"}])
        await case.until(lambda: any("(409)" in text for text in case.said))
        await wait_for_data(case)

    play(story, faults=("drop@0.2",))


def test_payloads_before_a_subscription_stands_do_not_shorten_the_pauses() -> None:
    """Otherwise a server that sends nonsense and hangs up would be called twice a second, forever."""

    async def main() -> list[str]:
        async def nonsense(socket: ServerConnection) -> None:
            await socket.send('[{"hello":"world"}]')
            socket.transport.abort()

        async with serve(nonsense, "127.0.0.1", 0) as server:
            url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            said: list[str] = []
            config = from_mapping(
                {"stream_url": url, "data_url": "http://127.0.0.1:1", "websocket": LIBRARY.get()}
            )
            session = StreamSession(
                make_target(config),
                Subscriptions(),
                Sink(),
                lambda event: said.append(event.text),
                lambda channel: 0,
            )
            running = asyncio.ensure_future(session.run())
            async with asyncio.timeout(HANGING_S):
                while len(said) < 6:
                    await asyncio.sleep(0.05)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            return said

    pauses = [float(text.rsplit(" ", 2)[1]) for text in uvloop.run(main())]
    for number, pause in enumerate(pauses[1:]):
        full = RECONNECT_S * RECONNECT_GROWTH**number
        assert full / 2 - 0.05 <= pause <= full + 0.05


def issue_certificate(folder: Any, authority: trustme.CA, name: str) -> dict[str, str]:
    issued = authority.issue_cert(name)
    key, chain = folder / "key.pem", folder / "chain.pem"
    issued.private_key_pem.write_to_path(key)
    for blob in issued.cert_chain_pems:
        blob.write_to_path(chain, append=True)
    return {"tls_certificate": str(chain), "tls_key": str(key)}


def test_tls_is_verified_against_a_private_authority(tmp_path: Any) -> None:
    authority = trustme.CA()
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(bundle)

    async def story(case: Case) -> None:
        assert case.sim.stream_url.startswith("wss://")
        await wait_for_data(case)

    play(story, config={"ca_file": str(bundle)}, **issue_certificate(tmp_path, authority, "127.0.0.1"))


@pytest.mark.parametrize("wrong", ["authority", "name"])
def test_a_certificate_that_does_not_verify_is_refused_with_a_clear_line(tmp_path: Any, wrong: str) -> None:
    authority, trusted = trustme.CA(), trustme.CA()
    bundle = tmp_path / "ca.pem"
    (trusted if wrong == "authority" else authority).cert_pem.write_to_path(bundle)
    name = "127.0.0.1" if wrong == "authority" else "example.org"

    async def story(case: Case) -> None:
        await case.until(lambda: False)

    with pytest.raises(
        CertificateError, match=r"the certificate of wss://127.0.0.1:\d+/v2/iex does not verify"
    ):
        play(story, config={"ca_file": str(bundle)}, **issue_certificate(tmp_path, authority, name))


def test_keys_never_show_in_logs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def story(case: Case) -> None:
        await wait_for_data(case)

    secret = {"key_id": "very-secret-id", "secret_key": "very-secret-key"}
    play(story, config={"credentials": secret, "auth": "headers"}, faults=("drop@0.2*1",))
    assert "very-secret" not in caplog.text
    assert "very-secret" not in repr(check(from_mapping({"credentials": secret})))


@pytest.mark.parametrize("auth", ["message", "headers"])
def test_keys_do_not_follow_a_redirect(auth: str) -> None:
    stolen: list[str] = []

    async def main() -> None:
        async def keep(connection: Any) -> None:
            stolen.append(str(connection.request.headers))
            stolen.extend([str(message) async for message in connection])

        async with serve(keep, "127.0.0.1", 0) as thief:
            elsewhere = f"ws://localhost:{thief.sockets[0].getsockname()[1]}/v2/iex"

            def send_on(connection: Any, request: Any) -> Any:
                answer = connection.respond(302, "")
                answer.headers["Location"] = elsewhere
                return answer

            async with serve(keep, "127.0.0.1", 0, process_request=send_on) as server:
                values = {
                    "stream_url": f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}",
                    "credentials": {"key_id": "k", "secret_key": "s"},
                    "auth": auth,
                    "websocket": LIBRARY.get(),
                }
                session = StreamSession(
                    make_target(from_mapping(values)),
                    Subscriptions(),
                    Sink(),
                    lambda text: None,
                    lambda channel: 0,
                )
                with pytest.raises(ConfigError, match=f"redirected to {elsewhere}; .* set stream_url"):
                    async with asyncio.timeout(HANGING_S):
                        await session.run()

    uvloop.run(main())
    assert stolen == []


class Ghost:
    """A server whose plan allows one connection's symbols, and which counts a lost one for a while.

    The first connection is served and cut. Requests of later ones get 405, until `is_gone` is set.
    """

    def __init__(self) -> None:
        self.is_gone = False
        self.connections = self.refusals = 0

    async def talk(self, socket: ServerConnection) -> None:
        self.connections += 1
        is_first = self.connections == 1
        served: dict[str, list[str]] = {}
        await socket.send('[{"T":"success","msg":"connected"}]')
        async for message in socket:
            request = orjson.loads(message)
            if request.pop("action") == "auth":
                await socket.send('[{"T":"success","msg":"authenticated"}]')
            elif is_first or self.is_gone:
                for channel, symbols in request.items():
                    served[channel] = served.get(channel, []) + symbols
                await socket.send(orjson.dumps([{"T": "subscription", **served}]).decode())
                await socket.send('[{"T":"t","S":"AAPL","p":1}]')
                if is_first:
                    await asyncio.sleep(0.05)
                    socket.transport.abort()
                    return
            else:
                self.refusals += 1
                await socket.send('[{"T":"error","code":405,"msg":"symbol limit exceeded"}]')


@pytest.mark.cases("S7")
def test_what_a_lost_connection_still_occupies_is_requested_until_it_is_free() -> None:
    async def main() -> None:
        ghost, events, sink = Ghost(), list[RunEvent](), Sink()
        async with serve(ghost.talk, "127.0.0.1", 0) as server:
            values = {
                "stream_url": f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}",
                "data_url": "http://127.0.0.1:1",
                "websocket": LIBRARY.get(),
            }
            subscriptions = Subscriptions(wanted={"trades": {"AAPL", "MSFT"}, "quotes": {"AAPL"}})
            target = make_target(from_mapping(values))
            session = StreamSession(target, subscriptions, sink, events.append, lambda channel: 0)
            running = asyncio.ensure_future(session.run())
            async with asyncio.timeout(HANGING_S):
                while not any(event.kind is EventKind.REFUSED for event in events):
                    await asyncio.sleep(0.01)
                while not session.ready.is_set():
                    await asyncio.sleep(0.01)
                assert subscriptions.count == 0
                assert set(subscriptions.find_refused()) == {"AAPL", "MSFT"}
                refused = [event for event in events if event.kind is EventKind.REFUSED]
                assert all(event.severity is Severity.ERROR for event in refused), "it was served before"
                assert sum(event.fields["lost"] for event in refused) == 3
                before = ghost.refusals
                while ghost.refusals == before:  # it asks again, by itself
                    await asyncio.sleep(0.01)
                ghost.is_gone = True
                while subscriptions.count < 3 or subscriptions.refused:
                    await asyncio.sleep(0.01)
                assert ghost.connections == 2, "on the same connection"
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    uvloop.run(main())


TRADE = '[{"T":"t","S":"AAPL","p":1}]'


async def greet(socket: ServerConnection) -> dict[str, Any]:
    """Accept any key; return the first request."""
    await socket.send('[{"T":"success","msg":"connected"}]')
    await socket.recv()
    await socket.send('[{"T":"success","msg":"authenticated"}]')
    request: dict[str, Any] = orjson.loads(await socket.recv())
    return request


@pytest.mark.parametrize(
    "answer",
    [
        "",
        '[{"T":"subscription","trades":["AAPL"],"quotes":["AA',
        '[{"T":"subscription","trades":["AAPL"],"quotes":["AAPL"],"x":NaN}]',
        '[{"T":"subscriptions","trades":["AAPL"]}]',
        '[{"T":"subscription","trades":"AAPL","quotes":"AAPL"}]',
        '{"T":"subscription","trades":["AAPL"],"quotes":["AAPL"]}',
        '"subscription"',
    ],
)
def test_data_shows_that_a_connection_is_served_whatever_became_of_its_acknowledgement(
    answer: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(protocol, "ANSWER_WAIT_S", 0.5)

    async def main() -> None:
        connections = 0

        async def talk(socket: ServerConnection) -> None:
            nonlocal connections
            connections += 1
            await greet(socket)
            if answer:
                await socket.send(answer)
            while True:
                await socket.send(TRADE)
                await asyncio.sleep(0.05)

        subscriptions = Subscriptions(wanted={"trades": {"AAPL"}, "quotes": {"AAPL"}})
        async with open_session(talk, subscriptions) as (_, said):
            while not said:
                await asyncio.sleep(0.01)
            assert said == ["streaming trades 1, quotes 1"]
            await asyncio.sleep(1.0)
            assert len(said) == connections == 1

    uvloop.run(main())
    logged = [each for each in caplog.records if each.name == stream.__name__]
    warnings = [each.getMessage() for each in logged if each.levelno >= logging.WARNING]
    assert len(warnings) == (0 if answer.startswith('{"T"') else 1)


def test_without_data_a_request_without_an_answer_costs_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol, "ANSWER_WAIT_S", 0.3)

    async def main() -> None:
        async def talk(socket: ServerConnection) -> None:
            await greet(socket)
            await socket.wait_closed()

        async with open_session(talk, Subscriptions(wanted={"trades": {"AAPL"}})) as (_, said):
            while len(said) < 2:
                await asyncio.sleep(0.01)
            assert all("no answer to a subscription" in text for text in said)

    uvloop.run(main())


ACK = {"T": "subscription", "trades": ["AAPL"]}
REFUSED = {"T": "error", "code": 402, "msg": "auth failed"}


@pytest.mark.parametrize("is_late", [False, True], ids=["connected", "lost"])
@pytest.mark.parametrize(
    ("first", "then"),
    [
        ([ACK, REFUSED], []),
        ([ACK], [REFUSED]),
        ([{"T": "success", "msg": "hello"}, ACK, {"T": "error", "code": 1, "msg": ""}, REFUSED], []),
    ],
)
def test_what_precedes_a_refusal_in_a_batch_counts(
    first: list[dict[str, Any]], then: list[dict[str, Any]], is_late: bool
) -> None:
    """A worker hands all control messages of a batch back at once."""

    async def main() -> None:
        connections = 0

        async def talk(socket: ServerConnection) -> None:
            nonlocal connections
            connections += 1
            await greet(socket)
            asked.set()
            if connections > 1:
                await socket.send(orjson.dumps([ACK]).decode())
            elif is_late:
                return
            await socket.wait_closed()

        asked = asyncio.Event()
        async with open_session(talk, Subscriptions(wanted={"trades": {"AAPL"}})) as (sink, said):
            await asked.wait()
            while is_late and not said:
                await asyncio.sleep(0)
            sink.session.handle_control(first)
            sink.session.handle_control(then)
            while not any("streaming" in text for text in said[2:]):
                await asyncio.sleep(0.01)
                assert not sink.running.done(), sink.running.exception()
            assert any("refused, although it worked before: auth failed (402)" in text for text in said)

    uvloop.run(main())


def test_a_refusal_before_the_acknowledgement_is_final() -> None:
    async def main() -> None:
        async def talk(socket: ServerConnection) -> None:
            await greet(socket)
            await socket.send(orjson.dumps([REFUSED, ACK]).decode())
            await socket.wait_closed()

        async with open_session(talk, Subscriptions(wanted={"trades": {"AAPL"}})) as (sink, _):
            with pytest.raises(CredentialsError, match="402"):
                await sink.running

    uvloop.run(main())


@pytest.mark.parametrize("code", ["499", '"499"', "null"])
def test_what_the_server_said_is_part_of_why_its_connection_was_given_up(
    code: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(protocol, "ANSWER_WAIT_S", 0.3)

    async def main() -> None:
        async def talk(socket: ServerConnection) -> None:
            await greet(socket)
            await socket.send(f'[{{"T":"error","code":{code},"msg":"some new thing"}}]')
            await socket.wait_closed()

        wanted = {"trades": {"AAPL"}, "quotes": {"AAPL"}}
        async with open_session(talk, Subscriptions(wanted=wanted)) as (sink, said):
            while not said:
                await asyncio.sleep(0.01)
            assert "no answer to a subscription" in said[0]
            assert "some new thing" in said[0]
            assert "some new thing" in sink.session.trouble

    uvloop.run(main())
    logged = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert "some new thing" in logged[0]


def test_an_error_that_data_followed_long_ago_is_not_why_a_connection_was_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream, "_RELATED_S", 0.2)

    async def main() -> None:
        async def talk(socket: ServerConnection) -> None:
            await greet(socket)
            await socket.send(orjson.dumps([ACK]).decode())
            await socket.send('[{"T":"error","code":499,"msg":"some new thing"}]')
            await socket.send(TRADE)
            await asyncio.sleep(0.4)
            await socket.close(1001, "bye")

        async with open_session(talk, Subscriptions(wanted={"trades": {"AAPL"}})) as (_, said):
            while len(said) < 2:
                await asyncio.sleep(0.01)
            assert "1001 bye" in said[1]
            assert "some new thing" not in said[1]

    uvloop.run(main())


def test_an_error_found_after_the_connection_was_lost_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def story(case: Case) -> None:
        await case.until(lambda: case.session.reconnects == 1)
        case.session.handle_control([{"T": "error", "code": 407, "msg": "slow client"}])
        await case.until(lambda: "slow client (407)" in caplog.text)

    play(story, faults=("drop@0.2",))
