"""Views: what readers make of a frame at the moment they ask, under a name of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import polars as pl

from mdstream.frames.layout import has_contracts, read_schema
from mdstream.reading import news
from mdstream.reading.chains import chains


class View(NamedTuple):
    """A view of a stream's frame `source`, as `make` makes it; some there are of option contracts only."""

    source: str
    make: Callable[[pl.DataFrame], pl.DataFrame]
    of_contracts: bool = False


_VIEWS = {
    "chains": View("latest", chains, of_contracts=True),
    "latest": View("articles", news.latest),
    "by_symbol": View("articles", news.by_symbol),
}


def view_of(frames: Path, name: str) -> tuple[str, View] | None:
    """The frame behind view `name`, and how it is made; None if `name` is none in the folder `frames`."""
    stream, _, channel = name.partition(".")
    view = _VIEWS.get(channel)
    if view is None or not stream or (frames / name / "head").exists():
        return None
    source = frames / f"{stream}.{view.source}"
    if not (source / "head").exists():
        return None
    if view.of_contracts and not has_contracts(read_schema(source)):
        return None
    return source.name, view


def views_in(frames: Path, names: set[str]) -> set[str]:
    """The names of the views of the frames `names`."""
    possible = {f"{name.partition('.')[0]}.{channel}" for name in names for channel in _VIEWS}
    return {name for name in possible if view_of(frames, name) is not None}
