"""Commit: append a worker's result to the frames, in the order of the stream.

    receipt + result area ─► codes for new texts ─► rows to each frame ─► latest ─► bars ─► counters
                                                        each once, even if the feed is killed in between

1. New texts get the next codes, which replace the provisional codes in the columns.
2. Each frame gets its rows, and stores the batch's sequence with them (`frames.head`).
3. The keyed frames of last values and order books are updated.
4. The partials join the bars; bars that have ended become rows too.
5. Rejects become rows of the frame `<stream>.rejects`, and lines of a file.
6. The feed's counters change all at once, and with them the batch counts as committed.

After a kill, the next feed commits again every batch that did not reach step 6. Frames that have its rows
skip them.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mdstream.errors import DecompressionError, NoSpaceError
from mdstream.feed.accounts import Accounts
from mdstream.feed.bars import BarFrames
from mdstream.feed.batch_log import BatchLog
from mdstream.feed.books import Books
from mdstream.feed.codes import Codes, Dictionaries, resolve_codes
from mdstream.feed.latest import Latest
from mdstream.frames.builders import Builders
from mdstream.frames.direct_path import DirectPath, MakeDirectPath, Targets
from mdstream.frames.rundir import frame_path
from mdstream.frames.share import Share
from mdstream.frames.writer import FrameWriter, Limits
from mdstream.handoff.columns import PARTIAL, ColumnData, ResultArea, Shape, read_part
from mdstream.handoff.compression import Compression, decompress
from mdstream.handoff.rejects import RejectRow, make_columns, read_rows, reject_row
from mdstream.handoff.slab import Slab
from mdstream.handoff.ticket import Part, Receipt, Reject
from mdstream.limits import LARGEST_REJECTS
from mdstream.store.rejects import RejectFile
from mdstream.streams.books import book_channel
from mdstream.streams.spec import REJECTS, SYMBOLS, PayloadKind, StreamSpec
from mdstream.system.clock import Span, receipts
from mdstream.telemetry.state import LENGTHS, FeedState

log = logging.getLogger(__name__)

_REJECTS_BYTES = 64 * 1024 * 1024
"""Most bytes of a frame of rejects: a flood of them must not take the room of rows."""

Rows = Mapping[str, Sequence[ColumnData]]
"""Channel → columns of a batch's rows."""


class Committer:
    """The writer of everything that readers of a stream see. Used only in the feed's process."""

    # In shared memory; written only here.
    state: FeedState
    frames: dict[str, FrameWriter]
    """Channel → frame of rows: of the wire, of REST, bars, and rejects."""
    _dictionaries: Dictionaries
    _latest: Latest | None
    _books: Books | None
    _bars: BarFrames | None
    _accounts: Accounts
    _direct: DirectPath | None
    """The way of usual batches, if the feed decodes them itself."""
    # On disk.
    rejects: RejectFile

    def __init__(
        self,
        run: Path,
        spec: StreamSpec,
        state: FeedState,
        limits: Limits,
        rejects: RejectFile,
        builders: Builders,
        make_direct: MakeDirectPath,
    ) -> None:
        self.state = state
        self.rejects = rejects
        self._spec = spec
        self._shapes = {channel.name: Shape(channel) for channel in (*spec.channels, REJECTS)}
        self._share = share = Share(limits.together)
        self._dictionaries = Dictionaries(run, spec)

        def folder(name: str) -> Path:
            return frame_path(run, f"{spec.name}.{name}")

        self.frames = {
            channel.name: FrameWriter(folder(channel.name), channel.columns, limits, share)
            for channel in (*spec.received_channels, *spec.built_bars)
        }
        few = replace(limits, retention=min(limits.retention, _REJECTS_BYTES))
        self.frames[REJECTS.name] = FrameWriter(folder(REJECTS.name), REJECTS.columns, few, share)
        self._latest = Latest(folder("latest"), spec, share) if spec.latest else None
        self._books = self._bars = None
        if (levels := book_channel(spec)) is not None:
            ladders = builders.make_ladders(state["levels_dropped"])
            self._books = Books(folder("books"), levels, share, ladders)
        if spec.bar_rules is not None:
            self._bars = BarFrames(spec, self.frames, state, builders, self._dictionaries.text)
        log = BatchLog(frame_path(run, f"telemetry.batches@{spec.name}"), limits, share, state)
        self._accounts = Accounts(spec, state, self.frames, log)
        self._make_direct = partial(
            make_direct,
            run,
            spec,
            Targets(
                self.frames,
                self._latest.frame if self._latest is not None else None,
                self._latest.aspects if self._latest is not None else {},
                self._books.targets if self._books is not None else None,
                self._bars.builder if self._bars is not None else None,
                self._bars.finish_joined if self._bars is not None else _no_bars,
                self._accounts.counters(self._bars),
                state.histograms["latency"],
                state.histograms["feed_delay"],
                log.rows,
                log.waiting,
            ),
        )
        self._direct = self._make_direct()
        self._untracked_before = state["updates_untracked"]

    @property
    def has_direct_path(self) -> bool:
        """Whether usual batches may be committed in one call."""
        return self._direct is not None

    def use_kernels(self) -> None:
        """Take the direct path from the next batch on, if there is one: kernels are loaded by now."""
        self._direct = self._make_direct()

    @property
    def received(self) -> Collection[str]:
        """All symbols that messages and bodies were committed of."""
        return self._dictionaries.codes(SYMBOLS).keys()

    # -- a batch, in the order of the steps above

    def fits(self, receipt: Receipt) -> bool:
        """Return whether the dictionaries have room for the new texts. If not, decode the batch again."""
        return self._dictionaries.fit(receipt)

    def commit(self, slab: Slab, receipt: Receipt, span: Span) -> None:
        """Commit one batch, whose payloads were received within `span`.

        Raises `NoSpaceError` if shared memory is full. The batch does not count as committed then; the next
        attempt skips the rows that are already in frames.
        """
        area = _open_result_file(receipt.result_file) if receipt.result_file else slab.result
        codes = self._dictionaries.add(receipt)
        rows = {part.channel: self._read(area, part, codes) for part in receipt.parts}
        rejects = rows.pop(REJECTS.name, None)
        for name, columns in rows.items():
            self.frames[name].append(columns, receipt.sequence)
        self._update_latest(area, receipt, rows)
        if self._books is not None:
            self._update_books(self._books, area, receipt, codes)
        offset, count = receipt.partials
        if self._bars is not None and count:
            partials = np.frombuffer(area.memory, PARTIAL, count, offset).copy()
            counts = {name: len(columns[0].values) for name, columns in rows.items()}
            amendments = self._bars.find_amendments(rows)
            self._bars.join(receipt.sequence, partials, codes, counts, amendments)
        if rejects is not None:
            self._keep_rejects(receipt.sequence, rejects)
        self._count(slab, receipt, span)
        self.discard(receipt)

    def commit_directly(self, slab: Slab, sequence: int, span: Span) -> int | None:
        """Decode and commit a batch that no worker has, in the order of the steps above.

        Return the CPU time (ns). Return None, and nothing has happened, if it must take the usual way.
        Raises `NoSpaceError` as `commit`; then, too, it must.
        """
        direct = self._direct
        return direct.commit(slab, sequence, span.submitted) if direct and span.is_steady else None

    def commit_alone(
        self, slab: Slab, sequence: int, payload: bytes, kind: PayloadKind, recv_ns: int
    ) -> int | None:
        """Put a payload into a free slab, and commit it directly. Raises `HalfDoneError`."""
        direct = self._direct
        return direct.commit_alone(slab, sequence, payload, kind, recv_ns) if direct else None

    def discard(self, receipt: Receipt) -> None:
        """Remove the result file, if the result did not fit into its slab."""
        if receipt.result_file:
            Path(receipt.result_file).unlink(missing_ok=True)

    def quarantine(self, slab: Slab, sequence: int, reason: str, span: Span) -> None:
        """Keep all payloads of a batch with the rejects, and count each as one rejected message."""
        kinds = slab.table["kind"][: slab.entries]
        is_payload = kinds < PayloadKind.MARK
        slab.table["messages"][: slab.entries] = is_payload
        rejects = [_reject_payload(slab, index, reason) for index in np.flatnonzero(is_payload).tolist()]
        from_stream = int((kinds <= PayloadKind.MSGPACK).sum())
        now = time.monotonic_ns()
        messages = from_stream, len(rejects) - from_stream
        receipt = Receipt(sequence, 0, now, now, 0, messages=messages, rejected=messages)
        if rejects:
            self._keep_rejects(sequence, make_columns(rejects))
        if self._bars is not None:
            self._bars.mark_lost_batch(receipts.now())
        if self._books is not None:
            self._books.lose()
            self._books.retract()
        self._count(slab, receipt, span, quarantined=1)

    # -- bars

    @property
    def committed_rows(self) -> dict[str, int]:
        """Committed rows of each channel that bars are made of."""
        rules = self._spec.bar_rules
        if rules is None:
            return {}
        done = self.state.read_committed()
        return {name: done[c] for c, name in zip(LENGTHS, rules.sources, strict=True) if name}

    def restore_bars(self, partials: bytes) -> None:
        """Restore the open bars of a killed predecessor."""
        if self._bars is not None:
            self._bars.restore(partials, self.committed_rows)

    @property
    def bars_wait(self) -> bool:
        """Whether there are open bars, which may need the clock to close."""
        return self._bars is not None and self._bars.is_open

    # -- room, and the end

    def evict(self) -> None:
        """Drop the oldest chunk of the largest frame to make room."""
        self._share.drop()

    def flush(self) -> None:
        """Publish counts and write waiting telemetry, as far as there is room."""
        untracked = sum(frame.untracked for frame in (self._latest, self._books) if frame is not None)
        self.state["updates_untracked"] = self._untracked_before + untracked
        if self._books is not None:
            self.state["levels_dropped"] = self._books.dropped
        self.state["rejects_lost"] = self.rejects.lost
        self._accounts.log.flush()

    def close(self) -> None:
        """Publish the open bars and close every frame, at the regular end of the stream.

        Raises `NoSpaceError` if shared memory is full; call it again later.
        """
        if self._bars is not None:
            self._bars.finish()
        self.flush()
        for frame in (*self.frames.values(), self._accounts.log, self._latest, self._books):
            if frame is not None:
                frame.close()

    # -- the steps

    def _count(self, slab: Slab, receipt: Receipt, span: Span, quarantined: int = 0) -> None:
        self._accounts.count(slab, receipt, span, quarantined)
        if self._direct is not None:
            self._direct.forget()

    def _read(self, area: ResultArea, part: Part, codes: Codes) -> list[ColumnData]:
        """Return the columns of a part, with provisional codes replaced."""
        columns = read_part(area, self._shapes[part.channel], part)
        if codes and part.channel != REJECTS.name:
            resolve_codes(self._spec.by_name[part.channel], columns, codes)
        return columns

    def _update_latest(self, area: ResultArea, receipt: Receipt, rows: Rows) -> None:
        for name, (offset, count) in receipt.newest.items():
            assert self._latest is not None, "only streams with last values have newest rows"
            newest = np.frombuffer(area.memory, np.int64, count, offset)
            self._latest.update(self._spec.by_name[name], rows[name], newest)

    def _update_books(self, books: Books, area: ResultArea, receipt: Receipt, codes: Codes) -> None:
        lost: set[int] = set()
        if (losses := receipt.book_losses) is not None:
            known = self._dictionaries.codes(SYMBOLS)  # without a code, there is no book
            lost = {known[symbol] for symbol in losses.symbols if symbol in known}
            books.lose(None if losses.every else lost)
        if receipt.books is not None:
            levels = self._read(area, receipt.books, codes)
            books.update(levels, self._dictionaries.texts(books.sides), lost)
        if losses is not None:
            books.retract()

    def _keep_rejects(self, sequence: int, rejects: Sequence[ColumnData]) -> None:
        """Keep the rejects of a batch on disk and in their frame; a repeated commit skips them.

        The batch does not wait for room in the frame: what finds none is only on disk.
        """
        frame = self.frames[REJECTS.name]
        if frame.head.has(sequence):
            return
        self.rejects.keep(list(read_rows(rejects)))
        try:
            frame.append(rejects, sequence)
        except NoSpaceError as error:
            log.warning(
                "%s.rejects: no room for %d rows, which are only in %s: %s",
                self._spec.name,
                len(rejects[0].values),
                self.rejects.path,
                error,
            )


def _no_bars(sequence: int, partials: Any, firsts: Sequence[int], trades: int) -> None:
    raise AssertionError("this stream has no bars")


def _open_result_file(path: str) -> ResultArea:
    """Map a result file."""
    with open(path, "rb") as file:
        return ResultArea(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))


def _reject_payload(slab: Slab, index: int, reason: str) -> RejectRow:
    """Return a payload as one reject: decompressed, or as it is if it cannot be."""
    entry, data = slab.table[index], bytes(slab.payload(index))
    with contextlib.suppress(DecompressionError):
        data = bytes(decompress(data, Compression(int(entry["compression"])), LARGEST_REJECTS))
    return reject_row(PayloadKind(int(entry["kind"])), Reject(0, -1, reason, data), int(entry["recv_ns"]))
