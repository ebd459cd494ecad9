"""The generated parts of the documentation are complete, or their generation fails."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import polars as pl
import pytest
import typer

import mdstream
from docs.generate import GENERATORS, api, exit_codes, frames, live_view, meanings
from docs.generate.markdown import plain, table
from mdstream.cli.app import app
from mdstream.config import Config
from mdstream.errors import Exit
from tests.docs.documents import PAGES, ROOT
from tests.running import until


def test_every_generated_part_is_in_exactly_one_page() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in PAGES if path.parent.name == "docs")
    assert sorted(re.findall(r"^<!-- generate ([\w-]+) -->$", text, re.MULTILINE)) == sorted(GENERATORS)


@pytest.mark.parametrize("name", GENERATORS)
def test_a_generated_part_is_made_of_whole_tables(name: str) -> None:
    text = GENERATORS[name]()
    widths = set()
    for line in text.splitlines():
        cells = re.split(r"(?<!\\)\|", line.strip())
        if not line.strip().startswith("|"):
            widths.clear()
            continue
        widths.add(len(cells))
        assert len(widths) == 1, line


def test_every_setting_is_described() -> None:
    text = GENERATORS["settings"]()
    for field in msgspec.structs.fields(Config):
        inner = msgspec.structs.fields(field.type) if hasattr(field.type, "__struct_fields__") else (field,)
        for each in inner:
            assert f"`{each.name}`" in text, f"{field.name}: {each.name}"


def test_every_command_and_flag_is_described() -> None:
    text = GENERATORS["commands"]()
    group = typer.main.get_command(app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        section = text.split(f"## mdstream {name}\n")[1].partition("\n## ")[0]
        for parameter in command.params:
            if parameter.name != "help" and parameter.param_type_name == "option":
                assert f"`{parameter.opts[0]}`" in section, f"{name} {parameter.opts[0]}"


def test_the_help_of_the_command_names_the_documents(capsys: pytest.CaptureFixture[str]) -> None:
    app(["--help"], prog_name="mdstream", standalone_mode=False)
    assert "make docs" in capsys.readouterr().out


def test_every_exit_code_is_described() -> None:
    text = exit_codes.render()
    assert [int(code) for code in re.findall(r"^\| `(\d+)` \| \S", text, re.MULTILINE)] == [*map(int, Exit)]


def test_everything_exported_is_in_the_api(monkeypatch: pytest.MonkeyPatch) -> None:
    assert api.render().count("\n::: ") == len(mdstream.__all__) - 1
    monkeypatch.setattr(mdstream, "__all__", [*mdstream.__all__, "another"])
    with pytest.raises(ValueError, match=r"differ: \['another'\]"):
        api.render()


def test_a_column_without_a_meaning_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(meanings.MEANINGS, "tape")
    with pytest.raises(ValueError, match=r"column tape of frame stocks.trades has no meaning"):
        frames.render()


def test_a_meaning_without_a_column_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(meanings.MEANINGS, "nonsense", meanings.Meaning("None."))
    with pytest.raises(ValueError, match=r"do not exist: \['nonsense'\]"):
        frames.render()


def test_a_table_refuses_rows_of_another_length() -> None:
    assert table(("a", "b"), [("1|2", plain("*x*"))]).splitlines()[2] == r"| 1\|2 | \*x\* |"
    with pytest.raises(ValueError, match="1 cells under 2 headings"):
        table(("a", "b"), [("1",)])


def test_frames_have_the_columns_and_types_that_are_described(running: mdstream.Engine) -> None:
    described = {frame.name: frame for frame in frames.frames()}
    assert set(running.frames) <= set(described)
    for name in running.frames:
        seen = running.frame(name)
        assert [(c.name, _plain(c.type)) for c in described[name].columns] == [
            (column, _plain(kind)) for column, kind in seen.schema.items()
        ], name


def _plain(kind: pl.DataType) -> str:
    if isinstance(kind, pl.List):
        return f"List({_plain(kind.inner)})"  # type: ignore[arg-type]
    return "Categorical" if isinstance(kind, pl.Categorical) else str(kind)


def test_nulls_are_only_where_the_description_allows_them(running: mdstream.Engine) -> None:
    for frame in frames.frames():
        if frame.name in running.frames:
            seen = running.frame(frame.name)
            for column in frame.columns:
                assert column.nullable or not seen[column.name].null_count(), (frame.name, column.name)


def test_the_picture_of_the_live_view_is_of_a_real_run_and_loads_nothing(running: mdstream.Engine) -> None:
    until(lambda: running.frame("telemetry.streams").height, "a sample of the streams")
    svg = live_view.picture(live_view.view(running.attachment))
    kept = (ROOT / "docs" / "images" / "live.svg").read_text(encoding="utf-8")
    for each in (svg, kept):
        assert "url(http" not in each
        assert all(word in each for word in ("stocks", "options", "crypto", "news", "streaming"))
    assert Path(ROOT / "docs" / "images" / "live.svg").stat().st_size < 50_000
