"""The stages of a stream's service, and which event leads from which to which.

    NEW ──start──► STARTING ──up──► CONNECTING ◄─connected/lost─► STREAMING
     │               │   ▲              │                            │
     │               │ start            │                            │
     │               ▼   │              │                            │
     │             RESTARTING ◄──died───┴────────────────────────────┘
     │               │                  │
     │ drain         │ drain            │ drain (from each of the three that have a process)
     ▼               ▼                  ▼
    HALTED ◄─────────────────died── DRAINING ──stop──► STOPPED
     │  └──start──► FINISHING           │
     │                 │ expire         │ expire
     ▼                 ▼                ▼
    STOPPED         EXPIRED ──stop or fail──► STOPPED, FAILED

Each stage with a process may also fail for good. Nothing here has input or output.
"""

from __future__ import annotations

from enum import Enum


class Stage(Enum):
    """The stage of a stream's service. The last two are final."""

    NEW = "new"
    """No process has been started yet."""
    STARTING = "starting"
    """The process does not serve yet."""
    CONNECTING = "connecting"
    STREAMING = "streaming"
    RESTARTING = "restarting"
    """The process died; the next one starts after a pause."""
    DRAINING = "draining"
    """The process receives no more and commits what it has."""
    HALTED = "halted"
    """The run ends and there is no process. One more may have to commit what the last one left."""
    FINISHING = "finishing"
    """A process that only commits what its predecessor left."""
    EXPIRED = "expired"
    """The process was killed, because it did not drain in time."""
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def label(self) -> str:
        """The word for people. All steps of an ending are `draining`."""
        return _LABELS.get(self, self.value)

    @property
    def is_final(self) -> bool:
        return self in (Stage.STOPPED, Stage.FAILED)

    @property
    def is_up(self) -> bool:
        """Whether a process serves the stream and was not asked to end."""
        return self in (Stage.CONNECTING, Stage.STREAMING)

    @property
    def is_ending(self) -> bool:
        """Whether there is a process that ends as soon as it has committed what it has."""
        return self in _ENDING


_LABELS = {
    Stage.NEW: "starting",
    Stage.HALTED: "draining",
    Stage.FINISHING: "draining",
    Stage.EXPIRED: "draining",
}


class FeedEvent(Enum):
    """What happens to a stream's service."""

    START = "start"
    """A process is started."""
    UP = "up"
    """The process serves, and reads commands."""
    CONNECTED = "connected"
    LOST = "lost"
    DIED = "died"
    """The process ended, and another one may take its place."""
    DRAIN = "drain"
    """The run ends."""
    EXPIRE = "expire"
    """The drain timeout has passed; the process is killed."""
    STOP = "stop"
    """The service has ended as it should."""
    FAIL = "fail"
    """The service has failed for good."""


_SERVING = (Stage.STARTING, Stage.CONNECTING, Stage.STREAMING)
_ENDING = (Stage.DRAINING, Stage.FINISHING, Stage.EXPIRED)

TRANSITIONS: dict[tuple[Stage, FeedEvent], Stage] = {
    (Stage.NEW, FeedEvent.START): Stage.STARTING,
    (Stage.NEW, FeedEvent.DRAIN): Stage.HALTED,
    (Stage.STARTING, FeedEvent.UP): Stage.CONNECTING,
    (Stage.CONNECTING, FeedEvent.CONNECTED): Stage.STREAMING,
    (Stage.CONNECTING, FeedEvent.LOST): Stage.CONNECTING,
    (Stage.STREAMING, FeedEvent.CONNECTED): Stage.STREAMING,
    (Stage.STREAMING, FeedEvent.LOST): Stage.CONNECTING,
    (Stage.RESTARTING, FeedEvent.START): Stage.STARTING,
    (Stage.RESTARTING, FeedEvent.DRAIN): Stage.HALTED,
    (Stage.DRAINING, FeedEvent.DIED): Stage.HALTED,
    (Stage.DRAINING, FeedEvent.EXPIRE): Stage.EXPIRED,
    (Stage.HALTED, FeedEvent.START): Stage.FINISHING,
    (Stage.HALTED, FeedEvent.STOP): Stage.STOPPED,
    (Stage.HALTED, FeedEvent.FAIL): Stage.FAILED,
    (Stage.FINISHING, FeedEvent.EXPIRE): Stage.EXPIRED,
    (Stage.EXPIRED, FeedEvent.EXPIRE): Stage.EXPIRED,
    # Only the end of a run shows that a stream never had a server.
    (Stage.STOPPED, FeedEvent.FAIL): Stage.FAILED,
    **{(stage, FeedEvent.DIED): Stage.RESTARTING for stage in _SERVING},
    **{(stage, FeedEvent.DRAIN): Stage.DRAINING for stage in _SERVING},
    **{(stage, FeedEvent.FAIL): Stage.FAILED for stage in (*_SERVING, *_ENDING)},
    **{(stage, FeedEvent.STOP): Stage.STOPPED for stage in _ENDING},
    # What a process reports while it ends changes nothing.
    **{
        (stage, event): stage
        for stage in _ENDING
        for event in (FeedEvent.UP, FeedEvent.CONNECTED, FeedEvent.LOST)
    },
}


def follow(stage: Stage, event: FeedEvent) -> Stage:
    """Return the stage after `event`. Raises ValueError if the stage does not allow the event."""
    try:
        return TRANSITIONS[stage, event]
    except KeyError:
        raise ValueError(f"a feed in stage {stage.value} cannot handle the event {event.value!r}") from None
