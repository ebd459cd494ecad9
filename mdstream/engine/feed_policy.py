"""What follows when a feed's process ends, or its run: decisions without input or output."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import NamedTuple

from mdstream.engine.feed_state import FeedEvent, Stage
from mdstream.errors import UNRECOVERABLE, Exit
from mdstream.session.retry import HEALTHY_S, backoff

_CONNECT_TIMEOUT_S = 3.0
"""A process that served this long without a connection has not just lacked the time."""
_LOST_TIMEOUT_S = 10.0
"""A stream that lost its server this long before the end of the run has failed."""


def explain_exit(code: int | None) -> str:
    """Return how a process ended, in words, by its exit code."""
    if code is None:
        return "ended"
    if code < 0:
        return f"was killed by signal {-code}"
    return f"ended with code {code}"


def follow_exit(stage: Stage, code: int | None) -> FeedEvent:
    """Return what the end of a process means: the service is done, has failed for good, or needs another
    process.
    """
    if code == Exit.OK and stage.is_ending:
        return FeedEvent.STOP
    if code in UNRECOVERABLE or stage is Stage.EXPIRED:
        return FeedEvent.FAIL
    return FeedEvent.DIED


def count_deaths(before: int, lived_s: float) -> int:
    """Return how many processes in a row have died, after one that lived `lived_s` seconds."""
    return 1 if lived_s > HEALTHY_S else before + 1


def restart_pause(deaths: int) -> float:
    """Return seconds until the next process starts, after `deaths` in a row (at least 1)."""
    return next(islice(backoff(), deaths - 1, None))


def failure_without_process(deaths: int, cause: str, was_connected: bool) -> str:
    """Return why a stream failed whose run ends while it has no process; empty if it has not.

    What it received is in its slabs. One death that came too late for a restart is no failure of the
    stream; a stream that never connected, or whose processes kept dying, has failed.
    """
    if deaths > 1:
        return f"feed process {cause} ({deaths} times in a row)"
    return f"feed process {cause}" if deaths and not was_connected else ""


class Service(NamedTuple):
    """How a stream was served when its run began to end."""

    was_connected: bool
    """Whether any of its processes was ever connected and subscribed."""
    has_rows: bool
    trouble: str
    """Why it is not connected; empty while it is."""
    trouble_s: float
    """How long that had been so."""
    up_s: float | None
    """How long its last process had served; None if none ever did."""
    ok: int
    """Symbols that are served."""
    failed: Mapping[str, str]
    """Symbol → why it is not served."""


def failure_at_end(service: Service) -> str:
    """Return why a stream whose run ended has failed; empty if it has not.

    A stream without the time to connect has not failed. One that had trouble or time has, and so has one
    that lost its server and could not get it back.
    """
    trouble = service.trouble
    if not service.was_connected:
        if not trouble and service.up_s is not None and service.up_s > _CONNECT_TIMEOUT_S:
            trouble = "no answer from the server yet"
        return f"never connected: {trouble}" if trouble else ""
    if trouble and service.trouble_s > _LOST_TIMEOUT_S:
        return f"without its server for the last {service.trouble_s:.0f} s: {trouble}"
    if service.failed and not service.ok and not service.has_rows:
        symbol, reason = min(service.failed.items())
        return f"none of its symbols is served ({symbol}: {reason})"
    return ""
