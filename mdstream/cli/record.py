"""`mdstream record`: the frames of a running engine, or of a dead one, into Delta tables."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from mdstream.cli.flags import ConfigFile, Directory, Given, add_flags, select
from mdstream.errors import Exit
from mdstream.settings import load
from mdstream.system.paths import require_path

_INTERVAL_S = 5.0


@add_flags(*select("store.path"))
def record(
    given: Given,
    run: Annotated[
        str | None, typer.Option(metavar="RUN", help="Run to record; it may be dead. Default: the newest.")
    ] = None,
    directory: Directory = None,
    config: ConfigFile = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only warnings and errors.")] = False,
) -> None:
    """Record the frames of a run into STORE/live as rows arrive, each row exactly once: a Delta table per
    frame.

    Ends with the run, or at Ctrl-C. A row that is recorded is not recorded again, whatever is killed in
    between. `mdstream run --record` starts a recorder by itself. Read the tables with `mdstream.scan`, or
    with any program that reads Delta tables.
    """
    from mdstream.feed.salvage import commit_leftovers
    from mdstream.pool import ipc_names
    from mdstream.recording.recorder import Recorder
    from mdstream.store.folders import check_store

    settings = load(config, flags=given)
    frames = settings.frames.directory
    found = _find(run, directory or (Path(frames) if frames else None))
    store = settings.store
    if "://" not in store.path:
        store = msgspec.structs.replace(store, path=str(Path(store.path).absolute()))
    check_store(store.path)
    ipc_names.claim()
    if not quiet:
        print(f"recording {found} in {store.path}/live", flush=True)
    level = logging.WARNING if quiet else logging.INFO
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    printed_at = 0.0

    def show_progress(state: Any) -> None:
        nonlocal printed_at
        if not quiet and time.monotonic() - printed_at >= _INTERVAL_S:
            printed_at = time.monotonic()
            print(f"{state.rows:,} rows of {len(state.frames)} frames in {state.store}/live", flush=True)

    recorder = Recorder(found, store, show_progress, commit_leftovers)
    state = asyncio.run(_until_stopped(recorder))
    if not quiet:
        how = "complete, the run has ended" if state.finished else "stopped; the run continues"
        print(f"{state.rows:,} rows of {len(state.frames)} frames in {state.store}/live: {how}")
        if state.missed:
            print(f"{state.missed:,} rows were dropped before they could be recorded", file=sys.stderr)
        if state.unstorable:
            text = f"{state.unstorable:,} rows that a table refuses were left out; they are kept in rejects"
            print(text, file=sys.stderr)
    if state.trouble:
        print(f"recording is incomplete: {state.trouble}", file=sys.stderr)
    if state.missed or state.unstorable or state.trouble:
        raise typer.Exit(int(Exit.STREAM_FAILED))


async def _until_stopped(recorder: Any) -> Any:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, recorder.stop)
    return await recorder.run()


def _find(run: str | None, root: Path | None) -> Path:
    """Return the folder of a run. A run that is named may be dead."""
    from mdstream.frames import rundir

    if run is None:
        return rundir.find(None, root)
    if (Path(require_path("--run", run)) / "owner.lock").exists():
        return Path(run)
    for path in rundir.list_runs(root):
        if path.name == run or path.name.endswith(f"-{run}"):
            return path
    return rundir.find(run, root)
