"""`mdstream simulate`: an Alpaca-compatible server for tests of any Alpaca client."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from mdstream.cli.flags import Given, add_flags
from mdstream.errors import ConfigError
from mdstream.settings import describe, fill
from mdstream.settings.rules import COMMAND_LINE
from mdstream.simulator.faults import KINDS, parse
from mdstream.simulator.markets import MARKETS
from mdstream.simulator.simulator_settings import SimulatorSettings

_FAULT_HELP = r"[STREAM:]KIND[=VALUE]\[@SECONDS][*TIMES], repeatable. " + " ".join(
    f"{kind}: {text}." for kind, text in KINDS.items()
)


@add_flags(*(each for each in describe(SimulatorSettings) if each.flag))
def simulate(
    given: Given, fault: Annotated[list[str] | None, typer.Option(metavar="FAULT", help=_FAULT_HELP)] = None
) -> None:
    """Serve all streams and their REST calls on one port, with made-up data.

    Point any Alpaca client at it: ws://127.0.0.1:8765/v2/iex and http://127.0.0.1:8765. Any key is
    accepted, unless SIMULATOR_KEY_ID and SIMULATOR_SECRET_KEY define the only valid one. While it runs, GET
    /simulator/stats returns what was sent; POST /simulator/faults, with a JSON list, replaces the faults.
    It listens on loopback unless --host says otherwise.
    """
    from mdstream.simulator.server import run

    simulator = run(simulator_settings(given, fault or []))
    print(json.dumps({name: sent.as_dict() for name, sent in simulator.sent.items()}))


def simulator_settings(given: Given, faults: list[str]) -> SimulatorSettings:
    """Return the checked settings of a simulator. Raises `ConfigError`."""
    key = {
        "credentials.key_id": os.environ.get("SIMULATOR_KEY_ID", ""),
        "credentials.secret_key": os.environ.get("SIMULATOR_SECRET_KEY", ""),
    }
    settings = fill(SimulatorSettings, {**given, **key, "faults": faults}, COMMAND_LINE)
    if not settings.streams:
        raise ConfigError(f"{COMMAND_LINE}: streams: name at least one of {', '.join(MARKETS)}")
    for text in settings.faults:
        parse(text)
    if settings.tls_key and not settings.tls_certificate:
        raise ConfigError("--tls-key needs --tls-certificate")
    if settings.ticks:
        _check_ticks(Path(settings.ticks))
    return settings


def _check_ticks(path: Path) -> None:
    from mdstream.simulator.traffic import recorded_day

    if not path.is_file():
        raise ConfigError(f"{COMMAND_LINE}: ticks: no file {str(path)!r}")
    for market in MARKETS.values():
        everything = {name: ["*"] for name in market.spec.subscriptions}
        if market.ticks and next(recorded_day(market.name, path, everything), None) is None:
            raise ConfigError(f"{COMMAND_LINE}: ticks: {path} has neither trades nor quotes")
