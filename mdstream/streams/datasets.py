"""Datasets: the channels whose past the service has, by name."""

from __future__ import annotations

from mdstream.errors import ConfigError
from mdstream.streams import STREAMS
from mdstream.streams.rest_spec import History


def datasets() -> list[str]:
    """Every dataset that can be fetched: `stocks.trades`, ..."""
    return [f"{spec.name}.{history.channel}" for spec in STREAMS.values() for history in spec.history]


def resolve_dataset(name: str) -> str:
    """The dataset that is meant: a stream that has but one goes by the stream's name, too, as `news`."""
    every = [each for each in datasets() if each.startswith(f"{name}.")]
    return every[0] if len(every) == 1 else name


def history_of(dataset: str) -> History:
    """How a dataset is fetched. Raises `ConfigError` for one that is none."""
    stream, _, channel = resolve_dataset(dataset).partition(".")
    if spec := STREAMS.get(stream):
        for history in spec.history:
            if history.channel == channel:
                return history
    raise ConfigError(f"no history of {dataset!r}; there is that of {', '.join(datasets())}")
