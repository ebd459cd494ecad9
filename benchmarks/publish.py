"""`python -m benchmarks.publish FILE.json`: write the documents from records.

    FILE.json ─┬─► RESULTS.md               the tables of every benchmark, as in the terminal
               ├─► results/NAME.png         its picture
               ├─► results/index.html       both in one file
               └─► ../README.md, ../docs    the figures between their <!-- figures --> marks

Records of other machines are in results/elsewhere, one file per machine. Their sections follow the others,
with pictures results/elsewhere/MACHINE-NAME.png.

All figures come from the records.
"""

from __future__ import annotations

import argparse
import base64
import html
import importlib
import re
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import figures, pictures
from benchmarks.__main__ import NAMES
from benchmarks.harness import YARDSTICK, Record, findings, read

_HERE = Path(__file__).resolve().parent
_TABLE = re.compile(r"(<!-- figures -->\n)(.*?)(<!-- end -->)", re.DOTALL)
_MARK = re.compile(r"(<!-- figure (\w+) -->)(.*?)(<!-- end -->)", re.DOTALL)
DOCUMENTS = ("README.md", "docs/limits.md")
"""Documents with figures."""
_WIDTH = 118
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>mdstream: benchmarks</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #222; }}
body {{ margin: 2rem auto; max-width: 1200px; padding: 0 1rem; }}
h2 {{ margin-top: 2.5rem; }} img {{ max-width: 100%; }} p.where {{ color: #666; }}
table {{ border-collapse: collapse; font-size: 13px; margin: 1rem 0; }}
th, td {{ padding: 2px 10px; text-align: right; border-bottom: 1px solid #eee; }}
th:first-child, td:first-child {{ text-align: left; }}
</style></head><body><h1>Benchmarks</h1>
{sections}
</body></html>
"""


def group_by_benchmark(records: list[Record]) -> dict[str, list[Record]]:
    """Return the records by benchmark, in the order of `NAMES`."""
    found: dict[str, list[Record]] = {}
    for name in NAMES:
        mine = [r for r in records if r["benchmark"] == name and r["subject"] != YARDSTICK]
        if mine:
            found[name] = mine
    return found


def read_other_machines(folder: Path) -> dict[str, dict[str, list[Record]]]:
    """Return the records of other machines, by machine and benchmark."""
    return {path.stem: group_by_benchmark(read(path)) for path in sorted(folder.glob("elsewhere/*.json"))}


def flatten(others: Mapping[str, dict[str, list[Record]]]) -> list[Record]:
    """Return all records of other machines in a list."""
    return [r for theirs in others.values() for records in theirs.values() for r in records]


def render_results(
    found: dict[str, list[Record]], others: Mapping[str, dict[str, list[Record]]] | None = None
) -> str:
    """Return the text of RESULTS.md."""
    parts = [
        "# Results\n\n"
        + _wrap(
            "`make bench` writes this page from its measurements; each section gives time and machine. "
            "Figures are medians, with the range of all turns in brackets. [How we measure](README.md) "
            "explains the method and the results."
        ),
        *_sections(found, "results/"),
    ]
    for machine, theirs in (others or {}).items():
        parts.append(f"# On another machine: {machine}")
        parts += _sections(theirs, f"results/elsewhere/{machine}-")
    return "\n\n".join(parts) + "\n"


def _sections(found: dict[str, list[Record]], prefix: str) -> list[str]:
    """Return one section per benchmark; the pictures are at `prefix` and its name."""
    parts = []
    for name, records in found.items():
        parts.append(f"## {name}: {NAMES[name]}\n\n{_wrap(_describe_machines(records))}")
        if name in pictures.PICTURES:
            parts.append(f"![{name}]({prefix}{name}.png)")
        module = importlib.import_module(f"benchmarks.bench_{name}")
        parts += map(_wrap, findings(module, records))
        parts += [table.markdown() for table in module.tables(records)]
    return parts


def render_page(
    found: dict[str, list[Record]],
    drawn: dict[str, bytes],
    others: Mapping[str, dict[str, list[Record]]] | None = None,
) -> str:
    """Return a self-contained HTML page. Keys of `drawn` are NAME, or MACHINE-NAME for other machines."""
    sections = _render_html(found, drawn, "")
    for machine, theirs in (others or {}).items():
        sections.append(f"<h1>On another machine: {html.escape(machine)}</h1>")
        sections += _render_html(theirs, drawn, f"{machine}-")
    return _PAGE.format(sections="\n".join(sections))


def _render_html(found: dict[str, list[Record]], drawn: Mapping[str, bytes], prefix: str) -> list[str]:
    sections = []
    for name, records in found.items():
        where = html.escape(_describe_machines(records))
        lines = [f"<h2>{name}: {html.escape(NAMES[name])}</h2>", f'<p class="where">{where}</p>']
        if prefix + name in drawn:
            data = base64.b64encode(drawn[prefix + name]).decode()
            lines.append(f'<img alt="{prefix}{name}" src="data:image/png;base64,{data}">')
        module = importlib.import_module(f"benchmarks.bench_{name}")
        lines += [f"<p>{html.escape(each)}</p>" for each in findings(module, records)]
        for table in module.tables(records):
            rows = [_row("th", table.headings), *(_row("td", row) for row in table.rows)]
            title = html.escape(table.title)
            lines += [f"<h4>{title}</h4>", "<table>", *rows, "</table>"]
        sections.append("\n".join(lines))
    return sections


def insert_figures(text: str, records: list[Record]) -> str:
    """Return a document with its figures from the records. Raises `LookupError` if one is unknown."""
    text = _TABLE.sub(lambda m: f"{m[1]}{figures.render_table(records)}\n{m[3]}", text)
    return _MARK.sub(lambda m: f"{m[1]}{figures.render_figure(m[2], records)}{m[4]}", text)


def _wrap(text: str) -> str:
    return textwrap.fill(text, _WIDTH, break_long_words=False, break_on_hyphens=False)


def _row(tag: str, cells: Any) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(str(c))}</{tag}>" for c in cells) + "</tr>"


def _describe_machines(records: list[Record]) -> str:
    return "; ".join(dict.fromkeys(r["measured"] for r in records)) + "."


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.publish", description=__doc__)
    parser.add_argument("file", nargs="?", default=_HERE / "results" / "results.json", type=Path)
    path = parser.parse_args().file
    folder = _HERE / "results"
    try:
        records, others = read(path), read_other_machines(folder)
    except OSError as error:
        sys.exit(f"{error.filename}: {error.strerror}")
    except ValueError as error:
        sys.exit(str(error))
    found = group_by_benchmark(records)
    if missing := [name for name in NAMES if name not in found]:
        sys.exit(f"{path} lacks {', '.join(missing)}: documents need a whole run (make bench)")
    root, known = _HERE.parent, records + flatten(others)
    folder.mkdir(exist_ok=True)
    try:
        written = {root / name: insert_figures((root / name).read_text(), known) for name in DOCUMENTS}
    except LookupError as error:
        sys.exit(f"{path} is not from a whole run (--quick?): {error}")
    try:
        drawn = _draw(found, folder, "")
        for machine, theirs in others.items():
            drawn |= _draw(theirs, folder / "elsewhere", f"{machine}-")
    except ImportError as error:
        sys.exit(f"pictures need matplotlib ({error}): make .venv/.bench")
    (_HERE / "RESULTS.md").write_text(render_results(found, others))
    (folder / "index.html").write_text(render_page(found, drawn, others))
    for path, text in written.items():
        path.write_text(text)
    print(f"written: {_HERE / 'RESULTS.md'}, {folder / 'index.html'}, {len(drawn)} pictures")


def _draw(found: dict[str, list[Record]], folder: Path, prefix: str) -> dict[str, bytes]:
    """Write the pictures, and return them by prefix and name."""
    drawn = {}
    for name, records in found.items():
        picture = pictures.draw(name, records)
        if picture is not None:
            drawn[prefix + name] = picture
            (folder / f"{prefix}{name}.png").write_bytes(picture)
    return drawn


if __name__ == "__main__":
    main()
