"""Where a user's mbox is, for those whose mailbox is one."""

from __future__ import annotations

import os

from resel_mta.config import Settings
from resel_mta.users import User


def mbox_path(user: User, settings: Settings) -> str:
    """The mbox that mail for the user is appended to; "" where his mailbox is a Maildir or he has
    no home for one. `mail_location` wins, then `home_mailbox`, then `mail_spool_directory`."""
    if user.mail_location or settings.text("mail_location"):
        return ""
    home_mailbox = settings.text("home_mailbox")
    if home_mailbox:
        is_mbox = bool(user.home) and not home_mailbox.endswith("/")
        return os.path.join(user.home, home_mailbox) if is_mbox else ""
    spool = settings.text("mail_spool_directory")
    name = user.name
    if not spool or spool.endswith("/") or "/" in name or name in ("", ".", ".."):
        return ""
    return os.path.join(spool, name)


def is_in_spool(user: User, settings: Settings) -> bool:
    """Whether the user's mailbox is an mbox in mail_spool_directory."""
    if mailbox_command(settings) or settings.text("home_mailbox"):
        return False
    return bool(mbox_path(user, settings))


def mailbox_command(settings: Settings) -> str:
    """What takes the place of mailboxes, as it is written; "" for nothing."""
    return settings.setting("mailbox_command").value.strip()
