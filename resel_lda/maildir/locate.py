"""Which mail_location a user has: his own, the configured one, home_mailbox."""

from __future__ import annotations

import os

from resel_lda.maildir.layout import LocationError, MailLocation, parse_location
from resel_mta.config import Settings
from resel_mta.users import User


def locate(user: User, settings: Settings) -> MailLocation:
    """Raises LocationError, in plain words, for what cannot be delivered to."""
    explicit = user.mail_location or settings.text("mail_location")
    if explicit:
        return parse_location(explicit, user.name, user.home)
    home_mailbox = settings.text("home_mailbox")
    spool = settings.text("mail_spool_directory")
    if not home_mailbox and spool.endswith("/"):
        return parse_location(f"maildir:{spool}%u", user.name, user.home)
    if not home_mailbox.endswith("/"):
        raise LocationError(
            "the mailbox is an mbox file, which can only be delivered to: set mail_location or "
            "home_mailbox = Maildir/"
        )
    if not user.home:
        raise LocationError("home_mailbox is set but the user has no home")
    return parse_location(f"maildir:{os.path.join(user.home, home_mailbox)}", user.name, user.home)
