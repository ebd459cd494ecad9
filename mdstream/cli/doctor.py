"""`mdstream doctor`: what a run needs, whether it is there, and how to fix what is missing."""

from __future__ import annotations

import asyncio
import logging
import os
import pwd
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.table import Table
from rich.text import Text

from mdstream.cli.flags import ConfigFile
from mdstream.cli.output import output_console
from mdstream.config import ANY_KEY, AUTO, Config, FramesConfig, HandoffConfig, usable_cores
from mdstream.errors import ConfigError, Exit, SharedMemoryError
from mdstream.settings import load
from mdstream.streams import STREAMS
from mdstream.system.logind import removes_shared_memory
from mdstream.venues.alpaca.endpoints import DATA_URL, STREAM_URL

_MARKS = {"ok": "green", "note": "yellow", "bad": "bold red"}


class Finding(NamedTuple):
    """The result of one check: `ok`, `note` (a run works with less) or `bad` (a run will fail)."""

    verdict: str
    what: str
    found: str
    fix: str = ""


def doctor(
    config: ConfigFile = None,
    offline: Annotated[bool, typer.Option("--offline", help="Do not connect to the endpoints.")] = False,
) -> None:
    """Check what a run needs: Python, cores, decoders, shared memory, keys, endpoints. List dead runs."""
    settings = load(config)
    logging.getLogger("mdstream").setLevel(logging.CRITICAL)  # the table reports everything
    findings = [*_machine(settings), *_runs(settings.frames), *_keys(settings)]
    if not offline:
        findings += asyncio.run(_endpoints(settings))
    table = Table("", box=None, padding=(0, 1))
    for title in ("what", "found → how to fix it"):
        table.add_column(title, overflow="fold")  # a cut address or path would be of no use
    for finding in findings:
        mark = Text(finding.verdict, style=_MARKS[finding.verdict])
        table.add_row(mark, finding.what, " → ".join(filter(None, (finding.found, finding.fix))))
    output_console().print(table)
    if any(finding.verdict == "bad" for finding in findings):
        raise typer.Exit(int(Exit.STREAM_FAILED))


def _machine(config: Config) -> Iterator[Finding]:
    from mdstream.engine import memory
    from mdstream.engine.preparation import too_many_workers
    from mdstream.frames.rundir import SHARED_MEMORY, default_root

    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("ok", "Python", version)  # an older one cannot import this module
    cores = usable_cores()
    workers = config.workers_per_stream()
    limit = "at most " if config.workers == AUTO else ""
    found = f"{cores}; workers for each stream: {limit}{workers}"
    if cores == 1:
        yield Finding("note", "cores", found, "a second core lets streams run in parallel")
    elif why := too_many_workers(workers, len(config.streams)):
        yield Finding("note", "cores", f"{cores}; {why}", "unset workers, or set fewer")
    else:
        yield Finding("ok", "cores", found)
    yield _kernels(config.handoff)
    yield from _limits()
    root = Path(config.frames.directory) if config.frames.directory else default_root()
    if not root.is_dir() or not os.access(root, os.W_OK):
        yield Finding("bad", "shared memory", f"cannot write {root}", "set frames.directory")
        return
    room = memory.Room.at(root)
    demand = memory.Demand(len(config.streams), workers, config.handoff, config.frames)
    fitted = memory.fit(demand, room.free)
    found = f"{root}: {room.free / 1e6:,.1f} of {room.size / 1e6:,.1f} MB free"
    enlarge = "enlarge it (Docker: --shm-size=1g)"
    if room.free < memory.least_bytes(demand):
        yield Finding("bad", "shared memory", found, enlarge + ", or run fewer streams")
    elif room.files < (least := memory.least_files(demand)):
        found = f"{root}: room for {room.files:,} more files, and a run needs {least:,}"
        yield Finding("bad", "shared memory", found, "mount it with a larger nr_inodes")
    elif memory.is_cramped(demand, fitted):
        yield Finding("note", "shared memory", f"{found}; {memory.describe(fitted)}", enlarge)
    elif root != SHARED_MEMORY and not config.frames.directory:
        why = f"{SHARED_MEMORY} cannot be written" if SHARED_MEMORY.is_dir() else f"no {SHARED_MEMORY}"
        yield Finding("note", "shared memory", found, f"{why}: frames are on disk, which is slower")
    else:
        yield Finding("ok", "shared memory", found)
    if root.is_relative_to(SHARED_MEMORY) and removes_shared_memory(_user_name(), os.getuid()):
        yield Finding(
            "note",
            "end of the login session",
            "systemd removes this user's files in /dev/shm then (RemoveIPC), running engines included",
            "loginctl enable-linger, or RemoveIPC=no in /etc/systemd/logind.conf",
        )


def _limits() -> Iterator[Finding]:
    """Check what the system allows a process, if that is too little."""
    from mdstream.system import resources

    try:
        resources.allow_files(resources.RUN_FILES)
    except ConfigError as error:
        yield Finding("bad", "open files", str(error), "ulimit -n 1024")
    try:
        resources.check_semaphores()
    except SharedMemoryError as error:
        yield Finding("bad", "semaphores", str(error), "mount -o remount,rw /dev/shm")


def _user_name() -> str:
    """Return this user's name; empty if the system has none, as in a container."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return ""


def _kernels(handoff: HandoffConfig) -> Finding:
    from mdstream.pool.worker_code import are_kernels_compiled, count_kernels

    what = "compiled decoders"
    if not handoff.kernels:
        return Finding("note", what, "off: the fallback decoder is used", "set handoff.kernels = true")
    try:
        if are_kernels_compiled():
            return Finding("ok", what, "ready")
    except OSError as error:
        return Finding(
            "note",
            what,
            f"cannot be stored, so the fallback decoder is used: {error}",
            "free disk space, or set NUMBA_CACHE_DIR to another folder",
        )
    done, total = count_kernels()
    found = f"{done} of {total}; the next run compiles the rest beside its streams"
    return Finding("note", what, found, "mdstream precompile")


def _runs(frames: FramesConfig) -> Iterator[Finding]:
    from mdstream.frames.rundir import (
        find_removable,
        find_unrecorded,
        has_feeds,
        has_recorder,
        is_alive,
        list_runs,
    )

    root = Path(frames.directory) if frames.directory else None
    found, to_record = list_runs(root), find_unrecorded(root)
    if alive := [path for path in found if is_alive(path)]:
        yield Finding("ok", "running engines", ", ".join(path.name for path in alive))
    for path, store in to_record.items():
        what = "dead run, recording incomplete"
        if has_feeds(path):
            yield Finding("ok", what, f"{path.name}: its feeds still commit what they have received")
        elif has_recorder(path):
            yield Finding("ok", what, f"{path.name}: a recorder is storing the rest in {store}")
        else:
            fix = f"mdstream record --run {shlex.quote(str(path))} --store {shlex.quote(store)}"
            yield Finding("note", what, path.name, f"the next run records the rest; or: {fix}")
    for path in found:
        if path not in alive and path not in to_record and (has_feeds(path) or has_recorder(path)):
            yield Finding("ok", "dead run", f"{path.name}: its processes still work on what it received")
    if dead := find_removable(root):
        yield Finding(
            "note",
            "leftovers of dead runs",
            ", ".join(path.name for path in dead),
            "the next `mdstream run` removes them; or: rm -r " + shlex.join(map(str, dead)),
        )
    else:
        yield Finding("ok", "leftovers of dead runs", "none")


def _keys(config: Config) -> Iterator[Finding]:
    if config.credentials == ANY_KEY:
        yield Finding("ok", "keys", "not set: servers on this machine accept any")
    elif config.credentials:
        yield Finding("ok", "keys", "set")
    elif config.simulated:
        yield Finding(
            "note",
            "keys",
            "not set: runs use the embedded simulator",
            "to go live, set APCA_API_KEY_ID and APCA_API_SECRET_KEY",
        )
    else:
        yield Finding("note", "keys", "not set", "set APCA_API_KEY_ID and APCA_API_SECRET_KEY")


async def _endpoints(config: Config) -> list[Finding]:
    """Connect and authenticate as a run does; without keys, only check that the hosts can be reached."""
    from mdstream.cli.probe import probe_data, probe_reach, probe_stream

    if config.simulated:
        live = await asyncio.gather(probe_reach(STREAM_URL), probe_reach(DATA_URL))
        return [Finding(*finding) for finding in live]
    first = STREAMS[config.streams[0]]
    data = probe_data(first, config.stream(first.name), config.fetch, config.data_endpoint)
    streams = (
        probe_stream(STREAMS[name], config.stream(name), config.connection(name)) for name in config.streams
    )
    found = await asyncio.gather(data, *streams)
    return [Finding(*finding) for finding in found]
