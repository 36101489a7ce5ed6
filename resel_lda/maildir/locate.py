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
    if not home_mailbox:
        raise LocationError(
            "mbox mailboxes are not supported yet: set mail_location or home_mailbox"
        )
    if not home_mailbox.endswith("/"):
        raise LocationError(
            f"home_mailbox = {home_mailbox} is an mbox file: only Maildir/ is supported"
        )
    if not user.home:
        raise LocationError("home_mailbox is set but the user has no home")
    return parse_location(f"maildir:{os.path.join(user.home, home_mailbox)}", user.name, user.home)
