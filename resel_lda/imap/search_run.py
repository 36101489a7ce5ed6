"""Carries out a search program on the selected folder; messages are read only where need be."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

from resel_lda.imap.search_keys import Candidate, FlagKey, Key
from resel_lda.imap.search_program import Program
from resel_lda.imap.search_stored import StoredKey
from resel_lda.imap.search_text import FieldKey, SentKey
from resel_lda.imap.session import Session
from resel_lda.imap.stream import ConnectionLost
from resel_lda.imap.view import View
from resel_lda.mailbox import Mailbox

# How much is done before others get their turn: messages, or messages times keys where these are
# many.
_MEMORY_BATCH = 5_000
_KEYS_BATCH = 50_000
_HEADER_BATCH = 500
_RULE_OUT_BATCH = 1_000
_TEXT_BATCH = 16
# Where it is less than one message of so many, each is looked for by itself.
_FEW = 16

Pairs = list[tuple[int, int]]


async def find(
    session: Session, view: View, program: Program, among: Collection[int] | None = None
) -> Pairs:
    """(sequence number, UID) of what matches, ascending. among: UIDs; None is all."""
    if program.everything and among is None:
        return list(enumerate(view.uids, 1))
    if program.only_flags and among is None:
        return _numbered(view, view.mailbox.with_flags(_flags(program.narrowing)))
    for key in program.fields:
        await key.prepare(view.mailbox)
    for text in program.texts:
        text.recall(view.mailbox)
    matched, open_ = await _from_memory(view, program, among)
    if open_ and program.size:
        open_ = await _with_sizes(view.mailbox, program.key, open_, matched)
    if open_ and _needs_headers(program):
        open_ = await _with_headers(session, view.mailbox, program.key, open_, matched)
    if open_ and program.texts:
        await _with_text(session, view.mailbox, program, open_, matched)
    matched.sort()
    return matched


def _needs_headers(program: Program) -> bool:
    return any(isinstance(key, SentKey) or key.matches is None for key in program.fields)


async def _from_memory(
    view: View, program: Program, among: Collection[int] | None
) -> tuple[Pairs, list[Candidate]]:
    """(what matches, what is not known yet)."""
    matched: Pairs = []
    open_: list[Candidate] = []
    get, recent, key = view.mailbox.get, view.recent.container(), program.key
    candidate: Candidate | None = None
    chosen = _chosen(view, program.narrowing, among)
    batch = max(min(_MEMORY_BATCH, _KEYS_BATCH // program.keys), 1)
    for start in range(0, len(chosen), batch):
        for sequence, uid in chosen[start : start + batch]:
            info = get(uid)
            if info is None:
                continue
            # One object serves for all that is decided at once.
            if candidate is None:
                candidate = Candidate(sequence, info, uid in recent)
            else:
                candidate.sequence, candidate.info = sequence, info
                candidate.recent = uid in recent
            answer = key(candidate)
            if answer:
                matched.append((sequence, uid))
            elif answer is None:
                open_.append(candidate)
                candidate = None
        if len(chosen) > batch:
            await asyncio.sleep(0)
    return matched, open_


def _chosen(
    view: View,
    narrowing: Sequence[FieldKey | FlagKey | StoredKey],
    among: Collection[int] | None,
) -> Sequence[tuple[int, int]]:
    """Messages to be looked at: those in `among` if it is given, else not those that the store has
    excluded already."""
    known: list[Collection[int]] = []
    if among is None:
        flags = _flags(narrowing)
        if flags:
            known.append(view.mailbox.with_flags(flags))
        for key in narrowing:
            if not isinstance(key, FlagKey) and key.matches is not None:
                known.append(key.matches)
    if among is None and not known:
        return list(enumerate(view.uids, 1))
    fewest = min(known, key=len) if among is None else among
    return _numbered(view, fewest)


def _flags(narrowing: Sequence[FieldKey | FlagKey | StoredKey]) -> list[tuple[str, bool]]:
    return [(key.flag, key.wanted) for key in narrowing if isinstance(key, FlagKey)]


def _numbered(view: View, uids: Collection[int]) -> Pairs:
    """(sequence number, UID) of those that the session knows, ascending."""
    if len(uids) * _FEW > len(view.uids) and not view.uid_only:
        chosen = frozenset(uids)
        return [pair for pair in enumerate(view.uids, 1) if pair[1] in chosen]
    pairs = [(view.sequence(uid), uid) for uid in uids]
    return sorted(pair for pair in pairs if pair[0])


def _sort_out(
    key: Key, candidates: Sequence[Candidate], matched: Pairs, open_: list[Candidate]
) -> None:
    for candidate in candidates:
        answer = key(candidate)
        if answer:
            matched.append((candidate.sequence, candidate.info.uid))
        elif answer is None:
            open_.append(candidate)


async def _with_sizes(
    mailbox: Mailbox, key: Key, waiting: list[Candidate], matched: Pairs
) -> list[Candidate]:
    sizes = await mailbox.sizes([candidate.info.uid for candidate in waiting])
    open_: list[Candidate] = []
    for candidate in waiting:
        candidate.size = sizes.get(candidate.info.uid)
    _sort_out(key, [one for one in waiting if one.size is not None], matched, open_)
    return open_


async def _with_headers(
    session: Session, mailbox: Mailbox, key: Key, waiting: list[Candidate], matched: Pairs
) -> list[Candidate]:
    open_: list[Candidate] = []
    for start in range(0, len(waiting), _HEADER_BATCH):
        batch = waiting[start : start + _HEADER_BATCH]
        headers = await mailbox.header_fields([candidate.info.uid for candidate in batch])
        for candidate in batch:
            candidate.header = headers.get(candidate.info.uid)
        there = [candidate for candidate in batch if candidate.header is not None]
        await asyncio.to_thread(_sort_out, key, there, matched, open_)
        session.progress = start + len(batch), len(waiting)
        _still_there(session)
    return open_


async def _with_text(
    session: Session,
    mailbox: Mailbox,
    program: Program,
    waiting: list[Candidate],
    matched: Pairs,
) -> None:
    for start in range(0, len(waiting), _RULE_OUT_BATCH):
        batch = waiting[start : start + _RULE_OUT_BATCH]
        for key in program.texts:
            await key.rule_out(mailbox, [candidate.info.uid for candidate in batch])
        open_: list[Candidate] = []
        _sort_out(program.key, batch, matched, open_)
        for first in range(0, len(open_), _TEXT_BATCH):
            await _read_and_ask(mailbox, program.key, open_[first : first + _TEXT_BATCH], matched)
            left = len(open_) - min(first + _TEXT_BATCH, len(open_))
            session.progress = start + len(batch) - left, len(waiting)
        for candidate in batch:
            candidate.forget_text()
        _still_there(session)


async def _read_and_ask(
    mailbox: Mailbox, key: Key, batch: Sequence[Candidate], matched: Pairs
) -> None:
    messages = await mailbox.read_many([candidate.info.uid for candidate in batch])
    there = [candidate for candidate in batch if candidate.info.uid in messages]
    for candidate in there:
        message = candidate.message = messages[candidate.info.uid]
        end = message.find(b"\r\n\r\n")
        candidate.header = message if end < 0 else message[: end + 4]
    await asyncio.to_thread(_sort_out, key, there, matched, [])


def _still_there(session: Session) -> None:
    """A search nobody waits for any more ends."""
    if session.stream.lost:
        raise ConnectionLost
