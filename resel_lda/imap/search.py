"""SEARCH and UID SEARCH, with the result options of ESEARCH (RFC 4731)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from resel_lda.imap import text
from resel_lda.imap.errors import Refused
from resel_lda.imap.parser import ParseError, Parser
from resel_lda.imap.search_keys import Candidate, Key, KeyParser, Needs, numbers
from resel_lda.imap.session import Session
from resel_lda.imap.stream import ConnectionLost
from resel_lda.imap.view import View
from resel_lda.mailbox import Mailbox, MailboxError

_CHARSETS = {"UTF-8": "utf-8", "UTF8": "utf-8", "US-ASCII": "utf-8", "ASCII": "utf-8"}
_RETURN_OPTIONS = (b"MIN", b"MAX", b"ALL", b"COUNT")
# How much is done before others get their turn.
_MEMORY_BATCH = 5_000
_HEADER_BATCH = 500
_TEXT_BATCH = 16


async def search(session: Session, tag: bytes, args: Parser, by_uid: bool) -> str:
    view = session.selected()
    args.space()
    options = _return_options(args)
    parser = KeyParser(args, view, _charset(args))
    key = parser.program()
    args.finish()
    found = await _find(session, view, key, parser.needs)
    result = numbers(found, by_uid)
    if options is None:
        session.untagged(b" ".join([b"SEARCH", *(b"%d" % number for number in result)]))
    else:
        session.untagged(_esearch(tag, options, result, by_uid))
    return "Search completed."


def _return_options(args: Parser) -> set[bytes] | None:
    """None: the old SEARCH response is wanted."""
    if args.data[args.pos : args.pos + 8].upper() != b"RETURN (":
        return None
    args.pos += 8
    options: set[bytes] = set()
    while not args.skip(b")"):
        word = args.word()
        if word not in _RETURN_OPTIONS:
            raise ParseError("Unknown SEARCH return option")
        options.add(word)
        args.skip(b" ")
    args.space()
    return options or {b"ALL"}


def _charset(args: Parser) -> str:
    if args.data[args.pos : args.pos + 8].upper() != b"CHARSET ":
        return "utf-8"
    args.pos += 8
    name = args.astring().decode("ascii", "replace").upper()
    args.space()
    if name not in _CHARSETS:
        raise Refused("NO", "Unknown charset", "BADCHARSET (US-ASCII UTF-8)")
    return _CHARSETS[name]


def _esearch(tag: bytes, options: set[bytes], result: Sequence[int], by_uid: bool) -> bytes:
    """RFC 4731 §3.1: MIN, MAX and ALL are left out where nothing was found."""
    words = [b'ESEARCH (TAG "%b")' % tag]
    if by_uid:
        words.append(b"UID")
    if result:
        if b"MIN" in options:
            words.append(b"MIN %d" % result[0])
        if b"MAX" in options:
            words.append(b"MAX %d" % result[-1])
        if b"ALL" in options:
            words.append(b"ALL " + text.uid_set(result))
    if b"COUNT" in options:
        words.append(b"COUNT %d" % len(result))
    return b" ".join(words)


async def _find(session: Session, view: View, key: Key, needs: Needs) -> list[Candidate]:
    """What matches, by ascending number."""
    matched: list[Candidate] = []
    open_: list[Candidate] = []
    get, recent = view.mailbox.get, view.recent
    for start in range(0, len(view.uids), _MEMORY_BATCH):
        for sequence, uid in enumerate(view.uids[start : start + _MEMORY_BATCH], start + 1):
            info = get(uid)
            if info is not None:
                candidate = Candidate(sequence, info, uid in recent)
                _sort_out(key, (candidate,), matched, open_)
        await asyncio.sleep(0)
    if open_ and needs.size:
        open_ = await _with_sizes(view.mailbox, key, open_, matched)
    if open_ and needs.header:
        open_ = await _with_headers(session, view.mailbox, key, open_, matched)
    if open_ and needs.message:
        await _with_text(session, view.mailbox, key, open_, matched)
    matched.sort(key=lambda candidate: candidate.sequence)
    return matched


def _sort_out(
    key: Key, candidates: Sequence[Candidate], matched: list[Candidate], open_: list[Candidate]
) -> None:
    for candidate in candidates:
        answer = key(candidate)
        if answer:
            matched.append(candidate)
        elif answer is None:
            open_.append(candidate)


async def _with_sizes(
    mailbox: Mailbox, key: Key, waiting: list[Candidate], matched: list[Candidate]
) -> list[Candidate]:
    sizes = await mailbox.sizes([candidate.info.uid for candidate in waiting])
    open_: list[Candidate] = []
    for candidate in waiting:
        candidate.size = sizes.get(candidate.info.uid)
    _sort_out(key, [one for one in waiting if one.size is not None], matched, open_)
    return open_


async def _with_headers(
    session: Session,
    mailbox: Mailbox,
    key: Key,
    waiting: list[Candidate],
    matched: list[Candidate],
) -> list[Candidate]:
    open_: list[Candidate] = []
    for start in range(0, len(waiting), _HEADER_BATCH):
        batch = waiting[start : start + _HEADER_BATCH]
        headers = await mailbox.header_fields([candidate.info.uid for candidate in batch])
        for candidate in batch:
            candidate.header = headers.get(candidate.info.uid)
        there = [candidate for candidate in batch if candidate.header is not None]
        await asyncio.to_thread(_sort_out, key, there, matched, open_)
        _still_there(session)
    return open_


async def _with_text(
    session: Session,
    mailbox: Mailbox,
    key: Key,
    waiting: list[Candidate],
    matched: list[Candidate],
) -> None:
    for start in range(0, len(waiting), _TEXT_BATCH):
        batch = waiting[start : start + _TEXT_BATCH]
        messages = await asyncio.gather(
            *(mailbox.read(candidate.info.uid) for candidate in batch), return_exceptions=True
        )
        there = []
        for candidate, message in zip(batch, messages, strict=True):
            if isinstance(message, bytes):
                candidate.message = message
                there.append(candidate)
            elif not isinstance(message, MailboxError) or message.code != "EXPUNGEISSUED":
                raise message
        await asyncio.to_thread(_sort_out, key, there, matched, [])
        for candidate in batch:
            candidate.forget_text()
        _still_there(session)


def _still_there(session: Session) -> None:
    """A search nobody waits for any more ends."""
    if session.stream.lost:
        raise ConnectionLost
