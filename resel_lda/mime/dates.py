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


def parse_date(value: bytes) -> tuple[int, int] | None:
    """(seconds since the epoch, the day as written: `datetime.date.toordinal`); None if it is no
    date."""
    found = _USUAL.match(value)
    if found is None:
        return _other_form(value)
    month = _MONTHS.get(found[2].lower())
    if month is None:
        return None
    day, year, hour, minute = int(found[1]), int(found[3]), int(found[4]), int(found[5])
    try:
        ordinal = datetime.date(year, month, day).toordinal()
    except ValueError:
        return None
    offset = (int(found[8]) * 60 + int(found[9])) * 60
    seconds = calendar.timegm((year, month, day, hour, minute, int(found[6] or 0)))
    return (seconds - offset if found[7] == b"+" else seconds + offset), ordinal


def _other_form(value: bytes) -> tuple[int, int] | None:
    try:
        parts = parsedate_tz(value[:_LONGEST].decode("latin-1"))
        if parts is None:
            return None
        ordinal = datetime.date(*parts[:3]).toordinal()
        return calendar.timegm(parts[:9]) - (parts[9] or 0), ordinal
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
