"""When US exchanges are open: silence at night is normal."""

from __future__ import annotations

from datetime import datetime, time
from zoneinfo import ZoneInfo

NEW_YORK = ZoneInfo("America/New_York")
OPEN, CLOSE = time(9, 30), time(16, 0)


def is_open(moment: datetime) -> bool:
    """Return whether US exchanges are in their regular session at `moment`, ignoring holidays.

    On a holiday, silent sockets count as dead and are reconnected now and then; that is harmless.
    """
    local = moment.astimezone(NEW_YORK)
    return local.weekday() < 5 and OPEN <= local.time() < CLOSE
