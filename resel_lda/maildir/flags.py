"""STORE on a folder: flags are letters in file names, so changing them is renaming."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence

from resel_lda.mailbox import SYSTEM_FLAGS, MailboxError, StoreResult
from resel_lda.maildir.dates import file_dates, undated
from resel_lda.maildir.index import FolderIndex
from resel_lda.maildir.names import LETTER_FLAGS, info_of, with_info
from resel_lda.maildir.settling import Settling
from resel_lda.maildir.table import FileMarks, around

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
    touched = list(filter(marks_of.__contains__, uids))
    conflicts: list[int] = []
    if unchanged_since is not None:
        conflicts = [uid for uid in touched if marks_of[uid].modseq > unchanged_since]
        touched = [uid for uid in touched if marks_of[uid].modseq <= unchanged_since]
    # What becomes of all that are alike.
    kinds = set(map(marks_of.__getitem__, touched))
    endings = {kind: change.target(kind.ending) for kind in kinds}
    changing = {kind: ending for kind, ending in endings.items() if ending != kind.ending}
    if changing:
        waiting = touched
        if len(changing) < len(kinds):
            waiting = [uid for uid in touched if marks_of[uid] in changing]
        before(len(waiting))
        _rename_all(index, settling, waiting, changing, change)
        touched = list(filter(marks_of.__contains__, touched))
    return StoreResult(touched, conflicts)


def _rename_all(
    index: FolderIndex,
    settling: Settling,
    waiting: Sequence[int],
    endings: Mapping[FileMarks, str],
    change: _Change,
) -> None:
    """endings: that the names are to have, for each of those that they have."""
    # A rename is a change of the file's place.
    late = undated(index, waiting)
    dates = {uid: known for uid in late if (known := file_dates(index, uid)) is not None}
    renamed: list[int] = []
    found: list[tuple[int, str]] = []
    gone = False
    settling.begin()
    try:
        with index.names_locked():
            for uid in _renamed_elsewhere(index, waiting, endings, renamed):
                name = _rename(index, uid, change)
                if name is None:
                    gone = True
                else:
                    found.append((uid, name))
    finally:
        settling.end()
        if renamed:
            index.changed_alike(renamed, _marks_after(index, endings), dates)
        index.renamed(found, dates)
        if gone:
            index.scan()
        index.save()


def _renamed_elsewhere(
    index: FolderIndex,
    waiting: Sequence[int],
    endings: Mapping[FileMarks, str],
    renamed: list[int],
) -> list[int]:
    """Rename the files; to `renamed` is added which are. The others have another name by now, or
    are gone. Raises OSError."""
    rename, cur = index.files.disk.rename, index.files.path("")
    marks, bases = index.marks, index.bases
    parts = {kind: (around(kind.ending), around(ending)) for kind, ending in endings.items()}
    missed: list[int] = []
    for uid in waiting:
        base = bases[uid]
        (head, tail), (new_head, new_tail) = parts[marks[uid]]
        try:
            rename(f"{cur}{head}{base}{tail}", f"{cur}{new_head}{base}{new_tail}")
        except FileNotFoundError:
            missed.append(uid)
        else:
            renamed.append(uid)
    return missed


def _marks_after(
    index: FolderIndex, endings: Mapping[FileMarks, str]
) -> dict[FileMarks, FileMarks]:
    modseq, flags = index.next_modseq(), index.keywords.flags
    made = {one: FileMarks(flags(info_of(one)), modseq, one) for one in set(endings.values())}
    return {kind: made[ending] for kind, ending in endings.items()}


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


def _rename(index: FolderIndex, uid: int, change: _Change) -> str | None:
    """Of a message whose file another program renamed: its name with the new flags; None if it is
    gone. Raises OSError."""
    files, base = index.files, index.bases[uid]
    for _ in range(3):
        name = files.list_cur().get(base)
        if name is None:
            return None
        target = change.target(name)
        if target == name:
            return name
        with contextlib.suppress(FileNotFoundError):
            files.disk.rename(files.path(name), files.path(target))
            return target
    return None
