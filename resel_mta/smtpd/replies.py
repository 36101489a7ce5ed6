"""What the server says, worded as Postfix's smtpd words it.

Ready replies are octets, CR LF included; those with an address or a name in them are functions
that give a `Reply`. Replies to EHLO, HELO and DATA have no enhanced status code (RFC 2034 §4).
"""

from __future__ import annotations

from resel_mta.mail import Reply


def _wire(code: int, enhanced: str, text: str) -> bytes:
    return Reply(code, enhanced, text).wire()


OK = _wire(250, "2.0.0", "Ok")
MAIL_OK = _wire(250, "2.1.0", "Ok")
RCPT_OK = _wire(250, "2.1.5", "Ok")
BYE = _wire(221, "2.0.0", "Bye")
GO_AHEAD = _wire(354, "", "End data with <CR><LF>.<CR><LF>")
START_TLS = _wire(220, "2.0.0", "Ready to start TLS")
AUTHENTICATED = _wire(235, "2.7.0", "Authentication successful")

UNKNOWN_COMMAND = _wire(500, "5.5.2", "Error: command not recognized")
BAD_SYNTAX = _wire(500, "5.5.2", "Error: bad syntax")
BAD_UTF8 = _wire(500, "5.5.2", "Error: bad UTF-8 syntax")
LINE_TOO_LONG = _wire(500, "5.5.2", "Error: line too long")
NOT_IMPLEMENTED = _wire(502, "5.5.1", "Error: command not implemented")
NON_SMTP = _wire(221, "2.7.0", "Error: I can break rules, too. Goodbye.")
VRFY_DISABLED = _wire(502, "5.5.1", "VRFY command is disabled")

NEED_HELO = _wire(503, "5.5.1", "Error: send HELO/EHLO first")
NEED_MAIL = _wire(503, "5.5.1", "Error: need MAIL command")
NEED_RCPT = _wire(503, "5.5.1", "Error: need RCPT command")
NESTED_MAIL = _wire(503, "5.5.1", "Error: nested MAIL command")
NO_VALID_RECIPIENTS = _wire(554, "5.5.1", "Error: no valid recipients")
IN_TRANSACTION = _wire(503, "5.5.1", "Error: MAIL transaction in progress")
TOO_MANY_RECIPIENTS = _wire(452, "4.5.3", "Error: too many recipients")
SYNCHRONIZATION = _wire(554, "5.5.0", "Error: SMTP protocol synchronization")

SYNTAX_HELO = _wire(501, "", "Syntax: HELO hostname")
SYNTAX_EHLO = _wire(501, "", "Syntax: EHLO hostname")
SYNTAX_LHLO = _wire(501, "", "Syntax: LHLO hostname")
SYNTAX_MAIL = _wire(501, "5.5.4", "Syntax: MAIL FROM:<address>")
SYNTAX_RCPT = _wire(501, "5.5.4", "Syntax: RCPT TO:<address>")
SYNTAX_DATA = _wire(501, "5.5.4", "Syntax: DATA")
SYNTAX_RSET = _wire(501, "5.5.4", "Syntax: RSET")
SYNTAX_QUIT = _wire(501, "5.5.4", "Syntax: QUIT")
SYNTAX_VRFY = _wire(501, "5.5.4", "Syntax: VRFY address [SMTPUTF8]")
SYNTAX_STARTTLS = _wire(501, "5.5.4", "Syntax: STARTTLS")
SYNTAX_AUTH = _wire(501, "5.5.4", "Syntax: AUTH mechanism")
# The number of octets that follow is unknown, so the session cannot go on.
SYNTAX_BDAT = _wire(521, "5.5.4", "Syntax: BDAT count [LAST]")

TLS_REQUIRED = _wire(530, "5.7.0", "Must issue a STARTTLS command first")
TLS_ACTIVE = _wire(554, "5.5.1", "Error: TLS already active")
TLS_UNAVAILABLE = _wire(454, "4.7.0", "TLS not available due to local problem")

AUTH_DISABLED = _wire(503, "5.5.1", "Error: authentication not enabled")
AUTH_ALREADY = _wire(503, "5.5.1", "Error: already authenticated")
AUTH_NEEDS_TLS = _wire(538, "5.7.11", "Encryption required for requested authentication mechanism")
AUTH_MECHANISM = _wire(504, "5.5.4", "Error: authentication mechanism not supported")
AUTH_MALFORMED = _wire(501, "5.5.2", "Error: malformed authentication response")
AUTH_ABORTED = _wire(501, "5.7.0", "Authentication aborted")
AUTH_FAILED = _wire(535, "5.7.8", "Error: authentication failed")
AUTH_TEMPORARY = _wire(454, "4.7.0", "Temporary authentication failure")

SIZE_LIMIT = Reply(552, "5.3.4", "Message size exceeds fixed limit")
BARE_CR = Reply(
    550, "5.5.2", "Error: bare <CR> received; lines must end in <CR><LF> (RFC 5321 section 2.3.8)"
)
LOCAL_ERROR = Reply(451, "4.3.0", "Error: local error in processing")


def local_error(reference: str) -> Reply:
    """For what should not happen: `reference` finds the log line that tells more."""
    return Reply(451, "4.3.0", f"Error: local error in processing (reference {reference})")


def queued(queue_id: str) -> bytes:
    return b"250 2.0.0 Ok: queued as %s\r\n" % queue_id.encode("ascii")


def chunk_taken(size: int) -> bytes:
    return b"250 2.0.0 Ok: %d bytes\r\n" % size


def after_bdat(command: str) -> Reply:
    return Reply(503, "5.5.1", f"Error: {command} after BDAT")


def discarded(size: int) -> Reply:
    return Reply(551, "5.0.0", f"Discarded {size} bytes after earlier error")


def unsupported_option(option: str) -> Reply:
    return Reply(555, "5.5.4", f"Unsupported option: {ascii_only(option)}")


def too_many_errors(hostname: str) -> Reply:
    return Reply(421, "4.7.0", f"{hostname} Error: too many errors")


def too_many_connections(hostname: str, address: str) -> Reply:
    return Reply(421, "4.7.0", f"{hostname} Error: too many connections from {address}")


def timed_out(hostname: str) -> Reply:
    return Reply(421, "4.4.2", f"{hostname} Error: timeout exceeded")


def shutting_down(hostname: str) -> Reply:
    return Reply(421, "4.3.2", f"{hostname} Service shutting down")


def ascii_only(text: str, length: int = 100) -> str:
    """What a client said, fit to be said back: printable ASCII, not too long."""
    return "".join(c if " " <= c <= "~" else "?" for c in text[:length])
