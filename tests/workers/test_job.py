"""What a worker keeps between tickets."""

from __future__ import annotations

from mdstream.frames.rundir import RunDirectory, slab_path
from mdstream.handoff.slab import Slab
from workers import job


def test_slabs_that_the_feed_has_given_back_are_not_kept_mapped() -> None:
    with RunDirectory() as run:
        slabs = [Slab.create(slab_path(run.path, f"stocks-{i}"), 4096) for i in range(3)]
        context = job._Context(str(run.path), "stocks")
        for slab in slabs[:2]:
            context.slab(slab.path.name)
        slabs[0].unlink()
        context.slab(slabs[2].path.name)
        assert list(context.slabs) == ["stocks-1", "stocks-2"]
