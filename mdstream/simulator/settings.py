"""Settings of the simulator."""

from __future__ import annotations

from mdstream.config import Credentials, Struct
from mdstream.venues.alpaca.limits import AUTH_WITHIN_S


class SimulatorSettings(Struct, frozen=True):
    """What `mdstream simulate` takes; the embedded simulator fills in a few of them.

    `rate` is messages a second for each stream connection (news: a fiftieth of it); 0 sends as fast
    as the client takes them (news: a fiftieth of the fastest other), from messages that are encoded
    beforehand and repeat. `messages` ends
    the flow of each connection after so many (0: never). `latency_ms` delays every REST answer and
    authentication.
    `symbol_limit` is the plan's limit a connection, 0 for none. A client whose unsent data exceeds
    `slow_client_mb` is told so (407) and dropped; flat out, the simulator waits for it instead.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    streams: tuple[str, ...] = ("stocks", "options", "crypto", "news")
    seed: int = 1
    rate: float = 1000.0
    messages: int = 0
    messages_per_frame: int = 1
    latency_ms: float = 0.0
    rate_limit: int = 200
    symbol_limit: int = 0
    auth_timeout_s: float = AUTH_WITHIN_S
    slow_client_mb: int = 64
    faults: tuple[str, ...] = ()
    ticks: str = ""
    speed: float = 1.0
    journal: str = ""
    tls_certificate: str = ""
    tls_key: str = ""
    credentials: Credentials = Credentials()
    """If set, any other key is refused; else every key is welcome, but none is not."""
