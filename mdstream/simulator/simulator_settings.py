"""The settings of a simulator."""

from __future__ import annotations

from mdstream.config import Credentials, Struct
from mdstream.simulator.markets import MARKETS
from mdstream.venues.alpaca.limits import AUTH_WITHIN_S


class SimulatorSettings(Struct, frozen=True):
    """What `mdstream simulate` takes; the embedded simulator fills in a few of them.

    `rate` is messages a second for each stream connection, of which a slow market sends its share; 0 sends
    as fast as the client takes them, from messages that are encoded beforehand and repeat. `messages` ends
    the flow of each connection after so many (0: never). `latency_ms` delays every REST answer and
    authentication. `symbol_limit` is the plan's limit for a connection, 0 for none. A client with more than
    `slow_client_mb` of unsent data gets error 407 and is dropped; flat out, the simulator waits for it
    instead. `ticks` is a recorded day to serve in place of a made-up market, `sent_log` a file for every
    message that is sent, as JSON lines.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    streams: tuple[str, ...] = tuple(MARKETS)
    seed: int = 1
    rate: float = 1000.0
    messages: int = 0
    messages_per_payload: int = 1
    latency_ms: float = 0.0
    rate_limit: int = 200
    symbol_limit: int = 0
    auth_timeout_s: float = AUTH_WITHIN_S
    slow_client_mb: int = 64
    faults: tuple[str, ...] = ()
    ticks: str = ""
    speed: float = 1.0
    sent_log: str = ""
    tls_certificate: str = ""
    tls_key: str = ""
    credentials: Credentials = Credentials()
    """If set, any other key is refused; else any key is accepted, but there must be one."""
