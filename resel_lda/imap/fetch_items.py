"""What FETCH can be asked for: the grammar of its items and how each is rendered."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from resel_lda.imap import text
from resel_lda.imap.parser import ParseError, Parser
from resel_lda.imap.view import View
from resel_lda.mailbox import MessageInfo, Part, PartOctets
from resel_lda.mime import sections

_MAX_DEPTH = 100
_LARGEST = 2**63 - 1
_SECTION_NUMBER = re.compile(rb"[1-9][0-9]{0,9}")


class Need(enum.IntFlag):
    """What has to be loaded to render an item."""

    NOTHING = 0
    SIZE = 1
    PARTS = 2
    HEADER = 4
    MESSAGE = 8
    STORED = 16


@dataclass(slots=True)
class Loaded:
    """One message and what was loaded of it."""

    sequence: int
    info: MessageInfo
    view: View
    size: int = 0
    parts: Part | None = None
    header: bytes = b""
    message: bytes = b""
    # Parts of it, where not all of it was read; by number.
    few: dict[tuple[int, ...], PartOctets] = field(default_factory=dict)
    # What the store knows of it, by item.
    stored: dict[bytes, bytes] = field(default_factory=dict)
    _structure: sections.Node | None = field(default=None)

    @property
    def structure(self) -> sections.Node:
        if self._structure is None:
            self._structure = sections.parse(self.message, self.view.international)
        return self._structure


class Readable(Protocol):
    """What a section is cut out of."""

    @property
    def header(self) -> bytes: ...

    @property
    def message(self) -> bytes: ...

    @property
    def structure(self) -> sections.Node: ...


Render = Callable[[Loaded], bytes]


@dataclass(frozen=True, slots=True)
class Item:
    """needs: see `Need`. sets_seen: reading it marks the message \\Seen."""

    render: Render
    needs: Need = Need.NOTHING
    sets_seen: bool = False
    name: bytes = b""
    section: Section | None = None
    # The part that it is of, if it needs no more than that.
    part: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """BODY[section]<start.count>. kind: "", "HEADER", "HEADER.FIELDS", "HEADER.FIELDS.NOT",
    "TEXT" or "MIME"."""

    path: tuple[int, ...] = ()
    kind: bytes = b""
    fields: tuple[bytes, ...] = ()
    partial: tuple[int, int] | None = None

    @property
    def label(self) -> bytes:
        words = [b"%d" % number for number in self.path]
        if self.kind:
            words.append(self.kind)
        spec = b".".join(words)
        if self.fields:
            spec += b" (%b)" % b" ".join(text.astring(name.upper()) for name in self.fields)
        start = b"<%d>" % self.partial[0] if self.partial is not None else b""
        return b"BODY[%b]%b" % (spec, start)

    @property
    def header_only(self) -> bool:
        return not self.path and self.kind.startswith(b"HEADER")

    def octets(self, loaded: Readable) -> bytes | None:
        """None if the message has no such part."""
        if self.header_only:
            return self._of_header(loaded.header)
        message = loaded.message
        if not self.path and not self.kind:
            return message
        root = loaded.structure
        node = sections.find_part(root, self.path)
        if node is None:
            return None
        whole = not self.path
        if self.kind == b"":
            return sections.body_of(message, node)
        if self.kind == b"MIME":
            return sections.mime_of(message, node)
        if self.kind == b"TEXT":
            return sections.text_of(message, node, whole)
        return self._of_header(sections.header_of(message, node, whole))

    def _of_header(self, header: bytes) -> bytes:
        if self.kind == b"HEADER":
            return header
        return sections.header_fields(header, self.fields, self.kind.endswith(b"NOT"))

    def render(self, loaded: Loaded) -> bytes:
        part = loaded.few.get(self.path)
        if part is None:
            octets = self.octets(loaded)
        else:
            octets = part.octets[: part.header_end] if self.kind else part.octets[part.body :]
        if octets is None:
            return self.label + b" NIL"
        if self.partial is not None:
            start, count = self.partial
            octets = octets[start : start + count]
        # NUL may not be in a literal (RFC 3501 §9, CHAR8); Dovecot sends 0x80 instead.
        if b"\0" in octets:
            octets = octets.replace(b"\0", b"\x80")
        return b"%b {%d}\r\n%b" % (self.label, len(octets), octets)


def _parts(loaded: Loaded) -> Part:
    if loaded.parts is None:
        raise LookupError("message structure was not loaded")
    return loaded.parts


def _body_section(section: Section, peek: bool) -> Item:
    needs = Need.HEADER if section.header_only else Need.MESSAGE
    part = section.path if section.kind in (b"", b"MIME") else ()
    return Item(section.render, needs, not peek, section.label, section, part)


def _renamed(section: Section, name: bytes, peek: bool) -> Item:
    """RFC822 and its kin: a section under an older name."""

    def render(loaded: Loaded) -> bytes:
        octets = (section.octets(loaded) or b"").replace(b"\0", b"\x80")
        return b"%b {%d}\r\n%b" % (name, len(octets), octets)

    needs = Need.HEADER if section.header_only else Need.MESSAGE
    return Item(render, needs, sets_seen=not peek, name=name, section=section)


FLAGS = Item(lambda loaded: b"FLAGS (%b)" % loaded.view.flags(loaded.info), name=b"FLAGS")
UID = Item(lambda loaded: b"UID %d" % loaded.info.uid, name=b"UID")
INTERNALDATE = Item(
    lambda loaded: b"INTERNALDATE " + loaded.stored[b"INTERNALDATE"],
    Need.STORED,
    name=b"INTERNALDATE",
)
MODSEQ = Item(lambda loaded: b"MODSEQ (%d)" % loaded.info.modseq, name=b"MODSEQ")
SIZE = Item(lambda loaded: b"RFC822.SIZE %d" % loaded.size, Need.SIZE, name=b"RFC822.SIZE")
ENVELOPE = Item(lambda loaded: b"ENVELOPE " + _parts(loaded).envelope, Need.PARTS, name=b"ENVELOPE")
BODY = Item(lambda loaded: b"BODY " + _parts(loaded).body, Need.PARTS, name=b"BODY")
BODYSTRUCTURE = Item(
    lambda loaded: b"BODYSTRUCTURE " + _parts(loaded).bodystructure,
    Need.PARTS,
    name=b"BODYSTRUCTURE",
)

_SIMPLE = {
    item.name: item
    for item in (
        FLAGS,
        UID,
        INTERNALDATE,
        MODSEQ,
        SIZE,
        ENVELOPE,
        BODYSTRUCTURE,
        _renamed(Section(), b"RFC822", peek=False),
        _renamed(Section(kind=b"HEADER"), b"RFC822.HEADER", peek=True),
        _renamed(Section(kind=b"TEXT"), b"RFC822.TEXT", peek=False),
    )
}
_MACROS = {
    b"FAST": (FLAGS, INTERNALDATE, SIZE),
    b"ALL": (FLAGS, INTERNALDATE, SIZE, ENVELOPE),
    b"FULL": (FLAGS, INTERNALDATE, SIZE, ENVELOPE, BODY),
}
_ITEM = re.compile(rb"[A-Za-z0-9.]+")
_SECTION_TEXT = re.compile(rb"(?:HEADER\.FIELDS\.NOT|HEADER\.FIELDS|HEADER|TEXT|MIME)", re.I)


Other = Callable[[Parser, bytes], Item | None]


def _unknown(args: Parser, name: bytes) -> Item | None:
    return None


def parse_items(args: Parser, other: Other = _unknown) -> list[Item]:
    """``ALL``, one item, or ``(item …)``. other: reads the items that are not known here. Raises
    ParseError."""
    if not args.skip(b"("):
        name = _item_name(args)
        if name in _MACROS and args.peek() in (b"", b" "):
            return list(_MACROS[name])
        return [_item(args, name, other)]
    items: dict[bytes, Item] = {}
    while True:
        item = _item(args, _item_name(args), other)
        items.setdefault(item.name, item)
        if args.skip(b")"):
            return list(items.values())
        args.space()


def _item_name(args: Parser) -> bytes:
    found = _ITEM.match(args.data, args.pos)
    if found is None:
        raise ParseError("FETCH list is missing an item")
    args.pos = found.end()
    return found[0].upper()


def _item(args: Parser, name: bytes, other: Other) -> Item:
    if name in (b"BODY", b"BODY.PEEK") and args.peek() == b"[":
        return _body_section(parse_section(args), peek=name == b"BODY.PEEK")
    if name == b"BODY":
        return BODY
    item = _SIMPLE.get(name) or other(args, name)
    if item is None:
        raise ParseError(f"Unknown parameter {name.decode('ascii')}")
    return item


def parse_section(args: Parser) -> Section:
    """``[1.2.HEADER.FIELDS (From To)]<0.100>``. Raises ParseError."""
    args.expect(b"[")
    kind = b""
    fields: tuple[bytes, ...] = ()
    path, expects_more = _path(args)
    if args.peek() != b"]" or expects_more:
        if path and not expects_more:
            raise ParseError("Invalid BODY section")
        kind, fields = _section_text(args)
    if kind == b"MIME" and not path:
        raise ParseError("Invalid BODY section: MIME needs a part number")
    args.expect(b"]")
    return Section(path, kind, fields, parse_partial(args))


def parse_path(args: Parser) -> tuple[int, ...]:
    """``1.2``, or nothing. Raises ParseError."""
    path, expects_more = _path(args)
    if expects_more:
        raise ParseError("Invalid section")
    return path


def _path(args: Parser) -> tuple[tuple[int, ...], bool]:
    """Part numbers, and whether a dot after them promises more."""
    path: list[int] = []
    expects_more = False
    while found := _SECTION_NUMBER.match(args.data, args.pos):
        args.pos = found.end()
        path.append(int(found[0]))
        expects_more = args.skip(b".")
        if not expects_more:
            break
    if len(path) > _MAX_DEPTH:
        raise ParseError("Invalid BODY section: too deep")
    return tuple(path), expects_more


def _section_text(args: Parser) -> tuple[bytes, tuple[bytes, ...]]:
    found = _SECTION_TEXT.match(args.data, args.pos)
    if found is None:
        raise ParseError("Invalid BODY section")
    args.pos = found.end()
    kind = found[0].upper()
    if b"FIELDS" not in kind:
        return kind, ()
    args.space()
    args.expect(b"(")
    names: list[bytes] = []
    while True:
        name = args.astring()
        if not name or any(not 33 <= octet <= 126 or octet == 58 for octet in name):
            raise ParseError("Invalid header field name")
        names.append(name)
        if args.skip(b")"):
            return kind, tuple(names)
        args.space()


def parse_partial(args: Parser) -> tuple[int, int] | None:
    """``<0.100>``, or nothing. Raises ParseError."""
    if not args.skip(b"<"):
        return None
    # RFC 9051 §9: number64 and nz-number64.
    start = args.number(_LARGEST)
    args.expect(b".")
    count = args.number(_LARGEST)
    if not count:
        raise ParseError("Invalid partial fetch: nothing is asked for")
    args.expect(b">")
    return start, count
