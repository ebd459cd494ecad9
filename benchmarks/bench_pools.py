"""What does it cost to hand work to another process: with which executor, and how to pass the bytes?

One worker gets 1 MB of payloads, sums its bytes (numpy, about 0.1 ms) and answers with a few numbers:

    crew, ticket      the engine's way: a process of a ProcessPoolExecutor, called by packet and bell, with
                      the bytes in a file that both processes map
    pool, ticket      ProcessPoolExecutor.submit, the bytes in such a file
    pool, pickle      ProcessPoolExecutor, the bytes pickled to the worker
    pool, both ways   the same, and pickled back
    pool, shm         ProcessPoolExecutor, a new multiprocessing.shared_memory block for each task
    thread            ThreadPoolExecutor: no copy, one GIL
    loky, ray         their executors, with tickets; skipped with a message if not installed

`round trip` has one open task at a time, `pipelined` has two. Both show the caller's CPU time per task.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import mmap
import multiprocessing
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context, shared_memory
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Case, Plan, Record, Table, cell
from benchmarks.subjects import Subject, answer, read_requests

TAKES_S = (42.0, 6.0)
"""Seconds on 2 cores: in full, and with `--quick`."""

TURNS = 3
TURN_S = 0.6
SIZE = 1 << 20
SUBJECTS = (
    "crew, ticket",
    "pool, ticket",
    "pool, pickle",
    "pool, both ways",
    "pool, shm",
    "thread",
    "loky",
    "ray",
)

Submit = Callable[[], "Future[Any] | _LoopFuture"]


# -- in the worker


def _sum_bytes(data: Any) -> int:
    return int(np.frombuffer(data, np.uint8).sum())


_maps: dict[str, mmap.mmap] = {}


def _sum_file(path: str) -> int:
    if path not in _maps:
        with open(path, "rb") as file:
            _maps[path] = mmap.mmap(file.fileno(), SIZE, access=mmap.ACCESS_READ)
    return _sum_bytes(_maps[path])


def _sum_and_return(data: bytes) -> tuple[int, bytes]:
    return _sum_bytes(data), data


def _sum_block(name: str) -> int:
    block = shared_memory.SharedMemory(name)
    try:
        assert block.buf is not None
        view = np.frombuffer(block.buf, np.uint8, SIZE)
        total = int(view.sum())
        del view
        return total
    finally:
        block.close()


# -- the subjects


@contextlib.contextmanager
def _open_subject(subject: str) -> Iterator[Submit]:
    """Yield the function that submits a task. Raises `ImportError` if the subject is not installed."""
    data = np.random.default_rng(1).integers(0, 255, SIZE, np.uint8).tobytes()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm"))
        path = str(Path(folder) / "slab")
        with open(path, "w+b") as file:
            file.truncate(SIZE)
            slab = mmap.mmap(file.fileno(), SIZE)

        def fill_slab() -> str:
            slab[:] = data  # a copy, as the session makes of each payload
            return path

        if subject == "crew, ticket":
            yield stack.enter_context(_crew(fill_slab))
            return
        if subject == "ray":
            yield stack.enter_context(_ray(fill_slab))
            return
        executor = stack.enter_context(_executor(subject))
        match subject:
            case "pool, pickle":
                yield lambda: executor.submit(_sum_bytes, data)
            case "pool, both ways":
                yield lambda: executor.submit(_sum_and_return, data)
            case "pool, shm":
                yield lambda: _submit_block(executor, data)
            case "thread":
                yield lambda: executor.submit(_sum_bytes, data)
            case _:
                yield lambda: executor.submit(_sum_file, fill_slab())


def _executor(subject: str) -> Executor:
    if subject == "thread":
        return ThreadPoolExecutor(1)
    if subject == "loky":
        from loky import ProcessPoolExecutor as Loky

        made: Executor = Loky(1)
        return made
    return ProcessPoolExecutor(1, get_context("spawn"))


def _submit_block(executor: Executor, data: bytes) -> Future[Any]:
    block = shared_memory.SharedMemory(create=True, size=SIZE)
    assert block.buf is not None
    block.buf[:SIZE] = data

    def free(_: Future[Any]) -> None:
        block.close()
        block.unlink()

    future = executor.submit(_sum_block, block.name)
    future.add_done_callback(free)
    return future


@contextlib.contextmanager
def _crew(fill_slab: Callable[[], str]) -> Iterator[Submit]:
    import uvloop

    from mdstream.pool.crew import Crew
    from workers import boot

    loop = uvloop.new_event_loop()

    async def start() -> Crew:
        crew = Crew(1, boot.start, boot.serve, multiprocessing.get_context("spawn"))
        await crew.start()
        await crew.ready()
        return crew

    crew = loop.run_until_complete(start())
    try:
        yield lambda: _LoopFuture(loop, loop.create_task(crew.do(_sum_file, fill_slab())))
    finally:
        crew.hang_up()


class _LoopFuture:
    """A task of an event loop, with the `result()` of a future."""

    def __init__(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
        self._loop, self._task = loop, task

    def result(self) -> Any:
        return self._loop.run_until_complete(self._task)


@contextlib.contextmanager
def _ray(fill_slab: Callable[[], str]) -> Iterator[Submit]:
    import ray

    ray.init(num_cpus=2, include_dashboard=False, logging_level=logging.ERROR)
    task = ray.remote(_sum_file)
    try:
        yield lambda: task.remote(fill_slab()).future()
    finally:
        ray.shutdown()


def serve(subject: str) -> None:
    """Run a subject: submit tasks for `TURN_S` on each request."""
    try:
        with _open_subject(subject) as submit:
            submit().result()
            for wanted in read_requests({"subject": subject}):
                answer(_measure(submit, wanted["under_way"]))
    except ImportError as error:
        answer({"missing": str(error)})


def _measure(submit: Submit, under_way: int) -> dict[str, float]:
    tasks: deque[Future[Any] | _LoopFuture] = deque()
    done, cpu, start = 0, time.process_time(), time.perf_counter()
    while time.perf_counter() - start < TURN_S:
        while len(tasks) < under_way:
            tasks.append(submit())
        tasks.popleft().result()
        done += 1
    for task in tasks:
        task.result()
        done += 1
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {"task_us": seconds / done * 1e6, "cpu_us": cpu / done * 1e6}


# -- the comparison


def run(plan: Plan) -> list[Record]:
    """Measure everything."""
    wanted = plan.choose(SUBJECTS, SUBJECTS[:3])
    if left := SUBJECTS[len(wanted) :]:
        plan.print(f"{', '.join(left)}: skipped with --quick")
    with contextlib.ExitStack() as stack:
        subjects = {}
        for name in wanted:
            plan.show_progress("pools", 0.0, f"starting {name}")
            subject = stack.enter_context(Subject("benchmarks.bench_pools", name))
            if missing := subject.first.get("missing"):
                plan.print(f"{name}: skipped, {missing}")
            else:
                subjects[name] = subject
        cases = [
            Case("pools", name, {"under_way": count, "bytes": SIZE})
            for count in (1, 2)
            for name in subjects
        ]

        def measure(case: Case) -> dict[str, float]:
            return subjects[case.subject].ask(under_way=case.params["under_way"])

        return plan.in_turns("pools", cases, measure, plan.choose(TURNS, 1))


def tables(records: Sequence[Record]) -> list[Table]:
    """Return the tables of the records."""
    rows = []
    for subject in dict.fromkeys(r["subject"] for r in records):
        one, two = (
            next(r for r in records if r["subject"] == subject and r["params"]["under_way"] == n)
            for n in (1, 2)
        )
        costs = (cell(r, name, digits=0) for r in (one, two) for name in ("task_us", "cpu_us"))
        rows.append((subject, *costs))
    headings = ("µs per task", "round trip", "caller's CPU", "pipelined", "caller's CPU")
    return [Table("1 MB to another process", headings, rows)]


if __name__ == "__main__":
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    # Imported by name, because a crew's tasks must not be functions of `__main__`.
    importlib.import_module("benchmarks.bench_pools").serve(sys.argv[1])
