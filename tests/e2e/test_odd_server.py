"""A server that keeps to the protocol, but not in the way the service or our simulator does."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.server import Server, ServerConnection, serve

from mdstream.errors import Exit
from mdstream.simulator.encode import to_json
from tests import traffic
from tests.running import HANGING_S, engine, settings, simulator, until

CONNECTED = {"T": "success", "msg": "connected"}
AUTHENTICATED = {"T": "success", "msg": "authenticated"}


@contextlib.contextmanager
def server(talk: Callable[[ServerConnection], None]) -> Iterator[str]:
    """A WebSocket server on a free port that talks so with each client; its address."""
    running: Server = serve(talk, "127.0.0.1", 0)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    try:
        yield f"ws://127.0.0.1:{running.socket.getsockname()[1]}"
    finally:
        running.shutdown()
        thread.join(HANGING_S)


def test_data_in_one_payload_with_an_acknowledgement_or_an_error_is_committed(tmp_path: Path) -> None:
    messages = traffic.messages("crypto", 3000)
    told: list[str] = []

    def talk(client: ServerConnection) -> None:
        def send(*parts: dict[str, Any]) -> None:
            client.send(json.dumps(parts))

        send(CONNECTED)
        assert json.loads(client.recv())["action"] == "auth"
        send(AUTHENTICATED)
        send({"T": "success", "msg": "what is this"}, {"T": [1]})
        request = json.loads(client.recv())
        told.append(request.pop("action"))
        acknowledged = {"T": "subscription", **request}
        size = len(messages) // 3
        plain = [json.loads(to_json(m)) for m in messages]
        send(acknowledged, *plain[:size])
        send(*plain[size : 2 * size])
        send(*plain[2 * size :], {"T": "error", "code": 407, "msg": "slow client"})
        with contextlib.suppress(Exception):
            client.recv()

    with simulator("--rate", "1") as sim, server(talk) as url:
        values = settings(sim, tmp_path, streams=["crypto"], **traffic.symbols("crypto"))
        with engine(values | {"stream_url": url}) as running:
            run = running.attachment
            until(lambda: traffic.committed_rows(run, "crypto") >= traffic.row_count("crypto", 3000))
            until(lambda: len(told) > 1, what="407 asks for a new connection")
            frames = traffic.frames_of(run, "crypto")
        report = running.report
    whole = traffic.rows("crypto", 3000)
    for channel, rows in frames.items():
        assert rows[: len(whole[channel])] == whole[channel]
    assert report is not None
    stream = report["streams"]["crypto"]
    assert stream["committed"] >= 3000
    assert stream["messages"] == stream["committed"] + stream["rejected"]
    assert stream["rejected"] == len(told), "a type that is no text, once a connection"
    assert stream["restarts"] == 0
    assert stream["reconnects"] >= 1
    assert set(told) == {"subscribe"}


@pytest.mark.cases("S7")
def test_subscriptions_that_a_lost_connection_still_occupies_show_in_the_state_and_the_exit_code(
    tmp_path: Path,
) -> None:
    trades = [json.loads(to_json(m)) for m in traffic.messages("crypto", 300) if m["T"] == "t"][:15]
    names = {"symbols": sorted({t["S"] for t in trades}), "channels": ["trades"]}
    connections = 0

    def talk(client: ServerConnection) -> None:
        nonlocal connections
        connections += 1
        is_first = connections == 1
        client.send(json.dumps([CONNECTED]))
        for text in client:
            request = json.loads(text)
            if request.pop("action") == "auth":
                client.send(json.dumps([AUTHENTICATED]))
            elif is_first:
                client.send(json.dumps([{"T": "subscription", **request}]))
                client.send(json.dumps(trades))
                time.sleep(0.5)
                return
            else:
                client.send(json.dumps([{"T": "error", "code": 405, "msg": "symbol limit exceeded"}]))

    with simulator("--rate", "1") as sim, server(talk) as url:
        values = settings(sim, tmp_path, streams=["crypto"], crypto=names)
        with engine(values | {"stream_url": url}) as running:
            until(
                lambda: (
                    running.attachment.metrics()["crypto"]["subscriptions_lost"] == len(names["symbols"])
                )
            )
            until(lambda: running.attachment.rows("crypto.trades") == 15)
        report = running.report
    assert report is not None
    assert running.exit_code == Exit.STREAM_FAILED
    stream = report["streams"]["crypto"]
    assert stream["state"] == "failed"
    assert "subscriptions that were served are refused: symbol limit exceeded (405)" in stream["reason"]
    assert set(stream["symbols_failed"]) == set(names["symbols"])
    assert {e["severity"] for e in report["events"] if e["kind"] == "refused"} == {"error"}
