"""The simulator compared with the protocol reference: every answer, every error code, every fault."""

from __future__ import annotations

import asyncio
import base64
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgpack
import orjson
import pytest
import uvloop
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from mdstream.config import Credentials
from mdstream.errors import ConfigError
from mdstream.simulator.faults import parse
from mdstream.simulator.server import Simulator
from mdstream.simulator.simulator_settings import SimulatorSettings
from tests.running import HANGING_S

SUBSCRIBE = {"action": "subscribe", "trades": ["AAPL"]}
AUTH = {"action": "auth", "key": "k", "secret": "s"}
KEYS = {"APCA-API-KEY-ID": "k", "APCA-API-SECRET-KEY": "s"}


class Client:
    """A client that sends the given messages, and returns the received ones."""

    def __init__(self, socket: ClientConnection, packed: bool) -> None:
        self._socket, self._packed = socket, packed

    async def say(self, message: Any) -> Any:
        await self.send(message)
        return await self.hear()

    async def send(self, message: Any) -> None:
        await self._socket.send(msgpack.packb(message) if self._packed else orjson.dumps(message).decode())

    async def hear(self) -> Any:
        payload = await asyncio.wait_for(self._socket.recv(decode=False), HANGING_S)
        return msgpack.unpackb(payload) if self._packed else orjson.loads(payload)


def talk(
    story: Callable[[Client, Simulator], Awaitable[None]],
    path: str = "/v2/iex",
    packed: bool = False,
    headers: dict[str, str] | None = None,
    **settings: Any,
) -> None:
    async def main() -> None:
        async with Simulator(SimulatorSettings(port=0, **settings)) as sim:
            extra = {**({"Content-Type": "application/msgpack"} if packed else {}), **(headers or {})}
            async with connect(
                sim.stream_url + path, additional_headers=extra, close_timeout=0.2
            ) as socket:
                client = Client(socket, packed)
                assert await client.hear() == [{"T": "success", "msg": "connected"}]
                await story(client, sim)

    uvloop.run(main())


def error(code: int, text: str) -> list[dict[str, Any]]:
    return [{"T": "error", "code": code, "msg": text}]


def test_the_handshake_is_the_documented_one() -> None:
    async def story(client: Client, sim: Simulator) -> None:
        assert await client.say(AUTH) == [{"T": "success", "msg": "authenticated"}]
        [ack] = await client.say(
            {"action": "subscribe", "trades": ["AAPL"], "quotes": ["AMD", "CLDR"], "bars": ["*"]}
        )
        assert ack == {
            "T": "subscription",
            "trades": ["AAPL"],
            "quotes": ["AMD", "CLDR"],
            "bars": ["*"],
            "updatedBars": [],
            "dailyBars": [],
            "statuses": [],
            "lulds": [],
            "imbalances": [],
            "corrections": ["AAPL"],
            "cancelErrors": ["AAPL"],
        }
        [ack] = await client.say({"action": "unsubscribe", "bars": ["*"]})
        assert ack["bars"] == []
        assert ack["trades"] == ["AAPL"]

    talk(story, rate=0.001)


@pytest.mark.parametrize(
    ("said", "code", "text"),
    [
        ({"action": "dance"}, 400, "invalid syntax"),
        ([1, 2], 400, "invalid syntax"),
        (SUBSCRIBE, 401, "not authenticated"),
    ],
)
def test_errors_before_authentication(said: Any, code: int, text: str) -> None:
    async def story(client: Client, sim: Simulator) -> None:
        assert await client.say(said) == error(code, text)

    talk(story)


@pytest.mark.parametrize(
    ("path", "said", "code", "text"),
    [
        ("/v2/iex", AUTH, 403, "already authenticated"),
        (
            "/v2/iex",
            {"action": "subscribe", "orderbooks": ["A"]},
            410,
            "invalid subscribe action for this feed",
        ),
        ("/v2/iex", {"action": "subscribe", "trades": ["not good"]}, 400, "invalid syntax"),
        ("/v2/iex", {"action": "subscribe", "trades": ["A", "B", "C", "D"]}, 405, "symbol limit exceeded"),
        (
            "/v1beta1/indicative",
            {"action": "subscribe", "bars": ["*"]},
            410,
            "invalid subscribe action for this feed",
        ),
        (
            "/v1beta1/indicative",
            {"action": "subscribe", "quotes": ["*"]},
            413,
            "star subscription is not allowed for option quotes",
        ),
        (
            "/v1beta1/news",
            {"action": "subscribe", "trades": ["A"]},
            410,
            "invalid subscribe action for this feed",
        ),
    ],
)
def test_errors_after_authentication_leave_the_subscriptions_as_they_are(
    path: str, said: Any, code: int, text: str
) -> None:
    async def story(client: Client, sim: Simulator) -> None:
        await client.say(AUTH)
        assert await client.say(said) == error(code, text)
        [ack] = await client.say({"action": "subscribe"})
        assert not any(v for k, v in ack.items() if k != "T")

    talk(story, path, packed="indicative" in path, symbol_limit=3)


def test_options_want_msgpack_and_a_socket_its_own_encoding() -> None:
    async def json_on_options(client: Client, sim: Simulator) -> None:
        assert await client.say(AUTH) == error(412, "option messages are only available in MsgPack format")

    talk(json_on_options, "/v1beta1/opra")

    async def json_on_msgpack(client: Client, sim: Simulator) -> None:
        await client._socket.send(orjson.dumps(AUTH).decode())
        assert await client.hear() == error(400, "invalid syntax")

    talk(json_on_msgpack, "/v1beta1/opra", packed=True)


def test_keys_in_headers_authenticate_unprompted() -> None:
    async def story(client: Client, sim: Simulator) -> None:
        assert await client.hear() == [{"T": "success", "msg": "authenticated"}]

    talk(story, headers={"APCA-API-KEY-ID": "k", "APCA-API-SECRET-KEY": "s"})


def test_no_key_is_no_key() -> None:
    async def story(client: Client, sim: Simulator) -> None:
        assert await client.say({"action": "auth"}) == error(402, "auth failed")
        async with aiohttp.ClientSession() as http:
            for path, status in (("/v2/stocks/snapshots", 401), ("/v1beta3/crypto/us/snapshots", 200)):
                symbols = {"symbols": "AAPL" if status == 401 else "BTC/USD"}
                async with http.get(sim.data_url + path, params=symbols) as answer:
                    assert answer.status == status

    talk(story)


def test_only_the_key_it_was_given_if_it_was_given_one() -> None:
    async def story(client: Client, sim: Simulator) -> None:
        assert await client.say({**AUTH, "key": "other"}) == error(402, "auth failed")

    talk(story, credentials=Credentials(key_id="k", secret_key="s"))


def test_one_connection_an_endpoint_and_the_first_one_wins() -> None:
    async def story(client: Client, sim: Simulator) -> None:
        await client.say(AUTH)
        async with connect(sim.stream_url + "/v2/iex", close_timeout=0.2) as socket:
            second = Client(socket, False)
            await second.hear()
            assert await second.say(AUTH) == error(406, "connection limit exceeded")
        async with connect(sim.stream_url + "/v2/sip", close_timeout=0.2) as socket:
            elsewhere = Client(socket, False)
            await elsewhere.hear()
            assert await elsewhere.say(AUTH) == [{"T": "success", "msg": "authenticated"}]
        [ack] = await client.say(SUBSCRIBE)
        assert ack["trades"] == ["AAPL"]

    talk(story, rate=0.001)


def test_who_does_not_authenticate_is_sent_away() -> None:
    async def story(client: Client, sim: Simulator) -> None:
        assert await client.hear() == error(404, "auth timeout")
        with pytest.raises(ConnectionClosed):
            await client.hear()

    talk(story, auth_timeout_s=0.3)


def test_a_message_begins_with_its_type_and_a_frame_holds_as_many_as_asked() -> None:
    async def story(client: Client, sim: Simulator) -> None:
        await client.say(AUTH)
        await client.say({"action": "subscribe", "trades": ["AAPL"], "quotes": ["*"]})
        sizes = []
        while sum(sizes) < 100:
            messages = await client.hear()
            assert all(next(iter(m)) == "T" for m in messages)
            sizes.append(len(messages))
        assert set(sizes[:-1]) == {7}
        assert sum(sizes) == 100

    talk(story, rate=0, messages=100, messages_per_payload=7)


def test_the_same_seed_gives_the_same_market_and_another_one_another() -> None:
    heard: list[list[Any]] = []

    async def story(client: Client, sim: Simulator) -> None:
        await client.say(AUTH)
        await client.say(SUBSCRIBE)
        heard.append([await client.hear() for _ in range(50)])

    for seed in (5, 5, 6):
        talk(story, rate=0, messages=50, seed=seed)
    assert heard[0] == heard[1] != heard[2]


def test_it_says_what_it_sent() -> None:
    async def story(client: Client, sim: Simulator) -> None:
        await client.say(AUTH)
        await client.say(SUBSCRIBE)
        for _ in range(40):
            await client.hear()
        async with aiohttp.ClientSession() as http:
            async with http.get(sim.data_url + "/simulator/stats") as answer:
                stats = (await answer.json())["streams"]["stocks"]
        assert (stats["messages"], stats["payloads"], stats["connections"]) == (40, 40, 1)
        assert sum(stats["by_type"].values()) == 40

    talk(story, rate=0, messages=40)


def test_a_log_of_what_was_sent_holds_every_message(tmp_path: Any) -> None:
    path = tmp_path / "sent"
    heard: list[Any] = []

    async def story(client: Client, sim: Simulator) -> None:
        await client.say(AUTH)
        await client.say(SUBSCRIBE)
        for _ in range(30):
            heard.extend(await client.hear())

    talk(story, rate=500, messages=30, sent_log=str(path))
    lines = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    assert [line["message"] for line in lines] == heard
    assert {line["stream"] for line in lines} == {"stocks"}


@pytest.mark.parametrize(
    "text",
    [
        "auth",
        "auth=x",
        "drop=3",
        "nothing=1",
        "bonds:drop@1",
        "rest=500@",
        "drop@-1",
        "drop@1.2.3",
        "garbage=0",
        "auth=inf",
        "",
        "auth=402*x",
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="fault"):
        parse(text)


def test_faults_can_be_replaced_while_it_runs() -> None:
    async def story(client: Client, sim: Simulator) -> None:
        async with aiohttp.ClientSession() as http:
            async with http.post(sim.data_url + "/simulator/faults", json=["auth=402*1"]) as answer:
                assert answer.status == 200
            assert await client.say(AUTH) == error(402, "auth failed")
            assert await client.say(AUTH) == [{"T": "success", "msg": "authenticated"}]
            async with http.post(sim.data_url + "/simulator/faults", json=["nonsense"]) as answer:
                assert answer.status == 400

    talk(story)


def talk_rest(story: Callable[[Callable[..., Awaitable[Any]]], Awaitable[None]], **settings: Any) -> None:
    async def main() -> None:
        async with (
            Simulator(SimulatorSettings(port=0, **settings)) as sim,
            aiohttp.ClientSession(headers=KEYS) as http,
        ):

            async def get(path: str, **params: str) -> Any:
                async with http.get(sim.data_url + path, params=params) as answer:
                    return answer.status, dict(answer.headers), await answer.json()

            await story(get)

    uvloop.run(main())


def test_the_rate_limit_is_reported_in_headers_and_then_enforced() -> None:
    async def story(get: Any) -> None:
        for left in (2, 1, 0):
            status, headers, _ = await get("/v2/stocks/snapshots", symbols="AAPL")
            assert (status, headers["X-RateLimit-Limit"], headers["X-RateLimit-Remaining"]) == (
                200,
                "3",
                str(left),
            )
            assert int(headers["X-RateLimit-Reset"]) % 60 == 0
        status, headers, body = await get("/v2/stocks/snapshots", symbols="AAPL")
        assert (status, body) == (429, {"message": "too many requests"})

    talk_rest(story, rate_limit=3)


@pytest.mark.parametrize(
    ("path", "params", "message"),
    [
        ("/v2/stocks/snapshots", {"symbols": "AAPL,b@d"}, "invalid symbol: b@d"),
        ("/v2/stocks/snapshots", {}, "symbols is required"),
        ("/v2/stocks/bars", {"symbols": "A", "timeframe": "7Fortnights"}, "invalid timeframe: 7Fortnights"),
        ("/v2/stocks/trades", {"symbols": "A", "limit": "99999"}, "invalid limit: 99999"),
        ("/v2/stocks/trades", {"symbols": "A", "start": "soon"}, "invalid start: soon"),
        ("/v2/stocks/trades", {"symbols": "A", "page_token": "%%%"}, "invalid page_token"),
        ("/v2/stocks/trades/latest", {"symbols": "A", "start": "x"}, "unexpected parameter(s): start"),
    ],
)
def test_wrong_requests_get_the_services_kind_of_answer(
    path: str, params: dict[str, str], message: str
) -> None:
    async def story(get: Any) -> None:
        status, _, body = await get(path, **params)
        assert (status, body) == (400, {"message": message})

    talk_rest(story)


def test_pages_go_by_symbol_first_and_then_by_time_and_together_are_the_whole() -> None:
    window = {"symbols": "MSFT,AAPL", "start": "2026-01-05T14:30:00Z", "end": "2026-01-05T14:31:00Z"}

    async def story(get: Any) -> None:
        _, _, whole = await get("/v2/stocks/trades", limit="10000", **window)
        assert whole["next_page_token"] is None
        assert list(whole["trades"]) == ["AAPL", "MSFT"]
        pieces: dict[str, list[Any]] = {}
        token, pages = "", 0
        while True:
            _, _, page = await get(
                "/v2/stocks/trades", limit="17", **window, **({"page_token": token} if token else {})
            )
            for symbol, trades in page["trades"].items():
                pieces.setdefault(symbol, []).extend(trades)
            pages += 1
            token = page["next_page_token"]
            if not token:
                break
            assert base64.urlsafe_b64decode(token)
        assert pieces == whole["trades"]
        assert pages >= 7
        _, _, down = await get("/v2/stocks/trades", sort="desc", limit="10000", **window)
        assert {s: t[::-1] for s, t in down["trades"].items()} == whole["trades"]

    talk_rest(story)


def test_single_symbol_twins_answer_with_lists() -> None:
    async def story(get: Any) -> None:
        _, _, body = await get("/v2/stocks/AAPL/trades", start="2026-01-05T14:30:00Z", limit="3")
        assert body["symbol"] == "AAPL"
        assert len(body["trades"]) == 3
        _, _, body = await get("/v2/stocks/AAPL/quotes/latest")
        assert body["symbol"] == "AAPL"
        assert body["quote"]["ap"] > 0
        _, _, body = await get("/v2/stocks/AAPL/snapshot")
        assert body["symbol"] == "AAPL"
        assert body["latestTrade"]["p"] > 0

    talk_rest(story)


def test_a_client_that_hangs_up_in_the_handshake_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    request = (
        "GET /v2/iex HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )

    async def main() -> None:
        async with Simulator(SimulatorSettings(port=0)) as sim:
            address = urlsplit(sim.stream_url)
            for _ in range(20):
                client = await asyncio.to_thread(socket.create_connection, (address.hostname, address.port))
                client.send(request.encode())
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
            async with connect(sim.stream_url + "/v2/iex") as other:
                assert b"connected" in orjson.dumps(orjson.loads(await other.recv()))

    uvloop.run(main())
    assert not [r for r in caplog.records if r.levelname == "ERROR"]
