"""STORE on a folder: flags are letters in file names, so changing them is renaming."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence

from resel_lda.mailbox import SYSTEM_FLAGS, MailboxError, StoreResult
from resel_lda.maildir.index import FolderIndex
from resel_lda.maildir.names import LETTER_FLAGS, base_of, info_of, with_info

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
    uids: Sequence[int],
    flags: Collection[str],
    mode: str,
    unchanged_since: int | None,
) -> StoreResult:
    """Blocks; durable when it returns. UIDs that are gone are left out of the result.
    Raises OSError, MailboxError("LIMIT")."""
    if mode not in ("set", "add", "remove"):
        raise ValueError(f"mode {mode!r}")
    index.keywords.refresh()
    change = _Change(index, canonical_flags(flags), mode)
    renamed: list[tuple[int, str]] = []
    conflicts: list[int] = []
    touched: list[int] = []
    gone: list[int] = []
    try:
        with contextlib.ExitStack() as lock:
            for uid in uids:
                info = index.infos.get(uid)
                if info is None:
                    continue
                if unchanged_since is not None and info.modseq > unchanged_since:
                    conflicts.append(uid)
                    continue
                name = _rename(index, uid, change, lock)
                if name is None:
                    gone.append(uid)
                    continue
                touched.append(uid)
                if name != index.names[uid]:
                    renamed.append((uid, name))
    finally:
        if renamed:
            index.files.disk.sync_directory(index.files.cur)
            index.renamed(renamed)
        if gone:
            index.scan()
        index.save()
    return StoreResult([index.infos[uid] for uid in touched if uid in index.infos], conflicts)


class _Change:
    """What becomes of a name's letters; most messages of a folder have one of a few sets."""

    def __init__(self, index: FolderIndex, flags: Collection[str], mode: str) -> None:
        self._given = set(index.keywords.letters(flags))
        self._mode = mode
        # Letters that we know nothing of are another program's.
        self._known = index.keywords.known_letters() | LETTER_FLAGS.keys()
        self._made: dict[str, str] = {}
        self.locked = False

    def letters(self, old: str) -> str:
        """In order; `old` itself if nothing changes."""
        found = self._made.get(old)
        if found is None:
            found = self._made[old] = self._changed(old)
        return found

    def _changed(self, old: str) -> str:
        before = set(old)
        if self._mode == "add":
            after = before | self._given
        elif self._mode == "remove":
            after = before - self._given
        else:
            after = self._given | {letter for letter in before if letter not in self._known}
        return old if after == before else "".join(sorted(after))


def _rename(
    index: FolderIndex, uid: int, change: _Change, lock: contextlib.ExitStack
) -> str | None:
    """The message's name with the new flags; None if it is gone. The first one that needs another
    name locks the names."""
    name = index.names[uid]
    for _ in range(4):
        old = info_of(name)
        letters = change.letters(old)
        if letters == old:
            return name
        if not change.locked:
            lock.enter_context(index.names_locked())
            change.locked = True
        target = with_info(name, letters)
        try:
            index.files.disk.rename(index.files.path(name), index.files.path(target))
            return target
        except FileNotFoundError:
            current = index.files.list_cur().get(base_of(name))
            if current is None:
                return None
            name = current
    return None
