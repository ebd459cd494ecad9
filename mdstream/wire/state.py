"""The states of one connection, and the events that change them.

OPENING ──connected──► AUTHENTICATING ──authenticated──► SUBSCRIBING ──acknowledged──► STREAMING
                            ▲  ▲                             │  ▲                          │ │
                            │  └─────── refused for now ─────┘  └───────── changed ────────┘ │
                            └───────────────────── refused for now ──────────────────────────┘

A lost connection is not an event here: its protocol is dropped, and the next connection has a new one.
"""

from __future__ import annotations

from enum import Enum


class State(Enum):
    OPENING = "opening"
    AUTHENTICATING = "authenticating"
    SUBSCRIBING = "subscribing"
    STREAMING = "streaming"


class Event(Enum):
    CONNECTED = "connected"
    AUTHENTICATED = "authenticated"
    REFUSED_FOR_NOW = "refused for now"
    """The server has no place now, or dropped our authentication; authenticate again."""
    ACKNOWLEDGED = "acknowledged"
    """All requests are answered."""
    CHANGED = "changed"
    """The wanted subscriptions have changed."""


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.OPENING, Event.CONNECTED): State.AUTHENTICATING,
    (State.AUTHENTICATING, Event.REFUSED_FOR_NOW): State.AUTHENTICATING,
    (State.AUTHENTICATING, Event.AUTHENTICATED): State.SUBSCRIBING,
    (State.SUBSCRIBING, Event.REFUSED_FOR_NOW): State.AUTHENTICATING,
    (State.SUBSCRIBING, Event.CHANGED): State.SUBSCRIBING,
    (State.SUBSCRIBING, Event.ACKNOWLEDGED): State.STREAMING,
    (State.STREAMING, Event.CHANGED): State.SUBSCRIBING,
    (State.STREAMING, Event.REFUSED_FOR_NOW): State.AUTHENTICATING,
}


def follow(state: State, event: Event) -> State:
    """Return the state after `event`. Raises ValueError if the protocol has no such step."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise ValueError(f"a session that is {state.value} cannot take {event.value!r}") from None
