"""What a pool process does before its first ticket."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mdstream import interrupts
from mdstream.errors import Exit, WorkerError
from mdstream.frames.bar_builder import BarBuilder, TextOf
from mdstream.frames.columns import FrameColumns
from mdstream.handoff import packets
from mdstream.handoff.page_ticket import JoinReceipt, JoinTicket, PageReceipt, PageTicket
from mdstream.handoff.record_ticket import CompactTicket, RecordReceipt, RecordTicket
from mdstream.handoff.ticket import Receipt, Ticket
from mdstream.streams.spec import StreamSpec
from workers import UNKEPT

PRELOAD = "workers.preload"
"""What workers that decode are forked from, where there are several."""

_is_prepared = False

_end: packets.End
"""Where this worker's tickets come from."""


def start(end: packets.End) -> None:
    """Initializer of workers that decode: loads what they need, to pay for it now."""
    start_plain(end)
    prepare()


def prepare() -> None:
    """Load what workers need, once; what is forked afterwards has it."""
    global _is_prepared  # noqa: PLW0603
    if _is_prepared:
        return
    _is_prepared = True
    import workers.job  # noqa: F401

    warm()

    # A batch makes and drops some 100,000 objects without a cycle among them. Collecting seldom
    # is worth a third of the decoding time. What is frozen is not written to, and stays shared.
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 20, 20)


def start_plain(end: packets.End) -> None:
    """Initializer of every worker: leave Ctrl-C to the supervisor, and never outlive the feed."""
    global _end  # noqa: PLW0603  an initializer has no other way to leave `serve` something
    _end = end
    interrupts.ignore()
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_die_with, args=(parent,), name="parent-watch", daemon=True).start()


def warm() -> None:
    """Get the kernels ready: from disk, or compiled."""
    if os.environ.get(UNKEPT):
        return
    from workers.warm import warm

    warm()


def is_compiled() -> bool:
    """Whether the kernels of this version are on disk. Raises OSError where they cannot be."""
    from workers.kernels.kept import is_complete

    return is_complete()


def run(ticket: Ticket) -> Receipt:
    """`workers.job.run`; the feed, which only names it, need not load the decoders."""
    from workers import job

    return job.run(ticket)


def rebuild_partials(run: str, stream: str, rows: Mapping[str, int]) -> bytes:
    """`workers.job.rebuild_partials`."""
    from workers import job

    return job.rebuild_partials(run, stream, rows)


def stage(ticket: PageTicket) -> PageReceipt:
    """`workers.history.stage`."""
    from workers import history

    return history.stage(ticket)


def join(ticket: JoinTicket) -> JoinReceipt:
    """`workers.history.join`."""
    from workers import history

    return history.join(ticket)


def record(ticket: RecordTicket) -> RecordReceipt:
    """`workers.recording.record`."""
    from workers import recording

    return recording.record(ticket)


def find_recorded(ticket: RecordTicket) -> int:
    """`workers.recording.find_recorded`."""
    from workers import recording

    return recording.find_recorded(ticket)


def compact(ticket: CompactTicket) -> int:
    """`workers.recording.compact`."""
    from workers import recording

    return recording.compact(ticket)


def compress(segment: Path) -> None:
    """`mdstream.store.journal.compress`."""
    from mdstream.store import journal

    journal.compress(segment)


def prepare_bars() -> None:
    """Get ready what `make_bars` needs, which takes a moment, or seconds where kernels cannot be kept."""
    from workers.aggregation import bars

    bars.warm()


def make_bars(spec: StreamSpec, frames: Mapping[str, FrameColumns], text: TextOf) -> BarBuilder:
    """`workers.aggregation.bars.Bars`, for a feed."""
    from workers.aggregation.bars import Bars

    return Bars(spec, frames, text)


def serve() -> None:
    """The one task of a worker: do what comes as it comes, until the feed hangs up."""
    _end.put((packets.READY, True, os.getpid()))
    while True:
        _end.hear()
        try:
            number, function, arguments = _end.get()
        except EOFError:
            return
        try:
            answer = number, True, function(*arguments)
        except Exception as error:
            answer = number, False, _make_picklable(error)
        try:
            _put(answer)
        except (BrokenPipeError, ConnectionResetError):
            return  # the feed hung up meanwhile


def _make_picklable(error: Exception) -> Exception:
    """An error as it can travel, with where it happened."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = WorkerError(repr(error))
    error.add_note(f"in a worker:\n{traceback.format_exc()}")
    return error


def _put(answer: tuple[int, bool, Any]) -> None:
    try:
        _end.put(answer)
    except (AttributeError, TypeError, pickle.PicklingError) as error:
        _end.put((answer[0], False, _make_picklable(error)))


def _die_with(parent: multiprocessing.process.BaseProcess) -> None:
    # A pool's owner that is killed leaves its workers waiting for ever, under every start method.
    parent.join()
    os._exit(Exit.ORPHANED)
