"""SEARCH keys on what the store knows of messages: BEFORE, ON, SINCE, OLDER, YOUNGER (RFC 5032),
SAVEDBEFORE, SAVEDON, SAVEDSINCE (RFC 8514), EMAILID and THREADID (RFC 8474)."""

from __future__ import annotations

import abc
import datetime
import math
import time
from collections.abc import Collection

from resel_lda.imap import search_keys as keys
from resel_lda.imap.parser import ParseError, Parser
from resel_lda.imap.search_keys import Answer, Candidate
from resel_lda.mailbox import Mailbox

_SAVED = {b"SAVEDBEFORE": b"BEFORE", b"SAVEDON": b"ON", b"SAVEDSINCE": b"SINCE"}
_OBJECTS = {b"EMAILID": 0, b"THREADID": 1}


class StoredKey(abc.ABC):
    """Answered by the store for all messages at once."""

    def __init__(self) -> None:
        # UIDs of those that match, once it is prepared.
        self.matches: Collection[int] | None = None

    @abc.abstractmethod
    async def prepare(self, mailbox: Mailbox) -> None: ...

    def __call__(self, candidate: Candidate) -> Answer:
        return self.matches is not None and candidate.info.uid in self.matches


class ReceivedKey(StoredKey):
    """From and up to when: seconds since the epoch."""

    def __init__(self, start: float, end: float) -> None:
        super().__init__()
        self._start, self._end = start, end

    async def prepare(self, mailbox: Mailbox) -> None:
        dates = await mailbox.internal_dates(mailbox.uids())
        self.matches = {uid for uid, date in dates.items() if self._start <= date < self._end}


def age(word: bytes, seconds: int) -> ReceivedKey:
    """OLDER and YOUNGER (RFC 5032): both include the limit."""
    limit = time.time() - seconds
    if word == b"OLDER":
        return ReceivedKey(-math.inf, math.nextafter(limit, math.inf))
    return ReceivedKey(limit, math.inf)


class SavedKey(StoredKey):
    def __init__(self, word: bytes, day: datetime.date) -> None:
        super().__init__()
        self._start, self._end = keys.days_meant(word, day)

    async def prepare(self, mailbox: Mailbox) -> None:
        dates = await mailbox.saved_dates(mailbox.uids())
        self.matches = {uid for uid, date in dates.items() if self._start <= date < self._end}


class ObjectKey(StoredKey):
    def __init__(self, which: int, wanted: str) -> None:
        super().__init__()
        self._which = which
        self._wanted = wanted

    async def prepare(self, mailbox: Mailbox) -> None:
        found = await mailbox.object_ids(mailbox.uids())
        self.matches = {uid for uid, ids in found.items() if ids[self._which] == self._wanted}


def parse_stored(args: Parser, word: bytes) -> StoredKey | None:
    """After the key's name and a space; None if it is none of these. Raises ParseError."""
    if word in _SAVED:
        return SavedKey(_SAVED[word], args.date())
    if word in _OBJECTS:
        wanted = args.atom().decode("ascii")
        if len(wanted) > 255:
            raise ParseError("Object identifier is too long")
        return ObjectKey(_OBJECTS[word], wanted)
    return None
