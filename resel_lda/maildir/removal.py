"""Messages on their way out of a folder: expunged, or moved to another one. All of it blocks, under
the folder's lock."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from resel_lda.maildir.bin import BinFolder
from resel_lda.maildir.index import FolderIndex
from resel_lda.maildir.names import base_of


def remove_messages(index: FolderIndex, uids: Sequence[int], keep: bool = True) -> list[int]:
    """Expunge messages; those that were there. keep: in the bin, if there is one. Durable when it
    returns. Raises OSError."""
    names = _names(index, uids)
    there, gone = list(names), list(names.values())
    done: list[int] = []
    kept = index.bin if keep and there and index.bin is not None and index.bin.begin() else None
    try:
        for uid in there:
            _take_out(index, uid, names[uid], kept)
            done.append(uid)
    finally:
        if done:
            if kept is not None:
                kept.sync()
            _taken(index, done, gone[: len(done)])
    return done


def moved_away(index: FolderIndex, uids: Sequence[int]) -> None:
    """The messages' files are in another folder, where they are durable. Raises OSError."""
    names = _names(index, uids)
    _taken(index, list(names), list(names.values()))


def _names(index: FolderIndex, uids: Sequence[int]) -> dict[int, str]:
    """Of those that are there."""
    return {uid: name for uid in uids if (name := index.name(uid)) is not None}


def _taken(index: FolderIndex, uids: Sequence[int], names: Sequence[str]) -> None:
    index.files.disk.sync_directory(index.files.cur)
    index.counted(names, -1)
    index.forget(uids)
    index.save()


def _take_out(index: FolderIndex, uid: int, name: str, kept: BinFolder | None) -> None:
    for _ in range(4):
        path = index.files.path(name)
        with contextlib.suppress(FileNotFoundError):
            if kept is None or not kept.put(path, index.marks[uid].flags):
                index.files.disk.unlink(path)
            return
        current = index.files.list_cur().get(base_of(name))
        if current is None:
            return
        name = current
