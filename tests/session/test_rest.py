"""The REST client with servers whose answers the tests define."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson
import pytest
from aiohttp import web

from mdstream.errors import BadRequestError, CredentialsError, NetworkError, ServerError
from mdstream.handoff.compression import Compression, decompress
from mdstream.session import budget as budgets
from mdstream.session.budget import Budget
from mdstream.session.rest import RestClient
from mdstream.settings import from_mapping
from tests.running import HANGING_S


@contextlib.asynccontextmanager
async def serve_answers(answer: Callable[[web.Request], Any]) -> AsyncIterator[str]:
    """Start an HTTP server on a free port that answers each request with `answer`; yield its address."""

    async def handle(request: web.Request) -> web.Response:
        found = answer(request)
        return found if isinstance(found, web.Response) else await found

    app = web.Application()
    app.router.add_get("/{rest:.*}", handle)
    runner = web.AppRunner(app)
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
