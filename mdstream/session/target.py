"""The target of a session: its URL and how to connect."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from mdstream.config import Connection, Credentials, StreamConfig
from mdstream.session.silence import MuteLimits
from mdstream.streams.spec import StreamSpec
from mdstream.venues.alpaca import auth
from mdstream.wire.codec import CODECS


@dataclass(frozen=True, slots=True)
class Target:
    """URL, codec, credentials and limits of a connection."""

    url: str
    codec: str
    credentials: Credentials
    header_auth: bool
    compression: bool
    tls: ssl.SSLContext | None
    max_payload: int
    mute: MuteLimits
    library: str
    """The WebSocket library: `picows` or `websockets`."""

    @classmethod
    def of(cls, spec: StreamSpec, stream: StreamConfig, connection: Connection) -> Target:
        """Return the target of stream `spec` with its settings."""
        return cls(
            url=connection.url + spec.feeds[stream.feed],
            codec=stream.codec,
            credentials=connection.credentials,
            header_auth=connection.auth == "headers",
            compression=connection.compression,
            tls=tls_context(connection.ca_file) if connection.url.startswith("wss:") else None,
            max_payload=connection.max_payload_mb * 1024 * 1024,
            mute=MuteLimits.of(spec, stream.mute_after_s, stream.feed),
            library="websockets" if connection.compression else connection.websocket,
        )


def tls_context(ca_file: str) -> ssl.SSLContext:
    """Return a context that verifies with the authorities in `ca_file`; if empty, with the system's."""
    return ssl.create_default_context(cafile=ca_file or None)


def upgrade_headers(target: Target) -> dict[str, str]:
    """Return the headers of the request for a connection to `target`."""
    found = {"Content-Type": CODECS[target.codec].content_type}
    if target.header_auth:
        found |= auth.headers(target.credentials.key_id, target.credentials.secret_key)
    return found
