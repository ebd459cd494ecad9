"""A committer that kills itself at a chosen step of a commit, in its own process with one thread.

Each commit runs in a fork of that process, because a new process for each step would take hours. A step is
a line of the code that stores the data of readers and successors (`STORING`). All lines between two stores
leave the same data. So the tests first find the lines before which the data has changed, and kill there.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import traceback
import zlib
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from mdstream.feed import bars, batch_log, books, codes, commit, latest
from mdstream.feed.commit import Committer
from mdstream.frames import bar_builder, chunk, dictionary, head, keyed_frame, layout, share, writer
from mdstream.frames.direct_path import no_direct_path
from mdstream.frames.rundir import RunDirectory, slabs_path, state_path
from mdstream.frames.writer import Limits
from mdstream.handoff import space
from mdstream.handoff.slab import Slab
from mdstream.handoff.ticket import Receipt, Ticket
from mdstream.store.rejects import RejectFile
from mdstream.streams import STREAMS
from mdstream.system.clock import Moment, Span
from mdstream.telemetry import state as telemetry_state
from mdstream.telemetry.state import FeedState
from tests.piping import Payload
from workers import boot

STORING = frozenset(
    str(module.__file__)
    for module in (
        commit,
        codes,
        bars,
        batch_log,
        latest,
        books,
        bar_builder,
        writer,
        head,
        chunk,
        layout,
        keyed_frame,
        dictionary,
        share,
        space,
        telemetry_state,
    )
)
_HEAD_BYTES = 4096
"""The bytes of a head that a few chunks use."""


class Plan(NamedTuple):
    """The batches before the interrupted one, and the interrupted batch itself."""

    stream: str
    before: list[list[Payload]]
    batch: list[Payload]
    limits: Limits
    rejects: Path


class Order(NamedTuple):
    """An order to commit in the empty run folder `run`, and to die at `step`.

    With None as step, the committer finds the steps: all, or (`storing`) those before which the stored data
    has changed. The second search is slow.
    """

    run: Path
    step: int | None
    storing: bool = False


def serve(plan: Plan, pipe: Connection) -> None:
    """Carry out orders until there are no more.

    The first answer to an order is "ready", after the commit of the batches before the interrupted one.
    Any further message starts the commit. The second answer is the steps, or the signal that ended it.
    """
    with RunDirectory() as template:
        decoded = _decode(plan, template.path)
        while (order := pipe.recv()) is not None:
            child = os.fork()
            if child == 0:
                _commit_once(plan, decoded, order, pipe)
            _, status = os.waitpid(child, 0)
            if order.step is not None or status:
                pipe.send(os.WTERMSIG(status))


def _decode(plan: Plan, run: Path) -> list[tuple[Slab, Receipt]]:
    """Return the plan's batches as workers return them."""
    from workers import job

    committer = _make_committer(plan, run)
    decoded = []
    for sequence, payloads in enumerate([*plan.before, plan.batch], 1):
        name = f"{plan.stream}-{sequence}"
        size = sum(len(payload) for payload, _, _ in payloads)
        slab = Slab.create(slabs_path(run) / name, 64 * 1024 + size)
        slab.begin(sequence)
        for payload, kind, recv_ns in payloads:
            slab.append(payload, kind, recv_ns)
        slab.seal()
        receipt = job.run(Ticket(str(run), plan.stream, str(slab.path), sequence))
        committer.commit(slab, receipt, Span.at(Moment.now()))
        decoded.append((slab, receipt))
    return decoded


def _make_committer(plan: Plan, run: Path) -> Committer:
    state = FeedState.create(state_path(run, plan.stream))
    rejects = RejectFile(plan.rejects)
    return Committer(run, STREAMS[plan.stream], state, plan.limits, rejects, boot, no_direct_path)


def _commit_once(plan: Plan, decoded: list[tuple[Slab, Receipt]], order: Order, pipe: Connection) -> None:
    """Carry out one order in a fork, and exit."""
    try:
        committer = _make_committer(plan, order.run)
        for slab, receipt in decoded[:-1]:
            committer.commit(slab, receipt, Span.at(Moment.now()))
        slab, receipt = decoded[-1]
        path = slabs_path(order.run) / slab.path.name
        shutil.copyfile(slab.path, path)
        slab = Slab.open(path)
        pipe.send("ready")
        pipe.recv()
        if order.step is None:
            find = _find_storing_steps if order.storing else _find_all_steps
            pipe.send(find(order.run, lambda: committer.commit(slab, receipt, Span.at(Moment.now()))))
            os._exit(0)
        _step_through(lambda: committer.commit(slab, receipt, Span.at(Moment.now())), _die_at(order.step))
        os.kill(os.getpid(), signal.SIGKILL)  # the commit has no such step: die after it
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _die_at(step: int) -> Callable[[int], None]:
    def look(number: int) -> None:
        if number == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return look


def _find_all_steps(_: Path, work: Callable[[], None]) -> list[int]:
    """Return the numbers of the steps of `work`, and one after the last step."""
    return list(range(_step_through(work, lambda _: None) + 1))


def _find_storing_steps(run: Path, work: Callable[[], None]) -> list[int]:
    """Return the steps of `work` before which data in `run` has changed, and one after the last step."""
    found = [0]
    before = _digest(run)

    def look(number: int) -> None:
        nonlocal before
        if (now := _digest(run)) != before:
            found.append(number)
            before = now

    count = _step_through(work, look)
    return [*found, count]


def _step_through(work: Callable[[], None], look: Callable[[int], None]) -> int:
    """Do `work`, and call `look` before each step; return the number of steps."""
    steps = 0

    def line(_: FrameType, event: str, __: Any) -> Any:
        nonlocal steps
        if event == "line":
            look(steps)
            steps += 1
        return line

    def call(frame: FrameType, _: str, __: Any) -> Any:
        return line if frame.f_code.co_filename in STORING else None

    sys.settrace(call)
    try:
        work()
    finally:
        sys.settrace(None)
    return steps


def _digest(run: Path) -> int:
    """Return a digest of all data that readers and successors see."""
    digest = 0
    for folder in ("frames", "dictionaries", "feeds"):
        for path, _, names in os.walk(run / folder):
            for name in names:
                with open(os.path.join(path, name), "rb") as file:
                    data = file.read(_HEAD_BYTES if name == "head" else -1)
                digest ^= zlib.crc32(data, zlib.crc32(os.path.join(path, name).encode()))
    return digest
