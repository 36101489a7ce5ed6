"""Transcripts of sessions in which something went wrong, for the postmaster (`notify_classes`).

What a client said is shown only where it can be neither a password nor part of a message: its
greeting and the envelope. Of anything else there is the verb; of what is no command, nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import time
from collections.abc import Iterator
from email.utils import formatdate

from resel_mta.config import Settings
from resel_mta.content import Content, Header, MemoryBody
from resel_mta.mail import Envelope, Intake, Notify, Origin, PermFail, Recipient, TempFail
from resel_mta.maillog import MailLog
from resel_mta.smtpd import replies
from resel_mta.smtpd.client import Client

KINDS = frozenset(("bounce", "data", "policy", "protocol", "resource", "software"))
"""The classes of `notify_classes` that have transcripts."""
MOST_AN_HOUR = 20
"""Transcripts that a process sends for one service, whoever makes errors."""
AGAIN_AFTER = 600.0
"""Seconds until another transcript is sent about the same client (IPv6: the same /64)."""
_HOUR = 3600.0
_PATIENCE = 5.0
#: Lines that are kept of a session, from its beginning and from its end; octets of each.
_FIRST, _LAST, _WIDTH = 20, 80, 300
_MOST = 2 * (_FIRST + _LAST)
_SHOWN = frozenset((b"EHLO", b"HELO", b"LHLO", b"MAIL", b"RCPT"))
_HARMLESS = re.compile(rb"(?:.HLO|HELO) +\S+|MAIL +FROM:.*|RCPT +TO:.*", re.IGNORECASE)
#: The first octet of a reply that is no error and asks for nothing.
_SUCCESS = ord("2")
_CODE = re.compile(rb"([245])\d\d[ -](?:([245])\.(\d+)\.(\d+) )?")
#: Replies that say nothing of the client or of this host's health: stopping, a silent client.
_NO_TROUBLE = (b"421 4.3.2 ", b"421 4.4.2 ")


class Transcript:
    """One session as it goes on. kinds: what went wrong, in the words of `notify_classes`."""

    __slots__ = ("_add", "_left_out", "_lines", "_rejected", "kinds")

    def __init__(self) -> None:
        # Replies as they were sent; what a client said has no line end.
        self._lines: list[bytes] = []
        self._add = self._lines.append
        self._left_out = 0
        self._rejected = ""
        self.kinds: set[str] = set()

    def heard(self, verb: bytes, line: bytes) -> None:
        """A line from the client. verb: of the command that it is; b"" if it is none."""
        self._add(line[:_WIDTH] if verb in _SHOWN else verb)

    def said(self, reply: bytes) -> None:
        """A reply, as on the wire."""
        if (reply[0] != _SUCCESS and reply is not replies.GO_AHEAD) or reply is replies.NON_SMTP:
            reply = self._look_at(reply)
        self._add(reply)
        if len(self._lines) > _MOST:
            self._left_out += len(self._lines) - _FIRST - _LAST
            del self._lines[_FIRST:-_LAST]

    def _look_at(self, reply: bytes) -> bytes:
        """Note what it tells of; what of it is to be shown."""
        if reply.startswith(b"334"):
            # What follows is part of a log-in.
            return b"334\r\n"
        kind = _kind_of(reply, self._rejected)
        if kind:
            self.kinds.add(kind)
        if self._rejected == "END-OF-MESSAGE" and reply.startswith(b"5"):
            self.kinds.add("bounce")
        self._rejected = ""
        return reply

    def rejected(self, where: str) -> None:
        """The next reply is a refusal by a rule. where: as in the log."""
        self._rejected = where

    def failed(self) -> None:
        """Something happened here that should not have."""
        self.kinds.add("software")

    def text(self) -> Iterator[str]:
        """As Postfix shows it, a line each."""
        for count, line in enumerate(self._lines):
            if count == _FIRST and self._left_out:
                yield f" ...  ({self._left_out} commands and replies are left out)"
            if line.endswith(b"\n"):
                for part in line.rstrip(b"\r\n").split(b"\r\n")[:_FIRST]:
                    yield f" Out: {_shown(part[:_WIDTH])}"
            else:
                harmless = _HARMLESS.match(line)
                shown = harmless[0] if harmless else line.partition(b" ")[0]
                yield f" In:  {_shown(shown or b'(not a command)')}"


def _shown(line: bytes) -> str:
    text = line.decode("ascii", "backslashreplace")
    return "".join(c if c.isprintable() else "?" for c in text)


def _kind_of(reply: bytes, rejected: str) -> str:
    """What sort of trouble an error reply tells of; "" for none."""
    match = _CODE.match(reply)
    if match is None or reply.startswith(_NO_TROUBLE):
        return ""
    subject, detail = match[3], match[4]
    if subject == b"3" and match[1] == b"4":
        if detail == b"1" or rejected == "END-OF-MESSAGE":
            return "resource"
        return "data"
    if rejected or subject not in (None, b"5") or (subject, detail) == (b"5", b"3"):
        return "protocol" if reply.startswith((b"221", b"421")) and not rejected else "policy"
    return "protocol"


class Postmaster:
    """Sends transcripts, for one service; not so many that somebody could fill a mailbox.

    clock: seconds from any beginning.
    """

    clock = staticmethod(time.monotonic)

    def __init__(self, service: str, intake: Intake, log: MailLog) -> None:
        """service: as the log names it."""
        self._service = service
        self._intake = intake
        self._log = log
        self._kinds: frozenset[str] = frozenset()
        self._sent: dict[str, float] = {}
        self._left_out = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def reconfigure(self, settings: Settings) -> None:
        """From the next connection on, by these."""
        self._kinds = KINDS.intersection(settings.items("notify_classes"))
        self._host = settings.text("myhostname")
        self._name = settings.text("mail_name")
        origin = settings.text("myorigin")
        self._from = _qualified(settings.text("double_bounce_sender"), origin)
        self._to = _qualified(settings.text("error_notice_recipient"), origin)
        self._bounces_to = _qualified(settings.text("bounce_notice_recipient"), origin)

    def begin(self) -> Transcript | None:
        """For a session; None where nobody wants to know."""
        return Transcript() if self._kinds else None

    def ended(self, transcript: Transcript, client: Client) -> None:
        """A session is over."""
        kinds = transcript.kinds & self._kinds
        if not kinds:
            return
        if not self._may_send(client.address):
            self._left_out += 1
            return
        task = asyncio.get_running_loop().create_task(self._send(transcript, client, kinds))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _may_send(self, address: str) -> bool:
        now = self.clock()
        self._sent = {who: when for who, when in self._sent.items() if now - when < _HOUR}
        who = _network(address)
        if now - self._sent.get(who, -_HOUR) < AGAIN_AFTER:
            return False
        if len(self._sent) >= MOST_AN_HOUR:
            if not self._left_out:
                self._warn(f"{MOST_AN_HOUR} transcripts in an hour: no more for now")
            return False
        self._sent.pop(who, None)
        self._sent[who] = now
        return True

    async def _send(self, transcript: Transcript, client: Client, kinds: set[str]) -> None:
        left_out, self._left_out = self._left_out, 0
        queue_id = self._intake.new_id()
        to = self._bounces_to if kinds == {"bounce"} else self._to
        now = time.time()
        date = formatdate(now, localtime=True)
        header = (
            f"Date: {date}\r\n"
            f"From: Mail Delivery System <MAILER-DAEMON@{self._host}>\r\n"
            f"To: {to}\r\n"
            f"Subject: {self._name} SMTP server: errors from {client.label()}\r\n"
            "Auto-Submitted: auto-generated\r\n"
            f"Message-Id: <{int(now)}.{queue_id}@{self._host}>\r\n"
        )
        lines = [f"Errors of these kinds happened in this session: {', '.join(sorted(kinds))}", ""]
        if left_out:
            lines += [
                f"{left_out} more sessions with errors were left out since the last transcript.",
                "",
            ]
        lines += ["Transcript of session follows.", "", *transcript.text(), ""]
        lines += ["For other details, see the log of mail."]
        body = "".join(f"{line}\r\n" for line in lines).encode("ascii", "replace")
        envelope = Envelope(self._from, [Recipient(to, notify=Notify.NEVER)], body="7BIT")
        received = f"Received: by {self._host} (resel-mta)\r\n\tid {queue_id}; {date}\r\n"
        origin = Origin("internal", "bounce", received=received.encode())
        content = Content(Header(header.encode("ascii", "replace")), MemoryBody(body))
        try:
            await self._intake.submit(envelope, content, origin, queue_id)
        except (TempFail, PermFail) as failure:
            self._warn(f"no transcript of errors from {client.label()}: {failure.reply}")
            return
        text = f"postmaster notification of errors from {client.label()}: {queue_id}"
        self._log.event(self._service, text)

    def _warn(self, text: str) -> None:
        self._log.warning(self._service, text)

    async def finish(self) -> None:
        """Returns when all is sent that is being sent, or does not want to be."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_PATIENCE)


def _network(address: str) -> str:
    """Who is counted as one client."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(parsed) if parsed.version == 4 else str(ipaddress.ip_network((parsed, 64), False))


def _qualified(address: str, origin: str) -> str:
    return address if "@" in address else f"{address}@{origin}"
