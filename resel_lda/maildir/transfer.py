"""Messages on their way into a folder: copied from another one, or appended."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from typing import Protocol

from resel_lda.mailbox import AppendData, MailboxError, MessageInfo
from resel_lda.maildir.content import MessageReader
from resel_lda.maildir.files import MaildirFiles
from resel_lda.maildir.index import FolderIndex
from resel_lda.maildir.names import base_of, size_in_name
from resel_mta.disk import Disk

_BLOCK = 1 << 18

# A file that cannot be linked, or has another name by now.
_NOT_LINKED = (errno.EXDEV, errno.EMLINK, errno.EPERM, errno.ENOENT)

# (path of a synced file, mostly in the target's tmp/, its base there, flags)
Item = tuple[str, str, Collection[str]]


class Install(Protocol):
    """`MaildirFolder.install` of the target."""

    def __call__(self, items: Sequence[Item], *, linked: bool = False) -> list[int]: ...


def copy_messages(
    index: FolderIndex,
    reader: MessageReader,
    uids: Sequence[int],
    files: MaildirFiles,
    install: Install,
) -> list[int]:
    """Copies in the target folder, whose files these are: their UIDs. All or none; blocks, under
    the target's lock. Raises OSError, MailboxError."""
    try:
        return install(_links(index, uids, files), linked=True)
    except OSError as error:
        if error.errno not in _NOT_LINKED:
            raise
    items = link_messages(index, reader, uids, files)
    try:
        return install(items)
    except BaseException:
        discard(files.disk, items)
        raise


def _links(index: FolderIndex, uids: Sequence[int], files: MaildirFiles) -> list[Item]:
    """The messages' own files, which need no way through tmp/."""
    items: list[Item] = []
    for uid in uids:
        info, name = index.infos.get(uid), index.names.get(uid)
        if info is None or name is None:
            raise MailboxError("Some of the messages are gone", "EXPUNGEISSUED")
        path = index.files.path(name)
        items.append((path, files.name_copy(path, size_in_name(base_of(name), "W")), info.flags))
    return items


def link_messages(
    index: FolderIndex, reader: MessageReader, uids: Sequence[int], files: MaildirFiles
) -> list[Item]:
    """Hard links in the target's tmp/, or copies where links cannot be. Blocks. Raises OSError,
    MailboxError("EXPUNGEISSUED")."""
    items: list[Item] = []
    try:
        for uid in uids:
            info = index.infos.get(uid)
            if info is None:
                raise MailboxError("Some of the messages are gone", "EXPUNGEISSUED")
            path, base = _linked(index, uid, files) or _copied(reader, info, files)
            items.append((path, base, info.flags))
    except BaseException:
        discard(files.disk, items)
        raise
    return items


def _linked(index: FolderIndex, uid: int, files: MaildirFiles) -> tuple[str, str] | None:
    """None where it cannot be linked, or has another name by now."""
    name = index.names.get(uid)
    if name is None:
        return None
    try:
        return files.link_temporary(index.files.path(name), size_in_name(base_of(name), "W"))
    except OSError as error:
        if error.errno not in _NOT_LINKED:
            raise
        return None


def _copied(reader: MessageReader, info: MessageInfo, files: MaildirFiles) -> tuple[str, str]:
    opened = reader.open(info.uid)
    if opened is None:
        raise MailboxError("Some of the messages are gone", "EXPUNGEISSUED")
    try:
        return files.write_temporary(_blocks(opened[0]), info.internal_date)
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
