"""Mailboxes: Maildir delivery, the Mailbox door and the servers (IMAP) that read it."""
