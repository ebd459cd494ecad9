"""A small server that answers requests for history as a test wants."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import mdstream

Query = dict[str, str]
Answer = Callable[[str, Query], Any]
"""Path and parameters → the body; or `Refusal`."""


class Refusal(Exception):
    """An HTTP status with a body."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(body)
        self.status, self.body = status, body


@dataclass
class Service:
    """A running server: its URL, and the requests so far."""

    url: str
    requests: list[tuple[str, Query]] = field(default_factory=list)

    def take(self) -> list[tuple[str, Query]]:
        """Return the requests since the last call."""
        taken, self.requests[:] = list(self.requests), []
        return taken


@contextmanager
def serve(answer: Answer) -> Iterator[Service]:
    """Serve on loopback until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = dict(parse_qsl(parts.query))
            service.requests.append((parts.path, query))
            try:
                status, body = 200, json.dumps(answer(parts.path, query))
            except Refusal as refusal:
                status, body = refusal.status, refusal.body
            data = body.encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    service = Service(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def fill(
    service: Service,
    store: Path,
    dataset: str,
    symbols: str | list[str],
    start: str,
    end: str,
    **options: Any,
) -> Any:
    """Fill a store from the server, without other processes."""
    values = {
        "data_url": service.url,
        "credentials": {"key_id": "k", "secret_key": "s"},
        "backfill": {"workers": 0},
        "fetch": {"budget_per_minute": 100_000},
    }
    return mdstream.backfill(dataset, symbols, start, end, store=store, settings=values, **options)


def trade(time: str, number: int, price: float = 10.0) -> dict[str, Any]:
    return {"t": time, "p": price, "s": 100, "i": number, "x": "V", "c": ["@"], "z": "C"}


def bar(time: str, price: float = 10.0, count: int = 1) -> dict[str, Any]:
    prices = dict.fromkeys(("o", "h", "l", "c", "vw"), price)
    return {"t": time, **prices, "v": 100 * count, "n": count}
