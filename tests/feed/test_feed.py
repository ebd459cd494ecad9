from __future__ import annotations

import asyncio
import multiprocessing
import os
import pickle
import struct
import threading
import time
from collections.abc import Sequence
from typing import Any

import uvloop

from mdstream.feed.feed import Feed
from tests.running import HANGING_S


def test_a_supervisor_that_is_gone_stops_the_feed() -> None:
    async def go() -> None:
        theirs, ours = multiprocessing.Pipe()
        feed = Feed.__new__(Feed)
        feed._pipe, feed._stop = ours, asyncio.Event()
        listener = threading.Thread(target=feed._listen, args=(asyncio.get_running_loop(),))
        listener.start()
        theirs.close()
        await asyncio.wait_for(feed._stop.wait(), HANGING_S)
        await asyncio.to_thread(listener.join)
        ours.close()

    asyncio.run(go())


def test_a_command_that_arrives_in_parts_is_not_taken_for_the_end_of_the_supervisor() -> None:
    commands: list[tuple[Any, ...]] = []

    class Noting(Feed):
        def _resubscribe(self, action: str, channels: Sequence[str], symbols: Sequence[str]) -> None:
            commands.append((action, list(channels), list(symbols)))

    async def go() -> None:
        theirs, ours = multiprocessing.Pipe()
        feed = Noting.__new__(Noting)
        feed._pipe, feed._stop = ours, asyncio.Event()
        loop = asyncio.get_running_loop()
        listener = threading.Thread(target=feed._listen, args=(loop,))
        listener.start()
        body = pickle.dumps(("subscribe", ["trades"], ["AAPL", "MSFT"]))
        data = struct.pack("!i", len(body)) + body
        os.write(theirs.fileno(), data[:20])
        rest = loop.run_in_executor(None, lambda: (time.sleep(0.1), os.write(theirs.fileno(), data[20:])))
        while not commands and not feed._stop.is_set():
            await asyncio.sleep(0.01)
        await rest
        assert not feed._stop.is_set()
        theirs.close()
        await asyncio.to_thread(listener.join)
        ours.close()

    uvloop.run(go())
    assert commands == [("subscribe", ["trades"], ["AAPL", "MSFT"])]
