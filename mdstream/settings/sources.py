"""Merges file, environment and flags into one frozen `Config`, and keeps the source of each value."""

from __future__ import annotations

import logging
import os
import stat
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from mdstream.config import ANY_KEY, Config, is_loopback
from mdstream.errors import ConfigError
from mdstream.settings.description import settings_by_name
from mdstream.settings.rules import COMMAND_LINE, find_problems
from mdstream.settings.setting import ENV_PREFIX, Setting, describe
from mdstream.streams import STREAMS
from mdstream.system.paths import require_path
from mdstream.text.nearest import suggest

log = logging.getLogger(__name__)

_ENVIRONMENT = "environment"
_MAPPING = "settings"

S = TypeVar("S", bound=msgspec.Struct)


def load(
    path: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
    *,
    source: str = COMMAND_LINE,
) -> Config:
    """Read, merge and check the settings: file < environment < flags.

    `flags` is a mapping as in the file, or one by dotted names; errors call it `source`. Raises
    `ConfigError` with the setting, its source, its value, and the allowed values.
    """
    return load_with_origins(path, environ, flags, source=source)[0]


def load_with_origins(
    path: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
    *,
    source: str = COMMAND_LINE,
) -> tuple[Config, dict[str, str]]:
    """Load as `load` does; also return the source of each setting that is not a default, by dotted name."""
    environ = os.environ if environ is None else environ
    return _merge(
        (str(path), {} if path is None else _read(Path(require_path("settings file", path)))),
        (_ENVIRONMENT, _from_environment(environ)),
        (source, flags or {}),
    )


def from_mapping(values: Mapping[str, Any]) -> Config:
    """Return a checked `Config` from plain values, as a script would write them."""
    return _merge((_MAPPING, values))[0]


def load_any(name: str, given: Config | Mapping[str, Any] | str | Path | None) -> Config:
    """Return the checked settings that a program gives: a `Config`, a mapping, the path of a file, or none.

    Environment variables apply as in `load`, unless it is a `Config`. `name` is used in errors. Raises
    `ConfigError`.
    """
    match given:
        case Config():
            return check(given)
        case None:
            return load()
        case str() | Path():
            return load(given)
        case Mapping():
            return load(flags=given, source="settings")
    raise ConfigError(f"{name}: {given!r} is neither settings (a dict) nor the path of a settings file")


def check(config: Config) -> Config:
    """Return `config` checked, with a key for servers on this machine. Raises `ConfigError`."""
    return from_mapping(msgspec.to_builtins(config))


def fill(struct: type[S], values: Mapping[str, Any], source: str) -> S:
    """Return a `struct` of settings with `values`. Raises `ConfigError` that names the problem."""
    settings = {each.name: each for each in describe(struct)}
    return msgspec.convert(_nest(_read_all(values, settings, source)), struct)


def _merge(*sources: tuple[str, Mapping[str, Any]]) -> tuple[Config, dict[str, str]]:
    settings = settings_by_name()
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for source, given in sources:
        read = _read_all(given, settings, source)
        values |= read
        origins |= dict.fromkeys(read, source)
    config: Config = msgspec.convert(_nest(values), Config)
    for name, problem in find_problems(config, settings, origins):
        origin = f"{origins[name]}: " if name in origins else ""
        raise ConfigError(f"{origin}{name}: {problem}")
    return _with_any_key(config), origins


def _with_any_key(config: Config) -> Config:
    """Add a key for servers on this machine if none is set: simulators and replays accept any."""
    urls = (config.stream_url, config.data_url, *(config.stream(n).stream_url for n in config.streams))
    named = list(filter(None, urls))
    if config.credentials or config.simulated or not all(map(is_loopback, named)):
        return config
    return msgspec.structs.replace(config, credentials=ANY_KEY)


# -- one source


def _read(path: Path) -> dict[str, Any]:
    """Return the settings in a file. Logs a warning if other users can change it, or read keys in it."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        _warn_of_others(path, bool(values.get("credentials")))
        return values
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def _warn_of_others(path: Path, has_keys: bool) -> None:
    """Log a warning if others can read the keys in a file, or change it: by its mode, or as its owner.

    Who can change it can set `data_url`, and so send the keys elsewhere, also those that are not in it. In
    a file without keys, this user's primary group does not count as others.
    """
    found = path.stat()
    others = stat.S_IRWXO if not has_keys and found.st_gid == os.getgid() else stat.S_IRWXG | stat.S_IRWXO
    able = {
        "read": has_keys and found.st_mode & others & (stat.S_IRGRP | stat.S_IROTH),
        "change": found.st_mode & others & (stat.S_IWGRP | stat.S_IWOTH),
    }
    what = " and ".join(name for name, bits in able.items() if bits)
    if what and has_keys:
        log.warning("%s has keys, and other users can %s it: chmod 600 %s", path, what, path)
    elif what:
        log.warning(
            "%s decides where keys are sent, and other users can change it: chmod go-w %s", path, path
        )
    if has_keys and found.st_uid not in (0, os.getuid()):
        log.warning("%s has keys, and belongs to another user: chown %s %s", path, os.getuid(), path)


def _from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the settings in environment variables, by dotted names; empty variables are ignored."""
    named = {each.variable: each.name for each in settings_by_name().values()}
    found = {}
    for variable, text in environ.items():
        if text and (variable in named or variable.startswith(ENV_PREFIX)):
            spelled = variable.removeprefix(ENV_PREFIX).lower().replace("__", ".")
            found[named.get(variable, spelled)] = text
    return found


def _read_all(values: Mapping[str, Any], settings: Mapping[str, Setting], source: str) -> dict[str, Any]:
    """Return each setting in `values` by its dotted name. Raises `ConfigError` that names `source`."""
    try:
        return dict(_flatten(values, settings))
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def _flatten(
    values: Mapping[str, Any], settings: Mapping[str, Setting], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Yield dotted names and values. An empty value in a stream's section means the stream's default."""
    for key, value in values.items():
        name = prefix + key
        setting = settings.get(name)
        parent = settings.get(name.rpartition(".")[0])
        if setting is not None and setting.section in STREAMS and value in ("", [], (), {}):
            continue
        if setting is not None and not (setting.kind == "table" and isinstance(value, Mapping)):
            yield name, setting.read(value)
        elif parent is not None:  # an entry of a table
            yield parent.read_entry(name.rpartition(".")[2], value)
        elif isinstance(value, Mapping) and any(f"{each}.".startswith(f"{name}.") for each in settings):
            yield from _flatten(value, settings, name + ".")
        else:
            raise ConfigError(_unknown(name, settings))


def _unknown(name: str, settings: Mapping[str, Setting]) -> str:
    """Return the error text for an unknown setting: what is like its first part that is unknown."""
    prefix = ""
    for key in name.split("."):
        known = dict.fromkeys(
            each.removeprefix(prefix).partition(".")[0] for each in settings if each.startswith(prefix)
        )
        if key not in known:
            break
        prefix += f"{key}."
    else:
        return f"{name} is a section: set one of its settings, such as {name}.{_first(name, settings)}"
    return f"unknown setting {name}; {suggest(key, known)}"


def _first(section: str, settings: Mapping[str, Setting]) -> str:
    return next(each.key for each in settings.values() if each.section == section)


def _nest(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping by dotted names as nested sections."""
    nested: dict[str, Any] = {}
    for name, value in values.items():
        *sections, key = name.split(".")
        target = nested
        for section in sections:
            target = target.setdefault(section, {})
        target[key] = value
    return nested
