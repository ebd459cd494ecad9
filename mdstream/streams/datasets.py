"""Datasets: the channels with history, by name."""

from __future__ import annotations

from mdstream.errors import ConfigError, UnknownNameError
from mdstream.streams import STREAMS
from mdstream.streams.rest_spec import HistorySpec


def datasets() -> list[str]:
    """Return every dataset that can be fetched: `stocks.trades`, ..."""
    return [f"{spec.name}.{history.channel}" for spec in STREAMS.values() for history in spec.history]


def require_name(what: str, name: str) -> str:
    """Return `name`, that of a dataset or frame (`what`). Raises `ConfigError` if it is not a string."""
    if not isinstance(name, str):
        raise ConfigError(f"{what}: {name!r} is not a name, such as 'stocks.trades'")
    return name


def resolve_dataset(name: str) -> str:
    """Return the full name of a dataset. If a stream has only one, its own name will do, as `news`.

    Raises `ConfigError` if it is not a string.
    """
    require_name("dataset", name)
    every = [each for each in datasets() if each.startswith(f"{name}.")]
    return every[0] if len(every) == 1 else name


def history_of(dataset: str) -> HistorySpec:
    """Return how a dataset is fetched. Raises `UnknownNameError` if there is no such dataset."""
    stream, _, channel = resolve_dataset(dataset).partition(".")
    if spec := STREAMS.get(stream):
        for history in spec.history:
            if history.channel == channel:
                return history
    raise UnknownNameError.among(datasets(), dataset, f"no history of {dataset!r}")
