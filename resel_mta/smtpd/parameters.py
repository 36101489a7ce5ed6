"""MAIL and RCPT: from what the client wrote to an `Envelope` and its `Recipient`s.

Pure: the grammar is `wire.path`; this is what each ESMTP parameter means and what is said when
it is wrong.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from resel_mta.mail import Envelope, Notify, Recipient, Reply
from resel_mta.smtpd import replies
from resel_mta.wire import xtext
from resel_mta.wire.path import MAX_DOMAIN, PathError, parse_command

_NOTIFY = {"SUCCESS": Notify.SUCCESS, "FAILURE": Notify.FAILURE, "DELAY": Notify.DELAY}
_BODY = ("7BIT", "8BITMIME")
#: What nearly all mail has: a plain address and nothing that must be looked at twice.
_PLAIN = rb"<([A-Za-z0-9_=+-]+(?:\.[A-Za-z0-9_=+-]+)*@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+)>"
_plain_mail = re.compile(
    rb"FROM:" + _PLAIN + rb"(?: SIZE=([0-9]{1,18}))?(?: BODY=(8BITMIME|7BIT))?", re.IGNORECASE
).fullmatch
_plain_rcpt = re.compile(rb"TO:" + _PLAIN, re.IGNORECASE).fullmatch
#: RFC 3461 §4.4 and §4.2.
_ENVID_LIMIT = 100
_ORCPT_LIMIT = 500


class Refused(Exception):
    """A command that is refused with `reply`. illegal_address: log it as such."""

    def __init__(self, reply: Reply | bytes, *, illegal_address: bool = False) -> None:
        super().__init__(str(reply))
        self.reply = reply
        self.illegal_address = illegal_address


@dataclass(frozen=True, slots=True)
class Offers:
    """Which extensions the session has offered: others are unsupported options."""

    dsn: bool = True
    utf8: bool = True
    auth: bool = False


def qualify(address: str, origin: str) -> str:
    """An address with a domain: myorigin for one that has none."""
    if not address or ("@" in address and not (address[0] == '"' and address[-1] == '"')):
        return address
    return f"{address}@{origin}"


def parse_mail(argument: bytes, offers: Offers, size_limit: int) -> tuple[Envelope, int]:
    """The envelope that MAIL opens, and the octets that SIZE announces (0: none). Raises Refused."""
    plain = _plain_mail(argument)
    if plain is not None and len(argument) < MAX_DOMAIN:
        sender, size, body = plain.groups()
        octets = _size_within(size, size_limit) if size is not None else 0
        kind = body.decode("ascii").upper() if body else ""
        return Envelope(sender.decode("ascii"), [], kind), octets
    address, parameters = _parse(argument, "FROM:", replies.SYNTAX_MAIL, "5.1.7", "sender")
    envelope = Envelope(address, [])
    for name, value in parameters.items():
        _mail_parameter(envelope, name, value, offers, size_limit)
    if not envelope.smtputf8 and not address.isascii():
        raise Refused(_needs_utf8())
    size = parameters.get("SIZE")
    return envelope, int(size) if size is not None else 0


def _size_within(size: bytes | str, limit: int) -> int:
    octets = int(size)
    if 0 < limit < octets:
        raise Refused(replies.SIZE_LIMIT)
    return octets


def _mail_parameter(
    envelope: Envelope, name: str, value: str, offers: Offers, size_limit: int
) -> None:
    if name == "SIZE":
        if not (value.isascii() and value.isdigit() and len(value) <= 20):
            raise Refused(Reply(501, "5.5.4", "Bad message size syntax"))
        _size_within(value, size_limit)
    elif name == "BODY" and value.upper() in _BODY:
        envelope.body = value.upper()
    elif name == "SMTPUTF8" and not value and offers.utf8:
        envelope.smtputf8 = True
    elif name == "RET" and offers.dsn:
        if value.upper() not in ("FULL", "HDRS"):
            raise Refused(Reply(501, "5.5.4", "Bad RET parameter syntax"))
        envelope.ret = value.upper()
    elif name == "ENVID" and offers.dsn:
        if not value or len(value) > _ENVID_LIMIT or not xtext.is_valid(value):
            raise Refused(Reply(501, "5.5.4", "Bad ENVID parameter syntax"))
        envelope.envid = value
    elif name == "AUTH" and offers.auth:
        # RFC 4954 §5: who wrote it first. We pass on no such claim.
        if not xtext.is_valid(value):
            raise Refused(Reply(501, "5.5.4", "Bad AUTH parameter syntax"))
    else:
        raise Refused(replies.unsupported_option(f"{name}={value}" if value else name))


def parse_rcpt(argument: bytes, offers: Offers, *, smtputf8: bool) -> Recipient:
    """The recipient that RCPT names. Raises Refused."""
    plain = _plain_rcpt(argument)
    if plain is not None and len(argument) < MAX_DOMAIN:
        return Recipient(plain[1].decode("ascii"))
    address, parameters = _parse(argument, "TO:", replies.SYNTAX_RCPT, "5.1.3", "recipient")
    if not address:
        raise Refused(Reply(501, "5.1.3", "Bad recipient address syntax"), illegal_address=True)
    if not smtputf8 and not address.isascii():
        raise Refused(_needs_utf8())
    recipient = Recipient(address)
    for name, value in parameters.items():
        if name == "NOTIFY" and offers.dsn:
            recipient.notify = _parse_notify(value)
        elif name == "ORCPT" and offers.dsn:
            kind, semicolon, original = value.partition(";")
            if not (kind and semicolon and original) or len(value) > _ORCPT_LIMIT:
                raise Refused(Reply(501, "5.5.4", "Error: Bad ORCPT parameter syntax"))
            if kind.lower() != "utf-8" and not xtext.is_valid(original):
                raise Refused(Reply(501, "5.5.4", "Error: Bad ORCPT parameter syntax"))
            recipient.orcpt = value
        else:
            raise Refused(replies.unsupported_option(f"{name}={value}" if value else name))
    return recipient


def _parse_notify(value: str) -> Notify:
    """RFC 3461 §4.1: NEVER alone, or a list of the others."""
    if value.upper() == "NEVER":
        return Notify.NEVER
    notify = Notify.UNSET
    for word in value.upper().split(","):
        if word not in _NOTIFY:
            raise Refused(Reply(501, "5.5.4", "Error: Bad NOTIFY parameter syntax"))
        notify |= _NOTIFY[word]
    return notify


def _parse(
    argument: bytes, prefix: str, syntax: bytes, enhanced: str, what: str
) -> tuple[str, dict[str, str]]:
    try:
        return parse_command(argument.decode("utf-8"), prefix)
    except UnicodeDecodeError as error:
        raise Refused(replies.BAD_UTF8) from error
    except PathError as error:
        if not str(error) or len(argument.strip()) <= len(prefix):
            raise Refused(syntax) from error
        if "parameter" in str(error).lower():
            raise Refused(Reply(501, "5.5.4", replies.ascii_only(str(error)))) from error
        reply = Reply(501, enhanced, f"Bad {what} address syntax")
        raise Refused(reply, illegal_address=True) from error


def _needs_utf8() -> Reply:
    return Reply(553, "5.6.7", "Error: a non-ASCII address needs SMTPUTF8")
