"""Stores in folders with unusual names: they work, or they are refused before anything is written."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import uvloop

import mdstream
from mdstream.errors import ConfigError
from mdstream.reading.attach import Attachment
from mdstream.recording.recorder import Recorder
from mdstream.store.export import export_file
from mdstream.store.folders import check_store
from tests.feed.test_pipeline import payloads
from tests.history.service import fill, serve
from tests.history.test_replacement import answer_at
from tests.piping import rig
from tests.recording.test_recorder import assert_recorded, make_store_config, mark_ended
from tests.running import HANGING_S

USED = [
    "my data",
    "josé",
    "日本",
    "a:b",
    "ha#sh",
    "qu?est",
    'quo"te',
    "it's",
    "b;c",
    "{x}+&$~<>",
    " lead",
    "*",
]
REFUSED = [
    "a=b",
    "per%cent",
    "pct%20x",
    "back\\slash",
    "data [2026]",
    "caret^",
    "pipe|",
    "new\nline",
    "tab\t",
]


@pytest.mark.parametrize("name", USED)
def test_history_is_stored_and_read_in_a_folder_of_any_usual_name(tmp_path: Path, name: str) -> None:
    store = tmp_path / name / "market"
    request = ("stocks.trades", ["AAPL", "MSFT"], "2026-01-05", "2026-01-06")
    with serve(answer_at([10.0])) as service:
        assert fill(service, store, *request).stored == 12
        assert mdstream.scan("stocks.trades", store).collect().height == 12
        asked = len(service.requests)
        assert fill(service, store, *request).stored == 0
        assert len(service.requests) == asked, "nothing is fetched again"
        assert fill(service, store, *request, refetch="2026-01-05").stored == 6
    assert mdstream.scan("stocks.trades", store, symbols="AAPL").collect().height == 6
    target = tmp_path / f"{name}.parquet"
    assert export_file(mdstream.scan("stocks.trades", store), target) == 12


@pytest.mark.parametrize("name", ["my data", "jo#sé?"])
def test_a_run_is_recorded_into_such_a_folder(tmp_path: Path, name: str) -> None:
    async def go() -> None:
        async with rig("crypto", 0, tmp_path / name) as r:
            at_work = asyncio.ensure_future(Recorder(r.run, make_store_config(tmp_path / name)).run())
            await r.feed(payloads("crypto", 400, 20))
            await r.drain()
            mark_ended(r.run)
            reported = await asyncio.wait_for(at_work, HANGING_S)
            assert assert_recorded(Attachment(r.run), tmp_path / name / "store") == reported.rows > 0

    (tmp_path / name).mkdir()
    uvloop.run(go())


@pytest.mark.parametrize("name", REFUSED)
def test_a_folder_that_no_table_can_be_in_is_refused_before_anything_happens(
    tmp_path: Path, name: str
) -> None:
    store = tmp_path / name
    with serve(answer_at([10.0])) as service:
        with pytest.raises(
            ConfigError, match=r"store: .* cannot hold Delta tables, because of the character"
        ):
            fill(service, store, "stocks.trades", "AAPL", "2026-01-05", "2026-01-06")
        assert not service.requests
    with pytest.raises(ConfigError, match="store: "):
        check_store(str(store))
    with pytest.raises(ConfigError, match="store: "):
        mdstream.scan("stocks.trades", store)
    assert not store.exists()
    (tmp_path / "usual").mkdir()
    store.symlink_to(tmp_path / "usual", target_is_directory=True)
    check_store(str(store))
