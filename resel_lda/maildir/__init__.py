"""Maildir++ as Dovecot lays it out, with Dovecot's own files, behind the Mailbox door."""
