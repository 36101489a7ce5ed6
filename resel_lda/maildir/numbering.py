"""Which UIDs the messages of a folder have: `dovecot-uidlist` and its lock."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator

from resel_lda.mailbox import MailboxError
from resel_lda.maildir.changelog import ChangeLog
from resel_lda.maildir.dotlock import LockFile, dotlock
from resel_lda.maildir.files import MaildirFiles
from resel_lda.maildir.names import base_of
from resel_lda.maildir.state import StateFile
from resel_lda.maildir.uidlist import (
    FILE_NAME,
    append_entries,
    new_guid,
    read_uidlist,
    reread_uidlist,
    write_uidlist,
)
from resel_mta.maillog import MailLog

# A directory's time stamp says nothing about changes within one tick of a coarse clock.
_STAMP_TRUST_NS = 2_000_000_000
_MAX_UID = 0xFFFFFFFE


class Numbering(ChangeLog):
    """The part of a `FolderIndex` that gives UIDs. Blocks."""

    def __init__(
        self,
        files: MaildirFiles,
        control: str,
        state: StateFile,
        log: MailLog,
        uidvalidity_source: Callable[[], int],
    ) -> None:
        super().__init__(state)
        self.files = files
        self.path = os.path.join(control, FILE_NAME)
        self._log = log
        self._uidvalidity_source = uidvalidity_source
        # For all folders of a store; without it each lock has a file of its own.
        self.shared_lock: LockFile | None = None
        self.last_uid = 0
        self._stamps: tuple[int, int] | None = None
        self._scan_start = 0

    def mark_scan(self) -> None:
        self._scan_start = time.time_ns()
        self._stamps = self.files.stamps()

    def stamps_unchanged(self) -> bool:
        """Whether the directories are surely as they were at the last scan."""
        if self._stamps is None or self.files.stamps() != self._stamps:
            return False
        return max(self._stamps) < self._scan_start - _STAMP_TRUST_NS

    def load_uidlist(self) -> tuple[int, dict[str, str] | None]:
        """The first UID that no session was told of where `state` does not know it, and if nobody
        knew the folder yet: base -> ending of all files, ascending by UID."""
        self.uidlist = read_uidlist(self.path)
        if self.uidlist.uidvalidity and self.uidlist.guid and not self.uidlist.damaged:
            return self.uidlist.next_uid, None
        listed: dict[str, str] | None = None
        with dotlock(self.files.disk, self.path, kept=self.shared_lock):
            self.uidlist = read_uidlist(self.path)
            if self.uidlist.damaged:
                self._log.warning("imap", f"{self.path}: lines that cannot be read were dropped")
                with contextlib.suppress(OSError):
                    self.files.disk.link(self.path, f"{self.path}.damaged.{time.time_ns()}")
            first_recent = self.uidlist.next_uid
            if not self.uidlist.uidvalidity:
                self.uidlist.uidvalidity = self._uidvalidity_source()
                # One write for all that is in it.
                self.mark_scan()
                listed = self.files.scan_endings()
                self._number(listed)
            self.uidlist.guid = self.uidlist.guid or new_guid()
            write_uidlist(self.files.disk, self.path, self.uidlist)
        return first_recent, listed

    def _number(self, listed: Collection[str]) -> None:
        uidlist = self.uidlist
        first = max(uidlist.next_uid, 1)
        uids = range(first, first + len(listed))
        uidlist.entries = dict(zip(listed, uids, strict=True))
        uidlist.next_uid = uids.stop

    @contextlib.contextmanager
    def names_locked(self) -> Iterator[None]:
        """Dovecot changes no names in cur/ meanwhile, and does not list it: a listing may miss a
        file that is renamed during it, and what Dovecot misses gets a new UID. Where no lock can be
        made (full disk, mailbox that may only be read), it goes without. Not within `locked`."""
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):
                stack.enter_context(dotlock(self.files.disk, self.path, kept=self.shared_lock))
            yield

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the uidlist's lock, with `uidlist` as it is on disk now."""
        with dotlock(self.files.disk, self.path, kept=self.shared_lock):
            self.uidlist = reread_uidlist(self.path, self.uidlist)
            yield

    def enter(self, bases: Iterable[str]) -> list[int]:
        """UIDs for these, in this order; those that have a usable one keep it. Durable. The lock is
        held."""
        uidlist = self.uidlist
        result: list[int] = []
        added: list[str] = []
        replace = uidlist.damaged or uidlist.stamp is None
        for base in bases:
            uid = uidlist.entries.get(base)
            if uid is not None and uid <= self.last_uid:
                # It was gone and came back after higher UIDs were shown: it is a new message.
                uidlist.remove(base)
                uid = None
                replace = True
            if uid is None:
                if uidlist.next_uid > _MAX_UID:
                    raise MailboxError("All UIDs of this folder are used up", "LIMIT")
                uid = uidlist.add(base)
                added.append(base)
            result.append(uid)
        if replace or (added and self._worth_compressing()):
            write_uidlist(self.files.disk, self.path, uidlist)
        elif added:
            append_entries(self.files.disk, self.path, uidlist, added)
        return result

    def _worth_compressing(self) -> bool:
        """Whether most lines are of messages that are gone; drops them."""
        entries = self.uidlist.entries
        if len(entries) < 200 or len(entries) < 2 * len(self.uids) + 100:
            return False
        present = self.files.list_cur().keys() | {base_of(n) for n in os.listdir(self.files.new)}
        # What another program renamed meanwhile.
        present |= self.files.list_cur().keys()
        for base in [base for base in entries if base not in present]:
            if entries[base] <= self.last_uid:
                self.uidlist.remove(base)
        return True
