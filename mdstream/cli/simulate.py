"""`mdstream simulate`: an Alpaca-compatible server for tests of any Alpaca client."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from mdstream.config import Credentials
from mdstream.errors import ConfigError
from mdstream.simulator.faults import KINDS, parse
from mdstream.simulator.markets import MARKETS
from mdstream.simulator.simulator_settings import SimulatorSettings
from mdstream.streams import STREAMS

_WITH_TICKS = ", ".join(name for name, market in MARKETS.items() if market.ticks)
_SHARES = "".join(f" ({name}: {m.share:g} of it)" for name, m in MARKETS.items() if m.share < 1)
_FAULT_HELP = "[STREAM:]KIND[=VALUE][@SECONDS][*TIMES], repeatable. " + " ".join(
    f"{kind}: {text}." for kind, text in KINDS.items()
)


def simulate(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes any free one.")] = 8765,
    streams: Annotated[str, typer.Option(metavar="A,B", help="Streams to serve.")] = ",".join(STREAMS),
    seed: Annotated[int, typer.Option(help="The same seed gives the same market.")] = 1,
    rate: Annotated[
        float, typer.Option(help=f"Messages a second on each connection{_SHARES}; 0: flat out.")
    ] = 1000.0,
    messages: Annotated[int, typer.Option(help="End each connection's flow after so many; 0: never.")] = 0,
    messages_per_payload: Annotated[
        int, typer.Option("--messages-per-payload", help="Messages in each payload.")
    ] = 1,
    latency: Annotated[
        float, typer.Option(metavar="MS", help="Delay of REST answers and authentication.")
    ] = 0.0,
    rate_limit: Annotated[int, typer.Option(help="REST requests a minute of each key.")] = 200,
    symbol_limit: Annotated[int, typer.Option(help="Symbols a connection may have; 0: any.")] = 0,
    fault: Annotated[list[str] | None, typer.Option(metavar="FAULT", help=_FAULT_HELP)] = None,
    ticks: Annotated[
        Path | None, typer.Option(metavar="FILE.csv.gz", help=f"Serve a recorded day of {_WITH_TICKS}.")
    ] = None,
    speed: Annotated[
        float, typer.Option(help="Pace of --ticks: 1 as it was, N times as fast, 0 flat out.")
    ] = 1.0,
    sent_log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write every message that is sent, as JSON lines.")
    ] = None,
    tls_certificate: Annotated[Path | None, typer.Option(help="PEM; serves wss and https.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM key of the certificate.")] = None,
) -> None:
    """Serve all streams and the REST calls beside them on one port, over made-up data.

    Point any Alpaca client at it: ws://127.0.0.1:8765/v2/iex and http://127.0.0.1:8765. Any key is
    accepted, unless SIMULATOR_KEY_ID and SIMULATOR_SECRET_KEY name the only one that is.
    While it runs, GET /simulator/stats says what was sent; POST /simulator/faults, a JSON list, replaces
    the faults. It listens on loopback unless --host says otherwise.
    """
    from mdstream.simulator.server import run

    values: dict[str, Any] = {
        "host": host,
        "port": port,
        "streams": [s.strip() for s in streams.split(",") if s.strip()],
        "seed": seed,
        "rate": rate,
        "messages": messages,
        "messages_per_payload": messages_per_payload,
        "latency_ms": latency,
        "rate_limit": rate_limit,
        "symbol_limit": symbol_limit,
        "faults": fault or [],
        "ticks": str(ticks) if ticks else "",
        "speed": speed,
        "sent_log": str(sent_log) if sent_log else "",
        "tls_certificate": str(tls_certificate) if tls_certificate else "",
        "tls_key": str(tls_key) if tls_key else "",
    }
    settings = msgspec.convert(values, SimulatorSettings)
    settings = msgspec.structs.replace(settings, credentials=_key())
    _check(settings)
    simulator = run(settings)
    print(json.dumps({name: sent.as_dict() for name, sent in simulator.sent.items()}))


def _key() -> Credentials:
    return Credentials(
        key_id=os.environ.get("SIMULATOR_KEY_ID", ""), secret_key=os.environ.get("SIMULATOR_SECRET_KEY", "")
    )


def _check(settings: SimulatorSettings) -> None:
    for name in settings.streams:
        if name not in STREAMS:
            raise ConfigError(f"--streams: unknown stream {name!r}; choose from {', '.join(STREAMS)}")
    if not settings.streams:
        raise ConfigError("--streams: name at least one of " + ", ".join(STREAMS))
    for text in settings.faults:
        parse(text)
    if settings.tls_key and not settings.tls_certificate:
        raise ConfigError("--tls-key: give its certificate too, with --tls-certificate")
    if settings.ticks:
        _check_ticks(Path(settings.ticks))
    if not 0 <= settings.port < 65536:
        raise ConfigError(f"--port: {settings.port} is not a port; choose from 0 (any) to 65535")
    for flag, value, least in (
        ("--messages-per-payload", settings.messages_per_payload, 1),
        ("--messages", settings.messages, 0),
        ("--rate", settings.rate, 0),
        ("--latency", settings.latency_ms, 0),
        ("--rate-limit", settings.rate_limit, 1),
        ("--symbol-limit", settings.symbol_limit, 0),
        ("--speed", settings.speed, 0),
    ):
        if not value >= least:  # also refuses NaN
            raise ConfigError(f"{flag}: {value} is below {least}, the least it can be")
        if not math.isfinite(value):
            raise ConfigError(f"{flag}: {value} must be finite")


def _check_ticks(path: Path) -> None:
    from mdstream.simulator.flow import recorded

    if not path.is_file():
        raise ConfigError(f"--ticks: no file {str(path)!r}")
    for market in MARKETS.values():
        everything = {name: ["*"] for name in market.spec.subscriptions}
        if market.ticks and next(recorded(market.name, path, everything), None) is None:
            raise ConfigError(f"--ticks: {path} has no trade and no quote")
