"""IMAP4rev1 (RFC 3501): grammar, the view a session has of its folder, and the commands.

`parser` and `utf7` are pure; `stream` and `reader` bring commands in; `session` runs them, one
module per group of commands; everything about mail is asked of the doors in `resel_lda.mailbox`.
"""
