"""How much shared memory each stream of a run gets.

The memory that is free when a run starts is divided among its streams, so that none crowds out another.
Part of each share is for the buffers between socket and workers, the rest for the frames. Usually there is
enough for all settings, and nothing changes. In a container with 64 MB, buffers are fewer and smaller, and
frames keep less.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NamedTuple

import msgspec

from mdstream.config import FramesConfig, HandoffConfig
from mdstream.errors import NoSpaceError
from mdstream.handoff.slab import file_bytes

_DIVIDED = 0.85
"""The part that is divided; the rest is for heads, dictionaries, telemetry, and large results."""
_SLAB_SHARE = 0.3
_LEAST_SLAB_KB = 16
_STREAM_FILES = 64
_RUN_FILES = 64
_LEAST_FRAMES = 2_000_000
"""Bytes below which a stream's frames hold almost nothing."""


class Room(NamedTuple):
    """Free bytes of a file system, its size, and how many more files it can hold."""

    free: int
    size: int
    files: int = sys.maxsize

    @classmethod
    def at(cls, path: Path) -> Room:
        stat = os.statvfs(path)
        files = stat.f_favail if stat.f_files else sys.maxsize  # some file systems have no limit
        return cls(stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize, files)


class Demand(NamedTuple):
    """The demand of a run for shared memory: number of streams, and workers, buffers and frames of each."""

    streams: int
    workers: int
    handoff: HandoffConfig
    frames: FramesConfig


def fit(demand: Demand, free: int) -> Demand:
    """Return `demand` with buffers and frames that fit into `free` bytes of shared memory."""
    share = int(free * _DIVIDED) // demand.streams
    frames = demand.frames
    if not frames.stream_mb:
        stream_mb = max(_LEAST_FRAMES, int(share * (1 - _SLAB_SHARE))) // 1_000_000
        frames = msgspec.structs.replace(frames, stream_mb=stream_mb)
    handoff = _fit_slabs(demand.handoff, int(share * _SLAB_SHARE), max(1, demand.workers) + 2)
    return demand._replace(frames=frames, handoff=handoff)


def _fit_slabs(handoff: HandoffConfig, room: int, least: int) -> HandoffConfig:
    """Return `handoff` with fewer slabs, at least `least`, then smaller ones, to fit into `room`."""
    size, least = handoff.slab_kb, min(least, handoff.slabs)
    while size // 2 >= _LEAST_SLAB_KB and least * file_bytes(size * 1024) > room:
        size //= 2
    slabs = min(handoff.slabs, max(least, room // file_bytes(size * 1024)))
    return msgspec.structs.replace(handoff, slab_kb=size, slabs=slabs)


def least_bytes(demand: Demand) -> int:
    """Return the bytes of shared memory that a run needs at least."""
    slabs = min(max(1, demand.workers) + 2, demand.handoff.slabs) * file_bytes(_LEAST_SLAB_KB * 1024)
    return int(demand.streams * (slabs + _LEAST_FRAMES) / _DIVIDED)


def least_files(demand: Demand) -> int:
    """Return the files and folders that a run needs at least: those of each stream, and of telemetry."""
    return _RUN_FILES + demand.streams * (_STREAM_FILES + max(1, demand.workers))


def require_room(demand: Demand, root: Path) -> Room:
    """Return the space at `root`. Raises `NoSpaceError` if a run cannot start with it."""
    room = Room.at(root)
    if room.free < least_bytes(demand):
        raise NoSpaceError(str(root), least_bytes(demand), room.free)
    if room.files < least_files(demand):
        raise NoSpaceError(str(root), least_bytes(demand), room.free, is_out_of_inodes=True)
    return room


def is_cramped(demand: Demand, fitted: Demand) -> bool:
    """Return whether `fitted` has notably less than `demand` asks for."""
    return (
        fitted.handoff.slab_kb < demand.handoff.slab_kb
        or fitted.handoff.slabs < demand.handoff.slabs
        or (not demand.frames.stream_mb and fitted.frames.stream_mb < demand.frames.retention_mb)
    )


def describe(fitted: Demand) -> str:
    """Return in words what each stream gets."""
    handoff, frames = fitted.handoff, fitted.frames
    return (
        f"each stream gets {handoff.slabs} buffers of {handoff.slab_kb} kB and keeps "
        f"{frames.stream_mb} MB of frames"
    )
