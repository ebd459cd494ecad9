"""Times as people write them, to the nanosecond."""

from __future__ import annotations

import contextlib
import re
from datetime import UTC, date, datetime
from typing import NamedTuple

_FRACTION = re.compile(r"[.,](\d+)")
_FRACTION_OF_OFFSET = re.compile(r"[+-][\d:]+[.,]")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class TimeText(NamedTuple):
    """What a text says: a date, or a time to the microsecond and the nanoseconds beyond that."""

    when: date | datetime
    beyond: int = 0


def parse_time_text(text: str) -> TimeText:
    """Return the date or time that a text in ISO 8601 names. Raises `ValueError`.

    This is the one parser of such texts. A fraction has up to nine digits: no digit is dropped.
    """
    with contextlib.suppress(ValueError):
        return TimeText(date.fromisoformat(text))  # any form of a date, as 20260105
    when = datetime.fromisoformat(text)  # which drops all digits behind the sixth
    fraction = _FRACTION.search(text)
    if fraction is None:
        return TimeText(when)
    if _FRACTION_OF_OFFSET.search(text) or len(fraction[1]) > 9:
        raise ValueError(f"{text!r} is more exact than a nanosecond")
    return TimeText(when, int(fraction[1].ljust(9, "0")) % 1000)


def to_ns(when: datetime) -> int:
    """Return a time with a zone as nanoseconds since 1970 UTC, exactly.

    Types with nanoseconds of their own, such as the `Timestamp` of pandas, keep these.
    """
    past = when - _EPOCH
    whole = (past.days * 86_400 + past.seconds) * 1_000_000_000 + past.microseconds * 1000
    return whole + int(getattr(when, "nanosecond", 0))
