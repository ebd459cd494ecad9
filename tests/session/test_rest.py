"""The REST client with servers whose answers the tests define."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson
import pytest
from aiohttp import web

from mdstream import limits
from mdstream.errors import BadRequestError, CredentialsError, LateError, NetworkError, ServerError
from mdstream.handoff.compression import Compression, decompress
from mdstream.session import budget as budgets
from mdstream.session import retry
from mdstream.session.budget import Budget
from mdstream.session.rest import RestClient
from mdstream.settings import from_mapping
from tests.running import HANGING_S


@contextlib.asynccontextmanager
async def serve_answers(answer: Callable[[web.Request], Any]) -> AsyncIterator[str]:
    """Start an HTTP server on a free port that answers each request with `answer`; yield its address."""

    async def handle(request: web.Request) -> web.StreamResponse:
        found = answer(request)
        return found if isinstance(found, web.StreamResponse) else await found

    app = web.Application()
    app.router.add_get("/{rest:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def make_client(url: str, budget: Budget, **fetch: Any) -> RestClient:
    values = {
        "stream_url": url.replace("http", "ws"),
        "data_url": url,
        "credentials": {"key_id": "key", "secret_key": "secret"},
        "fetch": fetch,
    }
    config = from_mapping(values)
    return RestClient(config.fetch, config.data_endpoint, budget)


def test_a_server_that_is_not_there_is_a_network_error() -> None:
    async def main() -> None:
        config = from_mapping({"data_url": "http://127.0.0.1:9", "fetch": {"attempts": 1}})
        async with RestClient(config.fetch, config.data_endpoint, Budget(10)) as client:
            with pytest.raises(NetworkError, match=r"cannot reach http://127\.0\.0\.1:9"):
                await client.get("/", {})

    asyncio.run(main())


def test_a_server_that_never_answered_is_given_up_soon(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        config = from_mapping({"data_url": "http://127.0.0.1:9", "fetch": {"attempts": 100}})
        async with RestClient(config.fetch, config.data_endpoint, Budget(100), 0.3) as client:
            with pytest.raises(
                NetworkError, match=r"cannot reach http://127\.0\.0\.1:9: Conn[a-z]+ refused"
            ):
                await asyncio.wait_for(client.get("/", {}), HANGING_S)
            assert client.is_given_up
            tried = client.requests
            assert tried > 1
            with pytest.raises(NetworkError):
                await client.get("/", {})
            assert client.requests == tried + 1, "one more request, without retries"

    asyncio.run(main())


def test_a_pause_that_the_service_asks_for_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        def refuse(_: web.Request) -> web.Response:
            return web.Response(status=429, headers={"Retry-After": "40"}, text="{}")

        async with serve_answers(refuse) as url, make_client(url, Budget(100)) as rest:
            asking = asyncio.create_task(rest.get("/", {}))
            while not rest.trouble:
                await asyncio.sleep(0.01)
            asking.cancel()

    asyncio.run(main())
    [line] = [r.getMessage() for r in caplog.records if "REST" in r.getMessage()]
    assert line.startswith("REST: HTTP 429")
    assert re.search(r"no requests for (40|[123]?\d) s$", line)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"message": "invalid symbol: b@d"}', "invalid symbol: b@d"),
        ("404: Not Found", "404: Not Found"),
        ('{"code": 5}', '{"code": 5}'),
        ("", "no reason given"),
        ("x" * 5000, "x" * 200),
    ],
)
def test_error_bodies_that_are_not_json_are_reported_as_they_are(text: str, reason: str) -> None:
    async def main() -> None:
        answer = lambda _: web.Response(status=404, text=text)  # noqa: E731
        async with serve_answers(answer) as url, make_client(url, Budget(10)) as rest:
            with pytest.raises(BadRequestError) as caught:
                await rest.get("/nowhere", {})
            assert str(caught.value) == f"HTTP 404: {reason}"
            assert (caught.value.code, rest.requests) == (404, 1)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("status", "error", "requests"),
    [
        (400, BadRequestError, 1),
        (401, CredentialsError, 1),
        (403, CredentialsError, 1),
        (429, ServerError, 2),
        (500, ServerError, 2),
        (503, ServerError, 2),
        (520, ServerError, 2),
    ],
)
def test_what_may_pass_is_tried_again_and_nothing_else(
    status: int, error: type[Exception], requests: int
) -> None:
    async def main() -> None:
        answer = lambda _: web.Response(status=status, headers={"Retry-After": "0"})  # noqa: E731
        async with serve_answers(answer) as url, make_client(url, Budget(10), attempts=2) as rest:
            with pytest.raises(error, match=f"HTTP {status}") as caught:
                await rest.get("/v2/stocks/snapshots", {})
            assert type(caught.value) is error
            assert rest.requests == requests

    asyncio.run(main())


def test_data_that_the_plan_lacks_is_no_fault_of_the_key() -> None:
    text = '{"message": "subscription does not permit querying recent SIP data"}'

    async def main() -> None:
        answer = lambda _: web.Response(status=403, text=text)  # noqa: E731
        async with serve_answers(answer) as url, make_client(url, Budget(10)) as rest:
            with pytest.raises(BadRequestError, match="recent SIP data"):
                await rest.get("/v2/stocks/trades", {})

    asyncio.run(main())


def test_keys_go_out_as_headers_and_never_show() -> None:
    seen: list[tuple[str, str]] = []

    async def main() -> None:
        def answer(request: web.Request) -> web.Response:
            seen.append((request.headers["APCA-API-KEY-ID"], request.headers["APCA-API-SECRET-KEY"]))
            return web.Response(status=401)

        async with serve_answers(answer) as url, make_client(url, Budget(10)) as rest:
            with pytest.raises(CredentialsError) as caught:
                await rest.get("/v2/stocks/snapshots", {})
            assert "secret" not in str(caught.value)

    asyncio.run(main())
    assert seen == [("key", "secret")]


def test_no_more_requests_are_under_way_than_are_allowed() -> None:
    async def main() -> None:
        now, most = 0, 0

        async def slow(request: web.Request) -> web.Response:
            nonlocal now, most
            now, most = now + 1, max(most, now + 1)
            await asyncio.sleep(0.05)
            now -= 1
            return web.Response(text="{}")

        async with serve_answers(slow) as url, make_client(url, Budget(100), concurrency=3) as rest:
            await asyncio.gather(*(rest.get("/", {}) for _ in range(12)))
        assert most == 3

    asyncio.run(main())


def test_keys_do_not_follow_a_redirect() -> None:
    async def main() -> None:
        stolen: list[str] = []

        def elsewhere(request: web.Request) -> web.Response:
            stolen.append(request.headers.get("APCA-API-KEY-ID", ""))
            return web.Response(text="{}")

        async with serve_answers(elsewhere) as other:
            moved = web.HTTPFound(f"{other}/stolen").headers["Location"]
            redirect = lambda _: web.Response(status=302, headers={"Location": moved})  # noqa: E731
            async with serve_answers(redirect) as url, make_client(url, Budget(10)) as rest:
                with pytest.raises(BadRequestError, match=r"HTTP 302: redirected to .*; if that is"):
                    await rest.get("/v2/stocks/snapshots", {})
        assert stolen == []

    asyncio.run(main())


def test_malformed_headers_are_no_reason_to_fail() -> None:
    async def main() -> None:
        malformed = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "\u00b2"}
        answer = lambda _: web.Response(text="{}", headers=malformed)  # noqa: E731
        async with serve_answers(answer) as url, make_client(url, Budget(10)) as rest:
            assert (await rest.get("/v2/stocks/snapshots", {})).data == b"{}"

    asyncio.run(main())


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00\x01\x00" * 200,
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(50_000)) + b"\r\n{}",
        b"HTTP/1.1 200 OK\r\nX-Long: " + b"y" * (limits.LONGEST_HEADER + 1) + b"\r\n\r\n{}",
        b"HTTP/1.1 200 " + b"y" * (limits.LONGEST_HEADER + 1) + b"\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_an_answer_that_is_not_http_is_reported_shortly_and_with_no_status(raw: bytes) -> None:
    """The server sent no 400, and its URL with all parameters is of no use."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(raw)
            await writer.drain()
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, make_client(url, Budget(10), attempts=1) as rest:
            with pytest.raises(NetworkError) as error:
                await rest.get("/v2/stocks/bars", {"symbols": "AAPL", "limit": "10000"})
        text = str(error.value)
        assert text.startswith(f"the answer of {url} cannot be read: ")
        reason = text.removeprefix(f"the answer of {url} ")  # the port may hold any digits
        assert "400" not in reason
        assert "limit" not in reason
        assert len(text) < 220

    asyncio.run(main())


def test_bodies_stay_packed_as_they_came() -> None:
    body = orjson.dumps({"AAPL": {"x": "y" * 5000}})

    async def main() -> None:
        def answer(request: web.Request) -> web.Response:
            assert request.headers["Accept-Encoding"] == "gzip"
            status = int(request.query.get("status", "200"))
            response = web.Response(body=body, status=status)
            response.enable_compression(web.ContentCoding.gzip)
            return response

        async with serve_answers(answer) as url, make_client(url, Budget(10)) as rest:
            got = await rest.get("/v2/stocks/snapshots", {})
            assert got.compression is Compression.GZIP
            assert len(got.data) < 200
            assert decompress(got.data, got.compression, len(body)) == body
            with pytest.raises(BadRequestError, match=r"HTTP 400: .*AAPL.*yyy"):
                await rest.get("/v2/stocks/snapshots", {"status": "400"})

    asyncio.run(main())


def test_a_body_packed_in_a_way_that_was_not_asked_for_is_reported() -> None:
    async def main() -> None:
        answer = lambda _: web.Response(body=b"?", headers={"Content-Encoding": "br"})  # noqa: E731
        async with serve_answers(answer) as url, make_client(url, Budget(10), attempts=1) as rest:
            with pytest.raises(NetworkError, match="compressed as 'br', which was not requested"):
                await rest.get("/v2/stocks/snapshots", {})

    asyncio.run(main())


def test_waiting_for_the_budget_takes_no_time_from_the_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "WINDOW_S", 4.0)
    monkeypatch.setattr(budgets, "_MARGIN_S", 0.0)

    async def main() -> None:
        statuses = iter([200, 500, 200])
        answer = lambda _: web.Response(status=next(statuses), text="{}")  # noqa: E731
        async with serve_answers(answer) as url:
            async with make_client(url, Budget(1), deadline_s=3.5) as rest:
                await rest.get("/v2/stocks/snapshots", {})
                # The request waits 4 s for its first attempt, which fails, and 4 s for the second.
                assert (await rest.get("/v2/stocks/snapshots", {})).data == b"{}"
                assert rest.requests == 3

    asyncio.run(main())


HTML = "<html><body>Forbidden</body></html>"


@pytest.mark.cases("S5")
@pytest.mark.parametrize("place", [0, 1, 20])
@pytest.mark.parametrize("status", [403, 404, 401, 302])
def test_one_refusal_by_a_front_end_among_many_answers_costs_nothing(place: int, status: int) -> None:
    if status == 302 and not place:
        pytest.skip("a server that redirects from the start is not the one that is meant")

    async def main() -> None:
        asked = 0

        def answer(_: web.Request) -> web.Response:
            nonlocal asked
            asked += 1
            if asked - 1 == place:
                return web.Response(status=status, text=HTML, content_type="text/html")
            return web.Response(text="{}")

        async with serve_answers(answer) as url, make_client(url, Budget(100)) as rest:
            for _ in range(30):
                await rest.get("/v2/stocks/bars", {})
            assert rest.requests == 31

    asyncio.run(main())


@pytest.mark.cases("S5")
def test_a_key_that_worked_is_final_only_if_it_is_refused_for_minutes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        asked = 0

        def answer(_: web.Request) -> web.Response:
            nonlocal asked
            asked += 1
            if asked == 1:
                return web.Response(text="{}")
            return web.Response(status=401, text='{"message":"forbidden."}')

        async with serve_answers(answer) as url, make_client(url, Budget(100), attempts=2) as rest:
            await rest.get("/", {})
            with pytest.raises(ServerError, match=r"HTTP 401: forbidden") as doubted:
                await rest.get("/", {})
            assert doubted.value.code == 401
            assert doubted.value.final_in
            assert "final in" not in str(doubted.value), "a reason that lasts has no countdown"
            assert "; final in 300 s; retrying" in caplog.text
            monkeypatch.setattr(retry, "DOUBT_S", 0.0)
            with pytest.raises(CredentialsError, match="check APCA_API_KEY_ID"):
                await rest.get("/", {})

    asyncio.run(main())


@pytest.mark.cases("S5")
@pytest.mark.parametrize("status", [500, 502, 503, 504, *range(520, 528), 530])
def test_failures_of_the_service_and_its_network_are_tried_again(status: int) -> None:
    async def main() -> None:
        answers = iter([web.Response(status=status, text=HTML), web.Response(text="{}")])
        async with serve_answers(lambda _: next(answers)) as url, make_client(url, Budget(10)) as rest:
            assert (await rest.get("/", {})).data == b"{}"

    asyncio.run(main())


@pytest.mark.cases("S6")
@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        "<html>",
        " <!DOCTYPE html>" + "x" * 10_000,
        '{"message":"too many requests."}',
        '{"code":42910000,"message":"rate limit exceeded"}',
        '{"message":"' + "x" * 3000 + '"}',
        "upstream connect error",
        "null",
        "",
    ],
)
def test_an_answer_with_200_that_is_no_data_is_tried_again(text: str, is_packed: bool) -> None:
    async def main() -> None:
        asked = 0

        def answer(_: web.Request) -> web.Response:
            nonlocal asked
            asked += 1
            response = web.Response(text="{}" if asked > 1 else text)
            if is_packed:
                response.enable_compression(web.ContentCoding.gzip)
            return response

        async with serve_answers(answer) as url, make_client(url, Budget(10)) as rest:
            got = await rest.get("/v2/stocks/bars", {})
            assert decompress(got.data, got.compression, 100) == b"{}"
            assert rest.requests == 2
        asked = 0
        async with serve_answers(answer) as url, make_client(url, Budget(10), attempts=1) as rest:
            with pytest.raises(ServerError, match="HTTP 200, but no data: ") as caught:
                await rest.get("/v2/stocks/bars", {})
            assert caught.value.code == 200

    asyncio.run(main())


@pytest.mark.cases("N3")
def test_a_first_answer_that_comes_late_is_tried_again_and_the_server_is_named() -> None:
    async def main() -> None:
        asked = 0

        async def answer(_: web.Request) -> web.Response:
            nonlocal asked
            asked += 1
            if asked < 3:
                await asyncio.sleep(HANGING_S)
            return web.Response(text="{}")

        async with serve_answers(answer) as url:
            config = from_mapping({"data_url": url, "fetch": {"timeout_s": 0.3, "attempts": 4}})
            # The server must be reached within the timeout of one attempt, as in a backfill.
            async with RestClient(config.fetch, config.data_endpoint, Budget(100), 0.3) as client:
                assert (await client.get("/", {})).data == b"{}"
                assert client.requests == 3
            asked = -100
            async with RestClient(config.fetch, config.data_endpoint, Budget(100), 0.3) as client:
                with pytest.raises(NetworkError, match=f"no answer from {url} within 0.3 s"):
                    await client.get("/", {})
                assert client.requests == 4
                assert not client.is_given_up, "only after the deadline of a request"

    asyncio.run(main())


def test_a_server_that_is_mute_from_the_start_is_given_up_at_the_deadline() -> None:
    async def main() -> None:
        async def answer(_: web.Request) -> web.Response:
            await asyncio.sleep(HANGING_S)
            return web.Response()

        async with serve_answers(answer) as url:
            fetch = {"timeout_s": 0.2, "attempts": 100, "deadline_s": 0.8, "concurrency": 8}
            config = from_mapping({"data_url": url, "fetch": fetch})
            async with RestClient(config.fetch, config.data_endpoint, Budget(1000), 0.1) as client:
                asking = [client.get("/", {}) for _ in range(40)]
                found = await asyncio.gather(*asking, return_exceptions=True)
                assert {type(error) for error in found} == {LateError}
                assert client.is_given_up
                assert client.concurrency.limit == 1
                assert client.requests < 80, "most are not sent again"

    asyncio.run(main())


@pytest.mark.cases("N4")
def test_requests_that_time_out_lower_the_concurrency_and_all_are_answered() -> None:
    """The server works on one request at a time, and goes on with those that nobody waits for."""

    async def main() -> None:
        turn, worked = asyncio.Lock(), 0

        async def answer(_: web.Request) -> web.Response:
            nonlocal worked
            async with turn:
                worked += 1
                await asyncio.sleep(0.05)
            return web.Response(text="{}")

        async with serve_answers(answer) as url:
            fetch = {"timeout_s": 0.5, "concurrency": 32, "attempts": 50, "deadline_s": HANGING_S}
            async with make_client(url, Budget(10_000), **fetch) as rest:
                await asyncio.gather(*(rest.get("/", {}) for _ in range(40)))
                assert rest.requests < 40 + 32 + 16 + 8 + 40
                assert rest.concurrency.limit < 16

    asyncio.run(main())


@pytest.mark.parametrize("status", [408, 504, 522, 524])
def test_a_front_end_that_waited_in_vain_counts_as_a_time_out(status: int) -> None:
    async def main() -> None:
        answers = itertools.chain(
            [web.Response(status=status) for _ in range(4)],
            (web.Response(text="{}") for _ in itertools.count()),
        )
        async with serve_answers(lambda _: next(answers)) as url:
            async with make_client(url, Budget(100), concurrency=4) as rest:
                await asyncio.gather(*(rest.get("/", {}) for _ in range(4)))
                assert rest.concurrency.limit < 4

    asyncio.run(main())


ROWS = [
    # status, body, error before the first success, error after it; whether it is sent again
    (200, HTML, (ServerError, True), (ServerError, True)),
    (200, '{"message":"too many requests."}', (ServerError, True), (ServerError, True)),
    (204, "", (ServerError, True), (ServerError, True)),
    (302, "", (BadRequestError, False), (ServerError, True)),
    (400, '{"message":"invalid symbol: A"}', (BadRequestError, False), (BadRequestError, False)),
    (404, '{"message":"endpoint not found"}', (BadRequestError, False), (BadRequestError, False)),
    (404, "404: Not Found", (BadRequestError, False), (ServerError, True)),
    (404, HTML, (ServerError, True), (ServerError, True)),
    (422, '{"message":"unprocessable"}', (BadRequestError, False), (BadRequestError, False)),
    (401, '{"message":"forbidden."}', (CredentialsError, False), (ServerError, True)),
    (403, '{"message":"forbidden."}', (CredentialsError, False), (ServerError, True)),
    (403, HTML, (ServerError, True), (ServerError, True)),
    (
        403,
        '{"code":42210000,"message":"subscription does not permit querying recent SIP data"}',
        (BadRequestError, False),
        (BadRequestError, False),
    ),
    (408, "", (ServerError, True), (ServerError, True)),
    (429, '{"message":"too many requests."}', (ServerError, True), (ServerError, True)),
    (500, '{"message":"internal"}', (ServerError, True), (ServerError, True)),
    (530, HTML, (ServerError, True), (ServerError, True)),
]


@pytest.mark.cases("S5", "S6")
def test_every_row_of_the_table_ends_a_request_as_it_says() -> None:
    async def play(status: int, text: str, has_worked: bool, expected: tuple[type, bool]) -> None:
        def answer(request: web.Request) -> web.Response:
            if request.path == "/good":
                return web.Response(text="{}")
            return web.Response(status=status, text=text, headers={"Retry-After": "0"})

        async with serve_answers(answer) as url, make_client(url, Budget(100), attempts=2) as rest:
            if has_worked:
                await rest.get("/good", {})
            before = rest.requests
            with pytest.raises(
                ServerError if expected[0] is not CredentialsError else CredentialsError
            ) as e:
                await rest.get("/bad", {})
            found = (type(e.value), rest.requests - before == 2)
            assert found == expected, (status, text, has_worked)
            assert str(status) in str(e.value)

    async def main() -> None:
        await asyncio.gather(
            *(
                play(status, text, has_worked, expected)
                for status, text, before, after in ROWS
                for has_worked, expected in ((False, before), (True, after))
            )
        )

    asyncio.run(main())


@pytest.mark.cases("M7")
@pytest.mark.parametrize(("status", "limit"), [(200, "LARGEST_BODY"), (400, "LARGEST_ERROR")])
def test_a_body_without_end_is_refused_and_not_kept(
    monkeypatch: pytest.MonkeyPatch, status: int, limit: str
) -> None:
    monkeypatch.setattr(f"mdstream.session.rest.{limit}", 1 << 20)
    sent = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(status=status)
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while sent < 1 << 30:
                await response.write(b"x" * 65536)
                sent += 65536
        return response

    async def main() -> None:
        async with serve_answers(answer) as url, make_client(url, Budget(60_000), attempts=1) as client:
            with pytest.raises(NetworkError, match="more than 1,048,576 bytes"):
                await client.get("/", {})

    asyncio.run(main())
    assert sent < 1 << 26, "the rest is not read"
