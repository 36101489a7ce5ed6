"""What is in one folder, in memory and in step with the disk. Everything here blocks.

The truth lies in file names (flags) and `dovecot-uidlist` (UIDs), which other programs may change
at any time. `state` adds MODSEQ. One thread at a time works on an index; the event loop only
reads the table, `highestmodseq` and the change logs.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from resel_lda.maildir.bin import BinFolder
from resel_lda.maildir.files import MaildirFiles
from resel_lda.maildir.keywords import Keywords
from resel_lda.maildir.names import (
    base_of,
    ending_of,
    in_arrival_order,
    info_of,
    joined,
    with_info,
)
from resel_lda.maildir.numbering import Numbering
from resel_lda.maildir.state import NO_DATES, StateFile, storable
from resel_lda.maildir.table import FileMarks
from resel_mta.maillog import MailLog


class FolderIndex(Numbering):
    """uidvalidity_source: gives a UIDVALIDITY for a folder that has none yet."""

    def __init__(
        self,
        files: MaildirFiles,
        control: str,
        state: StateFile,
        log: MailLog,
        uidvalidity_source: Callable[[], int],
    ) -> None:
        super().__init__(files, control, state, log, uidvalidity_source)
        # Told of names that came (1) or went (-1); asked whether so many octets more fit.
        self.counted: Callable[[Sequence[str], int], None] = lambda names, count: None
        self.room: Callable[[int], None] = lambda octets: None
        # Where expunged messages go, if they are kept.
        self.bin: BinFolder | None = None
        self.keywords = Keywords(files.disk, control)
        # Internal dates that somebody asked for.
        self.dates: dict[int, float] = {}
        # Up to here every UID is shown, or its message is gone.
        self._settled_uid = 0

    # -- loading ------------------------------------------------------------------------------

    def load(self) -> None:
        """Read everything; `save` has still to be called, in no hurry. Raises OSError, MailboxError."""
        self.keywords.refresh()
        first_recent, listed = self.load_uidlist()
        uidlist = self.uidlist
        self.state = self.state_file.load(uidlist.guid, uidlist.uidvalidity, first_recent)
        self.highestmodseq = self.changes_floor = self.state.floor
        self.marks, self.bases, self.uids, self.dates, self.changes = {}, {}, {}, {}, []
        self.last_uid = 0
        if listed is not None and self.state.is_new:
            self._show_all(listed)
        else:
            self._show_known()
        self.log_unseen()
        if self.state.is_new:
            self.rows_due = True
            self._first_modseq = self.highestmodseq
            self.state.dated_from = self.last_uid + 1
            self.state.is_new = False
        self.state.rows.clear()
        if self.state.unsettled:
            self.save()
            self.state.unsettled = False
            self.set_unsettled(False)

    def _show_all(self, listed: Mapping[str, str]) -> None:
        """Files of a folder that is seen for the first time, all of which just got UIDs. They are
        as old as its state. listed: base -> ending."""
        entries, endings = self.uidlist.entries, listed.values()
        kinds = {one: self._kind(one, self.highestmodseq) for one in set(endings)}
        self.uids = entries.copy()
        self.bases = dict(zip(entries.values(), entries, strict=True))
        self.marks = dict(zip(self.bases, map(kinds.__getitem__, endings), strict=True))
        self.last_uid = self._settled_uid = self.uidlist.next_uid - 1

    def _kind(self, ending: str, modseq: int) -> FileMarks:
        return FileMarks(self.keywords.flags(info_of(ending)), modseq, ending)

    def _show_known(self) -> None:
        """What has UIDs, and what gets some now."""
        self.mark_scan()
        found = self._look()
        entries, rows = self.uidlist.entries, self.state.rows
        missed = [entries[base] for base in entries.keys() - found.keys()]
        if any(uid in rows or uid >= self.state.next_uid for uid in missed):
            # Perhaps only renamed while we were listing.
            found = self._look_again(found)
        self._settled_uid = self.uidlist.next_uid - 1
        self._add_known(found)
        self._assign(found)
        if len(found) > len(self.uids):
            self._add_known(found)
        gone = sorted(rows.keys() - self.marks.keys())
        if gone:
            self.log_expunged(gone)

    def _add_known(self, found: dict[str, str], dates: Mapping[str, float] | None = None) -> None:
        """Take files that have a UID into memory, ascending. dates: those internal dates, by base,
        that are known without a look at the file; such a message comes now."""
        rows, new = self.state.rows, self.state.is_new
        kinds: dict[tuple[str, tuple[int, str]], FileMarks] = {}
        modseq = 0
        for uid, base in self._fresh(found):
            ending = ending_of(found[base], base)
            row = rows.get(uid)
            marks = None if row is None else kinds.get((ending, row))
            if marks is None and row is not None and self._is_as_seen(ending, row):
                marks = kinds[ending, row] = self._kind(ending, row[0])
            if marks is None:
                # A folder seen for the first time: everything is as old as its state.
                modseq = modseq or (self.highestmodseq if new else self.next_modseq())
                key = ending, (modseq, "")
                marks = kinds[key] = kinds.get(key) or self._kind(ending, modseq)
                # All rows of a new folder are written in one go: see `rows_due`.
                if not new:
                    noted = row is not None
                    self.log_change(
                        uid, marks, NO_DATES if noted else self._dates(found[base], dates)
                    )
            self.show(uid, base, marks)
            self.last_uid = uid

    def _is_as_seen(self, ending: str, row: tuple[int, str]) -> bool:
        return not self.state.unsettled and row[1] == storable(info_of(ending))

    def _dates(self, name: str, dates: Mapping[str, float] | None) -> tuple[float, int | None]:
        """Of a message that comes now, as far as `dates` has it."""
        known = None if dates is None else dates.get(base_of(name))
        if known is not None:
            return known, int(time.time())
        return self.files.dates(name) or (time.time(), None)

    def _fresh(self, found: Collection[str]) -> list[tuple[int, str]]:
        """(UID, base) of those files that have a UID above all that are shown, ascending."""
        entries, uids, last = self.uidlist.entries, self.uids, self.last_uid
        if len(found) < len(entries) // 2:
            given = [(entries[base], base) for base in found if base in entries]
            given.sort()
        else:
            given = [(uid, base) for base, uid in entries.items() if base in found]
        return [(uid, base) for uid, base in given if uid > last and base not in uids]

    # -- what other programs did --------------------------------------------------------------

    def scan(self) -> None:
        """Look at everything. A message is expunged only when two listings miss it."""
        self.keywords.refresh()
        self.mark_scan()
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
                moved, clean = self.files.take_new(in_arrival_order(set(new)))
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
            kept = None if uid is None else self.name(uid)
            if kept is not None and not os.path.lexists(self.files.path(kept)):
                self.scan()
                return
        self.save()

    def is_news(self, name: str, gone: bool) -> bool:
        """Whether an event in cur/ is not our own doing."""
        uid = self.uids.get(base_of(name))
        return (uid is not None and self.name(uid) == name) == gone

    def _apply(self, found: dict[str, str]) -> None:
        changed: list[tuple[int, str]] = []
        unknown: dict[str, str] = {}
        uids, marks = self.uids, self.marks
        for base, name in found.items():
            uid = uids.get(base)
            if uid is None:
                unknown[base] = name
            elif joined(base, marks[uid].ending) != name:
                changed.append((uid, name))
        self.renamed(changed)
        if unknown:
            self._assign(unknown)
            self._add_known(unknown)

    def renamed(
        self,
        changed: Sequence[tuple[int, str]],
        dates: Mapping[int, tuple[float, int]] | None = None,
    ) -> None:
        """Files have other names: take the flags from them. dates: internal date and save date of
        those of which they were not noted, from before."""
        modseq = 0
        kinds: dict[tuple[str, int], FileMarks] = {}
        for uid, name in changed:
            ending, old = ending_of(name, self.bases[uid]), self.marks[uid]
            differs = info_of(ending) != old.letters
            if differs:
                modseq = modseq or self.next_modseq()
            key = ending, modseq if differs else old.modseq
            marks = kinds.get(key)
            if marks is None:
                marks = kinds[key] = self._kind(*key)
            self.marks[uid] = marks
            if differs:
                self.log_change(uid, marks, (dates or {}).get(uid, NO_DATES))

    def forget(self, uids: Collection[int]) -> None:
        """Messages are gone."""
        there = sorted(uid for uid in uids if uid in self.marks)
        for uid in there:
            self.drop(uid)
            self.dates.pop(uid, None)
        if there:
            self.log_expunged(there)

    # -- UIDs ---------------------------------------------------------------------------------

    def _assign(self, found: dict[str, str]) -> None:
        """Give the files that have none a UID, on disk before anyone sees it. To found are added
        others that must be shown first: what is shown after a higher UID needs a new one."""
        entries = self.uidlist.entries
        if not self._misses(found) and all(
            base in self.uids or (base in entries and entries[base] > self.last_uid)
            for base in found
        ):
            return
        with self.locked():
            if self._misses(found):
                found.update(self.files.scan()[0])
                self._settled_uid = self.uidlist.next_uid - 1
            self.enter(in_arrival_order(base for base in found if base not in self.uids))

    def _misses(self, found: Collection[str]) -> bool:
        """Whether others have given UIDs, above those shown, to files that were not found: gone
        again, or renamed while they were looked for."""
        settled = max(self.last_uid, self._settled_uid)
        for base, uid in reversed(self.uidlist.entries.items()):
            if uid <= settled:
                break
            if base not in found:
                return True
        return False

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
                uids = self.enter([base for _, base, _ in items])
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
        if any(uid - 1 != self.last_uid for uid in uids[:1]):
            self.scan()
        else:
            self._add_known(found, dates)
            self.save()
        return uids
