"""Settings declare their own flags, and the help of every command has an example."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from mdstream._version import __version__
from mdstream.cli.app import app
from mdstream.cli.backfill import split_options
from mdstream.cli.flags import Given, add_flags, run_settings, stream_settings
from mdstream.errors import ConfigError
from mdstream.settings import Setting, describe_settings, load

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def find_option(command: str, flag: str) -> Any:
    [found] = [p for p in COMMANDS[command].params if flag in p.opts]
    return found


@pytest.mark.parametrize("command", ["run", "settings"])
@pytest.mark.parametrize("each", run_settings(), ids=lambda each: each.name)
def test_a_flag_says_what_its_setting_means_and_may_be(command: str, each: Setting) -> None:
    text = find_option(command, each.flag).help
    assert each.description in text
    assert each.limits in text


@pytest.mark.parametrize("each", [s for s in describe_settings() if s.section == "backfill" and s.flag])
def test_a_backfill_has_the_flags_of_its_section(each: Setting) -> None:
    assert find_option("backfill", each.flag).help.startswith(each.help)
    assert find_option("backfill", each.flag).default is None, "a flag has no default"


def test_each_flag_of_the_description_is_there() -> None:
    for each in describe_settings():
        if each.flag:
            name = "backfill" if each.section == "backfill" else "run"
            assert find_option(name, each.flag) is not None


def test_what_is_not_given_is_not_passed_on() -> None:
    command, seen = typer.Typer(), list[Given]()

    @command.command()
    @add_flags(*(s for s in describe_settings() if s.name in ("workers", "log.json", "record")))
    def act(given: Given, name: str) -> None:
        seen.append({**given, "name": name})

    runner = CliRunner()
    assert runner.invoke(command, ["x"]).exit_code == 0
    assert runner.invoke(command, ["x", "--workers", "3", "--no-record", "--log-json"]).exit_code == 0
    assert seen == [{"name": "x"}, {"name": "x", "workers": "3", "record": False, "log.json": True}]
    assert load(environ={"MDSTREAM_RECORD": "true"}, flags={"record": False}).record is False


def test_symbols_and_feeds_are_settings_of_their_stream() -> None:
    assert stream_settings(["stocks=A,B", "crypto=BTC/USD", "stocks=C"], ["stocks=sip"]) == {
        "stocks.symbols": "A,B,C",
        "crypto.symbols": "BTC/USD",
        "stocks.feed": "sip",
    }
    for text in ("AAPL", "bonds=A", "stocks=", "stocks=,"):
        with pytest.raises(
            ConfigError, match=r"--symbols .*: write STREAM=VALUE with STREAM one of stocks"
        ):
            stream_settings([text], None)


def test_a_stream_has_one_data_feed() -> None:
    with pytest.raises(ConfigError, match="--feed stocks=iex: given 2 times for stocks"):
        stream_settings(None, ["stocks=sip", "crypto=us", "stocks=iex"])


def test_a_backfill_distinguishes_options_from_settings() -> None:
    options, settings = split_options({"priority": "A,B", "feed": "sip", "backfill.workers": "3"})
    assert options == {"priority": "A,B", "feed": "sip"}
    assert load(environ={}, flags=settings).backfill_settings.workers == 3


def test_a_command_loads_only_what_it_needs() -> None:
    code = (
        "import sys; from mdstream.cli import main\n"
        "try: main()\n"
        "finally: print(sorted(m for m in sys.modules if m in ('numpy', 'pyarrow', 'polars') or 'cli.' in m))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "doctor", "--unknown"], capture_output=True, text=True, check=False
    )
    loaded = "['mdstream.cli.app', 'mdstream.cli.doctor', 'mdstream.cli.flags', 'mdstream.cli.output']\n"
    assert done.stdout == loaded, "the command line must load no other, to start fast"


def test_the_version_is_one_line() -> None:
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.stdout) == (0, f"mdstream {__version__}\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_teaches_by_an_example(name: str) -> None:
    command = COMMANDS[name]
    assert command.epilog.startswith(f"Example: mdstream {name}")
    done = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "120"})
    assert done.exit_code == 0
    assert f"Example: mdstream {name}" in done.stdout
    for parameter in command.params:
        assert parameter.help or parameter.opts == ["--help"], f"{name} {parameter.opts} has no help"


@pytest.mark.parametrize(
    ("arguments", "flag", "follows"),
    [
        (["backfill", "stocks.trades", "--refetch", "--start", "2026-01-05"], "--refetch", "--start"),
        (["export", "stocks.trades", "--to", "--store", "x"], "--to", "--store"),
        (["run", "--duration", "--no-record"], "--duration", "--no-record"),
        (["export", "stocks.trades", "--force", "--to", "--store=x"], "--to", "--store=x"),
    ],
)
def test_a_forgotten_value_is_not_the_next_option(arguments: list[str], flag: str, follows: str) -> None:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert f"Invalid value for {flag}: its value is missing; {follows} follows" in done.output


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        (["backfill", "stocks.trades", "--symbols", "AAPL", "--symbols", "MSFT"], "--symbols"),
        (["run", "--streams", "stocks", "--streams=crypto"], "--streams"),
        (["tail", "-n", "5", "stocks.trades", "--rows", "6"], "--rows"),
        (["export", "--store=a", "stocks.trades", "--store", "a"], "--store"),
    ],
)
def test_no_value_is_lost_because_an_option_is_given_twice(arguments: list[str], flag: str) -> None:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert f"Invalid value for {flag}: given 2 times; several values are A,B,C" in done.output


def test_options_with_several_values_and_switches_may_be_repeated() -> None:
    flags = [
        "--symbols",
        "stocks=A",
        "--symbols",
        "crypto=B",
        "--record",
        "--no-record",
        "--streams",
        "none",
    ]
    done = CliRunner().invoke(app, ["run", *flags])
    assert done.exit_code == 2
    assert "given 2 times" not in done.output
    assert "none" in done.output


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_one_kind_of_placeholder(name: str) -> None:
    for parameter in COMMANDS[name].params:
        if not getattr(parameter, "is_flag", False):
            assert parameter.metavar, f"{name} {parameter.name}: the help would show the type"
            assert parameter.metavar != "TEXT", f"{name} {parameter.name}: say what it is"


@pytest.mark.parametrize("name", COMMANDS)
def test_only_what_a_file_may_switch_on_can_be_switched_off(name: str) -> None:
    settings = {each.flag for each in run_settings()}
    for parameter in COMMANDS[name].params:
        if getattr(parameter, "is_flag", False):
            [flag] = parameter.opts
            negative = [flag.replace("--", "--no-", 1)] if flag in settings else []
            assert parameter.secondary_opts == negative, f"{name} {flag}"
