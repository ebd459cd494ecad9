"""Views: frames that readers compute from another frame at each call, under a name of their own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import NamedTuple

import polars as pl

from mdstream.reading.chains import build_chains
from mdstream.reading.revisions import keep_last_revision, split_by_symbol
from mdstream.streams import STREAMS
from mdstream.streams.spec import Kind, StreamSpec


class View(NamedTuple):
    """A view: the frame that it reads, and the function that computes it."""

    source: str
    """Name of the frame: a channel of the view's stream."""
    make: Callable[[pl.DataFrame], pl.DataFrame]


def list_views(spec: StreamSpec) -> Iterator[tuple[str, View]]:
    """Yield the views of a stream, each after its name."""
    if spec.chain:
        yield "chains", View(spec.latest_channel.name, build_chains)
    for channel in spec.channels:
        if channel.types and channel.revised_by:
            key, by = channel.identity, channel.revised_by
            yield "latest", View(channel.name, partial(keep_last_revision, key=key, by=by))
            if any(column.kind is Kind.SYMBOLS for column in channel.columns):
                yield "by_symbol", View(channel.name, partial(split_by_symbol, key=key, by=by))


_VIEWS = {f"{spec.name}.{name}": view for spec in STREAMS.values() for name, view in list_views(spec)}


def find_view(name: str) -> tuple[str, View] | None:
    """Return the full name of the frame behind view `name`, and the view; None if it is not a view."""
    view = _VIEWS.get(name)
    return None if view is None else (f"{name.partition('.')[0]}.{view.source}", view)


def list_views_of(frames: Collection[str]) -> set[str]:
    """Return the names of the views whose frames are among `frames`."""
    return {name for name, view in _VIEWS.items() if f"{name.partition('.')[0]}.{view.source}" in frames}
