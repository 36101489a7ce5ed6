"""What can go wrong with a host, as opposed to with a message."""

from __future__ import annotations

from resel_mta.mail import Reply


class HostFailed(Exception):
    """This host takes no mail now; the next one is to be tried.

    reply: for the log and the notification, in Postfix's words. host: who said it, "" if nobody
    spoke. diagnostic: the server's own reply, or "". heard: a connection was made.
    """

    def __init__(
        self, reply: Reply, host: str = "", diagnostic: str = "", heard: bool = True
    ) -> None:
        super().__init__(str(reply))
        self.heard = heard
        self.reply = reply
        self.host = host
        self.diagnostic = diagnostic


class TlsFailed(HostFailed):
    """The TLS handshake failed: where TLS is optional, a new connection may do without."""


class StaleConnection(Exception):
    """A kept connection turned out to be closed before anything was said about this message."""
