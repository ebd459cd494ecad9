"""What the log says of rows that pages repeat."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.history.service import bar, fill, serve

TIME = "2026-01-05T15:00:00Z"


@pytest.mark.cases("I4")
@pytest.mark.parametrize(("other", "is_said"), [(11.0, True), (10.0, False)])
def test_bars_that_differ_from_the_first_of_their_start_are_reported(
    other: float, is_said: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    body = {"bars": {"AAPL": [bar(TIME, 10.0), bar(TIME, other)]}, "next_page_token": None}
    with serve(lambda path, query: body) as service:
        done = fill(service, tmp_path, "stocks.bars", "AAPL", TIME, "2026-01-05T15:01:00Z")
    assert (done.stored, done.repeated) == (1, 1)
    assert ("whose values differ from the first, which is kept: 1" in caplog.text) is is_said
