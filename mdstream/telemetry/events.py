"""Events of a run, as rows for `telemetry.events` and `telemetry.symbols`.

The process that notices something makes a `RunEvent`; only the supervisor writes it. Any program can read
from the frames what went wrong and when, and which symbols are served.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from enum import IntEnum, StrEnum
from typing import Any, NamedTuple


class EventKind(StrEnum):
    """What happened, for programs. The text of an event says it to people."""

    STARTED = "started"
    """The first process of a stream is up."""
    RESTARTED = "restarted"
    """A process is up that replaces one that died."""
    RECOVERED = "recovered"
    """A new process has taken over the payloads that its predecessor had received."""
    DIED = "died"
    """A process ended too early. It is restarted unless the run ends."""
    STOPPED = "stopped"
    """A stream has ended as it should."""
    FAILED = "failed"
    """A stream has failed for good."""
    CONNECTED = "connected"
    """A stream is connected, and its subscriptions are acknowledged."""
    LOST = "lost"
    """A stream has lost its connection, or could not open one; it retries."""
    WAITING = "waiting"
    """The server has no place for the connection now; the stream retries."""
    REFUSED = "refused"
    """The server does not accept subscriptions."""
    FETCHED = "fetched"
    """A fetch cycle has ended."""
    KERNELS = "kernels"
    """A stream uses the compiled decoders now, which were compiled beside it."""
    RECORDING = "recording"
    """Recording waits, has trouble, or has resumed."""
    JOURNAL = "journal"
    """The journal has lost payloads that were written."""
    WORKERS = "workers"
    """A stream has more workers, or fewer, because its load has changed."""
    CLOCK = "clock"
    """The clock of this machine is far behind the times of the messages, or agrees with them again."""
    RESOURCES = "resources"
    """Something was dropped for lack of room or time."""


class Severity(IntEnum):
    """Importance of an event; the numbers are those of log levels."""

    DEBUG = logging.DEBUG
    INFO = logging.INFO
    WARNING = logging.WARNING
    ERROR = logging.ERROR


class RunEvent(NamedTuple):
    """An event. `fields` are JSON values: the numbers and names behind the text."""

    kind: EventKind
    text: str
    severity: Severity = Severity.INFO
    fields: Mapping[str, Any] = {}


class SymbolState(StrEnum):
    """Whether a symbol is served."""

    OK = "ok"
    FAILED = "failed"
    DROPPED = "dropped"
    """The symbol was unsubscribed."""


class SymbolChange(NamedTuple):
    """A symbol's new state. `reason` says why it is not served, and is None if it is."""

    symbol: str
    state: SymbolState
    reason: str | None


Symbols = tuple[Iterable[str], Mapping[str, str]]
"""Symbols that are served, and symbols that are not, each with the reason."""


def compare_symbols(before: Symbols, now: Symbols) -> Iterator[SymbolChange]:
    """Yield each symbol whose state or reason has changed, in the order of `now`; dropped ones last."""
    (ok_before, failed_before), (ok, failed) = before, now
    known = {**dict.fromkeys(ok_before), **failed_before}
    current = {**dict.fromkeys(ok), **failed}
    for symbol, reason in current.items():
        if symbol not in known or known[symbol] != reason:
            yield SymbolChange(symbol, SymbolState.OK if reason is None else SymbolState.FAILED, reason)
    for symbol in known.keys() - current.keys():
        yield SymbolChange(symbol, SymbolState.DROPPED, None)
