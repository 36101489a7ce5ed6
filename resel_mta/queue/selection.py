"""Which messages of the queue somebody means: by sender, recipient, host, subject, error, age, size.

Addresses: ``user@host`` as it is, ``@host``, ``user@``, a bare word for either part, ``<>`` for
the null sender, or a pattern with ``*`` and ``?``. Other text is found anywhere. Case never counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from fnmatch import translate
from functools import lru_cache
from typing import Any

from resel_mta.queue.door import Entry, RecipientEntry

NULL_SENDERS = ("", "<>", "mailer-daemon")
_AGE = re.compile(r"([0-9]+)([smhdw])", re.IGNORECASE)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_NUMBERS = frozenset(("older", "smallest", "largest"))
_SIZE = r"([0-9]+)([kmg]?)b?"
_RANGE = re.compile(rf"(?:{_SIZE})?(-)?(?:{_SIZE})?", re.IGNORECASE)
_UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}
# As the log names them: "mx.example.org[192.0.2.1]".
_HOST = re.compile(r"([0-9a-z._-]+)\[([0-9a-f.:]+)\]")
_SUBJECT = re.compile(rb"^subject[ \t]*:((?:[^\n]*\n)(?:[ \t][^\n]*\n?)*)", re.IGNORECASE | re.M)


@dataclass(frozen=True, slots=True)
class Selection:
    """All conditions that are not None must hold; `recipient`, `host` and `error` for one and
    the same recipient.

    older: seconds since its arrival, at least. smallest, largest: octets of the content.
    """

    sender: str | None = None
    recipient: str | None = None
    host: str | None = None
    subject: str | None = None
    error: str | None = None
    older: float | None = None
    smallest: int | None = None
    largest: int | None = None

    @classmethod
    def from_row(cls, row: Mapping[str, Any] | None) -> Selection:
        """From what `as_row` gave; everything for None. Raises TypeError for anything else."""
        if not row:
            return cls()
        for name, value in dict(row).items():
            if not isinstance(value, (int, float) if name in _NUMBERS else str):
                raise TypeError(f"{name} cannot be a {type(value).__name__}")
        return cls(**row)

    def as_row(self) -> dict[str, Any]:
        """For the way to the daemon; only what is set."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def is_everything(self) -> bool:
        return not self.as_row()

    def matches(self, entry: Entry, now: float) -> bool:
        """Everything but `subject`, `host` and what depends on it."""
        if self.sender is not None and not matches_address(self.sender, entry.sender):
            return False
        if self.older is not None and now - entry.arrival < self.older:
            return False
        if self.smallest is not None and entry.size < self.smallest:
            return False
        return self.largest is None or entry.size <= self.largest

    @property
    def asks_recipients(self) -> bool:
        return any(value is not None for value in (self.recipient, self.host, self.error))

    def matches_recipient(self, recipient: RecipientEntry) -> bool:
        """Everything that is asked of a recipient but `host`."""
        if self.recipient is not None and not (
            matches_address(self.recipient, recipient.address)
            or (recipient.orig_to and matches_address(self.recipient, recipient.orig_to))
        ):
            return False
        return self.error is None or contains(self.error, recipient.reason)

    def matches_subject(self, header: bytes) -> bool:
        return self.subject is None or contains(self.subject, subject_of(header))


def matches_address(wanted: str, address: str) -> bool:
    wanted, address = wanted.lower(), address.lower()
    if wanted in NULL_SENDERS:
        return not address
    wanted = wanted.removeprefix("<").removesuffix(">")
    local, at, domain = address.rpartition("@")
    if not at:
        local, domain = address, ""
    if "*" in wanted or "?" in wanted:
        return _looks_like(address, wanted)
    if wanted.startswith("@"):
        return domain == wanted[1:]
    if wanted.endswith("@"):
        return local == wanted[:-1]
    return wanted == address or ("@" not in wanted and wanted in (local, domain))


def _looks_like(text: str, wanted: str) -> bool:
    # Brackets stand for themselves: they are part of an address literal.
    return _pattern(wanted.replace("[", "[[]")).match(text) is not None


# Everybody on this machine may ask with patterns: fnmatch itself remembers 32768 of them.
@lru_cache(maxsize=64)
def _pattern(wanted: str) -> re.Pattern[str]:
    return re.compile(translate(wanted))


def contains(wanted: str, text: str) -> bool:
    """Whether the words are in the text; with * or ? the whole text has to look like that."""
    wanted, text = " ".join(wanted.lower().split()), " ".join(text.lower().split())
    if "*" in wanted or "?" in wanted:
        return _looks_like(text, wanted)
    return wanted in text


def names_host(wanted: str, recipient: RecipientEntry) -> bool:
    """Whether a recipient's mail goes to this host or domain, by what is known of it already:
    its domain, who answered last or did not (name or address), what it waits for."""
    wanted = wanted.lower().removeprefix("[").partition("]")[0]
    known = {recipient.address.rpartition("@")[2].lower(), host_of_site(recipient.waits_for)}
    for found in _HOST.findall(f"{recipient.relay} {recipient.reason}".lower()):
        known.update(found)
    return any(name and _looks_like(name, wanted) for name in known)


def host_of_site(site: str) -> str:
    """The host of a name such as "smtp:[mx.example.org]:25", in lower case; "" for ""."""
    nexthop = site.partition(":")[2].lower()
    if nexthop.startswith("["):
        return nexthop[1:].partition("]")[0]
    return nexthop.partition(":")[0]


def subject_of(header: bytes) -> str:
    """The decoded Subject; "" if there is none. A broken one comes as it is."""
    found = _SUBJECT.search(header)
    if found is None:
        return ""
    text = " ".join(found[1].decode("utf-8", "replace").split())
    try:
        return str(make_header(decode_header(text)))
    except (ValueError, LookupError, HeaderParseError):
        return text


def parse_age(text: str) -> float:
    """Seconds: "90s", "30m", "2h", "3d", "1w", or several ("1d12h"). Raises ValueError."""
    parts = _AGE.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"'{text}' is not an age: a number with s, m, h, d or w, such as 2h or 3d")
    return float(sum(int(number) * _SECONDS[unit.lower()] for number, unit in parts))


def parse_size(text: str) -> tuple[int | None, int | None]:
    """Smallest and largest octets: "1M" (at least), "-10k" (at most), "10k-1M". Raises ValueError."""
    found = _RANGE.fullmatch(text)
    if found is None or not (found[1] or found[4]) or (found[1] and found[4] and not found[3]):
        raise ValueError(
            f"'{text}' is not a size: 100k (at least), -1M (at most) or 100k-1M; k, M or G"
        )
    low, low_unit, _, high, high_unit = found.groups()
    smallest = int(low) * _UNITS[low_unit.lower()] if low else None
    largest = int(high) * _UNITS[high_unit.lower()] if high else None
    if smallest is not None and largest is not None and largest < smallest:
        raise ValueError(f"'{text}' is not a size: it ends below where it begins")
    return smallest, largest
