"""STORE on a folder: flags are letters in file names, so changing them is renaming."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from resel_lda.mailbox import SYSTEM_FLAGS, MailboxError, StoreResult
from resel_lda.maildir.dates import file_dates, undated
from resel_lda.maildir.index import FolderIndex
from resel_lda.maildir.names import LETTER_FLAGS, base_of, info_of, joined, with_info
from resel_lda.maildir.settling import Settling

_CANONICAL = {flag.lower(): flag for flag in SYSTEM_FLAGS}


def canonical_flags(flags: Collection[str]) -> list[str]:
    """System flags in their usual spelling, keywords as they are; \\Recent is not ours to set.
    MailboxError for other names with a backslash, and for what no keyword can be."""
    found: list[str] = []
    for flag in flags:
        if flag.startswith("\\"):
            if flag.lower() == "\\recent":
                continue
            if flag.lower() not in _CANONICAL:
                raise MailboxError(f"Unknown flag {flag}", "CANNOT")
            found.append(_CANONICAL[flag.lower()])
        elif not flag or any(c <= " " or c == "\x7f" for c in flag) or len(flag) > 200:
            raise MailboxError("Invalid keyword", "CANNOT")
        else:
            found.append(flag)
    return found


def change_flags(
    index: FolderIndex,
    settling: Settling,
    uids: Sequence[int],
    flags: Collection[str],
    mode: str,
    unchanged_since: int | None,
    before: Callable[[int], object],
) -> StoreResult:
    """before: told how many files are about to be renamed, if any. Blocks; a kill cannot take it back
    when it returns, a power cut as `settling` says. UIDs that are gone are left out of the result.
    Raises OSError, apsw.Error, MailboxError("LIMIT")."""
    if mode not in ("set", "add", "remove"):
        raise ValueError(f"mode {mode!r}")
    index.keywords.refresh()
    change = _Change(index, canonical_flags(flags), mode)
    marks_of = index.marks
    touched = [uid for uid in uids if uid in marks_of]
    conflicts: list[int] = []
    if unchanged_since is not None:
        conflicts = [uid for uid in touched if marks_of[uid].modseq > unchanged_since]
        touched = [uid for uid in touched if marks_of[uid].modseq <= unchanged_since]
    # What becomes of all that are alike.
    kinds = set(map(marks_of.__getitem__, touched))
    targets = {kind: change.target(kind.ending) for kind in kinds}
    changing = {kind for kind, target in targets.items() if target != kind.ending}
    if changing:
        waiting = [
            (uid, joined(index.bases[uid], marks.ending), joined(index.bases[uid], targets[marks]))
            for uid in touched
            if (marks := marks_of[uid]) in changing
        ]
        before(len(waiting))
        _rename_all(index, settling, waiting, change)
        touched = [uid for uid in touched if uid in marks_of]
    return StoreResult(touched, conflicts)


def _rename_all(
    index: FolderIndex,
    settling: Settling,
    waiting: Sequence[tuple[int, str, str]],
    change: _Change,
) -> None:
    """waiting: (UID, name, name with the new flags)."""
    # A rename is a change of the file's place.
    late = undated(index, [uid for uid, _, _ in waiting])
    dates = {uid: known for uid in late if (known := file_dates(index, uid)) is not None}
    renamed: list[tuple[int, str]] = []
    gone = False
    settling.begin()
    try:
        with index.names_locked():
            for uid, name, target in waiting:
                found = _rename(index, name, target, change)
                if found is None:
                    gone = True
                else:
                    renamed.append((uid, found))
    finally:
        settling.end()
        if renamed:
            index.renamed(renamed, dates)
        if gone:
            index.scan()
        index.save()


class _Change:
    """What becomes of a name's letters; most messages of a folder have one of a few sets."""

    def __init__(self, index: FolderIndex, flags: Collection[str], mode: str) -> None:
        self._given = set(index.keywords.letters(flags))
        self._mode = mode
        # Letters that we know nothing of are another program's.
        self._known = index.keywords.known_letters() | LETTER_FLAGS.keys()
        self._made: dict[str, str] = {}

    def target(self, name: str) -> str:
        """The name with the letters changed; `name` itself if nothing changes."""
        base, found, info = name.partition(":2,")
        if not found or ":" in base:
            return self._changed_name(name)
        made = self._made.get(info)
        if made is None:
            made = self._made[info] = self._changed_name(name)[len(base) :]
        return base + made

    def _changed_name(self, name: str) -> str:
        old = info_of(name)
        after = self._changed(old)
        return name if after == old else with_info(name, after)

    def _changed(self, old: str) -> str:
        before = set(old)
        if self._mode == "add":
            after = before | self._given
        elif self._mode == "remove":
            after = before - self._given
        else:
            after = self._given | {letter for letter in before if letter not in self._known}
        return old if after == before else "".join(sorted(after))


def _rename(index: FolderIndex, name: str, target: str, change: _Change) -> str | None:
    """The message's name with the new flags; None if it is gone."""
    files = index.files
    for _ in range(4):
        if target == name:
            return name
        try:
            files.disk.rename(files.path(name), files.path(target))
            return target
        except FileNotFoundError:
            current = files.list_cur().get(base_of(name))
            if current is None:
                return None
            name, target = current, change.target(current)
    return None
