"""The settings, from the structs of `mdstream.config`."""

from __future__ import annotations

from typing import Any

import msgspec

from docs.generate.markdown import code, table
from mdstream.config import Config
from mdstream.settings import ENV_PREFIX
from mdstream.streams import STREAMS

_STREAM = {
    "symbols": "Symbols to follow, or `*` for all; empty: the stream's own list. Options take contracts, "
    "or underlyings, whose chains name the contracts.",
    "channels": "Channels to subscribe to; empty: all that the stream has.",
    "feed": "Feed of the service; empty: the stream's own ({feed}). One of {feeds}.",
    "codec": "Encoding of the WebSocket stream, {codecs}; empty: {codec}.",
    "mute_after_s": "By channel: seconds without a row, while its market is open, after which the "
    "connection counts as dead and is made anew. Channels that share a frame (all bars) count as one.",
    "chain_contracts": "Contracts to follow of one underlying (options).",
    "stream_url": "WebSocket server of this stream alone, such as a replay; empty: that of all streams.",
}

_MEANINGS = {
    "streams": "Streams to run.",
    "duration": "Seconds to run; 0: until stopped.",
    "workers": "Worker processes of each stream. 0: decode inside the feed. -1: divide the usable cores "
    "among the streams, less one for each feed.",
    "report": "File for the JSON report; empty: none.",
    "stream_url": "Base URL of the WebSocket service. Empty: Alpaca with keys, the simulator without; or "
    "what `data_url` implies.",
    "data_url": "Base URL of the REST service. Empty: as for `stream_url`.",
    "trading_url": "Base URL of the account API, which lists assets and contracts for symbol patterns. "
    "Empty: Alpaca's, paper or live as the key is, or `data_url`.",
    "ca_file": "PEM bundle to trust instead of the system's authorities.",
    "auth": "How to authenticate on the stream: `message`, or `headers` with a message as fallback.",
    "websocket": "Library that receives: `picows`, or `websockets`, which is slower and fully portable.",
    "compression": "Ask the stream for permessage-deflate; this implies `websockets`.",
    "record": "Record the frames of all streams in the store.",
    "journal": "Folder for the raw bytes of every payload; empty: they are not kept.",
    "rejects": "Folder for rejected payloads; empty: the user's state folder (`~/.local/state/mdstream`).",
    "start_timeout_s": "Seconds after which a feed that is not up is started again.",
    "hang_timeout_s": "Seconds without a heartbeat after which a feed is killed and started again.",
    "drain_timeout_s": "Seconds that feeds have at the end to finish what they received.",
    "fetch.interval_s": "Seconds between REST fetches of every symbol; 0: only at the start.",
    "fetch.budget_per_minute": "Requests a minute that the account has, shared by all streams. Symbols are "
    "grouped when it is too small for one request each.",
    "fetch.concurrency": "Requests under way at once, for each stream.",
    "fetch.timeout_s": "Seconds that one attempt may take.",
    "fetch.deadline_s": "Seconds that one request may take with all its attempts.",
    "fetch.attempts": "Attempts of one request.",
    "backfill.concurrency": "Requests of a backfill under way at once.",
    "backfill.workers": "Processes that decode a backfill's pages; -1: one for each core.",
    "backfill.budget_per_minute": "Requests a minute of a backfill; 0: `fetch.budget_per_minute`, until "
    "the service's headers say how many it allows.",
    "handoff.slab_kb": "Size of a buffer of payloads; smaller where shared memory is small.",
    "handoff.slabs": "Buffers of each stream. When all are full, reading from the socket pauses.",
    "handoff.linger_ms": "Hold a batch back for so long to wait for more messages; 0: submit at once.",
    "handoff.ticket_timeout_s": "Seconds that a worker may take for a batch before it counts as hung.",
    "handoff.kernels": "Decode with compiled kernels; `false` leaves everything to the fallback decoder.",
    "handoff.max_payload_mb": "Largest payload to accept.",
    "frames.directory": "Folder for runs; empty: `/dev/shm`. Readers find it by the environment variable.",
    "frames.retention_mb": "Megabytes to keep of each frame; the oldest rows are dropped.",
    "frames.stream_mb": "Megabytes of all frames of a stream; 0: its share of what is free at the start.",
    "frames.chunk_mb": "Largest chunk of a frame.",
    "simulator.seed": "The same seed gives the same market.",
    "simulator.rate": "Messages a second on each connection (news: a fiftieth); 0: as fast as possible.",
    "simulator.messages_per_frame": "Messages in each payload.",
    "simulator.latency_ms": "Delay of each REST answer.",
    "store.path": "Folder of the store, or `s3://bucket/prefix`.",
    "store.every_s": "Seconds between commits to a table.",
    "store.workers": "Processes that sort, compress and write.",
    "store.keep_hours": "Hours for which files stay that compaction has replaced.",
    "log.level": "`debug`, `info`, `warning` or `error`.",
    "log.json": "Log lines as JSON objects.",
    "credentials.key_id": "Key of the account; set `APCA_API_KEY_ID`, or use a file only you can read.",
    "credentials.secret_key": "Secret of the key; set `APCA_API_SECRET_KEY`, or use such a file.",
}


def render() -> str:
    """Return a table of settings for each section of the TOML file.

    Raises `ValueError` where settings and descriptions differ.
    """
    sections: dict[str, list[tuple[str, ...]]] = {"": []}
    described = set(_MEANINGS)
    for field in msgspec.structs.fields(Config):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            if field.name in STREAMS and field.name != next(iter(STREAMS)):
                continue  # all streams have the same settings
            for inner in msgspec.structs.fields(field.type):
                name = f"{field.name}.{inner.name}"
                sections.setdefault(field.name, []).append(_row(name, inner))
                described.discard(name)
        else:
            sections[""].append(_row(field.name, field))
            described.discard(field.name)
    if described:
        raise ValueError(f"descriptions of settings that do not exist: {sorted(described)}")
    headings = ("setting", "type", "default", "meaning", "environment variable")
    parts = []
    for name, rows in sections.items():
        parts += [_heading(name), table(headings, rows)]
    return "\n".join(parts)


def _heading(section: str) -> str:
    if not section:
        return "### Top level\n"
    if section in STREAMS:
        return "### " + ", ".join(f"\\[{name}\\]" for name in STREAMS) + "\n"
    return f"### \\[{section}\\]\n"


def _row(name: str, field: Any) -> tuple[str, ...]:
    section, _, inner = name.rpartition(".")
    if section in STREAMS:
        meaning = _stream_meaning(inner)
    elif name in _MEANINGS:
        meaning = _MEANINGS[name]
    else:
        raise ValueError(f"setting {name} has no description")
    variable = ENV_PREFIX + name.upper().replace(".", "__")
    return code(inner or name), _type(field.type), _default(field), meaning, code(variable)


def _stream_meaning(name: str) -> str:
    if name not in _STREAM:
        raise ValueError(f"setting {name} of a stream has no description")
    return _STREAM[name].format(
        feed=", ".join(f"{stream} `{spec.default_feed}`" for stream, spec in STREAMS.items()),
        feeds="; ".join(f"{stream}: {', '.join(spec.feeds)}" for stream, spec in STREAMS.items()),
        codecs="`json` or `msgpack`",
        codec=", ".join(f"{stream} `{spec.codec}`" for stream, spec in STREAMS.items()),
    )


def _type(kind: Any) -> str:
    names = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    if kind in names:
        return names[kind]
    return "numbers by channel" if "dict" in str(kind) else "list of texts"


def _default(field: Any) -> str:
    default = field.default
    if default is msgspec.NODEFAULT:
        default = field.default_factory()
    if isinstance(default, tuple):
        default = list(default)
    if isinstance(default, bool):
        return code(str(default).lower())
    if isinstance(default, str):
        return code(f'"{default}"')
    return code(str(default).replace("'", '"'))
