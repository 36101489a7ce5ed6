"""The front of POP3: see `resel_lda.front`."""

from __future__ import annotations

from collections.abc import Callable

from resel_lda.front import Client, LoginDialog, LoginService
from resel_lda.pop3.login import Dialog
from resel_lda.pop3.uidl import parse_format
from resel_mta.config import ConfigError, Settings
from resel_mta.config.problems import Problem
from resel_mta.users import User


class Pop3Service(LoginService):
    """POP3."""

    service = "pop3"

    def reconfigure(self, settings: Settings) -> None:
        """Raises ConfigError."""
        text = settings.text("pop3_uidl_format")
        try:
            parse_format(text)
        except ValueError as error:
            raise ConfigError([Problem("", "pop3_uidl_format", str(error))]) from None
        super().reconfigure(settings)

    def dialog(self, client: Client, admit: Callable[[User], str]) -> LoginDialog:
        return Dialog(client.stream, self.sasl, self.tls, client.from_here, admit, client.remote[0])

    def last_words(self, said: str) -> bytes:
        return f"-ERR {said}\r\n".encode()

    def refusal(self, tag: bytes) -> bytes:
        return b"-ERR [SYS/TEMP] Mailboxes are not available now, try again later.\r\n"
