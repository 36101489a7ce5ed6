"""SORT and UID SORT (RFC 5256), with the display names of RFC 5957."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from resel_lda.imap import search_run
from resel_lda.imap.parser import ParseError, Parser
from resel_lda.imap.search_program import Program, charset, parse_program
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


async def sort(session: Session, args: Parser, by_uid: bool) -> str:
    view = session.selected()
    args.space()
    criteria = _criteria(args)
    args.space()
    program = parse_search(session, view, args)
    found = await search_run.find(session, view, program)
    order = view.memo(("sort", criteria))
    if order is None:
        order = await _order(view.mailbox, view.uids.copy(), criteria)
        view.remember(("sort", criteria), order)
    numbers = _numbers(view, found, order, by_uid)
    words = [b"SORT", *(b"%d" % number for number in numbers)]
    if program.with_modseq and found:
        words.append(b"(MODSEQ %d)" % view.highest_modseq([uid for _, uid in found]))
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


def _numbers(
    view: View, found: Sequence[tuple[int, int]], order: Sequence[int], by_uid: bool
) -> list[int]:
    """What was found, in order."""
    if by_uid:
        if len(found) == len(order):
            return list(order)
        wanted = {uid for _, uid in found}
        return [uid for uid in order if uid in wanted]
    sequences = {uid: sequence for sequence, uid in found}
    return [sequences[uid] for uid in order if uid in sequences]


async def _order(mailbox: Mailbox, uids: list[int], criteria: Criteria) -> list[int]:
    """All messages in order; equal ones by sequence number."""
    names = sorted({_COLUMNS[word] for word, _ in criteria if word in _COLUMNS})
    rows = await mailbox.sort_keys(uids, names) if names else {}
    sizes: Mapping[int, int] = {}
    if any(word == b"SIZE" for word, _ in criteria):
        sizes = await mailbox.sizes(uids)
    dates = {info.uid: info.internal_date for info in mailbox.messages()}

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
