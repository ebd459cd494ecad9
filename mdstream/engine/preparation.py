"""What a run needs before its first process starts, and the settings as they then are.

memory     what is free, shared out over the streams
outputs    places for rejects, the store, the journal: refused now, not with the first row
decoders   compiled once a machine and version; without them the library decodes
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from mdstream.config import Config
from mdstream.engine import memory
from mdstream.engine.feed_process import why_ended
from mdstream.errors import ConfigError
from mdstream.pool.pool import SINGLE_THREADED, compile_kernels, do_without_kernels
from mdstream.recording.recorder import check_store
from mdstream.store.rejects import why_unwritable

log = logging.getLogger(__name__)


def fitted(config: Config, root: Path) -> Config:
    """`config` with what shared memory there is at `root` shared out."""
    free = memory.check(config, root).free
    found = memory.fit(config, free)
    if memory.is_cramped(config, found):
        log.warning(
            "only %.0f MB of shared memory are free at %s: %s; enlarge it (Docker: --shm-size=1g) "
            "to keep more",
            free / 1e6,
            root,
            memory.described(found),
        )
    return found


def with_outputs(config: Config, run_id: str) -> Config:
    """`config` with its paths the same from everywhere. Raises `ConfigError` and `StoreError` for those
    that cannot be written.
    """
    if why := why_unwritable(config.rejects, run_id):
        if config.rejects:
            raise ConfigError(f"rejects: {why}")
        log.warning("rejected payloads will be counted but not kept: %s (set rejects)", why)
    if config.record:
        store = config.store
        if "://" not in store.path:
            store = msgspec.structs.replace(store, path=str(Path(store.path).absolute()))
            config = msgspec.structs.replace(config, store=store)
        check_store(store.path)
    if config.journal:
        journal = str(Path(config.journal).absolute())
        config = msgspec.structs.replace(config, journal=journal)
        check_store(journal)
    return config


def with_decoders(config: Config, wait: Callable[[float], bool]) -> Config:
    """`config`, the decoders compiled; without them where that fails. `wait` lets some seconds pass, and
    says whether the run is still wanted.
    """
    try:
        compiling = compile_kernels()
    except OSError as error:
        return _without(config, f"they cannot be kept on disk: {error.strerror or error}")
    if compiling is None:
        return config
    log.info("compiling the decoders for this machine: half a minute, once")
    wanted = True
    while compiling.poll() is None and wanted:
        wanted = wait(0.1)
    if compiling.poll() is None:
        compiling.kill()
    _, told = compiling.communicate()
    if compiling.returncode and wanted:
        ended = why_ended(compiling.returncode)
        return _without(config, told.strip().rpartition("\n")[2] or f"compiling {ended}")
    return config


def _without(config: Config, why: str) -> Config:
    log.warning(
        "no compiled decoders: %s. This run decodes with the library, much slower; if the disk is to "
        "blame, set NUMBA_CACHE_DIR to a folder of your own with 10 MB of room",
        why,
    )
    do_without_kernels()
    handoff = msgspec.structs.replace(config.handoff, kernels=False)
    return msgspec.structs.replace(config, handoff=handoff)


def prepare_environment() -> None:
    """What all children inherit."""
    os.environ.update(SINGLE_THREADED)
    # Python's tracker of semaphores reports those of killed feeds as it removes them: no news to us.
    quiet = "ignore:resource_tracker:UserWarning"
    before = os.environ.get("PYTHONWARNINGS", "")
    if quiet not in before:
        os.environ["PYTHONWARNINGS"] = f"{before},{quiet}" if before else quiet
