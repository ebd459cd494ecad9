"""`mdstream replay`: a store's range as an Alpaca-compatible server."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated

import typer

from mdstream.errors import ConfigError
from mdstream.streams import STREAMS


def replay(
    store: Annotated[
        str | None, typer.Argument(help="Folder, or s3://bucket/prefix, to replay from.")
    ] = None,
    journal: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Replay a raw journal instead, byte for byte: a run's, or the newest."
        ),
    ] = None,
    start: Annotated[
        str | None, typer.Option(help="Date or time, UTC. Default: where the store begins.")
    ] = None,
    end: Annotated[
        str | None, typer.Option(help="Date (that day included) or time. Default: where it ends.")
    ] = None,
    streams: Annotated[str, typer.Option(metavar="A,B", help="Streams to serve.")] = ",".join(STREAMS),
    feed: Annotated[str, typer.Option(help="Rows of this feed only, as sip. Default: all.")] = "",
    speed: Annotated[
        float, typer.Option(help="1: as it was, N: so many times as fast, 0: as clients take it.")
    ] = 1.0,
    messages_per_payload: Annotated[
        int, typer.Option("--messages-per-payload", help="Messages in each payload.")
    ] = 1,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes any free one.")] = 8765,
) -> None:
    """Serve what was fetched or recorded once more, as the service would: to this engine, to alpaca-py, to
    any Alpaca client.

    A journal, kept by mdstream run --journal DIR, is replayed to the byte: a client must speak the encoding
    it was recorded in.

    A connection gets the whole range from its start, once it has subscribed, and then nothing more. REST
    answers snapshots: the first trade and quote of each symbol. Every key is welcome. Point the engine
    at it with mdstream run --stream-url ws://127.0.0.1:8765, or a single stream with its own stream_url.
    """
    from mdstream.simulator.replay.recorded_payloads import RecordedPayloads, newest
    from mdstream.simulator.replay.stored_range import StoredRange, described
    from mdstream.simulator.server import run
    from mdstream.simulator.simulator_settings import SimulatorSettings

    names = tuple(name.strip() for name in streams.split(",") if name.strip())
    for name in names:
        if name not in STREAMS:
            raise ConfigError(f"--streams: unknown stream {name!r}; choose from {', '.join(STREAMS)}")
    if not 0 <= speed < math.inf:
        raise ConfigError(f"--speed: {speed} is no pace; give 0 or more")
    if messages_per_payload < 1:
        raise ConfigError(f"--messages-per-payload: {messages_per_payload} is below 1")
    if not 0 <= port < 65536:
        raise ConfigError(f"--port: {port} is no port; choose from 0 (any) to 65535")
    if (store is None) == (journal is None):
        raise ConfigError("name a store, or a journal with --journal")
    source: StoredRange | RecordedPayloads
    if journal is not None:
        source = RecordedPayloads(newest(journal), names)
        told = "every payload as it came, whatever is subscribed"
    else:
        assert store is not None
        source = StoredRange(store, names, start, end, feed)
        told = described(source)
    settings = SimulatorSettings(
        host=host,
        port=port,
        streams=tuple(source.streams),
        rate=0.0,
        speed=speed,
        messages_per_payload=messages_per_payload,
        rate_limit=1_000_000,
    )
    pace = f"{speed:g} times as fast as it was" if speed else "as fast as clients take it"
    served = run(settings, source, f"({', '.join(source.streams)}, {told}, {pace})")
    print(json.dumps({name: sent.as_dict() for name, sent in served.sent.items()}))
