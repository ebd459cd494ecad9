"""What a run needs before its first process starts, and the settings that follow from it.

memory    the free shared memory, divided among the streams
outputs   folders for rejects, store and journal; an unusable one is refused before the run starts
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from mdstream.config import Config, StoreConfig, usable_cores
from mdstream.engine import memory
from mdstream.errors import ConfigError, NoRunError
from mdstream.feed import recovery
from mdstream.frames import rundir
from mdstream.frames.rundir import RunDirectory
from mdstream.store.folders import check_folder, check_store
from mdstream.store.rejects import find_obstacle
from mdstream.system import resources

log = logging.getLogger(__name__)


def prepare_settings(config: Config, directory: RunDirectory) -> Config:
    """Return the settings fitted to the shared memory of this machine, with checked paths.

    Raises `SharedMemoryError`, `ConfigError` and `StoreError` for what no run can start with.
    """
    replace = msgspec.structs.replace
    resources.allow_files(resources.RUN_FILES)
    if config.workers_per_stream() or config.record:
        resources.check_semaphores()
    demand = memory.Demand(len(config.streams), config.workers_per_stream(), config.handoff, config.frames)
    if why := too_many_workers(demand.workers, demand.streams):
        log.warning("%s; unset `workers` to divide the cores among the streams", why)
    fitted = fit_memory(demand, directory.path.parent)
    check_rejects(config.rejects, directory.run)
    config = replace(config, handoff=fitted.handoff, frames=fitted.frames)
    if config.record:
        config = replace(config, store=prepare_store(config.store))
    if config.journal:
        config = replace(config, journal=prepare_journal(config.journal))
    return config


def describe_run(config: Config, simulated: bool) -> dict[str, Any]:
    """Return what `run.json` says about a run with these settings, which starts now."""
    facts: dict[str, Any] = {
        "started": datetime.now(UTC).isoformat(),
        "started_monotonic": time.monotonic(),
        "streams": list(config.streams),
        "feeds": {name: config.stream(name).feed for name in config.streams},
        "symbols": {name: list(config.stream(name).symbols) for name in config.streams},
        "workers": config.workers_per_stream(),
        "urls": list(config.urls()),
        "simulated": simulated,
        "journal": config.journal,
        "rejects": config.rejects and str(Path(config.rejects).absolute()),
    }
    return facts | ({"store": config.store.path} if config.record else {})


def too_many_workers(workers: int, streams: int) -> str:
    """Return why `workers` for each of `streams` are too many for the cores; empty if they are not."""
    cores = usable_cores()
    if workers <= max(1, cores):
        return ""
    return f"{workers} workers for each of {streams} streams, more than the {cores} cores can run"


def fit_memory(demand: memory.Demand, root: Path) -> memory.Demand:
    """Divide the shared memory at `root` among the streams. Raises `NoSpaceError` if it is too small."""
    free = memory.require_room(demand, root).free
    fitted = memory.fit(demand, free)
    if memory.is_cramped(demand, fitted):
        log.warning(
            "only %.0f MB of shared memory are free at %s: %s. To keep more, enlarge it "
            "(Docker: --shm-size=1g)",
            free / 1e6,
            root,
            memory.describe(fitted),
        )
    return fitted


def check_rejects(folder: str, run_id: str) -> None:
    """Raise `ConfigError` if rejects cannot be kept in `folder`; only warn if that is the default."""
    if why := find_obstacle(folder, run_id):
        if folder:
            raise ConfigError(f"rejects: {why}")
        log.warning(
            "rejected payloads are counted but not kept: %s. To keep them, set rejects to a folder", why
        )


def prepare_store(store: StoreConfig) -> StoreConfig:
    """Return `store` with an absolute path. Raises an error if it cannot be written."""
    if "://" not in store.path:
        store = msgspec.structs.replace(store, path=str(Path(store.path).absolute()))
    check_store(store.path)
    return store


def prepare_journal(folder: str) -> str:
    """Return the absolute path of `folder`. Raises `ConfigError` if it cannot be written."""
    path = str(Path(folder).absolute())
    check_folder("journal", path)
    return path


def journal_dead_runs(root: Path | None) -> None:
    """Write what dead runs had received to their journals, before their folders are removed."""
    for run in rundir.find_removable(root):
        try:
            if payloads := recovery.journal_leftovers(run):
                log.warning(
                    "%s: %d received payloads of the dead run are now in its journal", run.name, payloads
                )
        except (NoRunError, OSError) as error:
            log.warning("%s: what it had received is not in its journal: %s", run.name, error)
