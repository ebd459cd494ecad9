"""A journal as a source: every payload byte for byte, whatever the subscription."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from mdstream.errors import ConfigError
from mdstream.simulator.encode import ENCODINGS
from mdstream.simulator.generator import Message
from mdstream.simulator.source import RecordedPayload
from mdstream.store.journal import Hole, read_entries
from mdstream.streams import STREAMS
from mdstream.streams.spec import PayloadKind

log = logging.getLogger(__name__)

_A_SLICE = 10_000
_ENCODINGS = {PayloadKind.JSON: ENCODINGS["json"], PayloadKind.MSGPACK: ENCODINGS["msgpack"]}


class RecordedPayloads:
    """The payloads of `streams` in a run's folder, which has a journal for each stream."""

    def __init__(self, run: Path, streams: Sequence[str]) -> None:
        self._run = run
        self._holes = set[tuple[str, Hole]]()
        self.streams = [name for name in streams if list((run / name).glob("*.mdj*"))]
        if not self.streams:
            known = sorted(path.name for path in run.iterdir()) if run.is_dir() else []
            raise ConfigError(
                f"no journal of these streams in {run}" + (f"; there is {', '.join(known)}" * bool(known))
            )
        firsts = [next(self._entries(name), None) for name in self.streams]
        self.first = min((first[0] for first in firsts if first is not None), default=0)

    def slices(
        self, stream: str, subscription: Mapping[str, Sequence[str]]
    ) -> Iterator[list[tuple[int, Message | RecordedPayload]]]:
        """Yield all payloads of the stream, each with its receive time."""
        found: list[tuple[int, Message | RecordedPayload]] = []
        for each in self._entries(stream) if stream in self.streams else ():
            found.append(each)
            if len(found) >= _A_SLICE:
                yield found
                found = []
        if found:
            yield found

    def state(self, stream: str, symbols: Sequence[str]) -> dict[str, Message]:
        """Return empty states: REST bodies are in the journal, but not served."""
        return {symbol: {} for symbol in symbols}

    def chain(self, underlying: str) -> list[str]:
        """Return no contracts: a client of a replayed journal has to name them."""
        return []

    def _entries(self, stream: str) -> Iterator[tuple[int, RecordedPayload]]:
        for entry in read_entries(self._run / stream, partial(self._report_hole, stream)):
            if (encoding := _ENCODINGS.get(entry.kind)) is not None:
                yield entry.recv_ns, RecordedPayload(encoding.wrap(entry.payload))

    def _report_hole(self, stream: str, hole: Hole) -> None:
        """Log a hole, once however often the journal is read."""
        if (stream, hole) in self._holes:
            return
        self._holes.add((stream, hole))
        after = (
            datetime.fromtimestamp(hole.after_ns / 1e9, UTC).isoformat() if hole.after_ns else "its start"
        )
        log.warning(
            "%s: the journal lacks %d batches after %s, which could not be written or were removed; the "
            "replay leaves them out",
            stream,
            hole.batches,
            after,
        )


def newest_run(folder: Path) -> Path:
    """Return the newest run in a folder of journals, or the folder itself if it is a run."""
    if not folder.is_dir():
        raise ConfigError(f"--journal {folder}: no such folder")
    if any((folder / name).is_dir() for name in STREAMS):
        return folder
    runs = sorted(path for path in folder.iterdir() if path.is_dir())
    if not runs:
        raise ConfigError(f"--journal {folder}: it has no journal")
    return runs[-1]
