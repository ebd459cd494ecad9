"""The description of the settings is complete, and includes the settings of each registered stream."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import msgspec
import pytest

from mdstream.config import Config
from mdstream.settings import Setting, describe_settings, from_mapping
from mdstream.streams import STREAMS


def find_leaves(values: dict[str, Any], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for name, value in values.items():
        found |= (
            find_leaves(value, f"{prefix}{name}.") if value and isinstance(value, dict) else {prefix + name}
        )
    return found


def test_each_setting_is_described_once() -> None:
    names = [each.name for each in describe_settings()]
    assert len(names) == len(set(names))
    assert set(names) == find_leaves(msgspec.to_builtins(Config()))


@pytest.mark.parametrize("each", describe_settings(), ids=lambda each: each.name)
def test_a_description_says_what_a_setting_means_and_may_be(each: Setting) -> None:
    assert each.description.endswith(".")
    assert each.description[0].isupper()
    assert each.variable == each.variable.upper()
    if each.kind == "number":
        assert each.unit, "a number has a unit"
    if each.kind == "table":
        assert each.choices
    if each.name.partition(".")[0] != "credentials":
        assert each.default is None or from_mapping({each.name: each.default}) is not None


def test_the_streams_own_defaults_are_those_of_the_registry() -> None:
    found = {each.name: each for each in describe_settings()}
    for name, spec in STREAMS.items():
        assert found[f"{name}.feed"].default == spec.default_feed
        assert found[f"{name}.feed"].choices == tuple(spec.feeds)
        assert found[f"{name}.symbols"].default == spec.symbols
        assert found[f"{name}.channels"].choices == spec.subscriptions


def test_a_stream_needs_no_line_among_the_settings() -> None:
    code = """
import dataclasses, pickle, mdstream.streams
crypto = mdstream.streams.STREAMS["crypto"]
swaps = dataclasses.replace(crypto, name="swaps", symbols=("BTC-PERP",), is_default=False)
mdstream.streams.STREAMS["swaps"] = swaps
from mdstream.settings import load, describe_settings
assert load(environ={}).streams == ("stocks", "options", "crypto", "news")
assert load(environ={}).stream("swaps").symbols == ("BTC-PERP",)
config = load(environ={"MDSTREAM_SWAPS__SYMBOLS": "ETH-PERP"}, flags={"streams": ["swaps", "news"]})
assert config.stream("swaps").symbols == ("ETH-PERP",)
assert pickle.loads(pickle.dumps(config)) == config
assert "swaps.feed" in [each.name for each in describe_settings()]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
