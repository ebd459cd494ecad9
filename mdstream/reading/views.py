"""Views: what readers make of a frame at the moment they ask, under a name of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import polars as pl

from mdstream.reading import revisions
from mdstream.reading.chains import chains
from mdstream.streams import STREAMS
from mdstream.streams.spec import Kind, StreamSpec


class View(NamedTuple):
    """A view of a stream's frame `source`, as `make` makes it."""

    source: str
    make: Callable[[pl.DataFrame], pl.DataFrame]


def views_of(spec: StreamSpec) -> Iterator[tuple[str, View]]:
    """Yield the views of a stream by name, as its declaration gives rise to them."""
    if spec.chain:
        yield "chains", View(spec.latest_channel.name, chains)
    for channel in spec.channels:
        if channel.types and channel.revised_by:
            key, by = channel.identity, channel.revised_by
            yield "latest", View(channel.name, partial(revisions.latest, key=key, by=by))
            if any(column.kind is Kind.SYMBOLS for column in channel.columns):
                yield "by_symbol", View(channel.name, partial(revisions.by_symbol, key=key, by=by))


_VIEWS = {f"{spec.name}.{name}": view for spec in STREAMS.values() for name, view in views_of(spec)}


def view_of(frames: Path, name: str) -> tuple[str, View] | None:
    """Return the frame behind view `name`, and how it is made; None if the folder has no such view."""
    view = _VIEWS.get(name)
    if view is None:
        return None
    source = f"{name.partition('.')[0]}.{view.source}"
    return (source, view) if (frames / source / "head").exists() else None


def views_in(frames: Path) -> set[str]:
    """Return the names of the views of what is in the folder `frames`."""
    return {name for name in _VIEWS if view_of(frames, name) is not None}
