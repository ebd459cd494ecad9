"""Committing: what a worker made of a batch goes to the ends of the frames, in the stream's order.

    receipt + result area ─► codes for new texts ─► rows to each frame ─► latest ─► bars ─► counters
                                                        each once, also when the feed is killed in between

1. Texts that had no code get the next ones, and the provisional codes in the columns are replaced.
2. Each frame takes its rows, and remembers the batch's number with them (`frames.head`).
3. The keyed frame of last values takes each symbol's newest rows.
4. The partials join the bars; bars that have ended become rows too.
5. Rejects are kept on disk with their payload and reason.
6. The feed's counters change all at once, and with them the batch counts as committed.

A feed that takes the place of a killed one commits the batches that step 6 has not reached once more:
frames that have them already skip them.
"""

from __future__ import annotations

import logging
import mmap
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mdstream.errors import NoSpaceError, UnpackingError
from mdstream.feed.books import Books
from mdstream.feed.latest import Latest
from mdstream.frames.bar_builder import BarBuilder, MakeBars, Published
from mdstream.frames.columns import FrameColumns
from mdstream.frames.dictionary import DictionaryWriter
from mdstream.frames.rundir import dictionary_path, frame_path, slab_path
from mdstream.frames.share import Share
from mdstream.frames.writer import FrameWriter, Limits
from mdstream.handoff.columns import (
    PARTIAL,
    ColumnData,
    PartialKind,
    ResultArea,
    Shape,
    concatenate,
    read_part,
)
from mdstream.handoff.packing import Packing, unpack
from mdstream.handoff.slab import Slab
from mdstream.handoff.ticket import Part, Receipt, Reject, Stretch
from mdstream.store.rejects import LIMIT_BYTES, RejectFile
from mdstream.streams.books import book_channel
from mdstream.streams.spec import CODED, SYMBOLS, Channel, Column, Kind, PayloadKind, StreamSpec
from mdstream.streams.storage import DICTIONARY_LIMIT, DTYPE, PROVISIONAL
from mdstream.telemetry.histogram import bucket_of
from mdstream.telemetry.schema import BATCHES
from mdstream.telemetry.state import LENGTHS, FeedState

log = logging.getLogger(__name__)

_TELEMETRY_ROWS = 256
"""Rows of `telemetry.batches` that are written together."""
_TELEMETRY_WAITING = 4096
"""Rows of it that may wait for room in shared memory; then the oldest go."""

Codes = dict[str, npt.NDArray[np.uint32]]
"""Dictionary → codes of a batch's new texts, in the batch's order."""


class Committer:
    """Everything one feed writes for readers. Lives in the feed's process alone."""

    # The mutable state: the frames, dictionaries and counters in shared memory; bars that are open;
    # the rows that the last batch, and the end, made of them; rows of telemetry that wait to be
    # written together.

    def __init__(
        self,
        run: Path,
        spec: StreamSpec,
        state: FeedState,
        limits: Limits,
        rejects: RejectFile,
        make_bars: MakeBars,
    ) -> None:
        self.state = state
        self.rejects = rejects
        self._shapes = {channel.name: Shape(channel) for channel in spec.channels}
        self._run = run
        self._spec = spec
        self.dictionaries = {
            name: DictionaryWriter(dictionary_path(run, spec.name, name)) for name in spec.dictionaries
        }
        self._most_texts = {
            column.dictionary: DICTIONARY_LIMIT[column.kind]
            for channel in spec.channels
            for column in channel.columns
            if column.kind in CODED
        }
        share = self._share = Share(limits.together)
        self.frames = {
            channel.name: FrameWriter(
                frame_path(run, f"{spec.name}.{channel.name}"), channel.columns, limits, share
            )
            for channel in (*spec.framed, *spec.built_bars)
        }
        path = frame_path(run, f"{spec.name}.latest")
        self._latest = Latest(path, spec, share) if spec.latest else None
        self._books: Books | None = None
        if (books := book_channel(spec)) is not None:
            self._books = Books(frame_path(run, f"{spec.name}.books"), books, share)
        self._bars: BarBuilder | None = None
        if spec.bar_rules:
            names = (spec.bar_rules.trades, *(channel.name for channel in spec.built_bars))
            frames = {name: FrameColumns(self.frames[name]) for name in names}
            self._bars = make_bars(spec, frames, self._text)
        self._before = {
            name: state[name]
            for name in ("bars_late_trades", "bars_unmatched", "levels_dropped", "updates_untracked")
        }
        self._joined = 0
        self._joined_rows: Published = {}
        self._last_bars: Published = {}
        self._telemetry = FrameWriter(
            frame_path(run, f"telemetry.batches@{spec.name}"), BATCHES.columns, limits, share
        )
        self._measured: list[tuple[int, ...]] = []

    # -- a batch, in the order of the steps above

    def fits(self, receipt: Receipt) -> bool:
        """Whether the dictionaries have room for a batch's new texts. If not, it is to be decoded once
        more: batches before it brought others, which its worker could not know.
        """
        return all(
            self.dictionaries[name].size_with(texts) <= self._most_texts[name]
            for name, texts in receipt.new.items()
        )

    def evict(self) -> None:
        """Drop what is oldest of the largest frame: something else finds no room."""
        self._share.drop()

    def discard(self, receipt: Receipt) -> None:
        """What a worker made of a batch, if it had not room in its slab, goes."""
        if receipt.spill:
            slab_path(self._run, receipt.spill).unlink(missing_ok=True)

    def commit(self, slab: Slab, receipt: Receipt, submit_ns: int) -> None:
        """Commit one batch. Raises `NoSpaceError` where shared memory is full; the batch then does not
        count as committed, and what was published of it is skipped when it is committed again.
        """
        spilled = self._open_spill(receipt)
        area = slab.result if spilled is None else ResultArea(memoryview(spilled))
        codes = {
            name: np.array(self.dictionaries[name].add(texts), np.uint32)
            for name, texts in receipt.new.items()
        }
        rows = {}
        for part in receipt.parts:
            channel = self._spec.by_name[part.channel]
            columns = self._read_columns(channel, area, part, codes)
            self.frames[part.channel].append(columns, receipt.sequence)
            rows[part.channel] = columns
        for name, (offset, count) in receipt.newest.items():
            assert self._latest is not None, "only streams with last values have newest rows"
            newest = np.frombuffer(area.memory, np.int64, count, offset)
            self._latest.update(self._spec.by_name[name], rows[name], newest)
        if receipt.books is not None:
            self._change_books(receipt.books, area, codes)
        self._join_bars(area, receipt, codes, rows)
        rejected = self._keep_rejects(slab, receipt.rejects)
        self._count(slab, receipt, rejected, submit_ns)
        self.discard(receipt)

    def quarantine(self, slab: Slab, sequence: int, reason: str) -> None:
        """Give up a batch: keep all its payloads on disk, and count each as one rejected message."""
        kinds = slab.table["kind"][: slab.entries]
        slab.table["messages"][: slab.entries] = kinds != PayloadKind.MARK
        payloads = np.flatnonzero(kinds != PayloadKind.MARK).tolist()
        rejects = tuple(Reject(index, -1, reason) for index in payloads)
        rejected = self._keep_rejects(slab, rejects)
        from_stream = int((kinds <= PayloadKind.MSGPACK).sum())
        now = time.time_ns()
        receipt = Receipt(
            sequence,
            0,
            now,
            now,
            0,
            "",
            (),
            None,
            {},
            Stretch(0, 0),
            {},
            (from_stream, len(payloads) - from_stream),
            rejects,
            (),
            {},
            (),
            0,
        )
        if self._bars is not None:
            self._bars.lose(now)
        self._count(slab, receipt, rejected, now, quarantined=1)

    @property
    def committed_rows(self) -> dict[str, int]:
        """Rows of the frames that bars are made of, those of batches that count as committed."""
        rules = self._spec.bar_rules
        if rules is None:
            return {}
        done = self.state.committed()
        return {name: done[c] for c, name in zip(LENGTHS, rules.sources, strict=True) if name}

    def restore_bars(self, partials: bytes) -> None:
        """Bring the open bars to where a killed predecessor left them."""
        rules = self._spec.bar_rules
        if self._bars is None or rules is None:
            return
        rows = self.committed_rows
        amendments = {
            kind: _read_rows(self.frames[name], rows[name]) for kind, name in self._amendment_channels()
        }
        self._bars.restore(np.frombuffer(partials, PARTIAL).copy(), rows[rules.trades], amendments)

    @property
    def bars_wait(self) -> bool:
        """Whether there are bars that time alone will end."""
        return self._bars is not None and self._bars.is_open

    def flush(self) -> None:
        """Publish counts and write the rows of telemetry; those that find no room wait, up to a limit."""
        keyed = [frame for frame in (self._latest, self._books) if frame is not None]
        untracked = sum(frame.untracked for frame in keyed)
        self.state["updates_untracked"] = self._before["updates_untracked"] + untracked
        self.state["rejects_lost"] = self.rejects.lost
        if self._measured:
            values = np.array(self._measured, np.int64)
            try:
                self._telemetry.append([ColumnData(column) for column in values.T])
            except NoSpaceError:
                self.state["batch_rows_lost"] += max(0, len(self._measured) - _TELEMETRY_WAITING)
                del self._measured[:-_TELEMETRY_WAITING]
            else:
                self._measured.clear()

    def close(self) -> None:
        """The stream has ended in good order: publish the open bars and close every frame.

        Raises `NoSpaceError` where shared memory is full; it can be tried again.
        """
        if self._bars is not None:
            self._last_bars = self._last_bars or self._bars.finish()
            self._publish_bars(self._last_bars, 0)
            self._last_bars = {}
        self.flush()
        for frame in (*self.frames.values(), self._telemetry):
            frame.close()
        for keyed in (self._latest, self._books):
            if keyed is not None:
                keyed.close()

    # -- the steps

    def _open_spill(self, receipt: Receipt) -> mmap.mmap | None:
        if not receipt.spill:
            return None
        with slab_path(self._run, receipt.spill).open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def _read_columns(
        self, channel: Channel, area: ResultArea, part: Part, codes: Codes
    ) -> list[ColumnData]:
        columns = read_part(area, self._shapes[channel.name], part)
        for column, data in zip(channel.columns, columns, strict=True):
            if column.kind in CODED and column.dictionary in codes:
                fresh = codes[column.dictionary]
                if data.heap is not None:
                    data.heap = _replace(data.heap, fresh, PROVISIONAL[column.kind])
                else:
                    data.values = _replace(data.values, fresh, PROVISIONAL[column.kind])
        return columns

    def _change_books(self, part: Part, area: ResultArea, codes: Codes) -> None:
        if self._books is not None:
            columns = self._read_columns(self._spec.by_name[part.channel], area, part, codes)
            self._books.update(columns, dict(enumerate(self.dictionaries[self._books.sides].texts)))
            self.state["levels_dropped"] = self._before["levels_dropped"] + self._books.dropped

    def _join_bars(
        self, area: ResultArea, receipt: Receipt, codes: Codes, rows: Mapping[str, list[ColumnData]]
    ) -> None:
        offset, count = receipt.partials
        rules = self._spec.bar_rules
        if self._bars is None or rules is None or not count:
            return
        if self._joined != receipt.sequence:  # else there was no room for the rows: once more
            partials = np.frombuffer(area.memory, PARTIAL, count, offset).copy()
            if SYMBOLS in codes:
                fresh = codes[SYMBOLS]
                partials["symbol"] = _replace(partials["symbol"], fresh, PROVISIONAL[Kind.SYMBOL])
            trades = len(rows[rules.trades][0].values) if rules.trades in rows else 0
            before = self.frames[rules.trades].rows - trades
            amendments = {kind: rows[name] for kind, name in self._amendment_channels() if name in rows}
            self._joined_rows = self._bars.join(partials, before, amendments)
            self._joined = receipt.sequence
            self._count_bars(self._bars)
        self._publish_bars(self._joined_rows, receipt.sequence)

    def _count_bars(self, bars: BarBuilder) -> None:
        self.state["bars_late_trades"] = self._before["bars_late_trades"] + bars.late
        self.state["bars_unmatched"] = self._before["bars_unmatched"] + bars.unmatched

    def _publish_bars(self, rows: Published, sequence: int) -> None:
        for name, columns in rows.items():
            self.frames[name].append(columns, sequence)

    def _amendment_channels(self) -> list[tuple[PartialKind, str]]:
        """Which channels amend trades, and how."""
        rules = self._spec.bar_rules
        assert rules is not None
        named = ((PartialKind.CORRECTION, rules.corrections), (PartialKind.CANCEL, rules.cancels))
        return [(kind, name) for kind, name in named if name]

    def _text(self, column: Column, code: int) -> str:
        return self.dictionaries[column.dictionary].texts[code]

    def _keep_rejects(self, slab: Slab, rejects: Sequence[Reject]) -> tuple[int, int]:
        """Keep the rejected payloads; how many messages of the stream, and of REST, they make."""
        by_payload: dict[int, list[tuple[int, str]]] = defaultdict(list)
        for reject in rejects:
            by_payload[reject.payload].append((reject.message, reject.reason))
        counts = [0, 0]
        for index, reasons in by_payload.items():
            entry = slab.table[index]
            kind = PayloadKind(int(entry["kind"]))
            payload = _unpack_readable(slab.payload(index), Packing(int(entry["packing"])))
            self.rejects.keep(payload, kind, int(entry["recv_ns"]), sorted(reasons))
            counts[not kind.from_stream] += len(reasons)
        return counts[0], counts[1]

    def _count(
        self, slab: Slab, receipt: Receipt, rejected: tuple[int, int], submit_ns: int, quarantined: int = 0
    ) -> None:
        table = slab.table[: slab.entries]
        kinds = table["kind"]
        from_stream = kinds <= PayloadKind.MSGPACK
        streamed = table if from_stream.all() else table[from_stream]
        commit_ns = time.time_ns()
        age = bucket_of(commit_ns - streamed["recv_ns"])
        histograms = self.state.histograms
        np.add.at(histograms["latency"], age, streamed["messages"].astype(np.uint64))
        for bucket, messages in receipt.delays:
            histograms["feed_delay"][bucket] += np.uint64(messages)
        payloads, size = len(streamed), int(streamed["length"].sum())
        marks = int(np.count_nonzero(kinds == PayloadKind.MARK)) if payloads < len(table) else 0
        rules = self._spec.bar_rules
        sources = zip(LENGTHS, rules.sources if rules else (), strict=False)
        lengths = {counter: self.frames[name].rows for counter, name in sources if name}
        self.state.commit(
            receipt.sequence,
            payloads_committed=payloads,
            bytes_committed=size,
            committed=receipt.messages[0] - rejected[0],
            rejected=rejected[0],
            fetch_payloads_committed=len(table) - payloads - marks,
            fetch_committed=receipt.messages[1] - rejected[1],
            fetch_rejected=rejected[1],
            quarantined=quarantined,
            batches=1,
            **lengths,
        )
        if len(table) > marks:
            self._measured.append(
                (
                    receipt.sequence,
                    receipt.worker,
                    len(table) - marks,
                    slab.used,
                    sum(receipt.messages),
                    sum(rejected),
                    receipt.fell_back,
                    int(table["recv_ns"][0]),
                    int(table["recv_ns"][-1]),
                    submit_ns,
                    receipt.start_ns,
                    receipt.end_ns,
                    commit_ns,
                    receipt.cpu_ns,
                )
            )
            if len(self._measured) >= _TELEMETRY_ROWS:
                self.flush()


def _unpack_readable(payload: memoryview, packing: Packing) -> bytes:
    """A payload as people can read it; one that does not unpack as it came."""
    try:
        return unpack(payload, packing, LIMIT_BYTES)
    except UnpackingError:
        return bytes(payload)


def _read_rows(frame: FrameWriter, stop: int) -> list[ColumnData]:
    """The rows below `stop` that a frame still has."""
    columns = FrameColumns(frame)
    pieces = [columns.take(views, np.arange(rows)) for _, rows, views in columns.newest_first(stop)]
    if not pieces:
        return [ColumnData(np.empty(0, DTYPE[column.kind])) for column in frame.columns]
    return [concatenate(each) for each in zip(*reversed(pieces), strict=True)]


def _replace(codes: Any, fresh: npt.NDArray[np.uint32], base: int) -> Any:
    """`codes` with provisional ones (from `base` on) replaced by those their texts were given."""
    provisional = codes >= base
    if not provisional.any():
        return codes
    replaced = codes.copy()
    replaced[provisional] = fresh[codes[provisional] - base]
    return replaced
