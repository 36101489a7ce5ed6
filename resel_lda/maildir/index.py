"""What is in one folder, in memory and in step with the disk. Everything here blocks.

The truth lies in file names (flags) and `dovecot-uidlist` (UIDs), which other programs may change
at any time. `state` adds MODSEQ. One thread at a time works on an index; the event loop only
reads `infos`, `highestmodseq` and the change logs.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from resel_lda.mailbox import MailboxError, MessageInfo
from resel_lda.maildir.bin import BinFolder
from resel_lda.maildir.changelog import ChangeLog
from resel_lda.maildir.database import StateFile
from resel_lda.maildir.dotlock import LockFile, discard_left, dotlock
from resel_lda.maildir.files import MaildirFiles
from resel_lda.maildir.keywords import Keywords
from resel_lda.maildir.names import arrival_key, base_of, info_of, with_info
from resel_lda.maildir.uidlist import (
    FILE_NAME,
    UidEntry,
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


class FolderIndex(ChangeLog):
    """uidvalidity_source: gives a UIDVALIDITY for a folder that has none yet."""

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
        # Told of names that came (1) or went (-1); asked whether so many octets more fit.
        self.counted: Callable[[Sequence[str], int], None] = lambda names, count: None
        self.room: Callable[[int], None] = lambda octets: None
        # Where expunged messages go, if they are kept.
        self.bin: BinFolder | None = None
        self.keywords = Keywords(files.disk, control)
        self._path = os.path.join(control, FILE_NAME)
        self._log = log
        self._uidvalidity_source = uidvalidity_source
        self.names: dict[int, str] = {}
        self.uids: dict[str, int] = {}
        self.last_uid = 0
        # Up to here every UID is shown, or its message is gone.
        self._settled_uid = 0
        self._stamps: tuple[int, int] | None = None
        self._scan_start = 0

    # -- loading ------------------------------------------------------------------------------

    def load(self) -> None:
        """Read everything; `save` has still to be called, in no hurry. Raises OSError, MailboxError."""
        self.keywords.refresh()
        first_recent = self._load_uidlist()
        uidlist = self.uidlist
        self.state = self._state_file.load(uidlist.guid, uidlist.uidvalidity, first_recent)
        self.highestmodseq = self.changes_floor = self.state.floor
        self.infos, self.names, self.uids, self.changes = {}, {}, {}, []
        self.last_uid = 0
        self._mark_scan()
        found = self._look()
        rows = self.state.rows
        missed = [uidlist.entries[base].uid for base in uidlist.entries.keys() - found.keys()]
        if any(uid in rows or uid >= self.state.next_uid for uid in missed):
            # Perhaps only renamed while we were listing.
            found = self._look_again(found)
        self._settled_uid = uidlist.next_uid - 1
        self._add_known(found)
        self._assign(found)
        self._add_known(found)
        gone = sorted(rows.keys() - self.infos.keys())
        if gone:
            self.log_expunged(gone)
        self.log_unseen()
        self.state.is_new = False
        rows.clear()
        if self.state.unsettled:
            self.save()
            self.state.unsettled = False
            self.set_unsettled(False)
            discard_left(self.files.disk, self._path)

    def _load_uidlist(self) -> int:
        """The first UID that no session was told of where `state` does not know it."""
        self.uidlist = read_uidlist(self._path)
        if self.uidlist.uidvalidity and self.uidlist.guid and not self.uidlist.damaged:
            return self.uidlist.next_uid
        with dotlock(self.files.disk, self._path):
            self.uidlist = read_uidlist(self._path)
            if self.uidlist.damaged:
                self._log.warning("imap", f"{self._path}: lines that cannot be read were dropped")
                with contextlib.suppress(OSError):
                    self.files.disk.link(self._path, f"{self._path}.damaged.{time.time_ns()}")
            first_recent = self.uidlist.next_uid
            if not self.uidlist.uidvalidity:
                self.uidlist.uidvalidity = self._uidvalidity_source()
                # Nobody knows the folder yet: one write for all that is in it.
                for base in sorted(self.files.scan()[0], key=arrival_key):
                    self.uidlist.add(base)
            self.uidlist.guid = self.uidlist.guid or new_guid()
            write_uidlist(self.files.disk, self._path, self.uidlist)
        return first_recent

    def _add_known(self, found: dict[str, str], dates: Mapping[str, float] | None = None) -> None:
        """Take files that have a UID into memory, ascending. dates: those internal dates, by base,
        that are known without a look at the file; such a message comes now."""
        entries = self.uidlist.entries
        fresh = [(entries[base].uid, base) for base in found.keys() & entries.keys()]
        fresh.sort()
        modseq = 0
        for uid, base in fresh:
            if base in self.uids or uid <= self.last_uid:
                continue
            name = found[base]
            letters = info_of(name)
            row = self.state.rows.get(uid)
            if row is not None and row[2] == letters and not self.state.unsettled:
                info = MessageInfo(uid, self.keywords.flags(letters), row[1], row[0])
            else:
                if row is not None:
                    date, saved = row[1], None
                elif dates is not None and base in dates:
                    date, saved = dates[base], int(time.time())
                else:
                    date, saved = self._dates(name)
                if not modseq:
                    # A folder seen for the first time: everything is as old as its state.
                    modseq = self.highestmodseq if self.state.is_new else self.next_modseq()
                info = MessageInfo(uid, self.keywords.flags(letters), date, modseq)
                self.log_change(info, letters, saved)
            self.infos[uid] = info
            self.names[uid] = name
            self.uids[base] = uid
            self.last_uid = uid

    def _dates(self, name: str) -> tuple[float, int]:
        """(internal date, save date): the latter is the file's last change of place, as Dovecot
        reckons it, and is noted before a change of flags is one."""
        try:
            found = os.stat(self.files.path(name))
            return found.st_mtime, int(found.st_ctime)
        except FileNotFoundError:
            return time.time(), int(time.time())

    # -- what other programs did --------------------------------------------------------------

    def _mark_scan(self) -> None:
        self._scan_start = time.time_ns()
        self._stamps = self.files.stamps()

    def stamps_unchanged(self) -> bool:
        """Whether the directories are surely as they were at the last scan."""
        if self._stamps is None or self.files.stamps() != self._stamps:
            return False
        return max(self._stamps) < self._scan_start - _STAMP_TRUST_NS

    def scan(self) -> None:
        """Look at everything. A message is expunged only when two listings miss it."""
        self.keywords.refresh()
        self._mark_scan()
        found = self._look()
        if self.uids.keys() - found.keys():
            found = self._look_again(found)
        gone = [self.uids[base] for base in self.uids.keys() - found.keys()]
        self._apply(found)
        if gone:
            self.forget(gone)
        self.save()

    def _look(self) -> dict[str, str]:
        """All files; Dovecot too moves what lies in new/ under the lock only."""
        with self.names_locked() if os.listdir(self.files.new) else contextlib.nullcontext():
            return self.files.scan()[0]

    def _look_again(self, found: dict[str, str]) -> dict[str, str]:
        """All files; found: those that a first listing showed."""
        with self.names_locked():
            return {**found, **self.files.scan()[0]}

    def take_events(
        self, new: Collection[str], cur: Collection[str], gone: Collection[str]
    ) -> None:
        """As `scan`, but only of names that inotify reported."""
        self.keywords.refresh()
        found: dict[str, str] = {}
        if new:
            with self.names_locked():
                moved, clean = self.files.take_new(sorted(set(new), key=arrival_key))
            if not clean:
                self.scan()
                return
            found.update(moved)
        for name in cur:
            if not name.startswith(".") and os.path.lexists(self.files.path(name)):
                found[base_of(name)] = name
        self._apply(found)
        for name in gone:
            uid = self.uids.get(base_of(name))
            if uid is not None and not os.path.lexists(self.files.path(self.names[uid])):
                self.scan()
                return
        self.save()

    def is_news(self, name: str, gone: bool) -> bool:
        """Whether an event in cur/ is not our own doing."""
        uid = self.uids.get(base_of(name))
        return (uid is not None and self.names.get(uid) == name) == gone

    def _apply(self, found: dict[str, str]) -> None:
        changed: list[tuple[int, str]] = []
        unknown: dict[str, str] = {}
        uids, names = self.uids, self.names
        for base, name in found.items():
            uid = uids.get(base)
            if uid is None:
                unknown[base] = name
            elif names[uid] != name:
                changed.append((uid, name))
        self.renamed(changed)
        if unknown:
            self._assign(unknown)
            self._add_known(unknown)

    def renamed(self, changed: Sequence[tuple[int, str]]) -> None:
        """Files have other names: take the flags from them."""
        modseq = 0
        for uid, name in changed:
            letters = info_of(name)
            old = self.infos[uid]
            differs = letters != info_of(self.names[uid])
            self.names[uid] = name
            if differs:
                modseq = modseq or self.next_modseq()
                flags = self.keywords.flags(letters)
                info = MessageInfo(uid, flags, old.internal_date, modseq)
                self.infos[uid] = info
                self.log_change(info, letters)

    def forget(self, uids: Collection[int]) -> None:
        """Messages are gone."""
        there = sorted(uid for uid in uids if uid in self.infos)
        for uid in there:
            del self.infos[uid]
            self.uids.pop(base_of(self.names.pop(uid)), None)
        if there:
            self.log_expunged(there)

    # -- UIDs ---------------------------------------------------------------------------------

    def _assign(self, found: dict[str, str]) -> None:
        """Give the files that have none a UID, on disk before anyone sees it. To found are added
        others that must be shown first: what is shown after a higher UID needs a new one."""
        entries = self.uidlist.entries
        if not self._misses(found) and all(
            base in self.uids or (base in entries and entries[base].uid > self.last_uid)
            for base in found
        ):
            return
        with self.locked():
            if self._misses(found):
                found.update(self.files.scan()[0])
                self._settled_uid = self.uidlist.next_uid - 1
            self.enter(base for base in sorted(found, key=arrival_key) if base not in self.uids)

    def _misses(self, found: Collection[str]) -> bool:
        """Whether others have given UIDs, above those shown, to files that were not found: gone
        again, or renamed while they were looked for."""
        settled = max(self.last_uid, self._settled_uid)
        for entry in reversed(self.uidlist.entries.values()):
            if entry.uid <= settled:
                break
            if entry.base not in found:
                return True
        return False

    @contextlib.contextmanager
    def names_locked(self, kept: LockFile | None = None) -> Iterator[None]:
        """Dovecot changes no names in cur/ meanwhile, and does not list it: a listing may miss a
        file that is renamed during it, and what Dovecot misses gets a new UID. Where no lock can be
        made (full disk, mailbox that may only be read), it goes without. Not within `locked`."""
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):
                stack.enter_context(dotlock(self.files.disk, self._path, kept=kept))
            yield

    def lock_file(self) -> LockFile:
        """For `names_locked`, many times."""
        return LockFile(self.files.disk, self._path)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the uidlist's lock, with `uidlist` as it is on disk now."""
        with dotlock(self.files.disk, self._path):
            self.uidlist = reread_uidlist(self._path, self.uidlist)
            yield

    def enter(self, bases: Iterable[str]) -> list[UidEntry]:
        """Entries for these, in this order; those that have a usable one keep it. Durable. The
        lock is held."""
        uidlist = self.uidlist
        result: list[UidEntry] = []
        added: list[UidEntry] = []
        replace = uidlist.damaged or uidlist.stamp is None
        for base in bases:
            entry = uidlist.entries.get(base)
            if entry is not None and entry.uid <= self.last_uid:
                # It was gone and came back after higher UIDs were shown: it is a new message.
                del uidlist.entries[base]
                entry = None
                replace = True
            if entry is None:
                if uidlist.next_uid > _MAX_UID:
                    raise MailboxError("All UIDs of this folder are used up", "LIMIT")
                entry = uidlist.add(base)
                added.append(entry)
            result.append(entry)
        if replace or (added and self._worth_compressing()):
            write_uidlist(self.files.disk, self._path, uidlist)
        elif added:
            append_entries(self.files.disk, self._path, uidlist, added)
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
            if entries[base].uid <= self.last_uid:
                del entries[base]
        return True

    # -- our own changes ----------------------------------------------------------------------

    def install(
        self,
        items: Sequence[tuple[str, str, str]],
        *,
        linked: bool = False,
        back: bool = False,
        dates: Mapping[str, float] | None = None,
    ) -> list[int]:
        """Move synced files (path, base, letters) into cur/, or link them there, and give them
        UIDs; all or none. Durable when it returns. back: what fails leaves them where they were.
        dates: internal dates by base, as far as they are known. Raises OSError, MailboxError."""
        disk = self.files.disk
        place = disk.link if linked else disk.rename
        placed: list[tuple[str, str]] = []
        try:
            with self.locked():
                for path, base, letters in items:
                    target = self.files.path(with_info(base, letters))
                    place(path, target)
                    placed.append((path, target))
                disk.sync_directory(self.files.cur)
                entries = self.enter([base for _, base, _ in items])
        except BaseException:
            for path, target in placed:
                with contextlib.suppress(OSError):
                    if back:
                        disk.rename(target, path)
                    else:
                        disk.unlink(target)
            raise
        found = {base: with_info(base, letters) for _, base, letters in items}
        self.counted(list(found), 1)
        # Others may have entered messages just before: they come first.
        if any(entry.uid - 1 != self.last_uid for entry in entries[:1]):
            self.scan()
        else:
            self._add_known(found, dates)
            self.save()
        return [entry.uid for entry in entries]
