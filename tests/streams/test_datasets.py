from __future__ import annotations

import pytest

from mdstream.errors import ConfigError
from mdstream.streams import STREAMS
from mdstream.streams.datasets import datasets, history_of, resolve_dataset


def test_every_dataset_has_a_channel_for_its_rows() -> None:
    for dataset in datasets():
        history, spec = history_of(dataset), STREAMS[dataset.partition(".")[0]]
        assert (history.rows or history.channel) in spec.by_name
        assert history.partition in ("date", "year")


def test_a_stream_with_one_dataset_goes_by_its_own_name() -> None:
    assert resolve_dataset("news") == "news.articles"
    assert resolve_dataset("stocks") == "stocks"
    assert history_of("news") is history_of("news.articles")


@pytest.mark.parametrize("name", ["stocks", "stocks.statuses", "options.quotes", "fx.trades", ""])
def test_what_has_no_history_is_refused_with_what_has(name: str) -> None:
    with pytest.raises(ConfigError, match=r"did you mean|choose from"):
        history_of(name)
