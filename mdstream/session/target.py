"""Where a session connects to, and how."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from mdstream.config import Config, Credentials
from mdstream.session.silence import MuteLimits
from mdstream.streams.spec import StreamSpec
from mdstream.venues.alpaca import auth
from mdstream.wire.codec import CODECS


@dataclass(frozen=True, slots=True)
class Target:
    """Where and how to connect."""

    url: str
    codec: str
    credentials: Credentials
    header_auth: bool
    compression: bool
    tls: ssl.SSLContext | None
    max_payload: int
    mute: MuteLimits
    library: str
    """Which keeps the connection: `picows` or `websockets`."""

    @classmethod
    def of(cls, config: Config, spec: StreamSpec) -> Target:
        """The target that `config` names for stream `spec`."""
        stream = config.stream(spec.name)
        base = stream.stream_url.rstrip("/") or config.urls()[0]
        return cls(
            url=base + spec.feeds[stream.feed],
            codec=stream.codec,
            credentials=config.credentials,
            header_auth=config.auth == "headers",
            compression=config.compression,
            tls=tls_context(config) if base.startswith("wss:") else None,
            max_payload=config.handoff.max_payload_mb * 1024 * 1024,
            mute=MuteLimits.of(spec, stream.mute_after_s),
            library="websockets" if config.compression else config.websocket,
        )


def tls_context(config: Config) -> ssl.SSLContext:
    """Verification by the system's authorities, or by `ca_file` alone."""
    return ssl.create_default_context(cafile=config.ca_file or None)


def headers(target: Target) -> dict[str, str]:
    """What the request for a connection to `target` says besides."""
    said = {"Content-Type": CODECS[target.codec].content_type}
    if target.header_auth:
        said |= auth.headers(target.credentials.key_id, target.credentials.secret_key)
    return said
