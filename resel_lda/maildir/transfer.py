"""Messages on their way into a folder: copied from another one, or appended."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterator,
    Sequence,
)
from typing import Any

from resel_lda.mailbox import AppendData, MailboxError
from resel_lda.maildir.content import MessageReader
from resel_lda.maildir.dates import internal_dates, known_dates
from resel_lda.maildir.files import MaildirFiles
from resel_lda.maildir.index import FolderIndex
from resel_lda.maildir.names import base_of, size_in_name
from resel_lda.maildir.removal import moved_away, remove_messages
from resel_mta.disk import Disk

_BLOCK = 1 << 18

# A file that cannot be linked, or has another name by now.
_NOT_LINKED = (errno.EXDEV, errno.EMLINK, errno.EPERM, errno.ENOENT)

# (path of a synced file, mostly in the target's tmp/, its base there, flags)
Item = tuple[str, str, Collection[str]]


# `MaildirFolder.install` of the target.
Install = Callable[..., list[int]]
InThread = Callable[..., Awaitable[Any]]


def copy_messages(
    index: FolderIndex,
    reader: MessageReader,
    uids: Sequence[int],
    files: MaildirFiles,
    install: Install,
    moved: bool = False,
) -> list[int]:
    """Copies in the target folder, whose files these are: their UIDs. All or none; blocks, under
    the target's lock. moved: the originals are about to go. Raises OSError, MailboxError."""
    try:
        items, dates = _own_files(index, uids, files)
        return install(items, moved=moved, linked=True, dates=dates)
    except OSError as error:
        if error.errno not in _NOT_LINKED:
            raise
    items = link_messages(index, reader, uids, files)
    try:
        return install(items, moved=moved)
    except BaseException:
        discard(files.disk, items)
        raise


def move_messages(
    index: FolderIndex,
    reader: MessageReader,
    uids: Sequence[int],
    files: MaildirFiles,
    install: Install,
) -> list[int]:
    """As `copy_messages`, and the originals are gone from the folder. Each message has a name in one
    of the two folders at any moment, so that whatever ends this loses none. Blocks, under both
    folders' locks. Raises OSError, MailboxError."""
    try:
        items, dates = _own_files(index, uids, files)
        new = install(items, moved=True, back=True, dates=dates)
    except OSError as error:
        if error.errno not in _NOT_LINKED:
            raise
        new = copy_messages(index, reader, uids, files, install, moved=True)
        remove_messages(index, uids, keep=False)
    else:
        moved_away(index, uids)
    return new


def _own_files(
    index: FolderIndex, uids: Sequence[int], files: MaildirFiles
) -> tuple[list[Item], dict[str, float]]:
    """The messages' own files, which need no way through tmp/, and their dates by new base."""
    items: list[Item] = []
    dates: dict[str, float] = {}
    known = known_dates(index, uids)
    for uid in uids:
        marks, name = index.marks.get(uid), index.name(uid)
        if marks is None or name is None:
            raise MailboxError("Some of the messages are gone", "EXPUNGEISSUED")
        path = index.files.path(name)
        base, stamp = files.name_copy(path, size_in_name(base_of(name), "W"))
        items.append((path, base, marks.flags))
        dates[base] = known.get(uid, stamp)
    return items, dates


def link_messages(
    index: FolderIndex, reader: MessageReader, uids: Sequence[int], files: MaildirFiles
) -> list[Item]:
    """Hard links in the target's tmp/, or copies where links cannot be. Blocks. Raises OSError,
    MailboxError("EXPUNGEISSUED")."""
    items: list[Item] = []
    try:
        for uid in uids:
            marks = index.marks.get(uid)
            if marks is None:
                raise MailboxError("Some of the messages are gone", "EXPUNGEISSUED")
            path, base = _linked(index, uid, files) or _copied(index, reader, uid, files)
            items.append((path, base, marks.flags))
    except BaseException:
        discard(files.disk, items)
        raise
    return items


def _linked(index: FolderIndex, uid: int, files: MaildirFiles) -> tuple[str, str] | None:
    """None where it cannot be linked, or has another name by now."""
    name = index.name(uid)
    if name is None:
        return None
    try:
        return files.link_temporary(index.files.path(name), size_in_name(base_of(name), "W"))
    except OSError as error:
        if error.errno not in _NOT_LINKED:
            raise
        return None


def _copied(
    index: FolderIndex, reader: MessageReader, uid: int, files: MaildirFiles
) -> tuple[str, str]:
    opened = reader.open(uid)
    if opened is None:
        raise MailboxError("Some of the messages are gone", "EXPUNGEISSUED")
    try:
        date = internal_dates(index, [uid]).get(uid)
        return files.write_temporary(_blocks(opened[0]), date)
    finally:
        os.close(opened[0])


def _blocks(fd: int) -> Iterator[bytes]:
    while block := os.read(fd, _BLOCK):
        yield block


def discard(disk: Disk, items: Sequence[Item]) -> None:
    """Take back what was not installed. Blocks."""
    for path, _, _ in items:
        with contextlib.suppress(FileNotFoundError):
            disk.unlink(path)


async def each(
    messages: Sequence[AppendData] | AsyncIterator[AppendData],
) -> AsyncIterator[AppendData]:
    """One after the other."""
    if isinstance(messages, Sequence):
        for message in messages:
            yield message
    else:
        async for message in messages:
            yield message


async def write_large(
    in_thread: InThread, files: MaildirFiles, blocks: AsyncIterator[bytes], date: float | None
) -> tuple[str, str]:
    """(path of a synced file in tmp/, base), written in pieces as they come."""
    file = await in_thread(files.temporary)
    try:
        held: list[bytes] = []
        size = 0
        async for block in blocks:
            held.append(block)
            size += len(block)
            if size >= _BLOCK:
                await in_thread(file.write, b"".join(held))
                held, size = [], 0
        await in_thread(file.write, b"".join(held))
        return file.path, await in_thread(file.finish, date)
    except BaseException:
        await asyncio.shield(asyncio.ensure_future(in_thread(file.discard)))
        raise
