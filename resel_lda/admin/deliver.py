"""dovecot-lda's delivery: a message, as it is, into a folder's new/.

It needs nothing of ours but the directory, so it works beside whoever holds the mailbox open; the
message is on disk, synced, under its final name when `deliver_to` returns.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from resel_lda.admin.find import store_name
from resel_lda.imap.names import Names
from resel_lda.mailbox import MailboxError
from resel_lda.mailbox_place import mbox_path
from resel_lda.mailcopy import quote_from, unix_lines
from resel_lda.maildir.files import MaildirFiles, create_maildir
from resel_lda.maildir.layout import Layout, is_inbox
from resel_lda.maildir.locate import locate
from resel_lda.maildir.names import NameMaker
from resel_lda.maildir.quota import Quota, limit_of
from resel_lda.mbox import Locking, append
from resel_mta.config import Settings
from resel_mta.disk import Disk
from resel_mta.users import User

_BLOCK = 1 << 18


class OverQuota(Exception):
    """The message has no room in the user's quota."""


def deliver_to(
    user: User, settings: Settings, names: Names, mailbox: str, sender: str, message: bytes
) -> str:
    """Deliver; the name of the folder it is in now, which is INBOX where there is no such folder.
    Blocks. Raises OverQuota, OSError, LocationError, TempFail, PermFail."""
    message = _without_from_line(message)
    mbox = mbox_path(user, settings)
    if mbox:
        _to_mbox(mbox, settings, sender, message)
        return "INBOX"
    disk = Disk()
    location = locate(user, settings)
    layout = Layout(location)
    quota = Quota(disk, layout, limit_of(user, settings))
    try:
        quota.check(len(message))
    except MailboxError:
        raise OverQuota(f"Quota exceeded (mailbox for user {user.name} is full)") from None
    name = _existing(layout, names, mailbox)
    directory = layout.directory(name)
    if is_inbox(name):
        create_maildir(disk, directory)
    base = MaildirFiles(disk, directory, NameMaker()).deliver(_blocks(message))
    quota.changed([base], 1)
    return names.shown(name)


def _without_from_line(message: bytes) -> bytes:
    """Some programs hand over an mbox's first line as well."""
    return message.partition(b"\n")[2] if message.startswith(b"From ") else message


def _existing(layout: Layout, names: Names, mailbox: str) -> str:
    if not mailbox:
        return "INBOX"
    try:
        name = store_name(names, mailbox)
        layout.check_name(name)
    except MailboxError:
        return "INBOX"
    return name if layout.exists(name) else "INBOX"


def _blocks(message: bytes) -> Iterator[bytes]:
    for start in range(0, len(message), _BLOCK):
        yield message[start : start + _BLOCK]


def _to_mbox(path: str, settings: Settings, sender: str, message: bytes) -> None:
    append(
        Disk(),
        path,
        _mbox_entry(sender, message),
        Locking.from_settings(settings),
        limit=settings.number("mailbox_size_limit"),
    )


def _mbox_entry(sender: str, message: bytes) -> Iterable[bytes]:
    word = (sender or "MAILER-DAEMON").replace(" ", "_").replace("\n", "_")
    yield f"From {word}  {time.asctime()}\n".encode("utf-8", "surrogateescape")
    yield from quote_from(unix_lines(_blocks(message)))
    yield b"\n"
