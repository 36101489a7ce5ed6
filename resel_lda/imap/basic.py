"""CAPABILITY, NOOP, LOGOUT, ID, ENABLE, NAMESPACE, CHECK, IDLE."""

from __future__ import annotations

import asyncio

from resel_lda.imap import search_context, text
from resel_lda.imap.errors import Refused
from resel_lda.imap.parser import Parser
from resel_lda.imap.reader import AUTHENTICATED
from resel_lda.imap.session import Session
from resel_lda.imap.stream import LineTooLong

# Capabilities before log-in, and what is added after it.
BASE = ("IMAP4rev1", "IMAP4rev2", "SASL-IR", "LITERAL+", "ID", "ENABLE", "IDLE")
AFTER_LOGIN = (
    "NAMESPACE",
    "CHILDREN",
    "UIDPLUS",
    "UNSELECT",
    "MOVE",
    "SPECIAL-USE",
    "CREATE-SPECIAL-USE",
    "LIST-EXTENDED",
    "LIST-STATUS",
    "STATUS=SIZE",
    "ESEARCH",
    "ESORT",
    "CONTEXT=SEARCH",
    "CONTEXT=SORT",
    "PARTIAL",
    "UIDONLY",
    "UTF8=ACCEPT",
    "INPROGRESS",
    "SORT",
    "SORT=DISPLAY",
    "THREAD=REFERENCES",
    "THREAD=REFS",
    "THREAD=ORDEREDSUBJECT",
    "I18NLEVEL=1",
    "SEARCHRES",
    "MULTIAPPEND",
    "BINARY",
    f"APPENDLIMIT={AUTHENTICATED.message}",
    "COMPRESS=DEFLATE",
    "QUOTA",
    "QUOTA=RES-STORAGE",
    "WITHIN",
    "CONDSTORE",
    "QRESYNC",
    "SAVEDATE",
    "OBJECTID",
    "PREVIEW",
    "CATENATE",
    "REPLACE",
    "METADATA",
    "NOTIFY",
)
# Seconds between signs of life to an idling client, as Dovecot's imap_idle_notify_interval.
_IDLE_NOTIFY = 120.0
# Seconds between looks at the disk while idling, for what no watch announces.
_IDLE_LOOK = 15.0

SERVER_ID = b'("name" "resel-mta")'


def capabilities() -> bytes:
    """Of a logged-in session, without the word CAPABILITY."""
    return " ".join((*BASE, *AFTER_LOGIN)).encode()


async def capability(session: Session, args: Parser) -> str:
    args.finish()
    session.untagged(b"CAPABILITY " + capabilities())
    return "Capability completed."


async def noop(session: Session, args: Parser) -> str:
    args.finish()
    await session.look(now=True)
    return "NOOP completed."


async def check(session: Session, args: Parser) -> str:
    args.finish()
    session.selected()
    await session.look(now=True)
    return "Check completed."


async def logout(session: Session, args: Parser) -> str:
    args.finish()
    session.close_view()
    session.untagged(b"BYE Logging out")
    session.logged_out = True
    return "Logout completed."


def parse_id(args: Parser) -> dict[str, str]:
    """ID's argument (RFC 2971): field and value pairs, or NIL."""
    args.space()
    fields: dict[str, str] = {}
    if args.skip(b"("):
        while not args.skip(b")"):
            name = args.string()
            args.space()
            value = args.nstring()
            args.skip(b" ")
            if len(fields) >= 30 or len(name) > 30:
                raise Refused("BAD", "Too many or too long ID fields")
            fields[name.decode("ascii", "replace")] = (value or b"").decode("utf-8", "replace")
    elif args.word() != b"NIL":
        raise Refused("BAD", "Invalid ID parameters")
    args.finish()
    return fields


async def identify(session: Session, args: Parser) -> str:
    parse_id(args)
    session.untagged(b"ID " + SERVER_ID)
    return "ID completed."


async def enable(session: Session, args: Parser) -> str:
    """RFC 5161: unknown names are passed over."""
    args.space()
    words = [args.word()]
    while args.skip(b" "):
        words.append(args.word())
    args.finish()
    enabled = []
    if b"CONDSTORE" in words:
        session.use_condstore()
        enabled.append(b"CONDSTORE")
    if b"QRESYNC" in words:
        session.use_qresync()
        enabled.append(b"QRESYNC")
    if b"UIDONLY" in words:
        session.use_uid_only()
        enabled.append(b"UIDONLY")
    if b"UTF8=ACCEPT" in words:
        session.use_utf8()
        enabled.append(b"UTF8=ACCEPT")
    if b"IMAP4REV2" in words:
        session.use_rev2()
        enabled.append(b"IMAP4rev2")
    session.untagged(b" ".join((b"ENABLED", *enabled)))
    return "Enabled."


async def namespace(session: Session, args: Parser) -> str:
    args.finish()
    names = session.names
    prefix = text.mailbox(names.coded(names.prefix)) if names.prefix else b'""'
    separator = text.string(names.separator.encode("ascii"))
    session.untagged(b"NAMESPACE ((%b %b)) NIL NIL" % (prefix, separator))
    return "Namespace completed."


async def compress(session: Session, args: Parser) -> str:
    """RFC 4978. The answer still goes out as it is."""
    args.space()
    mechanism = args.word()
    args.finish()
    if mechanism != b"DEFLATE":
        raise Refused("NO", "Unknown compression mechanism")
    if session.stream.compressed:
        raise Refused("NO", "COMPRESSION already enabled", "COMPRESSIONACTIVE")
    session.compressing = True
    return "Begin compression."


async def idle(session: Session, args: Parser) -> str:
    """RFC 2177. Ends with DONE; anything else is an error."""
    args.finish()
    session.extend([b"+ idling\r\n"])
    notifier = session.notifier
    changed = notifier.changed if notifier is not None else asyncio.Event()
    view = session.view
    end_watch = view.mailbox.watch(changed.set) if view is not None else None
    done = asyncio.ensure_future(session.stream.line(64))
    try:
        await session.look(now=True)
        await _idle_until(session, done, changed)
        word = done.result()
    except LineTooLong:
        word = b""
    finally:
        done.cancel()
        if end_watch is not None:
            end_watch()
    if word.upper() != b"DONE":
        raise Refused("BAD", "Expected DONE.")
    return "Idle completed."


async def _idle_until(
    session: Session, done: asyncio.Future[bytes], changed: asyncio.Event
) -> None:
    loop = asyncio.get_running_loop()
    notify_at = loop.time() + _IDLE_NOTIFY
    while True:
        changed.clear()
        if session.notifier is not None:
            await session.notifier.tell(b"IDLE", expunges=True)
        else:
            await search_context.sync(session, expunges=True)
        if loop.time() >= notify_at:
            session.untagged(b"OK Still here")
            notify_at = loop.time() + _IDLE_NOTIFY
        await session.flush()
        waiting = asyncio.ensure_future(changed.wait())
        try:
            pause = _IDLE_LOOK if session.view is not None else _IDLE_NOTIFY
            await asyncio.wait((done, waiting), timeout=pause, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if done.done():
            return
        if not changed.is_set():
            await session.look(now=True)
