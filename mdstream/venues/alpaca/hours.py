"""When a market can be expected to talk: silence at night is no fault."""

from __future__ import annotations

from datetime import datetime, time
from zoneinfo import ZoneInfo

NEW_YORK = ZoneInfo("America/New_York")
OPEN, CLOSE = time(9, 30), time(16, 0)


def is_open(moment: datetime) -> bool:
    """Whether US exchanges are in their regular session at `moment`, holidays not considered.

    On a holiday a silent socket is taken for dead now and then, and reconnected: harmless.
    """
    local = moment.astimezone(NEW_YORK)
    return local.weekday() < 5 and OPEN <= local.time() < CLOSE
