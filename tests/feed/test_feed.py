from __future__ import annotations

import asyncio
import multiprocessing

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
