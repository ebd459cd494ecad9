"""A backfill works with any executor."""

from __future__ import annotations

import asyncio
import os
import pickle
import shutil
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

import pytest
import uvloop

from mdstream import scan
from mdstream.errors import NoWorkersError
from mdstream.handoff.page_ticket import JoinReceipt, JoinTicket, PageReceipt, PageTicket
from mdstream.history.backfill import Backfill
from mdstream.history.executor import PageExecutor, PagePool
from mdstream.history.request import make_request
from mdstream.settings import from_mapping
from mdstream.simulator.server import Simulator
from mdstream.simulator.simulator_settings import SimulatorSettings
from workers import history


class OtherMachine:
    """An executor with its own folder: it takes pickled tickets, and returns pickled receipts and files."""

    most_jobs = 2

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tickets = 0
        self.is_open = False

    async def __aenter__(self) -> OtherMachine:
        self.is_open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.is_open = False

    async def stage(self, ticket: PageTicket) -> PageReceipt:
        there = self._map_path(ticket.path)
        receipt: PageReceipt = self._do(history.stage, ticket._replace(path=str(there)))
        if receipt.rows:
            self._move_back(there, ticket.path)
        return receipt

    async def join(self, ticket: JoinTicket) -> JoinReceipt:
        paths, into = [self._map_path(path) for path in ticket.paths], self._map_path(ticket.into)
        for here, there in zip(ticket.paths, paths, strict=True):
            shutil.copy(here, there)
        receipt: JoinReceipt = self._do(
            history.join, ticket._replace(paths=tuple(map(str, paths)), into=str(into))
        )
        self._move_back(into, ticket.into)
        return receipt

    def _do(self, job, ticket):  # type: ignore[no-untyped-def]
        assert self.is_open
        self.tickets += 1
        return pickle.loads(pickle.dumps(job(pickle.loads(pickle.dumps(ticket)))))

    def _map_path(self, path: str) -> Path:
        there = self.folder / path.lstrip("/")
        there.parent.mkdir(parents=True, exist_ok=True)
        return there

    def _move_back(self, there: Path, here: str) -> None:
        Path(here).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(there, f"{here}.partial")
        os.rename(f"{here}.partial", here)
        there.unlink()


async def fill(store: Path, executor: PageExecutor) -> Backfill:
    async with Simulator(SimulatorSettings(port=0, rate_limit=100_000, latency_ms=0)) as simulator:
        config = from_mapping(
            {
                "data_url": simulator.data_url,
                "stream_url": simulator.stream_url,
                "credentials": {"key_id": "k", "secret_key": "s"},
            }
        )
        request = make_request(
            "stocks.trades", ["AAPL", "MSFT"], "2026-01-05T06:00", "2026-01-05T10:00", now=datetime.now(UTC)
        )
        work = Backfill(request, store, config.backfill_settings, executor)
        async with asyncio.timeout(100):
            await work.run()
        assert work.status.complete
        return work


def test_a_backfill_by_workers_with_files_of_their_own_is_that_of_the_local_pool(tmp_path: Path) -> None:
    elsewhere = OtherMachine(tmp_path / "elsewhere")
    work = uvloop.run(fill(tmp_path / "a", elsewhere))
    assert elsewhere.tickets == work.status.pages + work.status.files
    assert not elsewhere.is_open
    uvloop.run(fill(tmp_path / "b", PagePool(0)))
    one, two = (scan("stocks.trades", tmp_path / name).drop("recv_ts").collect() for name in "ab")
    assert one.height == work.status.rows > 10_000
    assert one.sort(one.columns).equals(two.sort(two.columns))


def test_workers_that_cannot_be_had_any_more_end_it_and_the_next_run_goes_on(tmp_path: Path) -> None:
    class Dead(OtherMachine):
        async def stage(self, ticket: PageTicket) -> PageReceipt:
            self.tickets += 1
            raise NoWorkersError("workers die as they start")

    dead = Dead(tmp_path / "elsewhere")
    with pytest.raises(NoWorkersError, match="die as they start"):
        uvloop.run(fill(tmp_path / "store", dead))
    assert dead.tickets <= 2, "the first error ends the backfill, after at most one ticket per symbol"
    assert uvloop.run(fill(tmp_path / "store", PagePool(0))).status.complete


def test_an_executor_is_not_started_where_nothing_is_to_be_fetched(tmp_path: Path) -> None:
    uvloop.run(fill(tmp_path / "store", PagePool(0)))
    idle = OtherMachine(tmp_path / "elsewhere")
    work = uvloop.run(fill(tmp_path / "store", idle))
    assert (idle.tickets, work.status.already) == (0, 2)
