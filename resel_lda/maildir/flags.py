"""STORE on a folder: flags are letters in file names, so changing them is renaming."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence

from resel_lda.mailbox import SYSTEM_FLAGS, MailboxError, StoreResult
from resel_lda.maildir.index import FolderIndex
from resel_lda.maildir.names import LETTER_FLAGS, base_of, info_of, with_info
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
) -> StoreResult:
    """Blocks; a kill cannot take it back when it returns, a power cut as `settling` says. UIDs that
    are gone are left out of the result. Raises OSError, apsw.Error, MailboxError("LIMIT")."""
    if mode not in ("set", "add", "remove"):
        raise ValueError(f"mode {mode!r}")
    index.keywords.refresh()
    change = _Change(index, canonical_flags(flags), mode)
    infos, names = index.infos, index.names
    renamed: list[tuple[int, str]] = []
    conflicts: list[int] = []
    touched: list[int] = []
    gone: list[int] = []
    try:
        with contextlib.ExitStack() as lock:
            for uid in uids:
                info = infos.get(uid)
                if info is None:
                    continue
                if unchanged_since is not None and info.modseq > unchanged_since:
                    conflicts.append(uid)
                    continue
                name = names[uid]
                target = change.target(name)
                if target != name:
                    if not change.begun:
                        settling.begin()
                        change.begun = True
                        lock.enter_context(index.names_locked(settling.lock_file))
                    found = _rename(index, name, target, change)
                    if found is None:
                        gone.append(uid)
                        continue
                    renamed.append((uid, found))
                touched.append(uid)
    finally:
        if change.begun:
            settling.end()
        if renamed:
            index.renamed(renamed)
        if gone:
            index.scan()
        index.save()
    return StoreResult([infos[uid] for uid in touched if uid in infos], conflicts)


class _Change:
    """What becomes of a name's letters; most messages of a folder have one of a few sets."""

    def __init__(self, index: FolderIndex, flags: Collection[str], mode: str) -> None:
        self._given = set(index.keywords.letters(flags))
        self._mode = mode
        # Letters that we know nothing of are another program's.
        self._known = index.keywords.known_letters() | LETTER_FLAGS.keys()
        self._made: dict[str, str] = {}
        # Whether a name was about to be changed.
        self.begun = False

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
