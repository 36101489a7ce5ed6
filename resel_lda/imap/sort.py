"""SORT and UID SORT (RFC 5256), with the display names of RFC 5957 and RFC 5267's RETURN."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from resel_lda.imap import fetch, search_context, search_run
from resel_lda.imap.parser import ParseError, Parser
from resel_lda.imap.search import answer, saving
from resel_lda.imap.search_program import Program, charset, parse_program
from resel_lda.imap.search_result import parse_options
from resel_lda.imap.session import Session
from resel_lda.imap.view import View
from resel_lda.mailbox import Mailbox

# What the store keeps for each criterion; the others come from elsewhere.
_COLUMNS = {
    b"CC": "cc",
    b"DATE": "sent",
    b"DISPLAYFROM": "display_from",
    b"DISPLAYTO": "display_to",
    b"FROM": "sender",
    b"SUBJECT": "base",
    b"TO": "recipient",
}
_CRITERIA = frozenset((*_COLUMNS, b"ARRIVAL", b"SIZE"))

# (criterion, whether reversed), the first being the most important.
Criteria = tuple[tuple[bytes, bool], ...]


async def sort(session: Session, tag: bytes, args: Parser, by_uid: bool) -> str:
    view = session.selected()
    args.space()
    options = parse_options(args, fetch.parse_items)
    criteria = _criteria(args)
    args.space()

    async def order(view: View) -> Sequence[int]:
        known: Sequence[int] | None = view.memo(("sort", criteria))
        if known is None:
            known = await _order(view.mailbox, view.uids.copy(), criteria)
            view.remember(("sort", criteria), known)
        return known

    with saving(view, options):
        program = parse_search(session, view, args)
        context = None
        if options is not None and b"UPDATE" in options.words:
            items = options.items
            context = search_context.begin(session, view, tag, by_uid, program, items, order)
        found = await search_run.find(session, view, program)
        uids = _in_order(found, await order(view))
    result = uids
    if not by_uid:
        sequences = {uid: sequence for sequence, uid in found}
        result = [sequences[uid] for uid in uids]
    if options is not None:
        answer(session, view, tag, options, uids, result, by_uid, program.with_modseq)
        if context is not None:
            context.keep(session, uids)
        return "Sort completed."
    words = [b"SORT", *(b"%d" % number for number in result)]
    if program.with_modseq and found:
        words.append(b"(MODSEQ %d)" % view.highest_modseq(uids))
    session.untagged(b" ".join(words))
    return "Sort completed."


def parse_search(session: Session, view: View, args: Parser) -> Program:
    """The character set and the keys, to the end (RFC 5256 §5, search-criteria)."""
    encoding = charset(args)
    args.space()
    program = parse_program(args, view, encoding)
    args.finish()
    if program.with_modseq:
        session.use_condstore()
    return program


def _criteria(args: Parser) -> Criteria:
    args.expect(b"(")
    found: list[tuple[bytes, bool]] = []
    while True:
        word = args.word()
        reverse = word == b"REVERSE"
        if reverse:
            args.space()
            word = args.word()
        if word not in _CRITERIA:
            raise ParseError("Unknown sort argument")
        # A second time it can decide nothing more.
        if all(word != earlier for earlier, _ in found):
            found.append((word, reverse))
        if args.skip(b")"):
            return tuple(found)
        args.space()


def _in_order(found: Sequence[tuple[int, int]], order: Sequence[int]) -> list[int]:
    """The UIDs of what was found."""
    if len(found) == len(order):
        return list(order)
    wanted = {uid for _, uid in found}
    return [uid for uid in order if uid in wanted]


async def _order(mailbox: Mailbox, uids: list[int], criteria: Criteria) -> list[int]:
    """All messages in order; equal ones by sequence number."""
    names = sorted({_COLUMNS[word] for word, _ in criteria if word in _COLUMNS})
    rows = await mailbox.sort_keys(uids, names) if names else {}
    sizes: Mapping[int, int] = {}
    if any(word == b"SIZE" for word, _ in criteria):
        sizes = await mailbox.sizes(uids)
    dates: Mapping[int, float] = {}
    if any(word == b"ARRIVAL" for word, _ in criteria):
        dates = await mailbox.internal_dates(uids)
    elif any(word == b"DATE" for word, _ in criteria):
        at = names.index(_COLUMNS[b"DATE"])
        dates = await mailbox.internal_dates([uid for uid, row in rows.items() if row[at] is None])

    def work() -> list[int]:
        # From the least important on: each sort keeps what the one before decided.
        for word, reverse in reversed(criteria):
            uids.sort(key=_key(word, names, rows, sizes, dates), reverse=reverse)
        return uids

    return await asyncio.to_thread(work)


def _key(
    word: bytes,
    names: Sequence[str],
    rows: Mapping[int, tuple[Any, ...]],
    sizes: Mapping[int, int],
    dates: Mapping[int, float],
) -> Callable[[int], Any]:
    if word == b"SIZE":
        return lambda uid: sizes.get(uid, 0)
    if word == b"ARRIVAL":
        return lambda uid: int(dates.get(uid, 0))
    at = names.index(_COLUMNS[word])
    if word != b"DATE":
        return lambda uid: rows[uid][at] if uid in rows else ""

    def sent(uid: int) -> int:
        """RFC 5256 §2.2: without a usable Date, when it arrived."""
        moment = rows[uid][at] if uid in rows else None
        return int(dates.get(uid, 0)) if moment is None else int(moment)

    return sent
