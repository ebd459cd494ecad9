"""State that a worker keeps between tickets."""

from __future__ import annotations

from mdstream.frames.dictionary import DictionaryWriter
from mdstream.frames.rundir import RunDirectory, dictionary_path, slabs_path
from mdstream.handoff.slab import Slab
from mdstream.handoff.ticket import Ticket
from mdstream.streams import STREAMS
from workers import job


def test_slabs_that_the_feed_has_given_back_are_not_kept_mapped() -> None:
    with RunDirectory() as run:
        slabs = [Slab.create(slabs_path(run.path) / f"stocks-{i}", 4096) for i in range(3)]
        context = job.Context(str(run.path), "stocks")
        for slab in slabs[:2]:
            context.slab(str(slab.path))
        slabs[0].unlink()
        context.slab(str(slabs[2].path))
        assert list(context.slabs) == [str(slab.path) for slab in slabs[1:]]


def test_streams_that_share_a_process_do_not_cost_each_other_what_was_learned() -> None:
    with RunDirectory() as run:
        tickets = []
        for stream in ("stocks", "crypto"):
            slab = Slab.create(slabs_path(run.path) / f"{stream}-1", 4096)
            slab.begin(1)
            slab.seal()
            tickets.append(Ticket(str(run.path), stream, str(slab.path), 1))
            for name in STREAMS[stream].dictionaries:
                DictionaryWriter(dictionary_path(run.path, stream, name))
        for ticket in tickets:
            job.run(ticket)
        kept = dict(job._contexts)
        for ticket in tickets:
            job.run(ticket)
        assert len(kept) == 2
        assert all(job._contexts[key] is context for key, context in kept.items())
