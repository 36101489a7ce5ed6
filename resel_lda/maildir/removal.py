"""Messages on their way out of a folder: expunged, or moved to another one. All of it blocks, under
the folder's lock."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

from resel_lda.maildir.bin import BinFolder
from resel_lda.maildir.index import FolderIndex
from resel_lda.maildir.names import base_of
from resel_lda.maildir.table import FileMarks, around


def remove_messages(index: FolderIndex, uids: Sequence[int], keep: bool = True) -> list[int]:
    """Expunge messages; those that were there. keep: in the bin, if there is one. Durable when it
    returns. Raises OSError."""
    names = _names(index, uids)
    there, gone = list(names), list(names.values())
    done: list[int] = []
    kept = index.bin if keep and there and index.bin is not None and index.bin.begin() else None
    try:
        _take_all(index, there, names, kept, done)
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


def _take_all(
    index: FolderIndex,
    uids: Sequence[int],
    names: Mapping[int, str],
    kept: BinFolder | None,
    done: list[int],
) -> None:
    """To `done` are added those that are gone from the folder, in this order."""
    disk, cur = index.files.disk, index.files.path("")
    marks, bases = index.marks, index.bases
    places: dict[FileMarks, tuple[str, str] | None] = {}
    for uid in uids:
        path = cur + names[uid]
        try:
            if kept is None:
                disk.unlink(path)
            else:
                kind = marks[uid]
                if kind not in places:
                    places[kind] = kept.place(around(kind.ending)[1], kind.flags)
                place = places[kind]
                if place is None:
                    disk.unlink(path)
                else:
                    disk.rename(path, f"{place[0]}{bases[uid]}{place[1]}")
        except OSError:
            # It has another name by now, or cannot be kept.
            _take_out(index, uid, names[uid], kept)
        done.append(uid)


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
