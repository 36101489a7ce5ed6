"""Finds what a query matches, folder by folder."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from resel_lda.admin.query import (
    AllOf,
    AnyOf,
    Imap,
    InMailbox,
    Modseq,
    Node,
    Not,
    Numbers,
    When,
    WithGuid,
    exact_mailboxes,
)
from resel_lda.imap.errors import Refused
from resel_lda.imap.names import Names, matches_folder
from resel_lda.imap.parser import ParseError, Parser, parse_sequence_set
from resel_lda.imap.search_keys import Answer, Candidate, Key, KeyParser, Needs
from resel_lda.imap.view import View
from resel_lda.mailbox import MailboxError
from resel_lda.maildir.folder import MaildirFolder
from resel_lda.maildir.names import base_of
from resel_lda.maildir.store import MaildirStore

# How many messages are held in memory at a time.
_TEXT_BATCH = 16
_BATCH = 500


@dataclass(frozen=True, slots=True)
class Match:
    """Messages of one folder, by ascending UID. sequences: UID → sequence number."""

    folder: MaildirFolder
    uids: Sequence[int]
    view: View


class BadQuery(Exception):
    """A key whose argument IMAP's reader refuses."""


class Finder:
    """A query on one user's store. names: between an administrator's spelling and the store's."""

    def __init__(self, store: MaildirStore, names: Names, node: Node) -> None:
        self._store = store
        self._names = names
        self._node = node

    async def folders(self) -> list[str]:
        """Folders that may hold a match, as the store spells them. A name without wildcards is in
        it whether there is such a folder or not."""
        exact = exact_mailboxes(self._node)
        if exact is not None:
            return [store_name(self._names, name) for name in exact]
        return [
            info.name
            for info in await self._store.folders()
            if not info.attributes & {"\\Noselect", "\\NonExistent"}
            and self._possible(self._node, info.name)
        ]

    def _possible(self, node: Node, name: str) -> bool:
        """False only if nothing in this folder can match."""
        if isinstance(node, InMailbox):
            return self._in_mailbox(node, name)
        if isinstance(node, AllOf):
            return all(self._possible(one, name) for one in node.nodes)
        if isinstance(node, AnyOf):
            return any(self._possible(one, name) for one in node.nodes)
        return True

    def _in_mailbox(self, node: InMailbox, name: str) -> bool:
        return matches_folder(node.mask, self._names.shown(name), self._names.separator)

    async def matches(self, missing: Callable[[str, MailboxError], None]) -> AsyncIterator[Match]:
        """Folder by folder, each open while it is the caller's. missing: told of a folder that
        cannot be opened, which is passed over. Raises BadQuery."""
        for name in await self.folders():
            try:
                folder = await self._store.open_folder(name)
            except MailboxError as error:
                missing(name, error)
                continue
            try:
                yield await self._in_folder(folder)
            finally:
                folder.release()

    async def _in_folder(self, folder: MaildirFolder) -> Match:
        view = View(folder, folder.name, read_only=True, recent_count=folder.recent_count())
        compiler = _Compiler(self._names, folder, view)
        key = compiler.compile(self._node)
        candidates = [
            Candidate(sequence, info, info.uid in view.recent)
            for sequence, uid in enumerate(view.uids, 1)
            if (info := folder.get(uid)) is not None
        ]
        found = await _decide(folder, key, compiler.needs, candidates)
        return Match(folder, sorted(found), view)


def store_name(names: Names, shown: str) -> str:
    """The store's spelling of a folder's name. Raises MailboxError for one that cannot be."""
    if names.prefix and shown.startswith(names.prefix):
        shown = shown[len(names.prefix) :]
    if shown.upper() == "INBOX":
        return "INBOX"
    if names.separator != "/":
        if "/" in shown:
            raise MailboxError("Character not allowed in mailbox name: '/'", "CANNOT")
        shown = shown.replace(names.separator, "/")
    return shown


class _Compiler:
    """Makes IMAP's kind of key of a query, for one folder."""

    def __init__(self, names: Names, folder: MaildirFolder, view: View) -> None:
        self._names = names
        self._folder = folder
        self._view = view
        self.needs = Needs()

    def compile(self, node: Node) -> Key:
        """Raises BadQuery."""
        match node:
            case AllOf(nodes):
                return _all(tuple(self.compile(one) for one in nodes))
            case AnyOf(nodes):
                inner = _all(tuple(_negated(self.compile(one)) for one in nodes))
                return _negated(inner)
            case Not(one):
                return _negated(self.compile(one))
            case InMailbox(mask):
                shown = self._names.shown(self._folder.name)
                return _constant(matches_folder(mask, shown, self._names.separator))
            case WithGuid(guid, folder=True):
                return _constant(self._folder.index.uidlist.guid == guid)
            case WithGuid(guid):
                return lambda one: base_of(self._folder.index.names.get(one.info.uid, "")) == guid
            case When("received", start, end):
                return lambda one: start <= one.info.internal_date < end
            case When(_, start, end):
                return lambda one: start <= save_date(self._folder, one.info.uid) < end
            case Numbers(text):
                return _numbered(parse_sequence_set(text).resolved(len(self._view.uids)))
            case Modseq(least):
                return lambda one: one.info.modseq >= least
            case Imap(program):
                return self._imap(program)
        raise TypeError(node)

    def _imap(self, program: bytes) -> Key:
        parser = KeyParser(Parser(program), self._view, "utf-8")
        try:
            key = parser.program()
        except (Refused, ParseError) as error:
            raise BadQuery(str(error)) from None
        self.needs.size |= parser.needs.size
        self.needs.header |= parser.needs.header
        self.needs.message |= parser.needs.message
        return key


def save_date(folder: MaildirFolder, uid: int) -> float:
    """When a message came into this folder, as Dovecot reckons it for Maildir: the file's last
    change of place. Blocks."""
    name = folder.index.names.get(uid)
    if name is None:
        return 0.0
    try:
        return os.stat(folder.index.files.path(name)).st_ctime
    except FileNotFoundError:
        return 0.0


def _constant(value: bool) -> Key:
    return lambda _: value


def _numbered(ranges: Sequence[tuple[int, int]]) -> Key:
    return lambda one: any(low <= one.sequence <= high for low, high in ranges)


def _negated(key: Key) -> Key:
    def ask(candidate: Candidate) -> Answer:
        answer = key(candidate)
        return None if answer is None else not answer

    return ask


def _all(keys: Sequence[Key]) -> Key:
    def ask(candidate: Candidate) -> Answer:
        open_ = False
        for key in keys:
            answer = key(candidate)
            if answer is False:
                return False
            open_ = open_ or answer is None
        return None if open_ else True

    return ask


async def _decide(
    folder: MaildirFolder, key: Key, needs: Needs, candidates: list[Candidate]
) -> list[int]:
    """UIDs that match: from memory first, then sizes, headers, and texts of what is undecided."""
    found: list[int] = []

    def sort_out(some: Sequence[Candidate]) -> list[Candidate]:
        undecided = []
        for candidate in some:
            answer = key(candidate)
            if answer:
                found.append(candidate.info.uid)
            elif answer is None:
                undecided.append(candidate)
        return undecided

    waiting = await asyncio.to_thread(sort_out, candidates)
    if waiting and needs.size:
        sizes = await folder.sizes([one.info.uid for one in waiting])
        for one in waiting:
            one.size = sizes.get(one.info.uid, 0)
        waiting = await asyncio.to_thread(sort_out, waiting)
    if waiting and needs.header:
        waiting = await _with_headers(folder, waiting, sort_out)
    for start in range(0, len(waiting), _TEXT_BATCH):
        await _with_text(folder, waiting[start : start + _TEXT_BATCH], sort_out)
    return found


SortOut = Callable[[Sequence[Candidate]], list[Candidate]]


async def _with_headers(
    folder: MaildirFolder, waiting: list[Candidate], sort_out: SortOut
) -> list[Candidate]:
    undecided: list[Candidate] = []
    for start in range(0, len(waiting), _BATCH):
        batch = waiting[start : start + _BATCH]
        headers = await folder.header_fields([one.info.uid for one in batch])
        for one in batch:
            one.header = headers.get(one.info.uid)
        there = [one for one in batch if one.header is not None]
        undecided += await asyncio.to_thread(sort_out, there)
    return undecided


async def _with_text(folder: MaildirFolder, batch: list[Candidate], sort_out: SortOut) -> None:
    there = []
    for one in batch:
        try:
            one.message = await folder.read(one.info.uid)
        except MailboxError as error:
            if error.code != "EXPUNGEISSUED":
                raise
            continue
        there.append(one)
    await asyncio.to_thread(sort_out, there)
    for one in batch:
        one.forget_text()
