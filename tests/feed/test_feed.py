from __future__ import annotations

import asyncio
import multiprocessing
import os
import pickle
import struct
import time
from collections.abc import Sequence
from typing import Any

import uvloop

from mdstream.feed.feed import Feed


def test_a_supervisor_that_is_gone_is_noticed_once_and_costs_no_further_turns_of_the_loop() -> None:
    turns = 0

    class Counted(Feed):
        def _command(self) -> None:
            nonlocal turns
            turns += 1
            super()._command()

    async def go() -> None:
        theirs, ours = multiprocessing.Pipe()
        feed = Counted.__new__(Counted)
        feed._pipe, feed._stop = ours, asyncio.Event()
        asyncio.get_running_loop().add_reader(ours.fileno(), feed._command)
        theirs.close()
        await asyncio.wait_for(feed._stop.wait(), 10)
        await asyncio.sleep(0.05)
        ours.close()

    asyncio.run(go())
    assert turns == 1


def test_a_command_that_arrives_in_parts_is_not_taken_for_the_end_of_the_supervisor() -> None:
    commands: list[tuple[Any, ...]] = []

    class Noting(Feed):
        def _resubscribe(self, action: str, channels: Sequence[str], symbols: Sequence[str]) -> None:
            commands.append((action, list(channels), list(symbols)))

    async def go() -> None:
        theirs, ours = multiprocessing.Pipe()
        feed = Noting.__new__(Noting)
        feed._pipe, feed._stop = ours, asyncio.Event()
        feed._watch_commands()
        body = pickle.dumps(("subscribe", ["trades"], ["AAPL", "MSFT"]))
        data = struct.pack("!i", len(body)) + body
        os.write(theirs.fileno(), data[:20])
        loop = asyncio.get_running_loop()
        rest = loop.run_in_executor(None, lambda: (time.sleep(0.1), os.write(theirs.fileno(), data[20:])))
        while not commands and not feed._stop.is_set():
            await asyncio.sleep(0.01)
        await rest
        assert not feed._stop.is_set()
        loop.remove_reader(ours.fileno())
        theirs.close()
        ours.close()

    uvloop.run(go())
    assert commands == [("subscribe", ["trades"], ["AAPL", "MSFT"])]
