"""Both libraries with a real local server: payloads, pauses, closes and refusals are the same."""

from __future__ import annotations

import asyncio
import contextlib
import http
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvloop
from websockets.asyncio.server import ServerConnection, serve

from mdstream.errors import ConfigError, CredentialsError, NetworkError, ServerError
from mdstream.session.sockets import open_socket
from mdstream.session.sockets.interface import Socket
from mdstream.session.target import Target
from mdstream.settings import from_mapping
from mdstream.streams import STREAMS
from tests.running import HANGING_S

Talk = Callable[[ServerConnection], Awaitable[None]]

LIBRARIES = pytest.mark.parametrize("library", ["picows", "websockets"])


def make_target(url: str, library: str, **settings: Any) -> Target:
    values = {"stream_url": url, "data_url": "http://127.0.0.1:9", "websocket": library, **settings}
    config = from_mapping(values)
    return Target.of(STREAMS["stocks"], config.stream("stocks"), config.connection("stocks"))


@contextlib.asynccontextmanager
async def serve_talk(talk: Talk, **options: Any) -> AsyncIterator[str]:
    """Start a WebSocket server on a free port that runs `talk` with each client; yield its address."""
    async with serve(talk, "127.0.0.1", 0, **options) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def run(main: Awaitable[None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(HANGING_S):
            await main

    uvloop.run(bounded())


async def wait_until_lost(socket: Socket) -> BaseException:
    """Return the error that ended a connection."""
    await asyncio.wait({socket.lost})
    error = socket.lost.exception()
    assert error is not None
    return error


@LIBRARIES
def test_payloads_come_whole_and_in_order_and_messages_go_out(library: str) -> None:
    got: list[str | bytes] = []

    async def talk(connection: ServerConnection) -> None:
        await connection.send("first")
        await connection.send(b"\x00second")
        await connection.send(["th", "i", "rd"])  # in fragments
        async for message in connection:
            got.append(message)
            await connection.send(f"got {len(got)}")

    async def main() -> None:
        async with serve_talk(talk) as url, open_socket(make_target(url, library)) as socket:
            payloads: asyncio.Queue[bytes] = asyncio.Queue()

            def receive(payload: bytes, is_last: bool) -> bool:
                payloads.put_nowait(payload)
                return True

            await asyncio.sleep(0.1)  # payloads that arrive before the start are not lost
            socket.start(receive)
            assert [await payloads.get() for _ in range(3)] == [b"first", b"\x00second", b"third"]
            socket.send("text")
            socket.send(b"binary")
            assert [await payloads.get() for _ in range(2)] == [b"got 1", b"got 2"]

    run(main())
    assert got == ["text", b"binary"]


@LIBRARIES
def test_a_full_receiver_pauses_reading_until_it_resumes(library: str) -> None:
    async def talk(connection: ServerConnection) -> None:
        with contextlib.suppress(Exception):
            for number in range(20_000):
                await connection.send(b"%0999d" % number)
            await connection.wait_closed()

    async def main() -> None:
        async with serve_talk(talk) as url, open_socket(make_target(url, library)) as socket:
            taken: list[bytes] = []
            room = 10

            def receive(payload: bytes, is_last: bool) -> bool:
                taken.append(payload)
                return len(taken) < room

            socket.start(receive)
            while len(taken) < room:
                await asyncio.sleep(0.01)
            before = -1
            while before != len(taken):  # payloads that were read before the pause still arrive
                before = len(taken)
                await asyncio.sleep(0.2)
            assert before < 20_000
            room = 1 << 60
            socket.resume()
            while len(taken) < 20_000:
                await asyncio.sleep(0.01)
            assert [int(payload) for payload in taken] == list(range(20_000))

    run(main())


@LIBRARIES
@pytest.mark.parametrize(
    ("code", "reason", "message"),
    [(1012, "coming back soon", "closed with 1012 coming back soon"), (1000, "", "closed with 1000")],
)
def test_a_close_says_its_code_and_reason(library: str, code: int, reason: str, message: str) -> None:
    async def talk(connection: ServerConnection) -> None:
        await connection.close(code, reason)

    async def main() -> None:
        async with serve_talk(talk) as url, open_socket(make_target(url, library)) as socket:
            socket.start(lambda payload, is_last: True)
            error = await wait_until_lost(socket)
            assert isinstance(error, NetworkError)
            assert str(error) == message

    run(main())


@LIBRARIES
def test_a_connection_that_breaks_off_is_a_network_error(library: str) -> None:
    async def talk(connection: ServerConnection) -> None:
        await connection.send("last")
        await asyncio.sleep(0.1)
        connection.transport.abort()

    async def main() -> None:
        async with serve_talk(talk) as url, open_socket(make_target(url, library)) as socket:
            payloads: list[bytes] = []
            socket.start(lambda payload, is_last: payloads.append(payload) or True)  # type: ignore[func-returns-value]
            assert isinstance(await wait_until_lost(socket), NetworkError)
            assert payloads == [b"last"]
            socket.send("dropped")  # raises no error

    run(main())


@LIBRARIES
def test_what_the_receiver_raises_ends_the_connection(library: str) -> None:
    async def talk(connection: ServerConnection) -> None:
        await connection.send("poison")
        await connection.wait_closed()

    def receive(payload: bytes, is_last: bool) -> bool:
        raise ServerError(f"cannot take {payload!r}")

    async def main() -> None:
        async with serve_talk(talk) as url, open_socket(make_target(url, library)) as socket:
            socket.start(receive)
            error = await wait_until_lost(socket)
            assert isinstance(error, ServerError)
            assert str(error) == "cannot take b'poison'"

    run(main())


@LIBRARIES
@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (302, ConfigError, "redirected to ws://elsewhere; if that is the server, set stream_url"),
        (401, CredentialsError, "check APCA_API_KEY_ID"),
        (403, CredentialsError, "check APCA_API_KEY_ID"),
        (404, ConfigError, "check stream_url and the feed"),
        (429, ServerError, "HTTP 429 instead of a connection"),
        (503, ServerError, "HTTP 503 instead of a connection"),
    ],
)
def test_a_status_in_place_of_a_connection_says_what_to_do(
    library: str, status: int, error: type[Exception], message: str
) -> None:
    def refuse(connection: ServerConnection, request: Any) -> Any:
        answer = connection.respond(http.HTTPStatus(status), "")
        answer.headers["Location"] = "ws://elsewhere"
        answer.headers["Retry-After"] = "7"
        return answer

    async def talk(connection: ServerConnection) -> None:
        raise AssertionError("it was refused")

    async def main() -> None:
        async with serve_talk(talk, process_request=refuse) as url:
            with pytest.raises(error, match=message) as caught:
                async with open_socket(make_target(url, library)):
                    pass
            assert type(caught.value) is error
            if isinstance(caught.value, ServerError):
                assert (caught.value.code, caught.value.retry_after) == (status, 7.0)

    run(main())


@LIBRARIES
def test_a_server_that_is_not_there_is_a_network_error(library: str) -> None:
    async def main() -> None:
        with pytest.raises(NetworkError, match=r"cannot reach ws://127\.0\.0\.1:9"):
            async with open_socket(make_target("ws://127.0.0.1:9", library)):
                pass

    run(main())


@LIBRARIES
def test_leaving_closes_the_connection(library: str) -> None:
    closed: asyncio.Queue[int | None] = asyncio.Queue()

    async def talk(connection: ServerConnection) -> None:
        await connection.wait_closed()
        closed.put_nowait(connection.close_code)

    async def main() -> None:
        async with serve_talk(talk) as url:
            async with open_socket(make_target(url, library)) as socket:
                socket.start(lambda payload, is_last: True)
            assert await closed.get() == 1000

    run(main())


async def send_fragments(connection: ServerConnection, count: int) -> None:
    """Send a payload in fragments of one byte, and another one."""
    first, middle, last = b"\x01\x01", b"\x00\x01", b"\x80\x01"
    frames = [first, *[middle] * (count - 2), last]
    connection.transport.write(b"".join(head + bytes([97 + i % 26]) for i, head in enumerate(frames)))
    await connection.send("next")
    await connection.wait_closed()


@pytest.mark.cases("M6")
@pytest.mark.parametrize("count", [3, 40_000, 100_000])
def test_a_payload_in_many_fragments_is_one_payload(count: int) -> None:
    async def main() -> None:
        async with (
            serve_talk(lambda connection: send_fragments(connection, count)) as url,
            open_socket(make_target(url, "picows")) as socket,
        ):
            payloads: asyncio.Queue[bytes] = asyncio.Queue()
            socket.start(lambda payload, is_last: payloads.put_nowait(payload) is None)
            assert await payloads.get() == bytes(97 + i % 26 for i in range(count))
            assert await payloads.get() == b"next"

    run(main())


@pytest.mark.cases("M6")
def test_the_other_library_refuses_so_many_fragments() -> None:
    async def main() -> None:
        async with (
            serve_talk(lambda connection: send_fragments(connection, 40_000)) as url,
            open_socket(make_target(url, "websockets")) as socket,
        ):
            socket.start(lambda payload, is_last: True)
            assert "too many fragments" in str(await wait_until_lost(socket))

    run(main())


@pytest.mark.cases("M6")
def test_fragments_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdstream.session.sockets.picows_socket.MOST_FRAGMENTS", 1000)

    async def talk(connection: ServerConnection) -> None:
        connection.transport.write(b"\x01\x00" + b"\x00\x00" * 1000)
        await connection.wait_closed()

    async def main() -> None:
        async with serve_talk(talk) as url, open_socket(make_target(url, "picows")) as socket:
            socket.start(lambda payload, is_last: True)
            assert "more than 1,000 fragments" in str(await wait_until_lost(socket))

    run(main())
