"""SEARCH keys on header fields, the Date field and the text (RFC 3501 §6.4.4).

What the store can answer at once for all messages is asked before any message is looked at.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Mapping, Sequence

from resel_lda.imap.search_keys import Answer, Candidate
from resel_lda.mailbox import Mailbox, TextAnswers
from resel_lda.mime.dates import parse_date
from resel_lda.mime.fold import fold
from resel_lda.mime.searchtext import header_line

_COLUMNS = {
    b"subject": "subject",
    b"from": "sender",
    b"to": "recipient",
    b"cc": "cc",
    b"bcc": "bcc",
}


class FieldKey:
    """Whether a header field contains a text; an empty one asks whether the field is there."""

    def __init__(self, name: bytes, needle: str) -> None:
        self._name = name.lower()
        self._needle = fold(needle)
        # White space may be folded differently in the header: one word is looked for first.
        self._word = max(self._needle.split(), key=len, default="").encode()
        # UIDs of those that match, where the store knows them.
        self.matches: Collection[int] | None = None

    async def prepare(self, mailbox: Mailbox) -> None:
        column = _COLUMNS.get(self._name)
        if column is not None:
            self.matches = await mailbox.find(column, self._needle)

    def __call__(self, candidate: Candidate) -> Answer:
        if self.matches is not None:
            return candidate.info.uid in self.matches
        header = candidate.header
        if header is None:
            return None
        if self._word and candidate.plain_header and self._word not in header.lower():
            return False
        fields = candidate.fields() or ()
        return any(name == self._name and self._needle in value for name, value in fields)


class SentKey:
    """On the day as it stands in the Date field, whatever its time zone."""

    def __init__(self, word: bytes, day: datetime.date) -> None:
        self._word = word
        self._day = day.toordinal()
        self._days: Mapping[int, int | None] | None = None

    async def prepare(self, mailbox: Mailbox) -> None:
        self._days = await mailbox.sent_days(mailbox.uids())

    def __call__(self, candidate: Candidate) -> Answer:
        if self._days is not None and candidate.info.uid in self._days:
            sent = self._days[candidate.info.uid]
        elif candidate.header is None:
            return None
        else:
            sent = _day_of(candidate)
        if sent is None:
            return False
        if self._word == b"SENTBEFORE":
            return sent < self._day
        return sent >= self._day if self._word == b"SENTSINCE" else sent == self._day


def _day_of(candidate: Candidate) -> int | None:
    for name, value in candidate.fields() or ():
        if name == b"date":
            found = parse_date(value.encode("utf-8", "replace"))
            return found[1] if found is not None else None
    return None


class TextKey:
    """BODY and TEXT."""

    def __init__(self, needle: str, with_header: bool) -> None:
        self._needle = fold(needle)
        self._with_header = with_header
        self._answers = TextAnswers()

    def recall(self, mailbox: Mailbox) -> None:
        """Take up what earlier searches found out."""
        self._answers = mailbox.text_answers(self._needle, self._with_header)

    async def rule_out(self, mailbox: Mailbox, uids: Sequence[int]) -> None:
        """Have the store say which of these need not be read and decoded."""
        if self._needle:
            waiting = [uid for uid in uids if uid not in self._answers]
            found = set(await mailbox.may_contain(waiting, self._needle))
            self._answers.update((uid, False) for uid in waiting if uid not in found)

    def __call__(self, candidate: Candidate) -> Answer:
        if not self._needle:
            return True
        uid = candidate.info.uid
        answer = self._answers.get(uid)
        if answer is None:
            answer = self._look(candidate)
            if answer is not None:
                self._answers[uid] = answer
        return answer

    def _look(self, candidate: Candidate) -> Answer:
        needle = self._needle
        if self._with_header:
            fields = candidate.fields()
            if fields and any(needle in header_line(*field) for field in fields):
                return True
        body = candidate.body()
        return None if body is None else needle in body
