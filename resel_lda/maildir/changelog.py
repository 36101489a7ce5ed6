"""What changed in a folder and when, by MODSEQ (RFC 7162), in memory and in `state`."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat

from resel_lda.mailbox import MessageInfo
from resel_lda.maildir.ranges import uid_gaps, uid_ranges
from resel_lda.maildir.state import NO_DATE, NO_DATES, FolderState, StateFile, storable
from resel_lda.maildir.table import FileMarks, MessageTable
from resel_lda.maildir.uidlist import Uidlist

# MODSEQ values promised on disk at a time.
_RESERVE = 1000
KEEP_EXPUNGED = 10_000
_KEEP_CHANGES = 20_000
_MAX_UID = 0xFFFFFFFE


class ChangeLog(MessageTable):
    """The half of a `FolderIndex` that counts changes. Blocks, but for the two `_since`."""

    def __init__(self, state: StateFile) -> None:
        super().__init__()
        self.state_file = state
        self.uidlist = Uidlist()
        self.state = FolderState(0, 0, 1, 0)
        self.highestmodseq = 0
        # (modseq, uid), ascending: what changed since it was loaded.
        self.changes: list[tuple[int, int]] = []
        self.changes_floor = 0
        self._first_modseq = 0
        self._changed_rows: list[tuple[int, int, float, str, int | None]] = []
        self._expunged_rows: list[tuple[int, int]] = []
        # Seen for the first time: `state` has no rows of the messages yet, and dates that were found
        # out meanwhile are kept here.
        self.rows_due = False
        self.noted: dict[int, tuple[float, int]] = {}

    def log_unseen(self) -> None:
        """UIDs that were given and taken while `state` was not written (another program's doing, or
        a power cut): a client may have seen them."""
        state, next_uid = self.state, self.uidlist.next_uid
        if state.is_new or next_uid <= state.next_uid:
            return
        if not state.next_uid or next_uid - state.next_uid > KEEP_EXPUNGED:
            state.expunge_floor = self.next_modseq()
            self.state_file.set_expunge_floor(state.id, state.expunge_floor, next_uid)
            return
        missing = [uid for uid in range(state.next_uid, next_uid) if uid not in self.marks]
        if missing:
            self.log_expunged(missing)

    def next_modseq(self) -> int:
        """A MODSEQ never given before, crash or not."""
        if self.highestmodseq + 1 > self.state.floor:
            self.state.floor = self.highestmodseq + _RESERVE
            self.state_file.reserve(self.state.id, self.state.floor)
        self.highestmodseq += 1
        return self.highestmodseq

    def set_unsettled(self, unsettled: bool) -> None:
        """See `resel_lda.maildir.settling`."""
        self.state_file.set_unsettled(self.state.id, unsettled)

    def log_change(
        self, uid: int, marks: FileMarks, dates: tuple[float, int | None] = NO_DATES
    ) -> None:
        """dates: internal date and save date, as far as they are known and may not be noted yet."""
        letters = storable(marks.letters)
        self._changed_rows.append((uid, marks.modseq, dates[0], letters, dates[1]))
        self.changes.append((marks.modseq, uid))
        self._trim_changes()

    def changed_alike(
        self,
        uids: Sequence[int],
        becomes: Mapping[FileMarks, FileMarks],
        dates: Mapping[int, tuple[float, int]],
    ) -> None:
        """Messages that are there have other flags now. becomes: what their marks turn into, all of
        one new MODSEQ. dates: as for `log_change`."""
        after = list(map(becomes.__getitem__, map(self.marks.__getitem__, uids)))
        self.marks.update(zip(uids, after, strict=True))
        modseq = after[0].modseq
        letters = {marks: storable(marks.letters) for marks in becomes.values()}
        rows = zip(uids, map(letters.__getitem__, after), strict=True)
        if dates:
            known = (dates.get(uid, NO_DATES) for uid in uids)
            self._changed_rows += [
                (uid, modseq, date, info, saved)
                for (uid, info), (date, saved) in zip(rows, known, strict=True)
            ]
        else:
            self._changed_rows += [(uid, modseq, NO_DATE, info, None) for uid, info in rows]
        self.changes += zip(repeat(modseq), uids)
        self._trim_changes()

    def _trim_changes(self) -> None:
        if len(self.changes) > 2 * _KEEP_CHANGES:
            self.changes_floor = self.changes[-_KEEP_CHANGES][0]
            self.changes = self.changes[-_KEEP_CHANGES:]

    def log_expunged(self, uids: Iterable[int]) -> None:
        modseq = self.next_modseq()
        rows = [(modseq, uid) for uid in uids]
        self._expunged_rows += rows
        self.state.expunged += rows

    def save(self) -> None:
        """Hand what changed to `state`."""
        if self.rows_due:
            self._save_first_look()
        if not self._changed_rows and not self._expunged_rows:
            return
        changed, self._changed_rows = self._changed_rows, []
        expunged, self._expunged_rows = self._expunged_rows, []
        floor = self.state_file.save(
            self.state.id, changed, expunged, KEEP_EXPUNGED, self.uidlist.next_uid
        )
        if floor:
            self.state.expunge_floor = floor
            index = bisect_right(self.state.expunged, (floor, _MAX_UID + 1))
            self.state.expunged = self.state.expunged[index:]

    def _save_first_look(self) -> None:
        kinds = {marks: storable(marks.letters) for marks in set(self.marks.values())}
        letters = {uid: kinds[marks] for uid, marks in self.marks.items()}
        self.state_file.save_all(self.state.id, letters, self._first_modseq, self.uidlist.next_uid)
        self.rows_due = False
        noted = self.noted.copy()
        self.state_file.note_dates(self.state.id, noted)
        for uid in noted:
            del self.noted[uid]

    def note_dates(self, dates: Mapping[int, tuple[float, int]]) -> None:
        """Internal dates and save dates that `state` does not have. Any thread may call it."""
        if self.rows_due:
            self.noted.update(dates)
        self.state_file.note_dates(self.state.id, dates)

    def noted_dates(self, uids: Sequence[int]) -> Mapping[int, tuple[float, int | None]]:
        """As far as they are noted; perhaps of others, too. Any thread may call it."""
        if not uids:
            return {}
        pending = self.noted.copy()
        return {**self.state_file.dates(self.state.id, min(uids), max(uids)), **pending}

    def changed_since(self, modseq: int) -> Sequence[MessageInfo]:
        if modseq >= self.highestmodseq:
            return ()
        if modseq < self.changes_floor:
            return [
                MessageInfo(uid, marks.flags, marks.modseq)
                for uid, marks in list(self.marks.items())
                if marks.modseq > modseq
            ]
        changes = self.changes
        uids = {uid for _, uid in changes[bisect_right(changes, (modseq, _MAX_UID + 1)) :]}
        found = map(self.info, sorted(uids))
        return [info for info in found if info is not None]

    def vanished_since(self, modseq: int) -> list[tuple[int, int]]:
        """More than vanished since then, where that is no longer known (RFC 7162 §3.2.5.2)."""
        if modseq < self.state.expunge_floor:
            return uid_gaps(list(self.marks), self.uidlist.next_uid)
        expunged = self.state.expunged
        return uid_ranges(
            {uid for _, uid in expunged[bisect_right(expunged, (modseq, _MAX_UID + 1)) :]}
        )
