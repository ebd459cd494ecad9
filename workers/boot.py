"""The start of a pool process, its loop, and the functions that tickets call."""

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

from mdstream.errors import Exit, WorkerError
from mdstream.frames.bar_builder import BarBuilder, TextOf
from mdstream.frames.book_levels import BookLevels
from mdstream.frames.direct_path import DirectPath, Targets
from mdstream.frames.frame_columns import FrameColumns
from mdstream.handoff import packets
from mdstream.handoff.page_ticket import JoinReceipt, JoinTicket, PageReceipt, PageTicket
from mdstream.handoff.record_ticket import CompactTicket, RecordReceipt, RecordTicket
from mdstream.handoff.ticket import Receipt, Ticket
from mdstream.streams.spec import StreamSpec
from mdstream.system import children

PRELOAD = "workers.preload"
"""Module that a pool's fork server loads for the workers that are forked from it."""

_is_prepared = False
_has_kernels = False
"""Whether this process, or the one that it was forked from, has loaded the kernels."""

_end: packets.End
"""The workers' side of the connection to the feed."""


def start(end: packets.End) -> None:
    """Initialize a worker that decodes: load its modules and kernels before the first ticket."""
    start_plain(end)
    prepare()


def prepare() -> None:
    """Load the modules and kernels of workers, once, for this process and those forked from it."""
    global _is_prepared  # noqa: PLW0603
    if _is_prepared and _has_kernels:
        return
    _is_prepared = True
    import workers.job  # noqa: F401

    load_kernels()

    # A batch creates and drops some 100,000 objects without cycles. Rare collections save a third of the
    # decoding time. Frozen objects are not written to, so their memory stays shared.
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 20, 20)


def start_plain(end: packets.End) -> None:
    """Initialize any worker: ignore Ctrl-C, and end with the feed."""
    global _end  # noqa: PLW0603  an initializer has no other way to pass something to `serve`
    _end = end
    children.ignore_terminal()
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_die_with, args=(parent,), name="parent-watch", daemon=True).start()


def load_kernels() -> bool:
    """Load the kernels if all are on disk; return whether this process has them.

    Without them it is in Python mode, and decodes with the fallback decoder.
    """
    global _has_kernels  # noqa: PLW0603
    if _has_kernels:
        return True
    from workers import python_mode
    from workers.kernels.kept import is_complete

    try:
        is_stored = is_complete()
    except OSError:  # nobody can store them; the owner of the run says so
        is_stored = False
    if not is_stored:
        python_mode.enter()
        return False
    from workers.warm import warm

    with python_mode.use_machine_code():
        warm()
    python_mode.leave()
    _has_kernels = True
    return True


def is_compiled() -> bool:
    """Return whether the kernels of this version are on disk. Raises OSError if they cannot be stored."""
    from workers.kernels.kept import is_complete

    return is_complete()


def count_compiled() -> tuple[int, int]:
    """Return how many kernels are on disk, and how many there are."""
    from workers.kernels.kept import count

    return count()


def run(ticket: Ticket) -> Receipt:
    """Call `workers.job.run`; the feed can pickle this function without loading the decoders."""
    from workers import job

    return job.run(ticket)


def rebuild_partials(run: str, stream: str, rows: Mapping[str, int]) -> bytes:
    """Call `workers.job.rebuild_partials`."""
    from workers import job

    return job.rebuild_partials(run, stream, rows)


def stage(ticket: PageTicket) -> PageReceipt:
    """Call `workers.history.stage`."""
    from workers import history

    return history.stage(ticket)


def join(ticket: JoinTicket) -> JoinReceipt:
    """Call `workers.history.join`."""
    from workers import history

    return history.join(ticket)


def record(ticket: RecordTicket) -> RecordReceipt:
    """Call `workers.recording.record`."""
    from workers import recording

    return recording.record(ticket)


def find_recorded(ticket: RecordTicket) -> RecordReceipt:
    """Call `workers.recording.find_recorded`."""
    from workers import recording

    return recording.find_recorded(ticket)


def compact(ticket: CompactTicket) -> int:
    """Call `workers.recording.compact`."""
    from workers import recording

    return recording.compact(ticket)


def compress(segment: Path) -> None:
    """Call `mdstream.store.journal.compress`."""
    from mdstream.store import journal

    journal.compress(segment)


def make_bars(spec: StreamSpec, frames: Mapping[str, FrameColumns], text: TextOf) -> BarBuilder:
    """Return the `workers.aggregation.bars.Bars` of a feed."""
    from workers.aggregation.bars import Bars

    return Bars(spec, frames, text)


def make_ladders(dropped: int) -> BookLevels:
    """Return the `workers.aggregation.ladders.Ladders` of a feed."""
    from workers.aggregation import ladders

    return ladders.Ladders(dropped)


def make_direct(run: Path, spec: StreamSpec, targets: Targets, kernels: bool) -> DirectPath | None:
    """Return the `workers.direct.Direct` of a feed that decodes its batches itself."""
    from workers import direct

    return direct.make(run, spec, targets, kernels)


def serve() -> None:
    """Serve tickets until the feed closes the connection. This is a worker's only task."""
    _end.put((packets.READY, True, os.getpid()))
    while True:
        _end.read_bell()
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
            return  # the feed has closed the connection


def _make_picklable(error: Exception) -> Exception:
    """Return an error that can be pickled, with a note of where it happened."""
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
    # Under every start method, workers of a killed owner would wait forever.
    parent.join()
    os._exit(Exit.ORPHANED)
