"""Fixtures of the tests of documents: one simulator and one engine for all examples."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

import mdstream
from tests.running import engine, settings, simulator, until

SHOWN = (
    "stocks.trades",
    "stocks.quotes",
    "stocks.latest",
    "crypto.books",
    "options.latest",
    "news.articles",
)
"""Frames whose rows the pages show."""


@pytest.fixture(scope="package")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[mdstream.Engine]:
    """Start a simulator and an engine on it; set environment variables so that the examples find them."""
    folder = tmp_path_factory.mktemp("engine")
    with simulator("--rate", "10") as sim, engine(settings(sim, folder, workers=0)) as live:
        known = {
            "MDSTREAM_STREAM_URL": sim.stream_url,
            "MDSTREAM_DATA_URL": sim.data_url,
            "MDSTREAM_REJECTS": str(folder),
            "MDSTREAM_FETCH__TIMEOUT_S": "60",  # the machine may be busy
            "MDSTREAM_WORKERS": "0",  # examples show the same without workers, and pools take time to start
            "MDSTREAM_BACKFILL__WORKERS": "0",
        }
        before = {name: os.environ.get(name) for name in known}
        os.environ.update(known)
        try:
            until(lambda: _has_rows(live), "rows in all frames that pages show")
            yield live
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})


def _has_rows(live: mdstream.Engine) -> bool:
    names = (
        "stocks.trades",
        "stocks.quotes",
        "stocks.latest",
        "crypto.books",
        "options.latest",
        "news.articles",
    )
    return all(name in live.frames and live.attachment.rows(name) for name in names)
