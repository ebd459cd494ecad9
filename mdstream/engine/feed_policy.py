"""Decisions at the end of a feed's process, or of its run. Pure functions, without input or output."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import NamedTuple

from mdstream.engine.feed_state import FeedEvent, Stage
from mdstream.errors import UNRECOVERABLE, Exit
from mdstream.session.retry import HEALTHY_S, backoff

_CONNECT_TIMEOUT_S = 3.0
"""A process that served longer than this without a connection counts as never connected."""
_LOST_TIMEOUT_S = 10.0
"""A stream that was disconnected for longer than this when the run ended has failed."""


def explain_exit(code: int | None) -> str:
    """Return how a process ended, in words, by its exit code."""
    if code is None:
        return "ended"
    if code < 0:
        return f"was killed by signal {-code}"
    return f"ended with code {code}"


def classify_exit(stage: Stage, code: int | None) -> FeedEvent:
    """Return the event that the end of a process means: stopped, failed for good, or died."""
    if code == Exit.OK and stage.is_ending:
        return FeedEvent.STOP
    if code in UNRECOVERABLE or stage is Stage.EXPIRED:
        return FeedEvent.FAIL
    return FeedEvent.DIED


def count_deaths(before: int, lived_s: float) -> int:
    """Return how many processes in a row have died, after one that ran for `lived_s` seconds."""
    return 1 if lived_s > HEALTHY_S else before + 1


def restart_pause(deaths: int) -> float:
    """Return the seconds until the next process starts, after `deaths` in a row (at least 1)."""
    return next(islice(backoff(), deaths - 1, None))


def failure_without_process(deaths: int, cause: str, was_connected: bool) -> str:
    """Return why a stream failed whose run ended while it had no process; empty if it has not failed.

    A single death just before the end is not a failure: what was received is in the slabs. A stream has
    failed if it never connected, or if its processes kept dying.
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
    """How long it had not been connected, in seconds."""
    up_s: float | None
    """How long its last process had served, in seconds; None if none ever did."""
    ok: int
    """How many symbols are served."""
    failed: Mapping[str, str]
    """Symbol → why it is not served."""
    subscribed: int = 0
    """How many subscriptions are served."""
    refused: int = 0
    lost: int = 0
    """How many of the refused subscriptions were served before."""
    refusal: str = ""
    """Why subscriptions are refused; empty if none is."""
    wanted: int = 0
    """How many subscriptions the user wants; the contracts of an underlying count as one."""
    most: int = 0
    """The most subscriptions that were ever served."""


def failure_at_end(service: Service) -> str:
    """Return why a stream has failed, once its run has ended; empty if it has not.

    A stream has failed if it had trouble or time and never connected, or if it lost its server and did not
    get it back. It has also failed if subscriptions that were served are refused now, or if it served some
    and ends with none, although the user wants some. A stream that had no time to connect has not, and
    neither has one whose plan does not include all symbols.
    """
    trouble = service.trouble
    if not service.was_connected:
        if not trouble and service.up_s is not None and service.up_s > _CONNECT_TIMEOUT_S:
            trouble = "no answer from the server"
        return f"never connected: {trouble}" if trouble else ""
    if trouble and service.trouble_s > _LOST_TIMEOUT_S:
        return f"no connection for the last {service.trouble_s:.0f} s: {trouble}"
    if service.failed and not service.ok and not service.has_rows:
        symbol, reason = min(service.failed.items())
        all_refused = service.refused and not service.subscribed
        refusal = f"; subscriptions are refused: {service.refusal}" if all_refused else ""
        return f"none of its symbols is served ({symbol}: {reason}){refusal}"
    if service.lost:
        return f"{service.lost} subscriptions that were served are refused: {service.refusal}"
    if service.refused and not service.subscribed:
        return f"none of its subscriptions is served: {service.refusal}"
    if service.wanted and service.most and not service.subscribed:
        return f"none of its subscriptions is served any more; it served {service.most}"
    return ""
