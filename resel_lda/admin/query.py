"""doveadm's search queries (doveadm-search-query(7)): words of a command line, not IMAP's line.

    mailbox INBOX ( from alice OR subject "minutes of" ) not seen savedbefore 2w

Words beside each other must all match; OR stands between words, and does not mix with those
except in parentheses. Keys that IMAP has are left to IMAP's own reader of them; what is new here
is the mailbox, and times to the second: "2026-06-03", "03-Jun-2026", seconds since the epoch, or
how long ago ("90 mins", "2h", "7d", "2w").
"""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

from resel_lda.imap import text
from resel_lda.imap.parser import MONTHS, ParseError, parse_sequence_set

_MAX_DEPTH = 40

_PLAIN = frozenset(
    [
        "ALL",
        "ANSWERED",
        "DELETED",
        "DRAFT",
        "FLAGGED",
        "NEW",
        "OLD",
        "RECENT",
        "SEEN",
        "UNANSWERED",
        "UNDELETED",
        "UNDRAFT",
        "UNFLAGGED",
        "UNSEEN",
    ]
)
_TEXTS = frozenset(["BCC", "BODY", "CC", "FROM", "SUBJECT", "TEXT", "TO"])
_WORDS = frozenset(("KEYWORD", "UNKEYWORD"))
_SIZES = frozenset(("LARGER", "SMALLER"))
# Key → (which date, how it compares).
_TIMES = {
    "BEFORE": ("received", "before"),
    "ON": ("received", "on"),
    "SINCE": ("received", "since"),
    "SAVEDBEFORE": ("saved", "before"),
    "SAVEDON": ("saved", "on"),
    "SAVEDSINCE": ("saved", "since"),
    "SENTBEFORE": ("sent", "before"),
    "SENTON": ("sent", "on"),
    "SENTSINCE": ("sent", "since"),
}
# Dovecot's earlier names.
_SYNONYMS = {"X-GUID": "GUID", "X-MAILBOX": "MAILBOX", "X-REAL-UID": "UID"}
_ALGORITHMS = {name: name.encode() for name in ("REFERENCES", "REFS", "ORDEREDSUBJECT")}
_SET = re.compile(r"[0-9*][0-9*:,]*")
_SIZE = re.compile(r"(\d+)([bkmgt]?)(?:i?b)?", re.IGNORECASE)
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_AGO = re.compile(r"(\d+)\s*([a-z]+)", re.IGNORECASE)
_AGO_UNITS = (
    ("seconds", 1),
    ("minutes", 60),
    ("mins", 60),
    ("hours", 3600),
    ("days", 86400),
    ("weeks", 7 * 86400),
)
_ISO_DATE = re.compile(r"(\d{4})-(\d{2})-(\d{2})(?: (\d{2}):(\d{2}):(\d{2}))?")
_IMAP_DATE = re.compile(r"(\d{1,2})-([A-Za-z]{3})-(\d{4})")
_DAY = 86400


class QueryError(Exception):
    """A query that cannot be read; the text is doveadm's."""


@dataclass(frozen=True, slots=True)
class Imap:
    """A key of IMAP SEARCH, as it stands there."""

    program: bytes


@dataclass(frozen=True, slots=True)
class Numbers:
    """Message sequence numbers in their folder; those beyond its end match nothing."""

    text: bytes


@dataclass(frozen=True, slots=True)
class Modseq:
    """Changed at this MODSEQ or later."""

    least: int


@dataclass(frozen=True, slots=True)
class InMailbox:
    """In a folder that this mask matches."""

    mask: str


@dataclass(frozen=True, slots=True)
class WithGuid:
    """What has this GUID: the folder, or (folder False) the message."""

    guid: str
    folder: bool


@dataclass(frozen=True, slots=True)
class When:
    """kind: "received", "saved". From `start` up to but not including `end`; seconds since the
    epoch."""

    kind: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class InThread:
    """In a thread, as IMAP's THREAD makes them, of which a message matches `node`."""

    algorithm: bytes
    node: Node


@dataclass(frozen=True, slots=True)
class AllOf:
    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Not:
    node: Node


Node = Imap | Numbers | Modseq | InMailbox | WithGuid | When | InThread | AllOf | AnyOf | Not


def parse_query(words: Sequence[str]) -> Node:
    """Raises QueryError."""
    reader = _Reader(words)
    node = reader.group(0)
    if reader.position < len(words):
        raise QueryError("Unknown argument )")
    return node


def names_a_mailbox(node: Node) -> bool:
    """Whether every way to match names a mailbox, so that nothing is done to all by accident."""
    if isinstance(node, InMailbox):
        return True
    if isinstance(node, WithGuid):
        return node.folder
    if isinstance(node, AllOf):
        return any(names_a_mailbox(one) for one in node.nodes)
    if isinstance(node, AnyOf):
        return all(names_a_mailbox(one) for one in node.nodes)
    return False


def names_messages(node: Node) -> bool:
    """Whether every way to match says which messages too, if only by "all"."""
    if isinstance(node, InMailbox):
        return False
    if isinstance(node, WithGuid):
        return not node.folder
    if isinstance(node, Not | InThread):
        return names_messages(node.node)
    if isinstance(node, AllOf):
        return any(names_messages(one) for one in node.nodes)
    if isinstance(node, AnyOf):
        return all(names_messages(one) for one in node.nodes)
    return True


def exact_mailboxes(node: Node) -> list[str] | None:
    """The folders a query can match in, where it names each without wildcards; else None."""
    if isinstance(node, InMailbox):
        return None if "*" in node.mask or "%" in node.mask else [node.mask]
    if isinstance(node, AllOf):
        found = [names for names in map(exact_mailboxes, node.nodes) if names is not None]
        return found[0] if found else None
    if isinstance(node, AnyOf):
        branches = [exact_mailboxes(one) for one in node.nodes]
        names = [name for branch in branches if branch is not None for name in branch]
        return None if None in branches else list(dict.fromkeys(names))
    return None


class _Reader:
    def __init__(self, words: Sequence[str]) -> None:
        self._words = words
        self.position = 0

    def group(self, depth: int) -> Node:
        """Keys up to the end or to a closing parenthesis."""
        nodes: list[Node] = []
        ors = ands = 0
        while self.position < len(self._words) and self._words[self.position] != ")":
            if nodes:
                if self._words[self.position].upper() == "OR":
                    self.position += 1
                    ors += 1
                else:
                    ands += 1
            if ors and ands:
                raise QueryError("Use parenthesis when mixing ANDs and ORs")
            nodes.append(self._key(depth))
        if not nodes:
            raise QueryError("Empty search query")
        if len(nodes) == 1:
            return nodes[0]
        return AnyOf(tuple(nodes)) if ors else AllOf(tuple(nodes))

    def _next(self, key: str) -> str:
        if self.position >= len(self._words):
            raise QueryError(f"Missing parameter for search key (for search key: {key})")
        self.position += 1
        return self._words[self.position - 1]

    def _key(self, depth: int) -> Node:
        word = self._next("OR")
        if depth > _MAX_DEPTH:
            raise QueryError("Search query is too complex")
        if word == "(":
            node = self.group(depth + 1)
            if self.position >= len(self._words):
                raise QueryError("Missing ')'")
            self.position += 1
            return node
        key = word.upper()
        key = _SYNONYMS.get(key, key)
        if key == "NOT":
            return Not(self._key(depth + 1))
        if key == "FUZZY":
            # Matches exactly here, as in Dovecot without an index that knows better.
            return self._key(depth + 1)
        if key == "INTHREAD":
            algorithm = self._next(key).upper()
            if algorithm not in _ALGORITHMS:
                raise QueryError("Unknown thread algorithm")
            if self.position >= len(self._words):
                raise QueryError("Missing argument")
            return InThread(_ALGORITHMS[algorithm], self._key(depth + 1))
        if _SET.fullmatch(word):
            return Numbers(_sequence(word, ""))
        if key in _PLAIN:
            return Imap(key.encode())
        return self._with_argument(key)

    def _with_argument(self, key: str) -> Node:
        known = _TEXTS | _WORDS | _SIZES | _TIMES.keys()
        if key not in known | {"MAILBOX", "MAILBOX-GUID", "GUID", "HEADER", "UID", "MODSEQ"} | {
            "OLDER",
            "YOUNGER",
        }:
            raise QueryError(f"Unknown argument {key}")
        value = self._next(key)
        if key == "MAILBOX":
            return InMailbox(value)
        if key in ("MAILBOX-GUID", "GUID"):
            return WithGuid(value, folder=key == "MAILBOX-GUID")
        if key == "UID":
            return Imap(b"UID " + _sequence(value, "UID "))
        if key in _SIZES:
            return Imap(f"{key} {_size(value)}".encode())
        if key in ("OLDER", "YOUNGER"):
            return _within(key, value)
        if key == "MODSEQ":
            if not value.isascii() or not value.isdigit():
                raise QueryError(f"Invalid MODSEQ value: {value}")
            return Modseq(int(value))
        if key in _TIMES:
            return _when(key, value)
        if key == "HEADER":
            return Imap(b"HEADER %b %b" % (_string(value), _string(self._next(key))))
        if key in _WORDS:
            return Imap(f"{key} {value}".encode("ascii", "replace"))
        return Imap(key.encode() + b" " + _string(value))


def _string(value: str) -> bytes:
    return text.string(value.encode("utf-8", "surrogateescape"))


def _sequence(value: str, kind: str) -> bytes:
    try:
        parse_sequence_set(value.encode("ascii", "replace"))
    except ParseError:
        raise QueryError(f"Invalid {kind}messageset") from None
    return value.encode("ascii")


def _size(value: str) -> int:
    found = _SIZE.fullmatch(value)
    if found is None:
        raise QueryError(f"Invalid size: {value}")
    return int(found[1]) * _UNITS[found[2].lower()]


def _within(key: str, value: str) -> Node:
    if not value.isascii() or not value.isdigit() or int(value) == 0:
        raise QueryError(f"Invalid search interval parameter: {value}")
    border = time.time() - int(value)
    if key == "OLDER":
        return When("received", 0.0, border)
    return When("received", border, float("inf"))


def _when(key: str, value: str) -> Node:
    kind, how = _TIMES[key]
    start, length = _moment(value)
    if kind == "sent":
        # The Date field counts by days, whatever its time zone.
        day = time.localtime(start)
        date = f"{day.tm_mday}-{MONTHS[day.tm_mon - 1]}-{day.tm_year:04d}"
        return Imap(f"SENT{how.upper()} {date}".encode())
    if how == "before":
        return When(kind, 0.0, start)
    if how == "since":
        return When(kind, start, float("inf"))
    return When(kind, start, start + (length or _DAY))


def _moment(value: str) -> tuple[float, int]:
    """(seconds since the epoch, how long it lasts: a day for a date). Raises QueryError."""
    try:
        return _read_moment(value)
    except (ValueError, OverflowError, KeyError):
        raise QueryError(f"Invalid search date parameter: {value}") from None


def _read_moment(value: str) -> tuple[float, int]:
    iso = _ISO_DATE.fullmatch(value)
    if iso is not None:
        year, month, day, *clock = (int(number or 0) for number in iso.groups())
        return _local(year, month, day, *clock), 0 if iso[4] else _DAY
    imap = _IMAP_DATE.fullmatch(value)
    if imap is not None:
        month = MONTHS.index(imap[2].capitalize()) + 1
        return _local(int(imap[3]), month, int(imap[1])), _DAY
    if value.isascii() and value.isdigit():
        return float(value), 0
    ago = _AGO.fullmatch(value)
    if ago is None:
        raise ValueError(value)
    unit = ago[2].lower()
    seconds = next((many for name, many in _AGO_UNITS if name.startswith(unit)), 0)
    if not seconds:
        raise ValueError(value)
    return time.time() - int(ago[1]) * seconds, 0


def _local(
    year: int, month: int, day: int, hour: int = 0, minute: int = 0, second: int = 0
) -> float:
    """Raises ValueError for a day or time that there is not."""
    moment = datetime.datetime(year, month, day, hour, minute, second)
    return time.mktime((*moment.timetuple()[:6], 0, 0, -1))
