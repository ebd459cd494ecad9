"""Tables that fit a terminal: columns are dropped, least important first, and no number is cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich import box
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table


class Field(NamedTuple):
    """A column: its heading, its cells, and when to drop it (highest first, 0: never)."""

    heading: str
    cells: Sequence[RenderableType]
    dispensable: int = 0
    justify: str = "right"


def fit(fields: Sequence[Field], width: int, console: Console, expand: bool = False) -> Table:
    """Return a table of as many of `fields` as fit into `width` characters."""
    kept = list(fields)
    while True:
        table = _table(kept, expand=False)
        needed = Measurement.get(console, console.options.update(width=500), table).maximum
        if needed <= width or not any(field.dispensable for field in kept):
            return _table(kept, expand)
        kept.remove(max(kept, key=lambda field: field.dispensable))


def _table(fields: Sequence[Field], expand: bool) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD, expand=expand, padding=(0, 1), collapse_padding=True, show_edge=False
    )
    for field in fields:
        table.add_column(field.heading, justify=field.justify, no_wrap=True)  # type: ignore[arg-type]
    for row in zip(*(field.cells for field in fields), strict=True):
        table.add_row(*row)
    return table
