"""A committer that kills itself at a chosen step of a commit: a process of its own, with one thread.

Each commit happens in a fork of that process: starting one anew for each step would take hours. A step is a line
of the code that stores what readers and successors see (`STORING`). Lines between two stores leave the same behind;
so it is enough to die at those before which something has changed, which are found first.
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
from mdstream.frames.rundir import RunDirectory, slabs_path, state_path
from mdstream.frames.writer import Limits
from mdstream.handoff import space
from mdstream.handoff.slab import Slab
from mdstream.handoff.ticket import Receipt, Ticket
from mdstream.store.rejects import RejectFile
from mdstream.streams import STREAMS
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
"""As much of a head as a few chunks need."""


class Plan(NamedTuple):
    """What is committed before the batch that is cut short, and that batch."""

    stream: str
    before: list[list[Payload]]
    batch: list[Payload]
    limits: Limits
    rejects: Path


class Order(NamedTuple):
    """Commit in the empty run folder `run`, and die at `step`. If that is None find the steps: all there are,
    or those that leave something else behind than the one before (`storing`), which takes a while.
    """

    run: Path
    step: int | None
    storing: bool = False


def serve(plan: Plan, pipe: Connection) -> None:
    """Carry out orders until there are no more.

    An order is answered with "ready" once what comes before the batch is committed; upon another word, whatever
    it is, with the steps, or with the signal that ended the committer.
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
    """The plan's batches, as workers hand them back."""
    from workers import job

    committer = _committer(plan, run)
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
        committer.commit(slab, receipt, 0)
        decoded.append((slab, receipt))
    return decoded


def _committer(plan: Plan, run: Path) -> Committer:
    state = FeedState.create(state_path(run, plan.stream))
    rejects = RejectFile(plan.rejects)
    return Committer(run, STREAMS[plan.stream], state, plan.limits, rejects, boot.make_bars)


def _commit_once(plan: Plan, decoded: list[tuple[Slab, Receipt]], order: Order, pipe: Connection) -> None:
    """The life of a fork; it has an end in any case."""
    try:
        committer = _committer(plan, order.run)
        for slab, receipt in decoded[:-1]:
            committer.commit(slab, receipt, 0)
        slab, receipt = decoded[-1]
        path = slabs_path(order.run) / slab.path.name
        shutil.copyfile(slab.path, path)
        slab = Slab.open(path)
        pipe.send("ready")
        pipe.recv()
        if order.step is None:
            find = _storing_steps if order.storing else _all_steps
            pipe.send(find(order.run, lambda: committer.commit(slab, receipt, 0)))
            os._exit(0)
        _step_through(lambda: committer.commit(slab, receipt, 0), _death_at(order.step))
        os.kill(os.getpid(), signal.SIGKILL)  # all steps are done
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _death_at(step: int) -> Callable[[int], None]:
    def look(number: int) -> None:
        if number == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return look


def _all_steps(_: Path, work: Callable[[], None]) -> list[int]:
    """Steps of `work`, and the one behind its last."""
    return list(range(_step_through(work, lambda _: None) + 1))


def _storing_steps(run: Path, work: Callable[[], None]) -> list[int]:
    """Steps of `work` before which something in `run` has changed, and the one behind its last."""
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
    """Do `work`, calling `look` before each step; how many there were."""
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
    """A digest of all that readers and successors see."""
    digest = 0
    for folder in ("frames", "dictionaries", "feeds"):
        for path, _, names in os.walk(run / folder):
            for name in names:
                with open(os.path.join(path, name), "rb") as file:
                    data = file.read(_HEAD_BYTES if name == "head" else -1)
                digest ^= zlib.crc32(data, zlib.crc32(os.path.join(path, name).encode()))
    return digest
