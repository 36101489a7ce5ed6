"""resel-mta: a mail transfer agent, its relay client and its mailboxes, in Python."""

__version__ = "0.1.0"
