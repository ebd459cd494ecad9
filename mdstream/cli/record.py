"""`mdstream record`: the frames of a running engine, or of one that died, to Delta tables."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from mdstream.cli.flags import ConfigFile, Directory, Given, select, takes
from mdstream.errors import ConfigError, Exit, NoRunError
from mdstream.settings import load

_INTERVAL_S = 5.0


@takes(*select("store.path"))
def record(
    given: Given,
    run: Annotated[
        str | None, typer.Option(metavar="RUN", help="Run to record, a dead one too. Default: the newest.")
    ] = None,
    directory: Directory = None,
    config: ConfigFile = None,
    quiet: Annotated[bool, typer.Option(help="Say nothing but what is wrong.")] = False,
) -> None:
    """Record frames of a run as they come, each row exactly once: a Delta table a frame, under STORE/live.

    Ends with the run, or at Ctrl-C; what was recorded before is not recorded again, whatever was killed in
    between. `mdstream run --record` starts one by itself. Read the tables with `mdstream.scan`, or with
    anything that reads Delta tables.
    """
    from mdstream.pool import ipc
    from mdstream.recording.recorder import Recorder, check_store

    settings = load(config, flags=given)
    root = directory or settings.frames.directory
    found = _find(run, Path(root) if root else None)
    store = settings.store
    if "://" not in store.path:
        store = msgspec.structs.replace(store, path=str(Path(store.path).absolute()))
    check_store(store.path)
    ipc.claim()
    if not quiet:
        print(f"recording {found} in {store.path}/live", flush=True)
    level = logging.WARNING if quiet else logging.INFO
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    said = [0.0]

    def tell(state: Any) -> None:
        import time

        now = time.monotonic()
        if not quiet and now - said[0] >= _INTERVAL_S:
            said[0] = now
            print(f"{state.rows:,} rows of {len(state.frames)} frames in {state.store}/live", flush=True)

    recorder = Recorder(found, store, tell)
    state = asyncio.run(_until_stopped(recorder))
    if not quiet:
        how = "the run has ended and all of it is stored" if state.finished else "stopped; the run goes on"
        print(f"{state.rows:,} rows of {len(state.frames)} frames in {state.store}/live: {how}")
        if state.missed:
            print(f"{state.missed:,} rows were dropped before they were read", file=sys.stderr)
        if state.unstorable:
            text = "rows have a value that the table cannot hold; they were left out"
            print(f"{state.unstorable:,} {text}", file=sys.stderr)
    if state.trouble:
        print(f"not all is recorded: {state.trouble}", file=sys.stderr)
    if state.missed or state.unstorable or state.trouble:
        raise typer.Exit(int(Exit.STREAM_FAILED))


async def _until_stopped(recorder: Any) -> Any:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, recorder.stop)
    return await recorder.run()


def _find(run: str | None, root: Path | None) -> Path:
    """The folder of a run; one that is named may be dead."""
    from mdstream.frames import rundir

    if run is None:
        return rundir.find(None, root)
    if (Path(run) / "owner.lock").exists():
        return Path(run)
    for path in rundir.list_runs(root):
        if path.name == run or path.name.endswith(f"-{run}"):
            return path
    try:
        return rundir.find(run, root)
    except NoRunError as error:
        raise ConfigError(f"--run {run}: {error}") from error
