"""SEARCH and UID SEARCH, with the result options of ESEARCH, SEARCHRES, CONTEXT and PARTIAL."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from resel_lda.imap import fetch, search_context, search_run
from resel_lda.imap.errors import Refused
from resel_lda.imap.parser import Parser
from resel_lda.imap.search_program import Program, charset, parse_program
from resel_lda.imap.search_result import Options, parse_options
from resel_lda.imap.session import Session
from resel_lda.imap.view import View
from resel_lda.mailbox import MailboxError


async def search(session: Session, tag: bytes, args: Parser, by_uid: bool) -> str:
    view = session.selected()
    args.space()
    options = parse_options(args, fetch.parse_items)
    if options is None and session.rev2:
        options = Options({b"ALL"})
    with saving(view, options):
        program = _program(session, view, args)
        context = None
        if options is not None and b"UPDATE" in options.words:
            context = search_context.begin(session, view, tag, by_uid, program, options.items)
        found = await search_run.find(session, view, program)
    uids = [uid for _, uid in found]
    result = uids if by_uid else [sequence for sequence, _ in found]
    if options is None:
        words = [" ".join(["SEARCH", *map(str, result)]).encode("ascii")]
        if program.with_modseq and found:
            words.append(b"(MODSEQ %d)" % view.highest_modseq(uids))
        session.untagged(b" ".join(words))
        return "Search completed."
    answer(session, view, tag, options, uids, result, by_uid, program.with_modseq)
    if context is not None:
        context.keep(session, uids)
    return "Search completed."


@contextlib.contextmanager
def saving(view: View, options: Options | None) -> Iterator[None]:
    """RFC 5182 §2.1: nothing is saved by a search that fails in it."""
    try:
        yield
    except (Refused, MailboxError) as error:
        bad = isinstance(error, Refused) and error.status == "BAD"
        if options is not None and b"SAVE" in options.words and not bad:
            view.saved = []
        raise


def answer(
    session: Session,
    view: View,
    tag: bytes,
    options: Options,
    uids: list[int],
    result: list[int],
    by_uid: bool,
    with_modseq: bool,
) -> None:
    """Save and tell what was found. result: `uids` or their sequence numbers, in order."""
    if b"SAVE" in options.words:
        view.saved = sorted(options.told(uids))
    if not options.silent:
        modseq = view.highest_modseq(options.told(uids)) if with_modseq else 0
        session.untagged(options.response(tag, result, by_uid, modseq))


def _program(session: Session, view: View, args: Parser) -> Program:
    encoding = "utf-8"
    if args.data[args.pos : args.pos + 8].upper() == b"CHARSET ":
        if session.utf8_accept:
            raise Refused("BAD", "There is no charset but UTF-8 with UTF8=ACCEPT")
        args.pos += 8
        encoding = charset(args)
        args.space()
    program = parse_program(args, view, encoding)
    args.finish()
    if program.with_modseq:
        session.use_condstore()
    return program
