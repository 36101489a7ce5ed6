"""FETCH: messages are loaded in batches, the next one while this one is written."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from resel_lda.imap import fetch_items, fetch_large, fetch_ready, fetch_whole
from resel_lda.imap.errors import Refused
from resel_lda.imap.fetch_binary import parse_binary
from resel_lda.imap.fetch_items import Item, Loaded, Need
from resel_lda.imap.fetch_load import load
from resel_lda.imap.fetch_stored import parse_stored
from resel_lda.imap.parser import ParseError, Parser, SequenceSet
from resel_lda.imap.resync import MAX_MODSEQ, tell_vanished
from resel_lda.imap.search_result import Range, parse_range
from resel_lda.imap.session import Session
from resel_lda.imap.view import View
from resel_lda.mailbox import Mailbox, MessageInfo

Pairs = Sequence[tuple[int, int]]

# Messages answered from memory in one go before others get their turn.
_MEMORY_BATCH = 2_000
_PARTS_BATCH = 500
# Ready-made strings.
_READY_BATCH = 1_000
# Whole messages loaded at once, by number and by octets.
_READ_BATCH = 32
_READ_OCTETS = 2 * 1024 * 1024
# Larger ones are loaded alone.
_ALONE_OCTETS = 1024 * 1024
# The longest answer of one message: twice the largest that can be appended.
_ANSWER_OCTETS = 512 * 1024 * 1024


class _Batch(NamedTuple):
    """Messages loaded together. large: it is one, which is not loaded ahead."""

    pairs: Pairs
    large: bool = False


async def fetch(session: Session, args: Parser, by_uid: bool) -> str:
    view = session.selected()
    args.space()
    numbers = args.sequence_set()
    args.space()
    items = parse_items(args)
    since, vanished, part = _modifiers(args) if args.skip(b" (") else (None, False, None)
    args.finish()
    if part is not None and not by_uid:
        raise Refused("BAD", "PARTIAL needs UID FETCH")
    if vanished and not (by_uid and session.qresync):
        raise Refused("BAD", "VANISHED needs UID FETCH and QRESYNC enabled")
    # With UIDONLY the number in the response is the UID already.
    if by_uid and fetch_items.UID not in items and not view.uid_only:
        items.insert(0, fetch_items.UID)
    pairs: Pairs = view.select(numbers, by_uid)
    if since is not None and fetch_items.MODSEQ not in items:
        items.append(fetch_items.MODSEQ)
    if fetch_items.MODSEQ in items:
        session.use_condstore()
    if since is not None:
        if vanished:
            _tell_vanished(session, view, numbers, since)
        pairs = _changed(view, pairs, since)
    if part is not None:
        kept = set(part.of([uid for _, uid in pairs]))
        pairs = [pair for pair in pairs if pair[1] in kept]
    missing = await _run(session, view, pairs, items)
    if missing:
        return "[EXPUNGEISSUED] Some messages were already expunged."
    return "Fetch completed."


def parse_items(args: Parser) -> list[Item]:
    """All the items there are. Raises ParseError."""
    return fetch_items.parse_items(args, _other)


async def tell(session: Session, view: View, pairs: Pairs, items: Sequence[Item]) -> None:
    """FETCH responses that no command asked for; they mark nothing as \\Seen."""
    await _run(session, view, pairs, [replace(item, sets_seen=False) for item in items])


def _other(args: Parser, name: bytes) -> Item | None:
    return parse_binary(args, name) or parse_stored(args, name)


def _modifiers(args: Parser) -> tuple[int | None, bool, Range | None]:
    """``CHANGEDSINCE n``, ``VANISHED`` (RFC 7162 §3.1.4.1, §3.2.6) and ``PARTIAL 1:9`` (RFC 9394
    §3.3), up to the parenthesis."""
    since: int | None = None
    part: Range | None = None
    vanished = False
    while True:
        word = args.word()
        if word == b"CHANGEDSINCE":
            args.space()
            since = args.number(MAX_MODSEQ)
        elif word == b"VANISHED":
            vanished = True
        elif word == b"PARTIAL" and part is None:
            args.space()
            part = parse_range(args)
        else:
            raise ParseError("Unknown FETCH modifier")
        if args.skip(b")"):
            break
        args.space()
    if vanished and since is None:
        raise ParseError("VANISHED needs CHANGEDSINCE")
    return since, vanished, part


def _tell_vanished(session: Session, view: View, numbers: SequenceSet, since: int) -> None:
    mailbox = view.mailbox
    tell_vanished(session, view, since, numbers.resolved(max(mailbox.uidnext - 1, 0)))


def _changed(view: View, pairs: Pairs, since: int) -> Pairs:
    if since >= view.mailbox.highestmodseq:
        return []
    uids = {info.uid for info in view.mailbox.changed_since(since)}
    return [pair for pair in pairs if pair[1] in uids]


async def _run(session: Session, view: View, pairs: Pairs, items: list[Item]) -> int:
    """How many of the messages were gone."""
    needs = Need.NOTHING
    for item in items:
        needs |= item.needs
    if needs is Need.NOTHING:
        return await _from_memory(session, view, pairs, items)
    plan = fetch_ready.plan(items, view.head)
    if plan is not None:
        return await _ready_made(session, view, pairs, plan)
    marks = not view.read_only and any(item.sets_seen for item in items)
    whole = fetch_whole.template(items, view.head)
    cut = bool(needs & Need.MESSAGE) and fetch_large.can_be(items)
    if len(pairs) == 1:
        if cut and await _in_pieces(session, view, pairs, needs, items, marks):
            return 0
        loaded = await load(view, pairs, needs, items)
        failure = await _answer(session, view, loaded, items, marks, whole)
        if failure is not None:
            raise failure
        return 1 - len(loaded)
    missing = 0
    failure = None
    batches = await _batches(view.mailbox, pairs, needs)
    ahead: asyncio.Task[list[Loaded]] | None = None
    try:
        for number, (batch, large) in enumerate(batches):
            if large and cut and await _in_pieces(session, view, batch, needs, items, marks):
                continue
            loading = ahead or asyncio.ensure_future(load(view, batch, needs, items))
            ahead = loading
            loaded = await loading
            ahead = None
            if number + 1 < len(batches) and not batches[number + 1].large:
                following = batches[number + 1].pairs
                ahead = asyncio.ensure_future(load(view, following, needs, items))
            missing += len(batch) - len(loaded)
            failure = await _answer(session, view, loaded, items, marks, whole) or failure
            # A large one is not kept while the client takes it.
            del loading, loaded
            await session.flush()
    finally:
        if ahead is not None:
            ahead.cancel()
    if failure is not None:
        raise failure
    return missing


async def _in_pieces(
    session: Session, view: View, pair: Pairs, needs: Need, items: list[Item], marks: bool
) -> bool:
    """Whether this one message was answered so, because it is large."""
    large = await view.mailbox.large(pair[0][1])
    if large is None:
        return False
    try:
        literals = await fetch_large.literals(large, items)
        found = await load(view, pair, needs & ~Need.MESSAGE, items) if literals else []
        if not literals or not found:
            return False
        message = found[0]
        message.size = large.size
        told = await _mark_seen(view, found) if marks else set()
        pieces: list[tuple[bytes, fetch_large.Piece]] = [
            (item.name, literals.get(item) or item.render(message)) for item in items
        ]
        pieces += [(b"", piece) for piece in _changed_flags(message, items, told)]
        await fetch_large.send(session, large, _head(message), pieces)
    finally:
        large.close()
    return True


async def _answer(
    session: Session,
    view: View,
    loaded: list[Loaded],
    items: list[Item],
    marks: bool,
    whole: fetch_whole.Template | None,
) -> Refused | None:
    """Why one of the messages could not be told; the others are."""
    told = await _mark_seen(view, loaded) if marks else set()
    if whole is not None and not told:
        session.extend(whole.pieces(loaded))
        return None
    failure: Refused | None = None
    for message in loaded:
        try:
            session.extend(_responses([message], items, told))
        except Refused as error:
            failure = error
    return failure


async def _ready_made(session: Session, view: View, pairs: Pairs, plan: fetch_ready.Plan) -> int:
    missing = 0
    get = view.mailbox.get
    for batch in _slices(pairs, _READY_BATCH):
        sequences: list[int] = []
        infos: list[MessageInfo] = []
        for sequence, uid in batch:
            info = get(uid)
            if info is not None:
                sequences.append(sequence)
                infos.append(info)
        lines = await plan.lines(view, sequences, infos)
        missing += len(batch) - len(lines)
        session.extend(lines)
        if len(pairs) > _READY_BATCH:
            await session.flush()
    return missing


def _responses(loaded: list[Loaded], items: list[Item], told: set[int]) -> list[bytes]:
    """told: UIDs whose flags the fetch itself changed and therefore tells."""
    out = []
    for message in loaded:
        rendered = _rendered(message, items)
        if told:
            rendered += _changed_flags(message, items, told)
        out.append(b"%b(%b)\r\n" % (_head(message), b" ".join(rendered)))
    return out


def _head(message: Loaded) -> bytes:
    return b"* %d %b " % (message.sequence, message.view.head)


def _changed_flags(message: Loaded, items: list[Item], told: set[int]) -> list[bytes]:
    if message.info.uid not in told or fetch_items.FLAGS in items:
        return []
    flags = fetch_items.FLAGS.render(message)
    if message.view.with_modseq and fetch_items.MODSEQ not in items:
        return [fetch_items.MODSEQ.render(message), flags]
    return [flags]


def _rendered(message: Loaded, items: list[Item]) -> list[bytes]:
    """Raises Refused: parts can be asked for again and again, and one answer is made in memory."""
    rendered: list[bytes] = []
    octets = 0
    for item in items:
        rendered.append(item.render(message))
        octets += len(rendered[-1])
        if octets > _ANSWER_OCTETS:
            raise Refused("NO", f"Too much of message {message.sequence} in one answer", "LIMIT")
    return rendered


async def _from_memory(session: Session, view: View, pairs: Pairs, items: list[Item]) -> int:
    # What clients ask of thousands of messages at each start.
    flags_only = set(items) in ({fetch_items.FLAGS}, {fetch_items.FLAGS, fetch_items.UID})
    missing = 0
    for batch in _slices(pairs, _MEMORY_BATCH):
        if flags_only and not view.uid_only:
            lines, told = fetch_ready.flag_lines(view, batch, fetch_items.UID in items)
            missing += len(batch) - told
            session.extend([lines])
        else:
            get = view.mailbox.get
            found = [(sequence, info) for sequence, uid in batch if (info := get(uid)) is not None]
            out = _responses(
                [Loaded(sequence, info, view) for sequence, info in found], items, set()
            )
            missing += len(batch) - len(out)
            session.extend(out)
        if len(pairs) > _MEMORY_BATCH:
            await session.flush()
            await asyncio.sleep(0)
    return missing


def _slices(pairs: Pairs, count: int) -> Iterator[Pairs]:
    for start in range(0, len(pairs), count):
        yield pairs[start : start + count]


async def _batches(mailbox: Mailbox, pairs: Pairs, needs: Need) -> list[_Batch]:
    if not needs & Need.MESSAGE:
        return [_Batch(some) for some in _slices(pairs, _PARTS_BATCH)]
    sizes = await mailbox.likely_sizes([uid for _, uid in pairs])
    batches: list[_Batch] = []
    batch: list[tuple[int, int]] = []
    octets = 0
    for pair in pairs:
        size = sizes.get(pair[1], 0)
        alone = size >= _ALONE_OCTETS
        if batch and (alone or len(batch) >= _READ_BATCH or octets + size > _READ_OCTETS):
            batches.append(_Batch(batch))
            batch, octets = [], 0
        if alone:
            batches.append(_Batch([pair], large=True))
        else:
            batch.append(pair)
            octets += size
    if batch:
        batches.append(_Batch(batch))
    return batches


async def _mark_seen(view: View, loaded: list[Loaded]) -> set[int]:
    """Mark what is about to be sent; UIDs of those that changed."""
    unseen = [one.info.uid for one in loaded if "\\Seen" not in one.info.flags]
    if not unseen:
        return set()
    result = await view.mailbox.store(unseen, ("\\Seen",), "add")
    view.already_told(result.done)
    changed = set(result.done).intersection(unseen)
    for one in loaded:
        if one.info.uid in changed:
            one.info = view.mailbox.get(one.info.uid) or one.info
    return changed
