"""What a commit counts: the counters of a feed, its histograms, and a row of `telemetry.batches`."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from mdstream.feed.bars import BarFrames
from mdstream.feed.batch_log import BatchLog
from mdstream.frames.direct_path import Counters
from mdstream.frames.writer import FrameWriter
from mdstream.handoff.slab import Slab
from mdstream.handoff.ticket import Receipt
from mdstream.streams.spec import PayloadKind, StreamSpec
from mdstream.system.clock import Span
from mdstream.telemetry.histogram import bucket_of
from mdstream.telemetry.state import COMMITTED, COPIES, LENGTHS, FeedState


class Accounts:
    """The accounts of one stream. Used only in the feed's process."""

    def __init__(
        self, spec: StreamSpec, state: FeedState, frames: Mapping[str, FrameWriter], log: BatchLog
    ) -> None:
        self.log = log
        self._state = state
        self._frames = frames
        rules = spec.bar_rules
        sources = zip(LENGTHS, rules.sources, strict=True) if rules is not None else ()
        self._lengths = [(counter, name) for counter, name in sources if name]

    def counters(self, bars: BarFrames | None) -> Counters:
        """Return where the direct path counts (`count`)."""
        place_of, word_of = self._state.place_of, self._state.word_of
        return Counters(
            self._state.words,
            COPIES,
            len(COMMITTED),
            word_of("sequence"),
            place_of("payloads_committed"),
            place_of("bytes_committed"),
            place_of("committed"),
            place_of("batches"),
            word_of("payloads_received"),
            word_of("bytes_received"),
            word_of("bars_late_trades"),
            bars.late_before if bars is not None else 0,
            tuple((place_of(counter), channel) for counter, channel in self._lengths),
        )

    def count(self, slab: Slab, receipt: Receipt, span: Span, quarantined: int = 0) -> None:
        """Count a batch as committed."""
        table = slab.table[: slab.entries]
        kinds = table["kind"]
        from_stream = kinds <= PayloadKind.MSGPACK
        streamed = table if from_stream.all() else table[from_stream]
        now = time.monotonic_ns()
        age = bucket_of(span.ages(streamed["recv_ns"], now))
        histograms = self._state.histograms
        np.add.at(histograms["latency"], age, streamed["messages"].astype(np.uint64))
        for bucket, count in receipt.delays:
            histograms["feed_delay"][bucket] += np.uint64(count)
        payloads, size = len(streamed), int(streamed["length"].sum())
        marks = int(np.count_nonzero(kinds >= PayloadKind.MARK)) if payloads < len(table) else 0
        messages, rejected, submitted = receipt.messages, receipt.rejected, span.submitted
        self._state.commit(
            receipt.sequence,
            payloads_committed=payloads,
            bytes_committed=size,
            committed=messages[0] - rejected[0],
            rejected=rejected[0],
            fetch_payloads_committed=len(table) - payloads - marks,
            fetch_committed=messages[1] - rejected[1],
            fetch_rejected=rejected[1],
            quarantined=quarantined,
            batches=1,
            **{counter: self._frames[name].rows for counter, name in self._lengths},
        )
        if len(table) > marks:
            self.log.add(
                (
                    receipt.sequence,
                    receipt.worker,
                    len(table) - marks,
                    slab.used,
                    sum(messages),
                    sum(rejected),
                    receipt.fell_back,
                    int(table["recv_ns"][0]),
                    int(table["recv_ns"][-1]),
                    *(
                        submitted.wall_at(t)
                        for t in (submitted.monotonic, receipt.start_ns, receipt.end_ns, now)
                    ),
                    receipt.cpu_ns,
                )
            )
