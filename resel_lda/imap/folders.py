"""CREATE, DELETE, RENAME, SUBSCRIBE, UNSUBSCRIBE, STATUS."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from resel_lda.imap import text
from resel_lda.imap.errors import Refused
from resel_lda.imap.parser import ParseError, Parser
from resel_lda.imap.reader import AUTHENTICATED
from resel_lda.imap.session import Session
from resel_lda.mailbox import FolderStatus

SPECIAL_USES = frozenset(
    ("\\All", "\\Archive", "\\Drafts", "\\Flagged", "\\Junk", "\\Sent", "\\Trash")
)
_STATUS_ITEMS = {
    b"MESSAGES": "messages",
    b"RECENT": "recent",
    b"UIDNEXT": "uidnext",
    b"UIDVALIDITY": "uidvalidity",
    b"UNSEEN": "unseen",
    b"SIZE": "size",
    b"HIGHESTMODSEQ": "highestmodseq",
    b"APPENDLIMIT": "",
    b"DELETED": "deleted",
    b"DELETED-STORAGE": "deleted_size",
    b"MAILBOXID": "mailbox_id",
}


async def attributes(session: Session, name: str) -> set[str]:
    """Of a folder as it is now, \\NonExistent if there is none."""
    held = await session.store.folders()
    info = next((one for one in held if one.name == name), None)
    if info is None:
        return {"\\NonExistent"}
    return {*info.attributes, "\\Subscribed"} if info.subscribed else set(info.attributes)


def list_response(session: Session, name: str, words: Iterable[str], old: bytes = b"") -> bytes:
    """LIST without ``* `` and CR LF. old: the name by which the client knows the folder, where
    that is another (RFC 9051 §6.3.9.7)."""
    return b"LIST (%b) %b %b%b" % (
        " ".join(sorted(words)).encode("ascii"),
        text.string(session.names.separator.encode("ascii")),
        text.mailbox(session.names.wire(name)),
        b' ("OLDNAME" (%b))' % text.mailbox(old) if old else b"",
    )


async def tell_name(session: Session, name: str, given: bytes) -> None:
    """With IMAP4rev2: of a folder whose name the client knows, or gave, otherwise."""
    if session.rev2 and session.names.wire(name) != given:
        words = await attributes(session, name)
        session.untagged(list_response(session, name, words, given))


def _one_name(args: Parser) -> bytes:
    args.space()
    wire = args.astring()
    args.finish()
    return wire


async def create(session: Session, args: Parser) -> str:
    """With the special use of RFC 6154 §3, if one is given."""
    args.space()
    wire = args.astring()
    use = _special_use(args) if args.skip(b" ") else ""
    args.finish()
    separator = session.names.separator.encode("ascii")
    # A trailing separator only says that children will follow (RFC 3501 §6.3.3).
    wire = wire.removesuffix(separator) if len(wire) > 1 else wire
    name = session.names.new_name(wire)
    if name == "INBOX":
        raise Refused("NO", "Mailbox already exists", "ALREADYEXISTS")
    await session.store.create(name, use)
    mailbox = await session.store.open(name)
    mailbox.release()
    await tell_name(session, name, wire)
    return f"[MAILBOXID ({mailbox.mailbox_id})] Create completed."


def _special_use(args: Parser) -> str:
    """``(USE (\\Sent))``: a folder has one use here."""
    args.expect(b"(")
    if args.word() != b"USE":
        raise ParseError("Unknown CREATE parameter")
    args.space()
    args.expect(b"(")
    uses: list[str] = []
    while not args.skip(b")"):
        args.expect(b"\\")
        given = "\\" + args.word().decode("ascii").capitalize()
        if given not in SPECIAL_USES or given == "\\All" or given == "\\Flagged":
            raise Refused("NO", f"Special use {given} is not supported", "USEATTR")
        uses.append(given)
        args.skip(b" ")
    args.expect(b")")
    if len(uses) > 1:
        raise Refused("NO", "A mailbox can have only one special use", "USEATTR")
    return uses[0] if uses else ""


async def delete(session: Session, args: Parser) -> str:
    wire = _one_name(args)
    name = await session.folder_name(wire)
    if name == "INBOX":
        raise Refused("NO", "INBOX can't be deleted.", "CANNOT")
    if session.view is not None and session.view.name == name:
        session.close_view()
        session.untagged(b"OK [CLOSED] Previous mailbox closed.")
    await session.store.delete(name)
    await tell_name(session, name, wire)
    return "Delete completed."


async def rename(session: Session, args: Parser) -> str:
    args.space()
    old_wire = args.astring()
    args.space()
    new = session.names.new_name(args.astring())
    args.finish()
    old = await session.folder_name(old_wire)
    if new == "INBOX":
        raise Refused("NO", "Mailbox already exists", "ALREADYEXISTS")
    if new.startswith(old + "/") and old != "INBOX":
        raise Refused("NO", "A mailbox can't be moved under itself", "CANNOT")
    await session.store.rename(old, new)
    await tell_name(session, new, old_wire)
    return "Rename completed."


async def subscribe(session: Session, args: Parser) -> str:
    await session.store.subscribe(await session.folder_name(_one_name(args)))
    return "Subscribe completed."


async def unsubscribe(session: Session, args: Parser) -> str:
    await session.store.unsubscribe(await session.folder_name(_one_name(args)))
    return "Unsubscribe completed."


def parse_status_items(args: Parser) -> list[bytes]:
    """``(MESSAGES UNSEEN)``. Raises ParseError."""
    args.expect(b"(")
    items: list[bytes] = []
    while True:
        word = args.word()
        if word not in _STATUS_ITEMS:
            raise ParseError(f"Invalid status item {word.decode('ascii')}")
        if word not in items:
            items.append(word)
        if args.skip(b")"):
            return items
        args.space()


def needs_sizes(items: Sequence[bytes]) -> bool:
    return b"SIZE" in items or b"DELETED-STORAGE" in items


def _status_value(item: bytes, status: FolderStatus) -> bytes:
    if item == b"APPENDLIMIT":
        return b"%d" % AUTHENTICATED.message
    if item == b"MAILBOXID":
        return b"(%b)" % status.mailbox_id.encode("ascii")
    return b"%d" % getattr(status, _STATUS_ITEMS[item])


def status_response(name: bytes, items: list[bytes], status: FolderStatus) -> bytes:
    """Without ``* `` and CR LF. name: as sent on the wire, before it is made an astring."""
    values = b" ".join(b"%b %b" % (item, _status_value(item, status)) for item in items)
    return b"STATUS %b (%b)" % (text.mailbox(name), values)


async def status(session: Session, args: Parser) -> str:
    args.space()
    wire = args.astring()
    args.space()
    items = parse_status_items(args)
    args.finish()
    name = await session.folder_name(wire)
    if b"HIGHESTMODSEQ" in items:
        session.use_condstore()
    answer = await session.store.status(name, needs_sizes(items))
    session.untagged(status_response(session.names.wire(name), items, answer))
    return "Status completed."
