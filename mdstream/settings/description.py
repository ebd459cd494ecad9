"""All settings of a run, as their fields declare them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from mdstream.config import Config
from mdstream.settings.setting import ENV_PREFIX, Setting, describe
from mdstream.streams import STREAMS


@functools.cache
def describe_settings() -> tuple[Setting, ...]:
    """Return each setting of a run: first those without a section, then section by section.

    What depends on the stream (feeds, channels, defaults) comes from the registry of streams.
    """
    defaults = Config()
    found = []
    for each in describe(Config, _choices):
        variable = each.variable or ENV_PREFIX + each.name.upper().replace(".", "__")
        default = value_of(defaults, each.name)
        found.append(dataclasses.replace(each, default=default, variable=variable))
    return tuple(found)


def value_of(config: Config, name: str) -> Any:
    """Return the value of a setting by its dotted name; for a stream, the value in effect."""
    section, _, key = name.rpartition(".")
    if section in STREAMS:
        return getattr(config.stream(section), key)
    return getattr(getattr(config, section) if section else config, key)


@functools.cache
def settings_by_name() -> Mapping[str, Setting]:
    """Return the settings of a run by their dotted names."""
    return {each.name: each for each in describe_settings()}


def _choices(name: str) -> Sequence[str]:
    """Return the allowed strings of setting `name` by the registry of streams; empty: any string."""
    section, _, key = name.partition(".")
    if section not in STREAMS:
        return ()
    spec = STREAMS[section]
    match key:
        case "feed":
            return tuple(spec.feeds)
        case "codec":
            return spec.codecs
        case "channels" | "mute_after_s":
            return spec.subscriptions
    return ()
