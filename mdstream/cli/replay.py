"""`mdstream replay`: a store's range as an Alpaca-compatible server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from mdstream.cli.flags import Given, takes
from mdstream.errors import ConfigError
from mdstream.settings import describe, fill
from mdstream.settings.rules import COMMAND_LINE
from mdstream.simulator.simulator_settings import SimulatorSettings

if TYPE_CHECKING:
    from mdstream.simulator.replay.recorded_payloads import RecordedPayloads
    from mdstream.simulator.replay.stored_range import StoredRange

_FLAGS = ("streams", "speed", "messages_per_payload", "host", "port")


@takes(*(each for each in describe(SimulatorSettings) if each.name in _FLAGS))
def replay(
    given: Given,
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
    feed: Annotated[str, typer.Option(help="Rows of this feed only, as sip. Default: all.")] = "",
) -> None:
    """Serve what was fetched or recorded once more, as the service would: to this engine, to alpaca-py, to
    any Alpaca client.

    A journal, kept by mdstream run --journal DIR, is replayed to the byte: a client must speak the encoding
    it was recorded in.

    A connection gets the whole range from its start, once it has subscribed, and then nothing more. REST
    answers snapshots: the first trade and quote of each symbol. Any key is accepted. Point the engine
    at it with mdstream run --stream-url ws://127.0.0.1:8765, or a single stream with its own stream_url.
    """
    from mdstream.simulator.replay.stored_range import StoredRange
    from mdstream.simulator.server import run

    fixed = {"rate": 0.0, "rate_limit": 1_000_000}
    settings = fill(SimulatorSettings, {**fixed, **given}, COMMAND_LINE)
    if store is not None and journal is None:
        source: StoredRange | RecordedPayloads = StoredRange(store, settings.streams, start, end, feed)
    elif journal is not None and store is None:
        source = _open_journal(journal, settings.streams)
    else:
        raise ConfigError("name a store, or a journal with --journal")
    settings = msgspec.structs.replace(settings, streams=tuple(source.streams))
    served = run(settings, source, _describe(source, settings.speed))
    print(json.dumps({name: sent.as_dict() for name, sent in served.sent.items()}))


def _open_journal(folder: Path, streams: tuple[str, ...]) -> RecordedPayloads:
    from mdstream.simulator.replay.recorded_payloads import RecordedPayloads, newest_run

    return RecordedPayloads(newest_run(folder), streams)


def _describe(source: StoredRange | RecordedPayloads, speed: float) -> str:
    """Return what is served, and how fast, in words."""
    from mdstream.simulator.replay.stored_range import StoredRange, describe_range

    content = "every payload as it came, whatever is subscribed"
    if isinstance(source, StoredRange):
        content = describe_range(source)
    pace = f"{speed:g} times as fast as it was" if speed else "as fast as clients take it"
    return f"({', '.join(source.streams)}, {content}, {pace})"
