"""The pipeline of one stream without sockets: payloads in, frames out, and real workers in between."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from mdstream.config import HandoffConfig
from mdstream.feed.commit import Committer
from mdstream.feed.journal import FeedJournal
from mdstream.feed.pipeline import Pipeline
from mdstream.frames.head import Head
from mdstream.frames.rundir import RunDirectory, state_path
from mdstream.frames.writer import Limits
from mdstream.pool.pool import WorkerPool
from mdstream.store.journal_writer import JournalWriter
from mdstream.store.rejects import RejectFile
from mdstream.streams import STREAMS
from mdstream.streams.spec import PayloadKind
from mdstream.telemetry.state import FeedState
from tests.forking import end_fork_server, get_fork_context
from tests.running import HANGING_S

Payload = tuple[bytes, PayloadKind, int]
LIMITS = Limits(64_000_000, 4_000_000)


class Rig:
    """The pipeline of one feed on a run directory."""

    def __init__(
        self,
        run: Path,
        stream: str,
        pool: WorkerPool,
        rejects: Path,
        handoff: HandoffConfig,
        limits: Limits = LIMITS,
        journal: JournalWriter | None = None,
        alone: bool = False,
    ) -> None:
        path = state_path(run, stream)
        self.state = FeedState(path, write=True) if path.exists() else FeedState.create(path)
        self.run, self.stream, self.pool = run, stream, pool
        self.alone = alone
        """Whether each payload comes alone, as over a quiet connection."""
        self.controls: list[dict[str, Any]] = []
        self.rejects = rejects / f"{stream}.jsonl"
        self.committer = Committer(
            run,
            STREAMS[stream],
            self.state,
            limits,
            RejectFile(self.rejects),
            pool.builders,
            partial(pool.make_direct, kernels=handoff.kernels),
        )
        kept = FeedJournal(journal, pool) if journal is not None else None
        self.pipeline = Pipeline(run, stream, handoff, pool, self.committer, self._control, kept)

    def _control(self, messages: list[dict[str, Any]]) -> None:
        self.controls += messages

    async def feed(self, payloads: Sequence[Payload]) -> None:
        for payload, kind, recv_ns in payloads:
            if not kind.from_stream:
                task = asyncio.ensure_future(self.pipeline.put_body(payload, kind, recv_ns))
                await asyncio.sleep(0)
                task.add_done_callback(lambda t: t.exception())
            elif not self.pipeline.offer(payload, kind, recv_ns, self.alone):
                await self.pipeline.put(payload, kind, recv_ns)
            await asyncio.sleep(0)

    async def drain(self) -> None:
        done = asyncio.ensure_future(self.pipeline.drain())
        await asyncio.wait(
            {done, self.pipeline.failed}, return_when=asyncio.FIRST_COMPLETED, timeout=HANGING_S
        )
        if self.pipeline.failed.done():
            done.cancel()
            self.pipeline.failed.result()
        assert done.done(), "the pipeline did not drain"
        await self.pipeline.close()
        self.committer.close()


@asynccontextmanager
async def rig(
    stream: str,
    workers: int,
    rejects: Path,
    timeout_s: float = HANGING_S,
    root: Path | None = None,
    forks: bool = True,
    most: int = 0,
    alone: bool = False,
    **handoff: Any,
) -> Any:
    """Open a rig with `workers` workers, which `Rig.pool.resize` may change up to `most`.

    Without `forks`, each worker is a new interpreter.
    """
    if not forks:
        end_fork_server()
    elif workers or most:
        get_fork_context()
    pool = WorkerPool(workers, timeout_s, most=most)
    with RunDirectory(root) as directory:
        directory.describe(streams=[stream])
        await pool.start()
        try:
            yield Rig(directory.path, stream, pool, rejects, HandoffConfig(**handoff), alone=alone)
        finally:
            await pool.close()


def fingerprint(run: Path, stream: str) -> dict[str, str]:
    """Return a digest of each column of each frame in memory, and of each dictionary."""
    digests = {}
    for folder in sorted((run / "frames").glob(f"{stream}.*")):
        head = Head(folder, write=False)
        columns: dict[str, Any] = {}
        for number in range(head.first, head.end):
            batch = pa.ipc.open_file(pa.memory_map(str(head.chunk_path(number)))).get_batch(0)
            end = head.entry(number + 1).start_row if number + 1 < head.end else head.rows
            batch = batch.slice(0, end - head.entry(number).start_row)
            for field, column in zip(batch.schema, batch.columns, strict=True):
                if field.name == "version":
                    continue  # a column of tables: the number of writes of a row depends on the batches
                digest = columns.setdefault(field.name, hashlib.sha256())
                digest.update(repr(column.to_pylist()).encode())
        digests |= {f"{folder.name}.{name}": d.hexdigest() for name, d in columns.items()}
    for path in sorted((run / "dictionaries").glob(f"{stream}.*")):
        digests[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return digests
