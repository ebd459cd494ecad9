"""The settings of a simulator: flags of `mdstream simulate`, some also of `mdstream replay`."""

from __future__ import annotations

from typing import Annotated

from mdstream.config import Credentials, Latency, MessagesPerPayload, Rate, Seed, Struct, add_flag, setting
from mdstream.simulator.markets import MARKETS
from mdstream.venues.alpaca.limits import AUTH_WITHIN_S

_WITH_TICKS = ", ".join(name for name, market in MARKETS.items() if market.ticks)


class SimulatorSettings(Struct, frozen=True):
    """The settings of a simulator; the embedded simulator sets only a few.

    At `rate` 0, messages are encoded beforehand and repeat. A client with more than `slow_client_mb` of
    unsent data gets error 407 and is dropped; at rate 0, the simulator waits for it instead.
    """

    host: Annotated[str, setting("Address to listen on.", flag="--host")] = "127.0.0.1"
    port: Annotated[int, setting("Port; 0 takes any free one.", ge=0, le=65_535, flag="--port")] = 8765
    streams: Annotated[
        tuple[str, ...], setting("Streams to serve.", choices=tuple(MARKETS), flag="--streams")
    ] = tuple(MARKETS)
    seed: Annotated[Seed, add_flag("--seed")] = 1
    rate: Annotated[Rate, add_flag("--rate")] = 1000.0
    day_s: Annotated[
        float,
        setting(
            "Length of a day in miniature: on each connection the rate rises from 0 to its full value and "
            "falls to 0 again, day after day; 0: it is always full.",
            unit="s",
            ge=0,
            metavar="SECONDS",
            flag="--day",
        ),
    ] = 0.0
    messages: Annotated[
        int, setting("Messages after which each connection's flow ends; 0: never.", ge=0, flag="--messages")
    ] = 0
    messages_per_payload: Annotated[MessagesPerPayload, add_flag("--messages-per-payload")] = 1
    latency_ms: Annotated[Latency, add_flag("--latency")] = 0.0
    rate_limit: Annotated[
        int, setting("REST requests of each key.", unit="requests/min", ge=1, flag="--rate-limit")
    ] = 200
    symbol_limit: Annotated[
        int, setting("Symbols that a connection may have; 0: any number.", ge=0, flag="--symbol-limit")
    ] = 0
    auth_timeout_s: float = AUTH_WITHIN_S
    slow_client_mb: int = 64
    faults: tuple[str, ...] = ()
    ticks: Annotated[
        str,
        setting(
            f"Recorded day of {_WITH_TICKS} to serve instead of a made-up market.",
            is_path=True,
            metavar="FILE.csv.gz",
            flag="--ticks",
        ),
    ] = ""
    speed: Annotated[
        float,
        setting(
            "Pace of what was recorded; 1: as it was; N: N times as fast; 0: as clients take it.",
            ge=0,
            flag="--speed",
        ),
    ] = 1.0
    sent_log: Annotated[
        str,
        setting(
            "File for every message that is sent, as JSON lines.",
            is_path=True,
            metavar="FILE",
            flag="--sent-log",
        ),
    ] = ""
    tls_certificate: Annotated[
        str,
        setting("PEM file; serve wss and https.", is_path=True, metavar="FILE", flag="--tls-certificate"),
    ] = ""
    tls_key: Annotated[
        str, setting("PEM key of the certificate.", is_path=True, metavar="FILE", flag="--tls-key")
    ] = ""
    credentials: Credentials = Credentials()
    """If set, any other key is refused; otherwise any key is accepted, but a key is required."""
