"""Rules that a type cannot express: each yields names of settings and reasons."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from mdstream.config import Config, StreamConfig
from mdstream.settings.description import value_of
from mdstream.settings.setting import Setting
from mdstream.streams import STREAMS
from mdstream.streams.rest_spec import Chain
from mdstream.streams.symbols import why_no_symbol

COMMAND_LINE = "command line"

_LONGEST_UNDERLYING = 12
"""Characters; a longer name can only be a contract."""

Problem = tuple[str, str]
"""The name of a setting, and what is wrong with it."""


def find_problems(
    config: Config, settings: Mapping[str, Setting], origins: Mapping[str, str]
) -> Iterator[Problem]:
    """Yield the problems of `config`. `origins` names the source of each setting that is not a default."""
    yield from _streams(config, origins)
    for name in settings:
        if settings[name].schemes:
            yield from _address(name, value_of(config, name), settings[name].schemes)
    if bool(config.credentials.key_id) != bool(config.credentials.secret_key):
        yield "credentials", "set both APCA_API_KEY_ID and APCA_API_SECRET_KEY, or neither"
    if config.ca_file:
        yield from _certificates(config.ca_file)


def _streams(config: Config, origins: Mapping[str, str]) -> Iterator[Problem]:
    if not config.streams:
        yield "streams", "name at least one of " + ", ".join(STREAMS)
    if len(set(config.streams)) != len(config.streams):
        yield "streams", f"a stream is listed twice: {', '.join(config.streams)}"
    if config.fetch.budget_per_minute < len(config.streams):
        yield (
            "fetch.budget_per_minute",
            f"{config.fetch.budget_per_minute} is below {len(config.streams)}, one request for each stream",
        )
    for name in STREAMS:
        yield from _symbols(f"{name}.symbols", getattr(config, name).symbols, STREAMS[name].chain)
        yield from _priority(name, config.stream(name), STREAMS[name].chain)
    for name, origin in origins.items():
        section = name.partition(".")[0]
        if origin == COMMAND_LINE and section in STREAMS and section not in config.streams:
            yield name, f"{section} is not one of the streams of this run ({', '.join(config.streams)})"


def _symbols(name: str, symbols: tuple[str, ...], chain: Chain | None) -> Iterator[Problem]:
    for symbol in symbols:
        if chain and len(symbol) > _LONGEST_UNDERLYING and not chain.is_contract(symbol):
            yield name, f"{symbol!r} is neither an underlying nor a contract, such as {chain.example}"
        if symbol != "*" and (why := why_no_symbol(symbol)):
            yield name, why
    if "*" in symbols and len(symbols) > 1:
        yield name, "'*' means all symbols; remove the others"


def _priority(name: str, stream: StreamConfig, chain: Chain | None) -> Iterator[Problem]:
    if "*" in stream.symbols and stream.priority:
        yield f"{name}.priority", "'*' subscribes all symbols at once, so none can be first"
        return
    for symbol in stream.priority:
        of_chain = chain is not None and chain.is_contract(symbol)
        if not {symbol, *((chain.underlying_of(symbol),) if chain and of_chain else ())} & {
            *stream.symbols
        }:
            yield f"{name}.priority", f"{symbol!r} is not among {name}.symbols"


def _address(name: str, url: str, schemes: tuple[str, ...]) -> Iterator[Problem]:
    if not url:
        return
    try:
        parts = urlsplit(url)
    except ValueError as error:
        yield name, f"{url!r} is not an address: {error}"
        return
    if parts.scheme not in schemes or not parts.hostname:
        yield name, f"{url!r} must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}"
    try:
        usable = parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        yield name, f"the port in {url!r} must be a number from 1 to 65535"


def _certificates(path: str) -> Iterator[Problem]:
    if not Path(path).is_file():
        yield "ca_file", f"no file {path!r}"
        return
    try:
        ssl.create_default_context(cafile=path)
    except ssl.SSLError:
        yield "ca_file", f"{path!r} contains no PEM certificate"
