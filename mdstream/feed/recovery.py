"""Find the batches that a killed feed received and did not commit.

Slabs describe themselves, and the feed's counters say which batch was committed last. So its successor
knows exactly which payloads to commit. Payloads that the killed feed had not read from its socket are lost,
as with any lost connection.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from mdstream.errors import NoRunError
from mdstream.frames.rundir import read_description, slabs_path, state_path
from mdstream.handoff.slab import RESULT_SUFFIX, Slab, SlabState
from mdstream.store.journal import journal_path
from mdstream.store.journal_writer import JournalWriter
from mdstream.streams.spec import PayloadKind
from mdstream.telemetry.state import FeedState


class Leftovers(NamedTuple):
    """What a killed feed left in the folder of its slabs."""

    pending: list[Slab]
    """Slabs with payloads to commit, in order."""
    free: list[Slab]
    """The other slabs."""
    incomplete: list[Path]
    """Results, and slabs that were not created to their end."""

    @property
    def payloads(self) -> int:
        return sum(slab.entries for slab in self.pending)

    def remove_incomplete(self) -> None:
        """Remove the incomplete files, so that a new feed can create its own."""
        for path in self.incomplete:
            path.unlink()


def find(folder: Path, stream: str, state: FeedState) -> Leftovers:
    """Return the slabs of `stream` in `folder`, and the incomplete files. Changes nothing."""
    pending: list[Slab] = []
    free: list[Slab] = []
    incomplete = list(folder.glob(f"{stream}-*{RESULT_SUFFIX}"))
    for path in sorted({*folder.glob(f"{stream}-*")} - {*incomplete}):
        try:
            slab = Slab.open(path)
        except ValueError:
            incomplete.append(path)  # the feed was killed while it created this slab
            continue
        unfinished = slab.state is not SlabState.FREE and slab.sequence > state["sequence"]
        (pending if unfinished and slab.entries else free).append(slab)
    pending.sort(key=lambda slab: slab.sequence)
    return Leftovers(pending, free, incomplete)


def settle(state: FeedState, pending: list[Slab]) -> None:
    """Set the counters of received payloads to the committed plus the pending ones."""
    done = state.read_committed()
    tables = [slab.table[: slab.entries] for slab in pending]
    streamed = [table[table["kind"] <= PayloadKind.MSGPACK] for table in tables]
    bodies = [
        table[(table["kind"] > PayloadKind.MSGPACK) & (table["kind"] < PayloadKind.MARK)]
        for table in tables
    ]
    state["payloads_received"] = done["payloads_committed"] + sum(map(len, streamed))
    state["bytes_received"] = done["bytes_committed"] + sum(int(t["length"].sum()) for t in streamed)
    state["fetch_payloads_received"] = done["fetch_payloads_committed"] + sum(map(len, bodies))


def journal_leftovers(run: Path) -> int:
    """Write what the killed feeds of a dead run left to its journal, if it has one; return the payloads."""
    facts, payloads = read_description(run), 0
    for stream in facts.get("streams", ()) if facts.get("journal") else ():
        try:
            left = find(slabs_path(run), stream, FeedState(state_path(run, stream)))
        except (FileNotFoundError, NoRunError):  # killed before it started, or of another version
            continue
        if left.pending:
            writer = JournalWriter(journal_path(facts["journal"], facts["run"], stream))
            for slab in left.pending:
                writer.write(slab, slab.sequence)
            writer.close()
            payloads += left.payloads
    return payloads
