"""SEARCH and UID SEARCH, with the result options of ESEARCH (RFC 4731) and SEARCHRES (RFC 5182)."""

from __future__ import annotations

from collections.abc import Sequence

from resel_lda.imap import search_run, text
from resel_lda.imap.errors import Refused
from resel_lda.imap.parser import ParseError, Parser
from resel_lda.imap.search_program import charset, parse_program
from resel_lda.imap.session import Session
from resel_lda.imap.view import View
from resel_lda.mailbox import MailboxError

_RETURN_OPTIONS = (b"MIN", b"MAX", b"ALL", b"COUNT", b"SAVE")

Pairs = Sequence[tuple[int, int]]


async def search(session: Session, tag: bytes, args: Parser, by_uid: bool) -> str:
    view = session.selected()
    args.space()
    options = _return_options(args)
    if options is None and session.rev2:
        options = {b"ALL"}
    saving = options is not None and b"SAVE" in options
    try:
        found, with_modseq = await _find(session, view, args)
    except (Refused, MailboxError) as error:
        if saving and not (isinstance(error, Refused) and error.status == "BAD"):
            # RFC 5182 §2.1: nothing is saved by a search that failed.
            view.saved = []
        raise
    if options is None:
        result = [uid if by_uid else sequence for sequence, uid in found]
        words = [b"SEARCH", *(b"%d" % number for number in result)]
        if with_modseq and found:
            words.append(b"(MODSEQ %d)" % view.highest_modseq([uid for _, uid in found]))
        session.untagged(b" ".join(words))
        return "Search completed."
    if saving:
        view.saved = _saved(options, found)
    if options != {b"SAVE"}:
        modseq = view.highest_modseq(_told(options, found)) if with_modseq else 0
        session.untagged(_esearch(tag, options, found, by_uid, modseq))
    return "Search completed."


async def _find(session: Session, view: View, args: Parser) -> tuple[list[tuple[int, int]], bool]:
    """What matches, and whether MODSEQ was asked for."""
    encoding = "utf-8"
    if args.data[args.pos : args.pos + 8].upper() == b"CHARSET ":
        args.pos += 8
        encoding = charset(args)
        args.space()
    program = parse_program(args, view, encoding)
    args.finish()
    if program.with_modseq:
        session.use_condstore()
    return await search_run.find(session, view, program), program.with_modseq


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


def _saved(options: set[bytes], found: Pairs) -> list[int]:
    """UIDs: all that was found, but only MIN and MAX where just these are asked for."""
    if not options & {b"MIN", b"MAX"} or options & {b"ALL", b"COUNT"}:
        return [uid for _, uid in found]
    return _told(options, found)


def _told(options: set[bytes], found: Pairs) -> list[int]:
    """UIDs that a response is about: just MIN and MAX where no more is asked for."""
    uids = [uid for _, uid in found]
    if options & {b"ALL", b"COUNT"} or not uids:
        return uids
    kept = [uids[0]] if b"MIN" in options else []
    if b"MAX" in options and uids[-1] not in kept:
        kept.append(uids[-1])
    return kept


def _esearch(tag: bytes, options: set[bytes], found: Pairs, by_uid: bool, modseq: int) -> bytes:
    """RFC 4731 §3.1: MIN, MAX and ALL are left out where nothing was found."""
    result = [uid if by_uid else sequence for sequence, uid in found]
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
    if modseq and result:
        words.append(b"MODSEQ %d" % modseq)
    return b" ".join(words)
