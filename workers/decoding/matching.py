"""Pass 1: find every value of every message, and learn unknown layouts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mdstream.errors import UnlearnableError
from mdstream.handoff.ticket import BodyContents
from mdstream.streams.spec import StreamSpec
from workers.decoding.layouts import ChannelSlots, Layouts
from workers.decoding.payloads import Payloads
from workers.kernels import keys, ops

_MOST_LESSONS = 64
"""Most layouts learned in one batch; messages of others go to the fallback decoder."""

_MOST_SKIPPED = 512
"""Most skipped messages in one batch; beyond that, whole payloads go to the fallback decoder."""

_START_ROWS = 4096 + 24


@dataclass(frozen=True, slots=True)
class Codec:
    """The functions of one codec."""

    match: Callable[..., int]
    learn: Callable[[Layouts, bytes], None]
    end: Callable[[memoryview], int]
    """Return the length of the value at the start of a buffer; 0 if there is none."""
    is_whole: Callable[[bytes], bool]
    """Return whether the fallback decoder can read these bytes."""
    wrap: Callable[[bytes], bytes] | None
    """Return a message as a payload of its own. None if the fallback decoder needs the whole payload."""
    values: Any
    """The kernels of pass 2."""
    by_keys: bool
    """Whether layouts have shortcuts."""


@dataclass(slots=True)
class SkippedMessage:
    """A message that kernels leave to the fallback decoder while they decode its neighbours."""

    payload: int
    message: int
    data: bytes
    """The message as a payload of its own."""


@dataclass(slots=True)
class Matched:
    """The result of a match. Arrays are views that are valid until the next match."""

    rows: npt.NDArray[np.int64]
    """Rows of each channel."""
    messages: npt.NDArray[np.uint32]
    """Messages of each payload that became rows of a kernel."""
    skipped: list[SkippedMessage] = field(default_factory=list)
    bodies: dict[int, BodyContents] = field(default_factory=dict)
    """REST payload → its contents."""


class Matcher:
    """Matches batches of one stream and codec."""

    # Written by `match`.
    _layouts: Layouts
    _by_keys: tuple[Any, ...]
    """The entries of shortcuts, and the window of located keys; empty without shortcuts."""
    _more: tuple[Any, ...]
    """Further arrays of the kernel; subclasses set them."""
    # Written by `_make_room`: arrays that each batch reuses.
    spans: npt.NDArray[np.uint64]
    """A row for each slot, a column for each message."""
    row_payload: npt.NDArray[np.int32]
    """The payload of each row of each channel."""
    row_message: npt.NDArray[np.int32]
    """Its message in the payload."""
    _arrays: dict[str, npt.NDArray[Any]]
    """All arrays that the kernel uses, flat, by name."""

    def __init__(self, spec: StreamSpec, channels: dict[str, ChannelSlots], codec: Codec) -> None:
        self._codec = codec
        self._channels = channels
        self._layouts = Layouts(spec, channels)
        self._by_keys = ()
        if codec.by_keys:
            window = np.zeros(keys.WIDTH, np.int64)
            window[keys.GAP] = 1
            self._by_keys = self._layouts.entries, window
        self._more = ()
        self._make_room(_START_ROWS)

    def _make_room(self, rows: int) -> None:
        slots = sum(len(t.channel.columns) for t in self._channels.values())
        self.spans = np.empty((slots, rows), np.uint64)
        self.row_payload = np.empty((len(self._channels), rows), np.int32)
        self.row_message = np.empty((len(self._channels), rows), np.int32)
        layouts, (_, window) = self._layouts, self._by_keys or (None, np.zeros(0, np.int64))
        self._arrays = {
            "words": layouts.words,
            "steps": layouts.steps.reshape(-1),
            "items": layouts.items.reshape(-1),
            "layouts": layouts.layouts.reshape(-1),
            "entries": layouts.entries,
            "window": window,
            "spans": self.spans.reshape(-1),
            "row_payload": self.row_payload.reshape(-1),
            "row_message": self.row_message.reshape(-1),
        }

    @property
    def known_layouts(self) -> int:
        return self._layouts.known

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays that the kernel uses, flat; `_make_room` replaces some of them."""
        return self._arrays

    def match(self, payloads: Payloads, verdicts: npt.NDArray[np.uint8]) -> Matched:
        """Match the payloads whose verdict is `GOOD`; those that cannot be followed fall back."""
        rows = np.zeros(len(self._channels), np.int64)
        before = np.zeros_like(rows)
        found = Matched(rows, np.zeros(len(payloads), np.uint32))
        at = self._begin(len(payloads))
        layouts, lessons, learned = self._layouts, 0, (-1, -1)
        if layouts.is_crowded:
            layouts.forget()
        mark = layouts.mark()
        if self._by_keys and len(payloads):
            ends = int(payloads.offsets[-1] + payloads.lengths[-1])
            keys.open_window(self._by_keys[1], ends)
        while True:
            why = self._codec.match(
                payloads.buffer,
                payloads.offsets,
                payloads.lengths,
                verdicts,
                found.messages,
                layouts.words,
                layouts.steps.reshape(-1),
                layouts.items.reshape(-1),
                layouts.layouts.reshape(-1),
                layouts.known,
                self.spans.reshape(-1),
                self.spans.shape[1],
                self.row_payload.reshape(-1),
                self.row_message.reshape(-1),
                rows,
                before,
                at,
                *self._by_keys,
                *self._more,
            )
            if why == ops.DONE:
                return found
            if why == ops.FULL:
                self._grow()
                continue
            place = payload, _ = int(at[ops.AT_PAYLOAD]), int(at[ops.AT_MESSAGE])
            start = int(at[ops.AT_BYTE])
            end = int(payloads.offsets[payload] + payloads.lengths[payload])
            rest = payloads.buffer[start:end].data
            size = self._codec.end(rest) if lessons <= _MOST_LESSONS else 0
            data = bytes(rest[:size])
            if place == learned:  # the message does not fit its own layout: a value is unusual
                layouts.go_back(mark)
            elif size:
                mark, lessons, learned = layouts.mark(), lessons + 1, place
                try:
                    self._codec.learn(layouts, data)
                    continue
                except UnlearnableError:
                    layouts.go_back(mark)
                    lessons -= 1
            if self._skip_message(place, data, found):
                at[ops.AT_AFTER] = start + size
                continue
            verdicts[payload] = ops.FELL_BACK
            found.messages[payload] = 0
            rows[:] = before
            at[ops.AT_PAYLOAD] = payload + 1
            at[ops.AT_BYTE] = -1

    def _skip_message(self, place: tuple[int, int], data: bytes, found: Matched) -> bool:
        """Leave one message to the fallback decoder; return False if its whole payload must fall back."""
        payload, message = place
        wrap = self._codec.wrap
        if wrap is None or not data or not message or len(found.skipped) == _MOST_SKIPPED:
            return False
        alone = wrap(data)
        if not self._codec.is_whole(alone):
            return False
        found.skipped.append(SkippedMessage(payload, message, alone))
        return True

    def _begin(self, payloads: int) -> npt.NDArray[np.int64]:
        """Return the initial state of a match."""
        at = np.zeros(ops.AT_WIDTH, np.int64)
        at[ops.AT_BYTE] = at[ops.AT_AFTER] = -1
        return at

    def _grow(self) -> None:
        spans, payload, message = self.spans, self.row_payload, self.row_message
        room = spans.shape[1]
        self._make_room(room * 4 + 24)
        self.spans[:, :room] = spans
        self.row_payload[:, :room] = payload
        self.row_message[:, :room] = message


def keep_skipped(skipped: list[SkippedMessage], verdicts: Any) -> list[SkippedMessage]:
    """Keep the skipped messages of payloads that were matched to their end."""
    return [message for message in skipped if verdicts[message.payload] == ops.GOOD]
