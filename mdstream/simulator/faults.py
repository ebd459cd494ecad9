"""Faults on demand: their kind, stream, time and number."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from mdstream.errors import ConfigError
from mdstream.streams import STREAMS

KINDS = {
    "auth": "answer authentication with this error code (402, 406, 409, ...)",
    "upgrade": "answer the WebSocket upgrade with this HTTP status",
    "error": "send this error code (407, 500, ...) after @SECONDS, then close",
    "drop": "cut the connection without a close frame after @SECONDS",
    "mute": "stay connected but send nothing more after @SECONDS",
    "garbage": "send a payload of nonsense behind every Nth",
    "truncate": "send half a payload behind every Nth",
    "rest": "answer REST with this HTTP status (429, 500, ...)",
    "cut": "end every REST answer in its middle",
    "slow": "add this many seconds to every REST answer",
    "symbol": "treat this symbol as invalid, on the stream and in REST",
}

_FAULT = re.compile(
    r"(?:(?P<stream>[a-z]+):)?(?P<kind>[a-z]+)(?:=(?P<value>[^@*]+))?"
    r"(?:@(?P<after>\d+(?:\.\d+)?))?(?:\*(?P<times>\d+))?"
)


@dataclass(slots=True)
class Fault:
    """One fault. `left` is how often it will still happen; None: always."""

    kind: str
    stream: str
    value: str
    after_s: float
    left: int | None

    @property
    def number(self) -> float:
        return float(self.value)

    def happens(self) -> bool:
        """Return whether it happens now, and count it."""
        if self.left == 0:
            return False
        if self.left is not None:
            self.left -= 1
        return True


def parse(text: str) -> Fault:
    """Parse `[STREAM:]KIND[=VALUE][@SECONDS][*TIMES]`: `stocks:auth=402`, `drop@3*1`, `rest=429*5`."""
    match = _FAULT.fullmatch(text)
    if match is None or match["kind"] not in KINDS:
        raise ConfigError(
            f"fault {text!r}: expected [STREAM:]KIND[=VALUE][@SECONDS][*TIMES] "
            f"with KIND one of {', '.join(KINDS)}"
        )
    stream, kind, value = match["stream"] or "", match["kind"], match["value"] or ""
    if stream and stream not in STREAMS:
        raise ConfigError(f"fault {text!r}: unknown stream {stream!r}")
    if kind in ("drop", "mute", "cut"):
        if value:
            raise ConfigError(f"fault {text!r}: write {kind}{'' if kind == 'cut' else '@SECONDS'}")
    elif not value or (kind != "symbol" and not _is_number(value)):
        raise ConfigError(f"fault {text!r}: {kind} needs a value, as in {kind}=402")
    if kind in ("garbage", "truncate") and float(value) < 1:
        raise ConfigError(f"fault {text!r}: {kind} needs a number of payloads, as in {kind}=50")
    times = int(match["times"]) if match["times"] else None
    return Fault(kind, stream, value, float(match["after"] or 0), times)


def _is_number(text: str) -> bool:
    try:
        return 0 <= float(text) < math.inf
    except ValueError:
        return False


class Faults:
    """The active faults; `replace` changes them while the simulator runs."""

    def __init__(self, texts: Any = ()) -> None:
        self._faults: list[Fault] = []
        self.replace(texts)

    def replace(self, texts: Any) -> None:
        self._faults = [parse(str(text)) for text in texts]

    def of(self, kind: str, stream: str) -> Fault | None:
        """Return the fault of this kind for `stream`, if any is left, without counting it."""
        for fault in self._faults:
            if fault.kind == kind and fault.stream in ("", stream) and fault.left != 0:
                return fault
        return None

    def strikes(self, kind: str, stream: str) -> Fault | None:
        """Return the fault as `of` does, and count it."""
        fault = self.of(kind, stream)
        return fault if fault is not None and fault.happens() else None

    def invalid_symbols(self, stream: str) -> set[str]:
        return {f.value for f in self._faults if f.kind == "symbol" and f.stream in ("", stream)}
