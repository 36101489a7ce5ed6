"""The messages of a folder in memory: one string for each, and what many of them share."""

from __future__ import annotations

from dataclasses import dataclass

from resel_lda.mailbox import Marks, MessageInfo
from resel_lda.maildir.names import info_of, joined


@dataclass(eq=False, slots=True)
class FileMarks(Marks):
    """ending: what the file's name has beside its base (see `names.ending_of`)."""

    ending: str

    @property
    def letters(self) -> str:
        return info_of(self.ending)


class MessageTable:
    """By ascending UID. One thread at a time changes it; any may look."""

    def __init__(self) -> None:
        self.marks: dict[int, FileMarks] = {}
        self.bases: dict[int, str] = {}
        self.uids: dict[str, int] = {}

    def name(self, uid: int) -> str | None:
        """Of the message's file in cur/; None if it is gone."""
        marks, base = self.marks.get(uid), self.bases.get(uid)
        return None if marks is None or base is None else joined(base, marks.ending)

    def info(self, uid: int) -> MessageInfo | None:
        marks = self.marks.get(uid)
        return None if marks is None else MessageInfo(uid, marks.flags, marks.modseq)

    def show(self, uid: int, base: str, marks: FileMarks) -> None:
        """A message that comes after all others."""
        self.bases[uid] = base
        self.uids[base] = uid
        self.marks[uid] = marks

    def drop(self, uid: int) -> None:
        del self.marks[uid]
        self.uids.pop(self.bases.pop(uid), None)


def around(ending: str) -> tuple[str, str]:
    """What stands before and after the base in a name that has this ending."""
    before, _, after = joined("\0", ending).partition("\0")
    return before, after
