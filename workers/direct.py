"""The direct path of one stream: usual batches go from their slab to the ends of frames in one call.

Runs in the feed, although it is in workers/, because it uses compiled kernels. It reads the layouts and
texts that the usual way (`workers.job`) has learned in this process, and learns nothing itself. After each
batch that took the usual way, it looks up all addresses again (`workers.direct_addresses`).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mdstream.errors import HalfDoneError, NoSpaceError
from mdstream.frames.direct_path import Targets
from mdstream.handoff.columns import PARTIAL
from mdstream.handoff.slab import Slab
from mdstream.streams.spec import Kind, PayloadKind, StreamSpec
from mdstream.system.clock import Moment, receipts
from workers.decoding.layouts import assign_slots
from workers.direct_addresses import AddressTable
from workers.kernels import address_table as t
from workers.kernels import direct, direct_count
from workers.kernels import direct_layout as layout
from workers.kernels.direct_alone import IRREGULAR

log = logging.getLogger(__name__)

_KERNELS = {PayloadKind.JSON: direct.commit_json, PayloadKind.MSGPACK: direct.commit_msgpack}

_PATIENCE = 3
"""Unusual batches in a row after which others are left to the usual way without a look."""
_MOST_LEFT = 32
"""Most batches in a row that are left so."""


class Direct:
    """The `DirectPath` of one stream."""

    # Written only here.
    _commit: Any
    """The kernel; None if the table must be brought up to date first."""
    _kind: PayloadKind | None
    """The kind of payload that it decodes."""
    _has_failed: bool
    _refused: int
    """Unusual batches in a row."""
    _left: int
    """How many more batches to leave to the usual way without a look."""

    def __init__(self, run: Path, spec: StreamSpec, targets: Targets, kernels: bool) -> None:
        self._targets = targets
        self._table = AddressTable(run, spec, targets, kernels)
        self._words = self._table.words
        self._partials = np.zeros(2 * layout.MOST_ROWS + layout.MOST_PAYLOADS, PARTIAL)
        self._commit = self._kind = None
        self._has_failed = False
        self._refused = self._left = 0

    def commit(self, slab: Slab, sequence: int, submitted: Moment) -> int | None:
        if self._has_failed or not 0 < slab.count <= layout.MOST_PAYLOADS or self._gives_up():
            return None
        words = self._words
        if self._commit is None and not self._can_bind():
            return None
        self._table.bind_slab(slab)
        words[t.PAYLOADS], words[t.SEQUENCE], words[t.ALONE] = slab.count, sequence, 0
        words[t.TO_WALL] = submitted.wall - submitted.monotonic
        words[t.SUBMITTED] = submitted.wall
        try:
            outcome = self._commit(self._table.array, self._partials, b"")
        except Exception:
            self._fail()
            return None
        self._note(outcome != IRREGULAR)
        if outcome == IRREGULAR:
            return None
        if outcome == direct.BARS:
            self._finish_bars(sequence)
        return words[t.CPU]

    def commit_alone(
        self, slab: Slab, sequence: int, payload: bytes, kind: PayloadKind, recv_ns: int
    ) -> int | None:
        if self._has_failed or not payload or self._gives_up():
            return None
        words = self._words
        if self._commit is None and not self._can_bind():
            return None
        if kind is not self._kind:
            return None
        self._table.bind_slab(slab)
        words[t.PAYLOADS], words[t.SEQUENCE], words[t.ALONE] = 1, sequence, recv_ns
        words[t.AHEAD] = receipts.ahead
        try:
            outcome = self._commit(self._table.array, self._partials, payload)
        except Exception as error:
            self._fail()
            raise HalfDoneError from error
        if outcome == direct.BARS:
            try:
                self._finish_bars(sequence)
            except NoSpaceError as error:
                raise HalfDoneError from error
        self._note(outcome != IRREGULAR)
        return words[t.CPU] if outcome != IRREGULAR else None

    def _can_bind(self) -> bool:
        """Bring the table up to date; return False if there is nothing to decode with, or that fails."""
        try:
            self._kind = self._table.bind()
        except Exception:
            self._fail()
            return False
        self._commit = _KERNELS[self._kind] if self._kind is not None else None
        return self._commit is not None

    def _fail(self) -> None:
        """Do without the direct path from now on: an error in our code must not lose a batch."""
        log.exception("the direct path failed; this stream does without it")
        self._has_failed = True

    def _finish_bars(self, sequence: int) -> None:
        """Have the builder finish the bars of the batch, then count it."""
        partials = self._partials[: self._words[t.PARTIALS]]
        firsts = self._words[t.JOINED : t.JOINED + 2].tolist()
        trades = self._words[t.TRADES]
        self._targets.finish_bars(sequence, partials, firsts, int(self._table.own["rows"][trades]))
        direct_count.count(self._table.array)
        if any(first < len(partials) for first in firsts):
            self.forget()  # the builder may have moved its bars

    def forget(self) -> None:
        self._commit = None

    def _gives_up(self) -> bool:
        """Return whether to leave a batch to the usual way at once: many before it were unusual."""
        self._left -= 1
        return self._left >= 0

    def _note(self, is_usual: bool) -> None:
        """Note whether a batch was usual. After some that were not, leave more and more without a look."""
        self._refused = 0 if is_usual else self._refused + 1
        self._left = (
            min(1 << max(0, self._refused - _PATIENCE), _MOST_LEFT) if self._refused >= _PATIENCE else 0
        )


def warm() -> None:
    """Load or compile the kernels, by a batch without payloads."""
    nothing: npt.NDArray[np.int64] = np.zeros(t.WORDS, np.int64)
    for commit in _KERNELS.values():
        commit(nothing, np.zeros(1, PARTIAL), b"")
    direct_count.count(nothing)


def make(run: Path, spec: StreamSpec, targets: Targets, kernels: bool) -> Direct | None:
    """Return the direct path of a stream; None without kernels for it, or if last values have bits."""
    latest = targets.latest
    packed = latest is not None and any(column.kind is Kind.BOOL for column in latest.columns)
    if not kernels or packed or not assign_slots(spec.channels):
        return None
    return Direct(run, spec, targets, kernels)
