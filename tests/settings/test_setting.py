"""The limits of a setting are declared once, on its field, and apply to values from every source."""

from __future__ import annotations

import re
import tempfile
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdstream.config import Config, SimulatorConfig, Struct, setting
from mdstream.errors import ConfigError
from mdstream.settings import Setting, describe, describe_settings, fill, load_with_origins
from mdstream.simulator.simulator_settings import SimulatorSettings
from mdstream.streams import STREAMS

SOURCES = ("file", "environment", "command line")
SERVED = [s for s in describe_settings() if s.section not in STREAMS.keys() - set(Config().streams)]
"""Settings of the default streams: a flag for any other stream is refused for that reason."""
NUMBERS = [s for s in SERVED if s.kind in ("number", "whole number")]
CHOSEN = [s for s in SERVED if s.choices and s.kind in ("string", "list")]


def load_value(source: str, each: Setting, value: Any) -> tuple[Config, dict[str, str]]:
    """Return the settings, with `value` from one source."""
    if source == "environment":
        text = ",".join(value) if isinstance(value, list) else str(value)
        return load_with_origins(None, {each.variable: text})
    if source == "command line":
        return load_with_origins(None, {}, {each.name: value})
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        text = repr(value).lower() if isinstance(value, bool) else repr(value)
        file.write((f"[{each.section}]\n" if each.section else "") + f"{each.key} = {text}\n")
        file.flush()
        return load_with_origins(file.name, {})


def get_value(config: Config, name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


@given(st.data(), st.sampled_from(NUMBERS), st.sampled_from(SOURCES))
def test_a_number_within_its_limits_is_taken_from_anywhere(data: Any, each: Setting, source: str) -> None:
    least = -1000 if each.least is None else each.least
    least = max(least, 4) if each.name == "fetch.budget_per_minute" else least
    most = 10_000 if each.most is None else each.most
    if each.kind == "whole number":
        value: Any = data.draw(st.integers(int(least), int(most)))
    else:
        value = data.draw(st.floats(least, most))
    config, origins = load_value(source, each, value)
    assert get_value(config, each.name) == value
    assert list(origins) == [each.name]


@given(st.data(), st.sampled_from(NUMBERS), st.sampled_from(SOURCES))
def test_a_number_beyond_its_limits_is_refused_from_anywhere(data: Any, each: Setting, source: str) -> None:
    bad = [st.sampled_from([float("nan"), float("inf"), float("-inf")])]
    if each.least is not None:
        bad.append(st.integers(-1000, int(each.least) - 1))
    if each.most is not None:
        bad.append(st.integers(int(each.most) + 1, 2**70))
    value = data.draw(st.one_of(bad))
    with pytest.raises(ConfigError) as caught:
        load_value(source, each, value)
    said = str(caught.value)
    assert said.split(": ")[1] == each.name
    assert said.startswith(f"{source}: ") or (source == "file" and ".toml: " in said)
    assert str(value) in said
    assert re.search("must be finite$|is below the minimum of|is above the maximum of", said)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("each", CHOSEN, ids=lambda s: s.name)
def test_a_text_that_is_not_among_the_choices_is_refused_from_anywhere(each: Setting, source: str) -> None:
    value = "magic" if each.kind == "string" else ["magic"]
    with pytest.raises(ConfigError, match=f"{each.name}: 'magic' is not one of {each.choices[0]}"):
        load_value(source, each, value)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("each", [s for s in SERVED if s.schemes], ids=lambda s: s.name)
def test_an_address_of_another_kind_is_refused_from_anywhere(each: Setting, source: str) -> None:
    with pytest.raises(ConfigError, match=f"{each.name}: 'ftp://x' must begin with {each.schemes[0]}"):
        load_value(source, each, "ftp://x")


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("each", [s for s in SERVED if s.kind == "yes or no"], ids=str)
def test_what_is_neither_true_nor_false_is_refused(each: Setting, source: str) -> None:
    assert get_value(load_value(source, each, True)[0], each.name) is True
    with pytest.raises(ConfigError, match=f"{each.name}: 'maybe' is neither true nor false"):
        load_value(source, each, "maybe")


def test_choices_may_be_in_any_case() -> None:
    assert load_with_origins(None, {"MDSTREAM_LOG__LEVEL": "DEBUG"})[0].log.level == "debug"


class Group(Struct, frozen=True):
    """An example group of settings."""

    size: Annotated[int, setting("How large.", unit="MB", ge=2, le=9, flag="--size")] = 4
    names: Annotated[tuple[str, ...], setting("Which.")] = ()


def test_a_field_says_all_there_is_to_say() -> None:
    size, names = describe(Group)
    assert (size.name, size.kind, size.default, size.unit) == ("size", "whole number", 4, "MB")
    assert (size.least, size.most, size.limits, size.flag) == (2, 9, "2 to 9", "--size")
    assert size.help == "How large. (MB; 2 to 9)"
    assert (names.kind, names.limits, names.help) == ("list", "", "Which.")


def test_the_embedded_simulator_and_the_command_have_the_same_limits() -> None:
    alone = {each.name: each for each in describe(SimulatorSettings)}
    for each in describe(SimulatorConfig):
        other = alone[each.name]
        assert (each.description, each.unit, each.limits) == (other.description, other.unit, other.limits)
        assert (each.flag, bool(other.flag)) == ("", True), "a run has no such flag"


def test_any_group_is_filled_with_the_same_errors() -> None:
    assert fill(Group, {"size": "3", "names": "a, b"}, "here") == Group(size=3, names=("a", "b"))
    for values, said in (
        ({"size": 1}, "here: size: 1 is below the minimum of 2"),
        ({"size": 10}, "here: size: 10 is above the maximum of 9"),
        ({"size": 2.5}, r"here: size: 2.5 is not a whole number \(2 to 9\)"),
        ({"size": True}, "here: size: True is not a whole number"),
        ({"names": 3}, "here: names: 3 is not a list of strings"),
        ({"sise": 3}, "here: unknown setting sise; did you mean 'size'"),
    ):
        with pytest.raises(ConfigError, match=said):
            fill(Group, values, "here")
