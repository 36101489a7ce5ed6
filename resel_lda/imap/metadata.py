"""GETMETADATA and SETMETADATA (RFC 5464), for folders and, with the name "", for the server."""

from __future__ import annotations

import re

from resel_lda.imap import text
from resel_lda.imap.errors import Refused
from resel_lda.imap.folders import SPECIAL_USES
from resel_lda.imap.parser import ParseError, Parser
from resel_lda.imap.session import Session

_MAX_VALUE = 64 * 1024
_MAX_ENTRY = 1_000
_MAX_ASKED = 100
# Two components at least, without wildcards or anything but printable ASCII (RFC 5464 §3.2).
_ENTRY = re.compile(rb"/(?:private|shared)(?:/[!-$&-)+-.0-~]+)+")
_SPECIAL_USE = "/private/specialuse"
_DEPTHS = {b"0": 0, b"1": 1, b"INFINITY": 1_000}


async def get_metadata(session: Session, args: Parser) -> str:
    args.space()
    largest, depth = _options(args)
    wire = args.astring()
    args.space()
    asked = _entries(args)
    args.finish()
    name = await _name(session, wire)
    known = dict(await session.store.metadata(name))
    if name:
        use = await _special_use(session, name)
        if use:
            known[_SPECIAL_USE] = use
    chosen: dict[str, bytes | None] = {}
    for entry in asked:
        if not depth:
            chosen[entry] = known.get(entry)
            continue
        for other in sorted(known):
            below = other[len(entry) :]
            if other == entry or (other.startswith(entry + "/") and below.count("/") <= depth):
                chosen[other] = known[other]
    long = [len(value) for value in chosen.values() if value is not None and len(value) > largest]
    shown = {
        entry: value for entry, value in chosen.items() if value is None or len(value) <= largest
    }
    if shown:
        words = b" ".join(text.astring(e.encode()) + b" " + _value(v) for e, v in shown.items())
        label = text.mailbox(session.names.wire(name)) if name else b'""'
        session.untagged(b"METADATA %b (%b)" % (label, words))
    code = f"[METADATA LONGENTRIES {max(long)}] " if long else ""
    return f"{code}Getmetadata completed."


def _options(args: Parser) -> tuple[int, int]:
    """(largest value wanted, levels below each entry)."""
    largest, depth = 2**32, 0
    if not args.skip(b"("):
        return largest, depth
    while True:
        word = args.word()
        args.space()
        if word == b"MAXSIZE":
            largest = args.number()
        elif word == b"DEPTH":
            given = args.word()
            if given not in _DEPTHS:
                raise ParseError("Invalid DEPTH")
            depth = _DEPTHS[given]
        else:
            raise ParseError("Unknown GETMETADATA option")
        if args.skip(b")"):
            args.space()
            return largest, depth
        args.space()


def _entry(args: Parser, whole: bool = False) -> str:
    """whole: all private or all shared entries may be meant."""
    given = args.astring().lower()
    if whole and given in (b"/private", b"/shared"):
        return given.decode("ascii")
    if len(given) > _MAX_ENTRY or _ENTRY.fullmatch(given) is None:
        raise ParseError("Invalid entry name")
    return given.decode("ascii")


def _entries(args: Parser) -> list[str]:
    if not args.skip(b"("):
        return [_entry(args, whole=True)]
    found = [_entry(args, whole=True)]
    while not args.skip(b")"):
        args.space()
        found.append(_entry(args, whole=True))
        if len(found) > _MAX_ASKED:
            raise ParseError("Too many entries")
    return found


def _value(value: bytes | None) -> bytes:
    """A literal8 where there is a NUL in it."""
    if value is None:
        return b"NIL"
    return b"~{%d}\r\n%b" % (len(value), value) if b"\0" in value else text.string(value)


async def _name(session: Session, wire: bytes) -> str:
    """The folder's name; "" for the server."""
    if not wire:
        return ""
    mailbox = await session.open_folder(wire)
    mailbox.release()
    return mailbox.name


async def _special_use(session: Session, name: str) -> bytes:
    for folder in await session.store.folders():
        if folder.name == name:
            return " ".join(sorted(folder.attributes & SPECIAL_USES)).encode("ascii")
    return b""


async def set_metadata(session: Session, args: Parser) -> str:
    """All entries or none. What is shared of the server is the administrator's."""
    args.space()
    wire = args.astring()
    args.space()
    args.expect(b"(")
    values: dict[str, bytes | None] = {}
    while True:
        entry = _entry(args)
        args.space()
        if args.data.startswith(b"~{", args.pos):
            args.skip(b"~")
        values[entry] = args.nstring()
        if args.skip(b")"):
            break
        args.space()
    args.finish()
    name = await _name(session, wire)
    for entry, value in values.items():
        if value is not None and len(value) > _MAX_VALUE:
            raise Refused("NO", "The value is too large", f"METADATA MAXSIZE {_MAX_VALUE}")
        if (not name and not entry.startswith("/private/")) or entry == "/shared/admin":
            raise Refused("NO", "This entry is the administrator's", "NOPERM")
        if entry == _SPECIAL_USE:
            values[entry] = _checked_use(name, value)
    await session.store.set_metadata(name, values)
    return "Setmetadata completed."


def _checked_use(name: str, value: bytes | None) -> bytes | None:
    if not name or name == "INBOX":
        raise Refused("NO", "It cannot have a special use", "USEATTR")
    if not value:
        return None
    use = value[:1].decode("ascii", "replace") + value[1:].decode("ascii", "replace").capitalize()
    if use not in SPECIAL_USES - {"\\All", "\\Flagged"}:
        raise Refused("NO", "This special use is not supported", "USEATTR")
    return use.encode("ascii")
