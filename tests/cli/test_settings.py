"""`mdstream settings` prints the settings in effect as TOML, with the source of each value."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mdstream.cli.app import app
from mdstream.cli.settings import as_toml
from mdstream.config import Config
from mdstream.settings import describe_settings, from_mapping, load, load_with_origins


def show(*arguments: str, **environ: str) -> str:
    cleared = [name for name in os.environ if name.startswith(("APCA_", "MDSTREAM_"))]
    env = {**dict.fromkeys(cleared, ""), **environ}
    done = CliRunner().invoke(app, ["settings", *arguments], env=env)
    assert done.exit_code == 0, done.stderr
    return done.stdout


def test_all_settings_are_printed_and_mean_the_same_when_read_again(tmp_path: Path) -> None:
    file = tmp_path / "m.toml"
    file.write_text(show())
    assert load(file, {}) == from_mapping(tomllib.loads(file.read_text()))
    again, defaults = load(file, {}), Config()
    for stream in defaults.streams:
        assert again.stream(stream) == defaults.stream(stream)
    assert again.fetch == defaults.fetch
    text = file.read_text()
    for each in describe_settings():
        assert f"\n{each.key} = " in text or f"\n# {each.key}: " in text
        assert each.description.split(".")[0][:60] in text


def test_each_value_says_where_it_came_from(tmp_path: Path) -> None:
    file = tmp_path / "m.toml"
    file.write_text("workers = 3\nduration = 1\n[stocks]\nmute_after_s = { quotes = 5 }\n")
    flags = ("--duration", "7", "--symbols", "stocks=AAPL")
    text = show(
        "--config", str(file), *flags, MDSTREAM_FETCH__ATTEMPTS="9", MDSTREAM_DURATION="2", COLUMNS="300"
    )
    for line in (
        "duration = 7.0  # command line, --duration; default: 0.0",
        "attempts = 9  # environment, MDSTREAM_FETCH__ATTEMPTS; default: 5",
        "timeout_s = 10.0  # default",
    ):
        assert f"\n{line}\n" in text
    shown = " ".join(text.replace("\n# ", "\n").split())
    for value, default in (("workers = 3", '"auto"'), ("mute_after_s = {quotes = 5.0}", "{}")):
        source = f"{file}; default: {default}"  # beside the value, or above it if the path is long
        assert f"{value} # {source}" in shown or f"Source: {source} {value}" in shown
    assert 'Source: command line, --symbols; default: ["AAPL", "MSFT", "NVDA"' in shown
    assert '"QQQ"] symbols = ["AAPL"]' in shown


def test_only_what_was_changed_is_shown_if_so_wanted() -> None:
    text = show("--changed", "--workers", "0", MDSTREAM_LOG__LEVEL="debug")
    assert tomllib.loads(text) == {"workers": 0, "log": {"level": "debug"}}
    assert tomllib.loads(show("--changed")) == {}


def test_keys_are_never_shown() -> None:
    text = show(APCA_API_KEY_ID="hidden-id", APCA_API_SECRET_KEY="hidden-secret")
    assert "hidden" not in text
    assert "# key_id: set, not shown (environment, APCA_API_KEY_ID)" in text
    config, origins = load_with_origins(None, {"APCA_API_KEY_ID": "a", "APCA_API_SECRET_KEY": "b"})
    assert "credentials" not in tomllib.loads(as_toml(config, origins))


@pytest.mark.parametrize("value", [123, ["hidden"]])
def test_a_key_that_is_not_a_string_is_refused_without_it(value: object) -> None:
    with pytest.raises(
        Exception, match=r"settings: credentials\.key_id: the value is not a string"
    ) as caught:
        from_mapping({"credentials": {"key_id": value}})
    assert str(value) not in str(caught.value)


def test_what_is_wrong_is_refused_as_a_run_would() -> None:
    done = CliRunner().invoke(app, ["settings", "--workers", "1000"])
    assert done.exit_code == 2
    assert "command line: workers: 1000 is above the maximum of 256" in done.stderr


@pytest.mark.parametrize(
    ("columns", "width"), [({}, 80), ({"COLUMNS": "60"}, 60), ({"COLUMNS": "200"}, 100)]
)
def test_lines_fit_the_columns_of_the_output(columns: dict[str, str], width: int, tmp_path: Path) -> None:
    symbols = [f"S{number}" for number in range(200)]
    text = show("--symbols", f"stocks={','.join(symbols)}", **columns)
    assert tomllib.loads(text)["stocks"]["symbols"] == symbols
    wide = [line for line in text.splitlines() if len(line) > width]
    assert not [line for line in wide if " " in line.removeprefix("# ")], "only a single word may be longer"
    if width >= 80:
        assert not wide
