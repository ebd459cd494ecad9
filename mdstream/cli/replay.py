"""`mdstream replay`: a range of a store, served as an Alpaca-compatible server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from mdstream.cli.flags import Given, add_flags, parse_path
from mdstream.errors import ConfigError
from mdstream.settings import describe, fill
from mdstream.settings.rules import COMMAND_LINE
from mdstream.simulator.simulator_settings import SimulatorSettings

if TYPE_CHECKING:
    from mdstream.simulator.replay.recorded_payloads import RecordedPayloads
    from mdstream.simulator.replay.stored_range import StoredRange

_FLAGS = ("streams", "speed", "messages_per_payload", "host", "port")


@add_flags(*(each for each in describe(SimulatorSettings) if each.name in _FLAGS))
def replay(
    given: Given,
    store: Annotated[
        str | None, typer.Argument(metavar="STORE", help="Folder, or s3://bucket/prefix, to replay from.")
    ] = None,
    journal: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            parser=parse_path,
            help="Replay a raw journal instead, byte for byte: that of a run, or the newest in a folder.",
        ),
    ] = None,
    start: Annotated[
        str | None, typer.Option(metavar="TIME", help="Date or time, UTC. Default: the first row.")
    ] = None,
    end: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Date (that day included) or time. Default: the last row."),
    ] = None,
    feed: Annotated[
        str, typer.Option(metavar="FEED", help="Rows of this data feed only, as sip. Default: all.")
    ] = "",
) -> None:
    """Serve fetched or recorded data again, as the service would, to any Alpaca client.

    A journal, kept by mdstream run --journal DIR, is replayed byte for byte: a client must use the encoding
    it was recorded in.

    A connection gets the whole range from its start, once it has subscribed, and then nothing more. REST
    serves snapshots: the first trade and quote of each symbol. Any key is accepted. Point the engine at it
    with mdstream run --stream-url ws://127.0.0.1:8765, or a single stream with its own stream_url.
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
        raise ConfigError("give either a store, or a journal with --journal")
    settings = msgspec.structs.replace(settings, streams=tuple(source.streams))
    served = run(settings, source, _describe(source, settings.speed))
    print(json.dumps({name: sent.as_dict() for name, sent in served.sent.items()}))


def _open_journal(folder: Path, streams: tuple[str, ...]) -> RecordedPayloads:
    from mdstream.simulator.replay.recorded_payloads import RecordedPayloads, newest_run

    return RecordedPayloads(newest_run(folder), streams)


def _describe(source: StoredRange | RecordedPayloads, speed: float) -> str:
    """Return in words what is served, and how fast."""
    from mdstream.simulator.replay.stored_range import StoredRange, describe_range

    content = "every payload as it was received, whatever is subscribed"
    if isinstance(source, StoredRange):
        content = describe_range(source)
    pace = f"{speed:g} times the original speed" if speed else "as fast as clients read"
    return f"({', '.join(source.streams)}, {content}, {pace})"
