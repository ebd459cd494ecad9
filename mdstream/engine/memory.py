"""How much shared memory each stream of a run gets.

What is free when a run starts is shared out over its streams, so that none crowds out the others: a
part for the buffers between socket and workers, a part for the frames. Where all that was asked for is
there (the usual case), nothing changes; in a container with 64 MB, buffers are fewer and smaller, and
frames keep less.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import msgspec

from mdstream.config import FramesConfig, HandoffConfig
from mdstream.errors import NoSpaceError
from mdstream.handoff.slab import file_bytes

_SHARED_OUT = 0.85
"""The rest is for heads, dictionaries, telemetry, and results that do not fit their slab."""
_FOR_SLABS = 0.3
_LEAST_SLAB_KB = 16
_LEAST_FRAMES = 2_000_000
"""Bytes below which a stream's frames hold next to nothing."""


class Room(NamedTuple):
    """Bytes of a file system: free ones, and all."""

    free: int
    size: int

    @classmethod
    def at(cls, path: Path) -> Room:
        stat = os.statvfs(path)
        return cls(stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize)


class Demand(NamedTuple):
    """What a run asks of shared memory: how many streams, and for each its workers, buffers and frames."""

    streams: int
    workers: int
    handoff: HandoffConfig
    frames: FramesConfig


def fit(demand: Demand, free: int) -> Demand:
    """`demand` with buffers and frames that fit into `free` bytes of shared memory."""
    share = int(free * _SHARED_OUT) // demand.streams
    frames = demand.frames
    if not frames.stream_mb:
        together = max(_LEAST_FRAMES, int(share * (1 - _FOR_SLABS))) // 1_000_000
        frames = msgspec.structs.replace(frames, stream_mb=together)
    handoff = _fit_slabs(demand.handoff, int(share * _FOR_SLABS), max(1, demand.workers) + 2)
    return demand._replace(frames=frames, handoff=handoff)


def _fit_slabs(handoff: HandoffConfig, room: int, least: int) -> HandoffConfig:
    """Fewer slabs first, down to `least`, then smaller ones."""
    size, least = handoff.slab_kb, min(least, handoff.slabs)
    while size // 2 >= _LEAST_SLAB_KB and least * file_bytes(size * 1024) > room:
        size //= 2
    slabs = min(handoff.slabs, max(least, room // file_bytes(size * 1024)))
    return msgspec.structs.replace(handoff, slab_kb=size, slabs=slabs)


def needed(demand: Demand) -> int:
    """Bytes of shared memory below which a run can hardly begin."""
    slabs = min(max(1, demand.workers) + 2, demand.handoff.slabs) * file_bytes(_LEAST_SLAB_KB * 1024)
    return int(demand.streams * (slabs + _LEAST_FRAMES) / _SHARED_OUT)


def check(demand: Demand, root: Path) -> Room:
    """What is free at `root`. Raises `NoSpaceError` if that is not enough to begin with."""
    room = Room.at(root)
    if room.free < needed(demand):
        raise NoSpaceError(str(root), needed(demand), room.free)
    return room


def is_cramped(demand: Demand, fitted: Demand) -> bool:
    """Whether `fitted` has notably less than `demand` asks for."""
    return (
        fitted.handoff.slab_kb < demand.handoff.slab_kb
        or fitted.handoff.slabs < demand.handoff.slabs
        or (not demand.frames.stream_mb and fitted.frames.stream_mb < demand.frames.retention_mb)
    )


def described(fitted: Demand) -> str:
    """What each stream got, in words."""
    handoff, frames = fitted.handoff, fitted.frames
    return (
        f"each stream gets {handoff.slabs} buffers of {handoff.slab_kb} kB and keeps "
        f"{frames.stream_mb} MB of frames"
    )
