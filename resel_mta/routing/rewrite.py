"""What cleanup(8) does to a header: bare addresses are completed, missing fields added, those that
must not travel dropped."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from email.utils import formatdate

from resel_mta.config import Settings
from resel_mta.content import Header
from resel_mta.routing.address import AddressRules
from resel_mta.wire.header_addresses import find_addresses, replace_addresses

#: Fields with addresses, by what they name, as in Postfix's header_opts.c.
SENDER_FIELDS = frozenset(
    b"from sender reply-to errors-to return-receipt-to disposition-notification-to resent-from"
    b" resent-sender resent-reply-to".split()
)
RECIPIENT_FIELDS = frozenset(b"to cc bcc apparently-to resent-to resent-cc resent-bcc".split())
#: Postfix's message_drop_headers.
_DROPPED = (b"bcc", b"content-length", b"resent-bcc", b"return-path")
_VISIBLE = (b"to", b"cc", b"resent-to", b"resent-cc")
# The most usual values by far: one mailbox, complete already, perhaps behind a phrase of plain
# words. Possessive, so that no value can make it slow.
_COMPLETE = rb"[ \t]*+(?:(?:[\w.+-]++[ \t]++)*+<)?+[\w.!#$%&'*+/=?^`{|}~-]++@[\w-]++(?:\.[\w-]++)++>?+[ \t]*+\r(?=\n(?![ \t]))"
# For a header in lower case with LF before it: so it is looked for at line ends only.
_ADDRESS_FIELD = re.compile(
    rb"\n(?:%b)[ \t]*+:(%b)?+" % (b"|".join(SENDER_FIELDS | RECIPIENT_FIELDS), _COMPLETE)
)


def rewrite_addresses(value: bytes, transform: Callable[[str], str]) -> bytes:
    """A field's value with each address put through `transform`; all else keeps its bytes."""
    changes = []
    for span in find_addresses(value):
        old = value[span.start : span.end].decode("utf-8", "surrogateescape")
        new = transform(old)
        if new != old:
            changes.append((span, new.encode("utf-8", "surrogateescape")))
    return replace_addresses(value, changes) if changes else value


def drop_fields(header: Header, folded: bytes) -> None:
    """Take out Bcc, Content-Length and Return-Path. folded: LF and the header in lower case."""
    for name in _DROPPED:
        if b"\n" + name in folded:
            header.remove(name)


def has_field(folded: bytes, name: bytes) -> bool:
    """Whether a field is there. folded: LF and the header in lower case; name: in lower case."""
    start = folded.find(b"\n" + name)
    while start >= 0:
        end = start + 1 + len(name)
        if folded[end : end + 1] == b":" or folded[end : end + 80].lstrip(b" \t")[:1] == b":":
            return True
        start = folded.find(b"\n" + name, end)
    return False


def find_message_id(raw: bytes, folded: bytes) -> str:
    """The value of Message-ID (of Resent-Message-ID, where there is one), "" if missing."""
    for name in (b"\nresent-message-id:", b"\nmessage-id:"):
        start = folded.find(name)
        if start < 0:
            continue
        # `folded` has one octet more in front.
        start += len(name) - 1
        end = raw.find(b"\r\n", start)
        while end >= 0 and raw[end + 2 : end + 3] in (b" ", b"\t"):
            end = raw.find(b"\r\n", end + 2)
        value = raw[start : len(raw) if end < 0 else end]
        return b" ".join(value.split()).decode("utf-8", "backslashreplace")
    return ""


class HeaderFixer:
    """Completes the header of mail that begins its way here."""

    def __init__(self, settings: Settings, rules: AddressRules) -> None:
        self._rules = rules
        self._myhostname = settings.text("myhostname")
        self._undisclosed = settings.text("undisclosed_recipients_header").strip()
        self._remote_domain = settings.text("remote_header_rewrite_domain").strip()
        self.always_add_missing = settings.flag("always_add_missing_headers")

    @property
    def rewrites_remote(self) -> bool:
        """Whether bare addresses of other clients' mail get a domain too."""
        return bool(self._remote_domain)

    def complete_remote(self, header: Header) -> None:
        """remote_header_rewrite_domain for every bare address."""
        domain = self._remote_domain

        def append(address: str) -> str:
            return address if "@" in address else f"{address}@{domain}"

        self._rewrite(header, append)

    def complete(self, header: Header, folded: bytes) -> None:
        """myorigin for every bare address, mydomain for bare hosts where that is wanted. folded:
        LF and the header in lower case; it may have more fields."""
        # Nothing was found for one that is not complete.
        if b"" in _ADDRESS_FIELD.findall(folded):
            self._rewrite(header, self._rules.qualify)

    def _rewrite(self, header: Header, transform: Callable[[str], str]) -> None:
        fields = []
        changed = False
        for name, field in header.fields():
            folded = name.lower()
            if folded in SENDER_FIELDS or folded in RECIPIENT_FIELDS:
                label, colon, value = field.partition(b":")
                new = rewrite_addresses(value, transform)
                if new is not value:
                    field = label + colon + new
                    changed = True
            fields.append((name, field))
        if changed:
            header.replace(fields)

    def add_missing(
        self, header: Header, folded: bytes, sender: str, queue_id: str, now: float
    ) -> bool:
        """Message-Id, Date, From, and To where no recipient's field is there and one is wanted.
        Whether anything was added. folded: LF and the header in lower case."""
        resent = b"\nresent-" in folded
        prefix, known = (b"Resent-", b"resent-") if resent else (b"", b"")
        raw = header.raw
        if not has_field(folded, known + b"message-id"):
            stamp = time.strftime("%Y%m%d%H%M%S", time.gmtime(now))
            value = f"Message-Id: <{stamp}.{queue_id}@{self._myhostname}>\r\n"
            header.append(prefix + value.encode())
        if not has_field(folded, known + b"date"):
            header.append(prefix + f"Date: {formatdate(now, localtime=True)}\r\n".encode())
        if not has_field(folded, known + b"from"):
            address = self._rules.qualify(sender or "MAILER-DAEMON")
            header.append(prefix + f"From: {address}\r\n".encode("utf-8", "surrogateescape"))
        if self._undisclosed and not any(has_field(folded, name) for name in _VISIBLE):
            header.append(self._undisclosed.encode() + b"\r\n")
        return header.raw is not raw
