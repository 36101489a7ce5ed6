"""Commands that have nothing to do with mail: QUIT, NOOP, HELP, STARTTLS."""

from __future__ import annotations

import ssl

from resel_mta.mail import Reply
from resel_mta.smtpd import replies
from resel_mta.smtpd.command import Command, Work, command_table
from resel_mta.smtpd.session import Session


class BasicCommands(Session):
    """Adds them to a session."""

    def do_QUIT(self, arg: bytes) -> Work:
        if arg:
            self.say(replies.SYNTAX_QUIT)
            return None
        self.client.count("QUIT", ok=True)
        self.hang_up(replies.BYE)
        return None

    def do_NOOP(self, arg: bytes) -> Work:
        self.say(replies.OK)
        return None

    def do_HELP(self, arg: bytes) -> Work:
        names = " ".join(sorted(name.decode() for name in self.commands))
        self.say(Reply(214, "2.0.0", f"Commands: {names}"))
        return None

    def do_STARTTLS(self, arg: bytes) -> Work:
        """RFC 3207."""
        context = self.offered_tls()
        if arg:
            self.say(replies.SYNTAX_STARTTLS)
        elif self.client.tls:
            self.say(replies.TLS_ACTIVE)
        elif not self.options.tls_offered:
            self.say(replies.NOT_IMPLEMENTED)
        elif self.in_transaction:
            self.say(replies.IN_TRANSACTION)
        elif context is None:
            self.say(replies.TLS_UNAVAILABLE)
        else:
            self.say(replies.START_TLS)
            return self.start_tls(context)
        return None

    def offered_tls(self) -> ssl.SSLContext | None:
        """The context to offer now, None without certificate or where TLS is off."""
        if not self.options.tls_offered or self.service.tls is None:
            return None
        return self.service.tls.context()

    commands = command_table(
        Command(do_QUIT, "QUIT"),
        Command(do_NOOP, "NOOP", junk=True, last=True),
        Command(do_HELP, "HELP", junk=True),
        Command(do_STARTTLS, "STARTTLS"),
    )
