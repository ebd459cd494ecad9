"""An empty path is refused wherever people give one, and so is an address: Python takes them for folders."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import mdstream
from mdstream.cli.app import app
from mdstream.cli.flags import parse_path
from mdstream.errors import ConfigError
from mdstream.settings import Setting, describe, describe_settings, load
from mdstream.simulator.simulator_settings import SimulatorSettings

EMPTY = "the path is empty"
ADDRESS = "'s3:/bucket' is an address"
NO_OBJECT_STORE = "'s3:/bucket' is not the address of an object store; write s3://bucket/prefix"
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
PATHS = [each for each in (*describe_settings(), *describe(SimulatorSettings)) if each.is_path]
BACKFILL = ["backfill", "crypto.trades", "--symbols", "BTC/USD", "--start", "2026-01-05", "--end"]


@pytest.mark.parametrize("each", PATHS, ids=lambda each: each.name)
def test_a_setting_that_is_a_path_is_empty_only_if_that_is_its_default(each: Setting) -> None:
    if each.default:
        with pytest.raises(ConfigError, match=f"{each.name}: {EMPTY}"):
            each.read("")
    else:
        assert each.read("") == ""
    with pytest.raises(ConfigError, match=f"{each.name}: {EMPTY}"):
        each.read(" ")


def test_each_setting_that_is_about_a_file_or_folder_is_declared_as_a_path() -> None:
    words = ("folder", "file ", "pem ", "recorded day")
    named = [*describe_settings(), *describe(SimulatorSettings)]
    texts = [each for each in named if each.kind == "string" and not each.choices]
    found = {each.name for each in texts if each.description.lower().startswith(words)}
    assert found == {each.name for each in PATHS}


@pytest.mark.parametrize("each", PATHS, ids=lambda each: each.name)
def test_a_setting_that_is_a_path_is_no_address_but_that_of_a_store(each: Setting) -> None:
    with pytest.raises(ConfigError, match=f"{each.name}: {NO_OBJECT_STORE if each.is_store else ADDRESS}"):
        each.read("s3:/bucket")
    assert each.read("/tmp/a:b/c") == "/tmp/a:b/c"
    if each.is_store:
        assert each.read("s3://bucket/prefix") == "s3://bucket/prefix"
    else:
        with pytest.raises(ConfigError, match="is an address"):
            each.read("s3://bucket/prefix")


@pytest.mark.parametrize("path", ["", "  "])
def test_an_empty_store_in_a_file_of_settings_is_refused(path: str, tmp_path: Path) -> None:
    file = tmp_path / "m.toml"
    file.write_text(f'[store]\npath = "{path}"\n')
    with pytest.raises(ConfigError, match=f"m.toml: store.path: {EMPTY}"):
        load(file, {})


def test_functions_refuse_an_empty_path() -> None:
    calls = {
        "store": lambda: mdstream.scan("stocks.trades", ""),
        "directory": lambda: mdstream.attach(directory=""),
        "run": lambda: mdstream.attach(""),
        "settings file": lambda: mdstream.Engine(""),
    }
    for name, call in calls.items():
        with pytest.raises(ConfigError, match=f"^{name}: {EMPTY}"):
            call()
    with pytest.raises(ConfigError, match=f"^store: {EMPTY}"):
        mdstream.backfill("crypto.trades", "BTC/USD", "2026-01-05", "2026-01-05", store="")


@pytest.mark.parametrize("store", ["s3:/bucket", Path("s3://bucket"), "s3://", "S3:/bucket/x"])
def test_functions_refuse_a_store_that_only_looks_like_an_object_store(store: Any) -> None:
    with pytest.raises(ConfigError, match=r"^store: .* is not the address of an object store"):
        mdstream.scan("stocks.trades", store)
    with pytest.raises(ConfigError, match=r"^store: .* is an address; name a file or folder"):
        mdstream.backfill("crypto.trades", "BTC/USD", "2026-01-05", "2026-01-05", store=store)
    with pytest.raises(ConfigError, match=r"store\.path"):
        mdstream.Engine({"store": {"path": store}, "record": True})


@pytest.mark.parametrize("path", [5, None, b"s", ["s"]])
def test_functions_refuse_what_is_no_path(path: Any) -> None:
    with pytest.raises(ConfigError, match=r"^store: .* is not a path"):
        mdstream.scan("stocks.trades", path)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["export", "stocks.trades", "--to", "a.csv", "--store", "s3:/bucket"], NO_OBJECT_STORE),
        ([*BACKFILL, "2026-01-05", "--store", "s3:/bucket"], ADDRESS),
        (["record", "--store", "s3:/bucket"], NO_OBJECT_STORE),
        (["replay", "s3:/bucket"], NO_OBJECT_STORE),
        (["run", "--record", "--store", "s3:/bucket", "--duration", "1"], NO_OBJECT_STORE),
        (["run", "--journal", "s3:/bucket", "--duration", "1"], ADDRESS),
        (["settings", "--config", "s3:/bucket"], ADDRESS),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_commands_refuse_an_address_that_would_be_a_folder(
    arguments: list[str], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "300"})
    assert (done.exit_code, problem in done.stderr) == (2, True), done.stderr
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [
        ["export", "stocks.trades", "--to", "a.csv", "--store", ""],
        ["export", "stocks.trades", "--to", "", "--store", "s", "--nautilus"],
        [*BACKFILL, "2026-01-05", "--store", ""],
        [*BACKFILL, "2026-01-05", "--store", "s", "--symbols-file", ""],
        ["record", "--store", ""],
        ["record", "--run", ""],
        ["replay", ""],
        ["replay", "--journal", ""],
        ["report", ""],
        ["report", "a.json", "--out", ""],
        ["report", "--live", "--directory", ""],
        ["tail", "--directory", ""],
        ["tail", "--run", ""],
        ["run", "--store", "", "--duration", "1"],
        ["settings", "--config", ""],
        ["simulate", "--ticks", " "],
    ],
    ids=" ".join,
)
def test_commands_refuse_an_empty_path_and_leave_the_folder_as_it_is(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "300"})
    assert (done.exit_code, EMPTY in done.stderr) == (2, True), done.stderr
    assert not os.listdir(tmp_path)


def test_every_path_of_the_commands_is_read_by_the_rule() -> None:
    types = {parameter.type.name for command in COMMANDS.values() for parameter in command.params}
    assert parse_path.__name__ in types
    assert not types & {"path", "file", "directory", "Path"}
