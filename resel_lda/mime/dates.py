"""The Date field (RFC 5322 §3.3, with the obsolete forms). Never fails."""

from __future__ import annotations

import calendar
import datetime
import re
from email.utils import parsedate_tz

_MONTHS = {
    name: number
    for number, name in enumerate(
        (b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov", b"dec"), 1
    )
}  # fmt: skip
_USUAL = re.compile(
    rb"(?:[A-Za-z]{3}, ?)?([0-9]{1,2}) ([A-Za-z]{3}) ([0-9]{4}) ([0-9]{2}):([0-9]{2})(?::([0-9]{2}))?"
    rb" ([+-])([0-9]{2})([0-9]{2})(?![0-9])"
)
_LONGEST = 200
_EPOCH = datetime.date(1970, 1, 1).toordinal()


def parse_date(value: bytes) -> tuple[int, int] | None:
    """(seconds since the epoch, the day as written: `datetime.date.toordinal`); None if it is no
    date."""
    found = _USUAL.match(value)
    if found is None:
        return _other_form(value)
    day, name, year, hour, minute, second, sign, hours, minutes = found.groups()
    month = _MONTHS.get(name.lower())
    if month is None:
        return None
    try:
        ordinal = datetime.date(int(year), month, int(day)).toordinal()
    except ValueError:
        return None
    passed = (int(hour) * 60 + int(minute)) * 60 + int(second or 0)
    offset = (int(hours) * 60 + int(minutes)) * 60
    seconds = (ordinal - _EPOCH) * 86400 + passed
    return (seconds - offset if sign == b"+" else seconds + offset), ordinal


def _other_form(value: bytes) -> tuple[int, int] | None:
    try:
        parts = parsedate_tz(value[:_LONGEST].decode("latin-1"))
        if parts is None:
            return None
        ordinal = datetime.date(*parts[:3]).toordinal()
        return calendar.timegm(parts[:9]) - (parts[9] or 0), ordinal
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
