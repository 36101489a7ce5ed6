"""The fields of ``fetch`` (doveadm-fetch(1)): which there are, and a message's value of each."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import getaddresses, mktime_tz, parsedate_tz
from typing import TypeVar

from resel_lda.admin.find import save_date
from resel_lda.imap.view import View
from resel_lda.mailbox import MailboxError, MessageInfo, Part
from resel_lda.maildir.folder import MaildirFolder
from resel_lda.mime import sections
from resel_lda.mime.text import decode_header, decode_transfer, transfer_encoding
from resel_lda.pop3.uidl import stored_name

T = TypeVar("T")

# What hdr.NAME.FILTER shows: which half of its addresses (name and address; None: all of the field)
# and whether encoded words are read.
_FILTERS = {
    "": (None, False),
    "utf8": (None, True),
    "address": (1, False),
    "address_name": (0, False),
    "address_name.utf8": (0, True),
}


class UnknownField(Exception):
    """The text is doveadm's."""


class UnknownFilter(UnknownField):
    """Of a header field."""


@dataclass(slots=True)
class Item:
    """One message being shown, and what was read of it so far."""

    user: str
    shown_name: str
    folder: MaildirFolder
    view: View
    info: MessageInfo
    _message: bytes | None = field(default=None)
    _part: Part | None = field(default=None)

    async def message(self) -> bytes:
        """CR LF line ends. Raises MailboxError."""
        if self._message is None:
            self._message = await self.folder.read(self.info.uid)
        return self._message

    async def header(self) -> bytes:
        """Raises MailboxError."""
        if self._message is not None:
            root = sections.parse(self._message)
            return sections.header_of(self._message, root, whole=True)
        return self.there(await self.folder.header_fields([self.info.uid]))

    async def part(self) -> Part:
        """Raises MailboxError."""
        if self._part is None:
            self._part = self.there(await self.folder.parts([self.info.uid]))
        return self._part

    async def size(self) -> int:
        """With CR LF line ends. Raises MailboxError."""
        return self.there(await self.folder.sizes([self.info.uid]))

    def there(self, found: Mapping[int, T]) -> T:
        if self.info.uid not in found:
            raise MailboxError("The message is gone", "EXPUNGEISSUED")
        return found[self.info.uid]

    @property
    def base(self) -> str:
        return self.folder.index.bases.get(self.info.uid, "")

    @property
    def noted(self) -> str:
        """What its line of the UID list says beside UID and name."""
        return self.folder.index.uidlist.noted(self.base)

    def path(self) -> str:
        return self.folder.index.files.path(self.folder.index.name(self.info.uid) or "")


Value = Callable[[Item], Awaitable[str]]


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "surrogateescape")


def _unix_lines(octets: bytes) -> str:
    return _text(octets.replace(b"\r\n", b"\n"))


def _date(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


def _now(value: Callable[[Item], object]) -> Value:
    """A field that is in memory already."""

    async def show(item: Item) -> str:
        return str(value(item))

    return show


async def _physical_size(item: Item) -> str:
    try:
        return str((await asyncio.to_thread(os.stat, item.path())).st_size)
    except FileNotFoundError:
        raise MailboxError("The message is gone", "EXPUNGEISSUED") from None


async def _virtual_size(item: Item) -> str:
    return str(await item.size())


async def _received(item: Item) -> float:
    return item.there(await item.folder.internal_dates([item.info.uid]))


async def _date_received(item: Item) -> str:
    return _date(await _received(item))


async def _unixtime_received(item: Item) -> str:
    return str(int(await _received(item)))


async def _saved(item: Item) -> float:
    return await asyncio.to_thread(save_date, item.folder, item.info.uid)


async def _date_saved(item: Item) -> str:
    return _date(await _saved(item))


async def _unixtime_saved(item: Item) -> str:
    return str(int(await _saved(item)))


async def _sent(item: Item) -> tuple[int, int]:
    """(seconds since the epoch, the sender's time zone in minutes); (0, 0) for no usable Date."""
    values = _values(await item.header(), b"date")
    try:
        found = parsedate_tz(values[0]) if values else None
        return (mktime_tz(found), (found[9] or 0) // 60) if found else (0, 0)
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0, 0


async def _date_sent(item: Item) -> str:
    moment, zone = await _sent(item)
    hours, minutes = divmod(abs(zone), 60)
    return f"{_date(moment)} ({'-' if zone < 0 else '+'}{hours:02d}{minutes:02d})"


async def _unixtime_sent(item: Item) -> str:
    return str((await _sent(item))[0])


async def _header(item: Item) -> str:
    return _unix_lines(await item.header())


async def _body(item: Item) -> str:
    message = await item.message()
    root = sections.parse(message)
    return _unix_lines(sections.text_of(message, root, whole=True))


async def _whole(item: Item) -> str:
    return _unix_lines(await item.message())


async def _decoded(item: Item) -> str:
    """text.utf8: the header with its encoded words read, and all text parts."""
    message = await item.message()
    root = sections.parse(message)
    header = decode_header(sections.header_of(message, root, whole=True))
    parts = [found for node in root.walk() if (found := sections.decoded_text(message, node))]
    return header.replace("\r\n", "\n") + "\n".join(parts).replace("\r\n", "\n")


async def _preview(item: Item) -> str:
    return item.there(await item.folder.previews([item.info.uid]))


async def _envelope(item: Item) -> str:
    return _text((await item.part()).envelope)[1:-1]


async def _structure(item: Item) -> str:
    return _text((await item.part()).body)[1:-1]


async def _bodystructure(item: Item) -> str:
    return _text((await item.part()).bodystructure)[1:-1]


def _flags(item: Item) -> str:
    return item.view.flags(item.info).decode("ascii", "replace")


def _order(noted: str) -> str:
    """The O field: where POP3 clients of an earlier server saw it."""
    found = [word[1:] for word in noted.split() if word[0] == "O" and word[1:].isdigit()]
    return found[0] if found else ""


_FIELDS: dict[str, Value] = {
    "user": _now(lambda item: item.user),
    "mailbox": _now(lambda item: item.shown_name),
    "mailbox-guid": _now(lambda item: item.folder.index.uidlist.guid),
    "seq": _now(lambda item: item.view.sequence(item.info.uid)),
    "uid": _now(lambda item: item.info.uid),
    "guid": _now(lambda item: item.base),
    "flags": _now(_flags),
    "modseq": _now(lambda item: item.info.modseq),
    "hdr": _header,
    "body": _body,
    "body.preview": _preview,
    "body.snippet": _preview,
    "text": _whole,
    "text.utf8": _decoded,
    "size.physical": _physical_size,
    "size.virtual": _virtual_size,
    "date.received": _date_received,
    "date.sent": _date_sent,
    "date.saved": _date_saved,
    "date.received.unixtime": _unixtime_received,
    "date.sent.unixtime": _unixtime_sent,
    "date.saved.unixtime": _unixtime_saved,
    "imap.envelope": _envelope,
    "imap.body": _structure,
    "imap.bodystructure": _bodystructure,
    "pop3.uidl": _now(lambda item: stored_name(item.noted)),
    "pop3.order": _now(lambda item: _order(item.noted)),
    "refcount": _now(lambda item: 1),
    "storageid": _now(lambda item: item.base),
}
#: Fields whose value is lines of text.
STREAMS = frozenset(("hdr", "body", "text", "text.utf8"))


def is_stream(name: str) -> bool:
    """Whether the value of a field is lines of text."""
    section = name.startswith(("body.", "binary.")) and name not in _FIELDS
    return name in STREAMS or section


def field_values(names: Sequence[str]) -> list[Value]:
    """What gives each field's value. Raises UnknownField."""
    return [_FIELDS.get(name) or _with_parameter(name) for name in names]


def _with_parameter(name: str) -> Value:
    kind, _, argument = name.partition(".")
    if kind == "hdr" and argument:
        return _header_field(argument)
    if kind in ("body", "binary") and argument:
        path = argument.split(".")
        if not all(number.isascii() and number.isdigit() for number in path):
            raise UnknownField(f"Unknown fetch section: {argument}")
        return _section(tuple(map(int, path)), decoded=kind == "binary")
    raise UnknownField(f"Unknown fetch field: {name}")


def available() -> str:
    """The names, as doveadm lists them."""
    return " ".join(("hdr.<name>", "body.<section>", "binary.<section>", *_FIELDS))


def _header_field(name: str) -> Value:
    """name: a field's, and after a dot what is shown of it. Raises UnknownFilter."""
    wanted, _, which = name.partition(".")
    if which.lower() not in _FILTERS:
        raise UnknownFilter(f"Unknown header filter: {which}")
    half, decoded = _FILTERS[which.lower()]

    async def show(item: Item) -> str:
        values = _values(await item.header(), wanted.lower().encode("utf-8", "surrogateescape"))
        if half is not None:
            # Of the first field of that name, as in doveadm.
            values = [pair[half] for pair in getaddresses(values[:1]) if pair[1]]
        if decoded:
            values = [decode_header(one.encode("utf-8", "surrogateescape")) for one in values]
        return "\n".join(values)

    return show


def _values(header: bytes, name: bytes) -> list[str]:
    """The values of a field (name in lower case), unfolded as Dovecot does it."""
    found: list[bytes] = []
    inside = False
    for line in header.replace(b"\r\n", b"\n").split(b"\n"):
        if line[:1] in (b" ", b"\t"):
            if inside:
                found[-1] += b" " + line.lstrip(b" \t")
            continue
        field_name, colon, value = line.partition(b":")
        inside = bool(colon) and field_name.rstrip(b" \t").lower() == name
        if inside:
            found.append(value.strip(b" \t"))
    return [_text(value) for value in found]


def _section(path: tuple[int, ...], decoded: bool) -> Value:
    async def show(item: Item) -> str:
        message = await item.message()
        node = sections.find_part(sections.parse(message), path)
        if node is None:
            return ""
        octets = sections.body_of(message, node)
        return _text(decode_transfer(octets, transfer_encoding(node)) if decoded else octets)

    return show
