from __future__ import annotations

import itertools

import pytest

from mdstream.simulator.market import Market
from mdstream.streams import STREAMS


@pytest.mark.parametrize("stream", STREAMS)
def test_a_star_has_symbols_on_every_stream(stream: str) -> None:
    market = Market(stream, 1, {STREAMS[stream].subscriptions[0]: ("*",)})
    assert len(list(itertools.islice(market.messages(lambda: 1_700_000_000_000_000_000), 5))) == 5
