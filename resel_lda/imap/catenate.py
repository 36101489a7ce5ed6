"""The octets that an IMAP URL stands for (RFC 5092), for CATENATE (RFC 4469).

URLs are of this server and this user, without host: ``/INBOX;UIDVALIDITY=1/;UID=2/;SECTION=1.2``,
or ``;UID=2/;SECTION=1.2`` in the selected mailbox. Reading so leaves \\Seen as it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

from resel_lda.imap.errors import Refused
from resel_lda.imap.fetch_items import Section, parse_section
from resel_lda.imap.parser import UINT32, ParseError, Parser
from resel_lda.imap.session import Session
from resel_lda.mailbox import Mailbox, MailboxError
from resel_lda.mime import sections

_URL = re.compile(
    rb"(?:/(?P<mailbox>[^;?#]+?)(?:;UIDVALIDITY=(?P<validity>[1-9][0-9]{0,9}))?/)?"
    rb";UID=(?P<uid>[1-9][0-9]{0,9})"
    rb"(?:/;SECTION=(?P<section>[^/;?#]+))?"
    rb"(?:/;PARTIAL=(?P<start>[0-9]{1,10})(?:\.(?P<count>[1-9][0-9]{0,9}))?)?",
    re.IGNORECASE,
)
_SHOWN = re.compile(rb"[^\x21\x23-\x5b\x5e-\x7e]")


@dataclass(slots=True)
class _Read:
    """What `Section.octets` looks at."""

    header: bytes
    message: bytes
    _structure: sections.Node | None = field(default=None)

    @property
    def structure(self) -> sections.Node:
        if self._structure is None:
            self._structure = sections.parse(self.message)
        return self._structure


def _bad(url: bytes, why: str) -> Refused:
    shown = _SHOWN.sub(b"?", url[:1000]).decode("ascii")
    return Refused("NO", why, f'BADURL "{shown}"')


async def from_url(session: Session, url: bytes) -> bytes:
    """Raises Refused with BADURL."""
    found = _URL.fullmatch(url)
    if found is None:
        raise _bad(url, "CATENATE: this is no URL of a message here")
    section = _section(url, found["section"])
    uid = int(found["uid"])
    if found["mailbox"] is None:
        if session.view is None:
            raise _bad(url, "CATENATE: no mailbox selected")
        octets = await _octets(session.view.mailbox, url, uid, section)
    else:
        mailbox = await _open(session, url, found["mailbox"])
        try:
            if found["validity"] is not None and int(found["validity"]) != mailbox.uidvalidity:
                raise _bad(url, "CATENATE: UIDVALIDITY is another one")
            octets = await _octets(mailbox, url, uid, section)
        finally:
            mailbox.release()
    if found["start"] is not None:
        start = int(found["start"])
        octets = octets[start : start + int(found["count"] or UINT32)]
    return octets


def _section(url: bytes, given: bytes | None) -> Section:
    args = Parser(b"[%b]" % (unquote_to_bytes(given) if given else b""))
    try:
        section = parse_section(args)
        args.finish()
    except ParseError:
        raise _bad(url, "CATENATE: invalid section") from None
    return section


async def _open(session: Session, url: bytes, name: bytes) -> Mailbox:
    try:
        wire = session.names.coded(unquote_to_bytes(name).decode("utf-8"))
        return await session.open_folder(wire)
    except (UnicodeDecodeError, Refused) as error:
        raise _bad(url, "CATENATE: there is no such mailbox") from error


async def _octets(mailbox: Mailbox, url: bytes, uid: int, section: Section) -> bytes:
    try:
        message = await mailbox.read(uid)
    except MailboxError as error:
        if error.code != "EXPUNGEISSUED":
            raise
        raise _bad(url, "CATENATE: there is no such message") from error
    end = message.find(b"\r\n\r\n")
    header = message if end < 0 else message[: end + 4]
    octets = section.octets(_Read(b"\r\n" if message.startswith(b"\r\n") else header, message))
    if octets is None:
        raise _bad(url, "CATENATE: the message has no such part")
    return octets
