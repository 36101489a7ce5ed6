"""What errors call a folder: as the client does, whatever the store's separator is."""

from __future__ import annotations

from resel_lda.imap.names import Names
from resel_lda.mailbox import MailboxError


def test_names_are_the_clients() -> None:
    names = Names("Mail.", ".")
    error = MailboxError("Mailbox doesn't exist: a/b", "NONEXISTENT", "a/b")
    assert names.explain(error) == "Mailbox doesn't exist: Mail.a.b"
    assert names.explain(MailboxError("and/or", "CANNOT")) == "and/or"
