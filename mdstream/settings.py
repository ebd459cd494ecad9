"""Reads settings: TOML file < environment < flags, checked once, then frozen.

A TOML table, an environment variable (`MDSTREAM_FETCH__INTERVAL_S=30`, a double underscore for each
level) and a flag all name the same field of `mdstream.config`; a name that is no field is refused. Keys
come from the environment (`APCA_API_KEY_ID`, `APCA_API_SECRET_KEY`) or from the file, never from the
command line.
"""

from __future__ import annotations

import difflib
import math
import os
import ssl
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from mdstream.config import ANY_KEY, Config, StreamConfig, is_loopback
from mdstream.errors import ConfigError
from mdstream.streams import STREAMS
from mdstream.streams.spec import StreamSpec
from mdstream.venues.alpaca.auth import KEY_VARIABLE, SECRET_VARIABLE

ENV_PREFIX = "MDSTREAM_"
_LARGEST_BUDGET = 1_000_000
_MOST_WORKERS = 256


def load(
    path: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Config:
    """Read, merge and check the settings: file < environment < flags.

    Raises `ConfigError` that names the setting, where it stands and what it may be.
    """
    environ = os.environ if environ is None else environ
    merged: dict[str, Any] = {}
    for source, values in (
        (str(path), _read(Path(path)) if path else {}),
        ("environment", _from_environment(environ)),
        ("command line", flags or {}),
    ):
        _checked(values, source)
        _merge(merged, values)
    return check(_checked(merged, "settings"))


def from_mapping(values: Mapping[str, Any]) -> Config:
    """A checked `Config` from plain values alone, as a script would write them."""
    return check(_checked(values, "settings"))


def check(config: Config) -> Config:
    """Refuse settings that no run could honour; returns the others, with a key for one's own server."""
    if not config.streams:
        raise ConfigError("streams: name at least one of " + ", ".join(STREAMS))
    if len(set(config.streams)) != len(config.streams):
        raise ConfigError(f"streams: a name stands twice in {', '.join(config.streams)}")
    for name in config.streams:
        if name not in STREAMS:
            raise ConfigError(f"streams: unknown stream {name!r}; choose from {', '.join(STREAMS)}")
        _check_stream(STREAMS[name], config.stream(name))
    streams = [(f"{name}.stream_url", config.stream(name).stream_url) for name in config.streams]
    for name, url in (("stream_url", config.stream_url), *streams):
        _check_url(name, url, ("ws", "wss"))
    _check_url("data_url", config.data_url, ("http", "https"))
    _check_url("trading_url", config.trading_url, ("http", "https"))
    if bool(config.credentials.key_id) != bool(config.credentials.secret_key):
        raise ConfigError("set both APCA_API_KEY_ID and APCA_API_SECRET_KEY, or neither")
    _check_choices(config)
    _check_numbers(config)
    return _with_any_key(config)


def _with_any_key(config: Config) -> Config:
    """Without keys, servers on this machine are told some: simulators and replays take any."""
    urls = (config.stream_url, config.data_url, *(config.stream(n).stream_url for n in config.streams))
    named = list(filter(None, urls))
    if config.credentials or config.simulated or not all(map(is_loopback, named)):
        return config
    return msgspec.structs.replace(config, credentials=ANY_KEY)


def _check_url(name: str, url: str, schemes: tuple[str, ...]) -> None:
    if not url:
        return
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigError(f"{name}: {url!r} is no address: {error}") from error
    if parts.scheme not in schemes or not parts.hostname:
        raise ConfigError(f"{name}: {url!r} must begin with {' or '.join(schemes)}://host")
    try:
        usable = parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(f"{name}: the port in {url!r} must be a number from 1 to 65535")


def _check_choices(config: Config) -> None:
    if config.auth not in ("message", "headers"):
        raise ConfigError(f"auth: {config.auth!r} must be message or headers")
    if config.websocket not in ("picows", "websockets"):
        raise ConfigError(f"websocket: {config.websocket!r} must be picows or websockets")
    if config.log.level.lower() not in ("debug", "info", "warning", "error"):
        raise ConfigError(f"log.level: {config.log.level!r} must be debug, info, warning or error")
    if config.ca_file and not Path(config.ca_file).is_file():
        raise ConfigError(f"ca_file: no file {config.ca_file!r}")
    if config.ca_file:
        try:
            ssl.create_default_context(cafile=config.ca_file)
        except ssl.SSLError as error:
            raise ConfigError(f"ca_file: {config.ca_file!r} holds no PEM certificate") from error


def _check_numbers(config: Config) -> None:
    if config.workers > _MOST_WORKERS:
        raise ConfigError(
            f"workers: {config.workers} is above {_MOST_WORKERS}, more than any stream can keep busy"
        )
    if config.fetch.budget_per_minute > _LARGEST_BUDGET:
        raise ConfigError(
            f"fetch.budget_per_minute: {config.fetch.budget_per_minute} is above {_LARGEST_BUDGET}, "
            "more than any plan allows"
        )
    if not math.isfinite(config.duration):
        raise ConfigError("duration: give seconds, or 0 to run until stopped")
    for name, value, least in (
        ("workers", config.workers, -1),
        ("duration", config.duration, 0),
        ("fetch.interval_s", config.fetch.interval_s, 0),
        ("fetch.budget_per_minute", config.fetch.budget_per_minute, len(config.streams)),
        ("fetch.concurrency", config.fetch.concurrency, 1),
        ("backfill.concurrency", config.backfill.concurrency, 1),
        ("backfill.workers", config.backfill.workers, -1),
        ("backfill.budget_per_minute", config.backfill.budget_per_minute, 0),
        ("fetch.attempts", config.fetch.attempts, 1),
        ("fetch.timeout_s", config.fetch.timeout_s, 0.01),
        ("fetch.deadline_s", config.fetch.deadline_s, 0.01),
        ("handoff.slab_kb", config.handoff.slab_kb, 16),
        ("handoff.slabs", config.handoff.slabs, 2),
        ("handoff.linger_ms", config.handoff.linger_ms, 0),
        ("handoff.ticket_timeout_s", config.handoff.ticket_timeout_s, 0.1),
        ("handoff.max_payload_mb", config.handoff.max_payload_mb, 1),
        ("frames.retention_mb", config.frames.retention_mb, 1),
        ("frames.stream_mb", config.frames.stream_mb, 0),
        ("frames.chunk_mb", config.frames.chunk_mb, 1),
        ("start_timeout_s", config.start_timeout_s, 1),
        ("hang_timeout_s", config.hang_timeout_s, 1),
        ("drain_timeout_s", config.drain_timeout_s, 0),
        ("store.every_s", config.store.every_s, 0.1),
        ("store.workers", config.store.workers, 1),
        ("store.keep_hours", config.store.keep_hours, 0),
        ("simulator.messages_per_frame", config.simulator.messages_per_frame, 1),
        ("simulator.rate", config.simulator.rate, 0),
        ("simulator.latency_ms", config.simulator.latency_ms, 0),
        *(
            (f"{stream}.chain_contracts", config.stream(stream).chain_contracts, 1)
            for stream in config.streams
        ),
        *(
            (f"{stream}.mute_after_s.{channel}", seconds, 0.1)
            for stream in config.streams
            for channel, seconds in config.stream(stream).mute_after_s.items()
        ),
    ):
        if not value >= least:  # also refuses NaN
            raise ConfigError(f"{name}: {value} is below {least}, the least it can be")
        if not math.isfinite(value):
            raise ConfigError(f"{name}: {value} is no number of this world")


def _check_stream(spec: StreamSpec, stream: StreamConfig) -> None:
    def refuse(setting: str, value: str, choices: tuple[str, ...]) -> ConfigError:
        return ConfigError(f"{spec.name}.{setting}: {value!r} is not one of {', '.join(choices)}")

    if stream.feed not in spec.feeds:
        raise refuse("feed", stream.feed, tuple(spec.feeds))
    if stream.codec not in spec.codecs:
        raise refuse("codec", stream.codec, spec.codecs)
    for setting in ("channels", "mute_after_s"):
        for channel in getattr(stream, setting):
            if channel not in spec.subscriptions:
                raise refuse(setting, channel, spec.subscriptions)
    for symbol in stream.symbols:
        if not symbol or symbol != symbol.strip() or "," in symbol:
            raise ConfigError(f"{spec.name}.symbols: {symbol!r} is no symbol")
    if "*" in stream.symbols and len(stream.symbols) > 1:
        raise ConfigError(f"{spec.name}.symbols: '*' means all and stands alone")


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for variable, field in ((KEY_VARIABLE, "key_id"), (SECRET_VARIABLE, "secret_key")):
        if environ.get(variable):
            values.setdefault("credentials", {})[field] = environ[variable]
    for variable, text in environ.items():
        if variable.startswith(ENV_PREFIX) and text:
            *groups, field = variable.removeprefix(ENV_PREFIX).lower().split("__")
            target = values
            for group in groups:
                target = target.setdefault(group, {})
                if not isinstance(target, dict):
                    raise ConfigError(
                        f"environment: {variable} sets a part of {group}, and "
                        f"{ENV_PREFIX}{group.upper()} sets it as a whole"
                    )
            if groups[-1:] == ["mute_after_s"]:
                field = _CHANNELS.get(field, field)
            target[field] = _split(text) if field in _LISTS else text
    return values


_CHANNELS = {name.lower(): name for spec in STREAMS.values() for name in spec.subscriptions}
"""Channels as they stand in the names of environment variables, which have no case."""

_LISTS = {"streams", "symbols", "channels"}


def _split(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = dict(value) if isinstance(value, Mapping) else value


def _checked(values: Mapping[str, Any], source: str) -> Config:
    try:
        return msgspec.convert(values, Config, strict=False)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at ")
        where = where.strip("`").removeprefix("$").lstrip(".")
        if what.startswith("Object contains unknown field"):
            raise ConfigError(_unknown(source, where, what.split("`")[1])) from error
        raise ConfigError(f"{source}: {where + ': ' if where else ''}{what}") from error


def _unknown(source: str, where: str, name: str) -> str:
    """What to say of a setting that does not exist."""
    struct: Any = Config
    for group in filter(None, where.split(".")):
        struct = next(f.type for f in msgspec.structs.fields(struct) if f.name == group)
    known = [f.name for f in msgspec.structs.fields(struct)]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "known here: " + ", ".join(known)
    return f"{source}: unknown setting {where + '.' if where else ''}{name}; {hint}"
