"""Delivery status notifications: multipart/report (RFC 6522) with RFC 3464's fields, and
RFC 6533's for SMTPUTF8. Pure: builds `Content`, decides nothing.

What goes to an address in ASCII is in ASCII, whatever it is about: nobody is told if it fails, and
the next hop may have neither 8BITMIME nor SMTPUTF8.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import formatdate

from resel_mta.content import Content, Header, MemoryBody
from resel_mta.mail import (
    Delivered,
    Envelope,
    Expanded,
    Message,
    Outcome,
    Recipient,
    Relayed,
)
from resel_mta.queue.advice import advice
from resel_mta.queue.journal import reason
from resel_mta.queue.seven_bit import quoted_printable, seven_bit
from resel_mta.wire import xtext

_UNSAFE = re.compile(r"[^\x21-\x7e]|[\\+=]")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_ESCAPED = re.compile(r"\\x\{([0-9A-Fa-f]{2,6})\}")


class Kind(enum.Enum):
    """What a notification is about; the value is its subject."""

    FAILURE = "Undelivered Mail Returned to Sender"
    DELAY = "Delayed Mail (still being retried)"
    SUCCESS = "Successful Mail Delivery Report"
    POSTMASTER = "Postmaster Copy: Undelivered Mail"


@dataclass(frozen=True, slots=True)
class Report:
    """What to build.

    sender, to: addresses for From and To. host: our name. queue_id: of the notification.
    expires: when a delayed message is given up. full: return the whole message, not its header.
    """

    kind: Kind
    message: Message
    content: Content
    recipients: Sequence[tuple[Recipient, Outcome]]
    to: str
    host: str
    queue_id: str
    now: float
    expires: float
    full: bool

    @property
    def is_ascii(self) -> bool:
        """Whether it has to be."""
        return self.to.isascii()


_OPENING = {
    Kind.FAILURE: (
        "Your message could not be delivered to the recipients below. Nothing more\n"
        "is tried for them: if they should get it, it must be sent again."
    ),
    Kind.DELAY: (
        "Your message could not be delivered yet to the recipients below.\n"
        "THIS IS ONLY A WARNING: you need not send it again. It is tried until\n"
        "{expires}."
    ),
    Kind.SUCCESS: "Your message was taken care of as you asked to be told:",
    Kind.POSTMASTER: (
        "A message could not be delivered, and its sender is not told or is told\n"
        "separately. This copy is for the postmaster."
    ),
}


def build(report: Report) -> tuple[Content, Envelope]:
    """The notification, and an envelope for it that has no recipients yet (its reverse-path is
    null, its body type and SMTPUTF8 are set as the content needs)."""
    utf8 = report.message.envelope.smtputf8 and not report.is_ascii
    texts = [_explanation(report).encode(), _status(report).encode()]
    returned, description, kind = _returned(report)
    eight_bit = utf8 or not all(part.isascii() for part in (*texts, returned))
    eight_bit = eight_bit and not report.is_ascii
    encoding = b"8bit" if eight_bit else b"7bit"
    boundary = f"{report.queue_id}.{int(report.now)}/{report.host}".encode()
    status_type = b"message/global-delivery-status" if utf8 else b"message/delivery-status"
    parts = (
        (b"Notification", b"text/plain; charset=utf-8", texts[0]),
        (b"Delivery report", status_type, texts[1]),
        (description, kind, returned),
    )
    body = b"This is a MIME-encapsulated message.\r\n\r\n" + b"".join(
        b"--%s\r\nContent-Description: %s\r\nContent-Type: %s\r\n"
        b"Content-Transfer-Encoding: %s\r\n\r\n%s\r\n"
        % (boundary, name, kind, *_encoded(encoding, data))
        for name, kind, data in parts
    )
    body += b"--%s--\r\n" % boundary
    envelope = Envelope("", [], body="8BITMIME" if eight_bit else "7BIT", smtputf8=utf8)
    return Content(Header(_header(report, boundary, encoding)), MemoryBody(body)), envelope


def _encoded(encoding: bytes, data: bytes) -> tuple[bytes, bytes]:
    """Content-Transfer-Encoding and content of a part, where `encoding` is that of the whole."""
    if encoding == b"8bit" or data.isascii():
        return encoding, data
    return b"quoted-printable", quoted_printable(data)


def _header(report: Report, boundary: bytes, encoding: bytes) -> bytes:
    date = formatdate(report.now, localtime=True)
    stamp = f"{int(report.now)}.{report.queue_id}"
    lines = (
        f"Date: {date}",
        f"From: Mail Delivery System <MAILER-DAEMON@{report.host}>",
        f"Subject: {report.kind.value}",
        f"To: {report.to}",
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        "Content-Type: multipart/report; report-type=delivery-status;\r\n"
        f'\tboundary="{boundary.decode()}"',
        f"Content-Transfer-Encoding: {encoding.decode()}",
        f"Message-Id: <{stamp}@{report.host}>",
    )
    return "".join(f"{line}\r\n" for line in lines).encode()


def _returned(report: Report) -> tuple[bytes, bytes, bytes]:
    """The message or its header, what that is, and its type: one that may be encoded (RFC 6532
    §3.7), if it is not in ASCII where the notification has to be."""
    content, utf8 = report.content, report.message.envelope.smtputf8
    data = content.header.raw
    if report.full:
        read = data + b"\r\n" + content.body.read(0, content.body.size)
        whole = seven_bit(read) if report.is_ascii and not utf8 else read
        if whole is not None:
            utf8 = utf8 and not (report.is_ascii and whole.isascii())
            return whole, b"Undelivered Message", b"message/global" if utf8 else b"message/rfc822"
    utf8 = utf8 and not (report.is_ascii and data.isascii())
    kind = b"message/global-headers" if utf8 else b"text/rfc822-headers"
    return data, b"Message Headers", kind


def _explanation(report: Report) -> str:
    """The part for people."""
    until = formatdate(report.expires, localtime=True)
    subject = _subject(report.content)
    lines = [
        f"This is the mail system at host {report.host}.",
        "",
        *_OPENING[report.kind].format(expires=until).split("\n"),
        "",
    ]
    if subject:
        lines += [f"    Subject: {subject}", ""]
    for recipient, outcome in report.recipients:
        lines += _about(report, recipient, outcome)
    lines += [
        "If you need help, forward this whole message to your postmaster.",
        "",
    ]
    return "\r\n".join(lines)


def _about(report: Report, recipient: Recipient, outcome: Outcome) -> list[str]:
    name = f"<{recipient.address}>"
    if recipient.orig_to and recipient.orig_to != recipient.address:
        name += f" (expanded from <{recipient.orig_to}>)"
    lines = [f"{name}: {_printable(reason(outcome))}"]
    expired = report.kind is Kind.FAILURE and outcome.reply.is_temporary
    words = advice(outcome, expired=expired, forced=expired and report.message.expires < 0)
    if words and report.kind is not Kind.SUCCESS:
        lines += [f"    {line}" for line in words]
    return [*lines, ""]


def _subject(content: Content) -> str:
    """The Subject field, if it is text that can be shown as it is."""
    raw = content.header.get(b"Subject")
    try:
        return _printable(raw.decode())[:200] if raw else ""
    except UnicodeDecodeError:
        return ""


def _printable(text: str) -> str:
    """One line that can't be taken for another field."""
    text = text.encode("utf-8", "replace").decode()
    return "".join(c if c.isprintable() else " " for c in text)


def _status(report: Report) -> str:
    """The part for programs (RFC 3464 §2)."""
    envelope = report.message.envelope
    kind = "utf-8" if envelope.smtputf8 else "rfc822"
    lines = []
    if envelope.envid:
        lines.append(f"Original-Envelope-Id: {_decoded(envelope.envid)}")
    lines += [
        f"Reporting-MTA: dns; {report.host}",
        f"X-Queue-Id: {report.message.queue_id}",
        f"X-Sender: {_typed(report, kind, envelope.reverse_path)}",
        f"Arrival-Date: {formatdate(report.message.arrival, localtime=True)}",
    ]
    if report.is_ascii:
        lines = [_NOT_ASCII.sub(_escape, line) for line in lines]
    for recipient, outcome in report.recipients:
        lines += ["", *_recipient_fields(report, kind, recipient, outcome)]
    return "".join(f"{line}\r\n" for line in lines)


def _recipient_fields(
    report: Report, kind: str, recipient: Recipient, outcome: Outcome
) -> list[str]:
    lines = [f"Final-Recipient: {_typed(report, kind, recipient.address)}"]
    if recipient.orcpt:
        address_type, _, address = recipient.orcpt.partition(";")
        original = _decoded(address)
        if kind == "utf-8" and address_type.lower() == "utf-8" and not report.is_ascii:
            original = _plain_utf8(original)
        lines.append(f"Original-Recipient: {address_type}; {original}")
    elif recipient.orig_to:
        lines.append(f"Original-Recipient: {_typed(report, kind, recipient.orig_to)}")
    lines += [f"Action: {_action(report.kind, outcome)}", f"Status: {status_code(outcome)}"]
    if outcome.host:
        lines.append(f"Remote-MTA: dns; {_printable(outcome.host)}")
        words = outcome.diagnostic or str(outcome.reply)
        lines.append(f"Diagnostic-Code: smtp; {_printable(words)}")
    else:
        lines.append(f"Diagnostic-Code: x-resel-mta; {_printable(outcome.reply.text)}")
    if report.kind is Kind.DELAY:
        lines.append(f"Will-Retry-Until: {formatdate(report.expires, localtime=True)}")
    if report.is_ascii:
        lines = [_NOT_ASCII.sub(_escape, line) for line in lines]
    return [_folded(line) for line in lines]


def status_code(outcome: Outcome) -> str:
    """The enhanced code; made up from the reply's class where it has none."""
    return outcome.reply.enhanced or f"{outcome.reply.code // 100}.0.0"


def _action(kind: Kind, outcome: Outcome) -> str:
    if kind is Kind.DELAY:
        return "delayed"
    if isinstance(outcome, Delivered):
        return "delivered"
    if isinstance(outcome, Relayed):
        return "relayed"
    if isinstance(outcome, Expanded):
        return outcome.action
    return "failed"


def _typed(report: Report, kind: str, address: str) -> str:
    """An address with its type (RFC 3464 §2.1.2)."""
    if address.isascii():
        return f"rfc822; {address}"
    if kind == "utf-8" and report.is_ascii:
        address = _UNSAFE.sub(_escape, address)
    return f"{kind}; {address}"


def _decoded(text: str) -> str:
    try:
        return _printable(xtext.decode(text))
    except ValueError:
        return _printable(text)


def _plain_utf8(address: str) -> str:
    r"""An address as RFC 6533 §3 writes it in ASCII, "ren\x{E9}@example.org", in UTF-8."""
    return _printable(_ESCAPED.sub(_character, address))


def _escape(match: re.Match[str]) -> str:
    r"""As RFC 6533 §3 has it in ASCII: \x{E9}."""
    return f"\\x{{{ord(match[0]):X}}}"


def _character(match: re.Match[str]) -> str:
    number = int(match[1], 16)
    return chr(number) if number < 0x110000 else match[0]


def _folded(line: str, width: int = 900) -> str:
    """A field in lines that every server takes (RFC 5322 §2.1.1: 998 octets)."""
    if len(line.encode()) <= width:
        return line
    words, lines = line.split(" "), [""]
    for word in words:
        for start in range(0, max(len(word), 1), width // 4):
            piece = word[start : start + width // 4]
            if len((lines[-1] + " " + piece).encode()) > width:
                lines.append(piece)
            else:
                lines[-1] = f"{lines[-1]} {piece}" if lines[-1] else piece
    return "\r\n    ".join(lines)
