"""Trace information: the Received field (RFC 5321 §4.4) and the hop limit."""

from __future__ import annotations

import time

from resel_mta.content import Header
from resel_mta.mail import Reply

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MOST_NAMED = 10


def rfc5322_date(seconds: float) -> str:
    """Local time as in Postfix's fields: "Tue, 24 Nov 2026 04:03:05 +0100 (CET)"."""
    local = time.localtime(seconds)
    offset = local.tm_gmtoff // 60
    sign = "-" if offset < 0 else "+"
    hours, minutes = divmod(abs(offset), 60)
    return (
        f"{_DAYS[local.tm_wday]}, {local.tm_mday} {_MONTHS[local.tm_mon - 1]} {local.tm_year} "
        f"{local.tm_hour:02}:{local.tm_min:02}:{local.tm_sec:02} "
        f"{sign}{hours:02}{minutes:02} ({local.tm_zone})"
    )


def protocol_name(*, esmtp: bool, tls: bool, authenticated: bool, utf8: bool) -> str:
    """The "with" of a Received field (RFC 3848, RFC 6531 §4.3)."""
    if not esmtp:
        return "SMTP"
    name = "UTF8SMTP" if utf8 else "ESMTP"
    return name + ("S" if tls else "") + ("A" if authenticated else "")


def received_head(
    *, helo: str, client: str, hostname: str, protocol: str, tls: str = "", user: str = ""
) -> bytes:
    """The part of a Received field that all messages of a session share.

    client: "name [address]". tls, user: what Postfix adds for smtpd_tls_received_header and
    smtpd_sasl_authenticated_header.
    """
    lines = [f"Received: from {helo or 'unknown'} ({client})"]
    if tls:
        lines.append(f"\t({tls})")
    if user:
        lines.append(f"\t(Authenticated sender: {user})")
    lines.append(f"\tby {hostname} (resel-mta) with {protocol} id ")
    return "\r\n".join(lines).encode("utf-8", "replace")


def received_field(head: bytes, queue_id: str, recipient: str, date: str) -> bytes:
    """The field, CR LF included.

    recipient: the only one, or "" for several (their list is nobody else's business).
    """
    addressee = f"\r\n\tfor <{recipient}>" if recipient else ""
    return head + f"{queue_id}{addressee}; {date}\r\n".encode("utf-8", "replace")


def check_hops(header: Header, limit: int) -> Reply | None:
    """The refusal of a message that went through too many hosts (RFC 5321 §6.3), else None."""
    # Cheap first: most mail has few such fields.
    if header.raw.lower().count(b"received") < limit:
        return None
    fields = header.get_all(b"Received")
    if len(fields) < limit:
        return None
    hosts: list[str] = []
    for field in reversed(fields):
        words = field.split()
        lowered = [word.lower() for word in words]
        if b"by" in lowered[:-1]:
            host = words[lowered.index(b"by") + 1].decode("ascii", "replace").rstrip(";")
            if host not in hosts:
                hosts.append(host)
    text = f"Error: too many hops ({len(fields)})"
    if hosts:
        named = ", ".join(hosts[:_MOST_NAMED])
        rest = f" and {len(hosts) - _MOST_NAMED} more" if len(hosts) > _MOST_NAMED else ""
        shown = "".join(c if " " <= c <= "~" else "?" for c in named[:300])
        text += f": mail loops through {shown}{rest}"
    return Reply(554, "5.4.6", text)
