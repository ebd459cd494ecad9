"""The states of one connection, and which event leads from which to which.

OPENING ──connected──► AUTHENTICATING ──authenticated──► SUBSCRIBING ──acknowledged──► STREAMING
                            ▲  ▲                             │  ▲                          │ │
                            │  └─────── refused for now ─────┘  └───────── changed ────────┘ │
                            └───────────────────── refused for now ──────────────────────────┘

A lost connection is no event here: its protocol is dropped with it, and the next one begins anew.
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
    """Nothing is left to ask for."""
    CHANGED = "changed"
    """There is something to subscribe or to unsubscribe."""


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
    """The state after `event`; raises ValueError where the protocol has no such step."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise ValueError(f"a session that is {state.value} cannot take {event.value!r}") from None
