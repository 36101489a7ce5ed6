"""Finds what a query matches, folder by folder.

A query becomes one search program of IMAP for each folder: what IMAP has no key for (the mailbox,
GUIDs, times to the second) is answered here and stands in it as a set of UIDs.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from resel_lda.admin.query import (
    AllOf,
    AnyOf,
    Imap,
    InMailbox,
    InThread,
    Modseq,
    Node,
    Not,
    Numbers,
    When,
    WithGuid,
    exact_mailboxes,
)
from resel_lda.imap import text
from resel_lda.imap.errors import Refused
from resel_lda.imap.names import Names, matches_folder
from resel_lda.imap.parser import ParseError, Parser, parse_sequence_set
from resel_lda.imap.search_program import parse_program
from resel_lda.imap.search_run import find
from resel_lda.imap.session import Session, Who
from resel_lda.imap.stream import Stream
from resel_lda.imap.thread import list_threads
from resel_lda.imap.view import View
from resel_lda.mailbox import MailboxError, MessageInfo
from resel_lda.maildir.dates import internal_dates, saved_dates
from resel_lda.maildir.folder import MaildirFolder
from resel_lda.maildir.store import MaildirStore

_EVERYTHING, _NOTHING = b"ALL", b"NOT ALL"


@dataclass(frozen=True, slots=True)
class Match:
    """Messages of one folder, by ascending UID. view: their sequence numbers."""

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
            return matches_folder(node.mask, self._names.shown(name), self._names.separator)
        if isinstance(node, AllOf):
            return all(self._possible(one, name) for one in node.nodes)
        if isinstance(node, AnyOf):
            return any(self._possible(one, name) for one in node.nodes)
        return True

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
        return Match(folder, await self._search(folder, view, self._node), view)

    async def _search(self, folder: MaildirFolder, view: View, node: Node) -> list[int]:
        """UIDs. Raises BadQuery."""
        node = await self._with_threads(folder, view, node)
        compiler = _Compiler(self._names, folder, view)
        words = await asyncio.to_thread(compiler.program, node)
        session = Session(Stream(), self._store, Who("", ""), self._names, _unheard)
        try:
            program = parse_program(Parser(words), view, "utf-8")
        except (Refused, ParseError) as error:
            raise BadQuery(str(error)) from None
        return [uid for _, uid in await find(session, view, program)]

    async def _with_threads(self, folder: MaildirFolder, view: View, node: Node) -> Node:
        """The query with the messages of its threads in the place of `InThread`."""
        if isinstance(node, AllOf | AnyOf):
            nodes = [await self._with_threads(folder, view, one) for one in node.nodes]
            return type(node)(tuple(nodes))
        if isinstance(node, Not):
            return Not(await self._with_threads(folder, view, node.node))
        if not isinstance(node, InThread):
            return node
        wanted = set(await self._search(folder, view, node.node))
        listing = await list_threads(view, node.algorithm, list(enumerate(view.uids, 1)), True)
        threads = await asyncio.to_thread(_members, listing)
        return Imap(_uids(sorted({uid for one in threads if wanted & one for uid in one})))


def _unheard(_: str) -> None:
    """Nobody is logged in here whom the log would have to mention."""


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
    """Writes a query as IMAP's, for one folder. Blocks: it may look at files."""

    def __init__(self, names: Names, folder: MaildirFolder, view: View) -> None:
        self._names = names
        self._folder = folder
        self._view = view

    def program(self, node: Node) -> bytes:
        match node:
            case Imap(program):
                return program
            case AllOf(nodes):
                return b"(%b)" % b" ".join(self.program(one) for one in nodes)
            case AnyOf(nodes):
                *others, last = (self.program(one) for one in nodes)
                return b"".join(b"OR %b " % one for one in others) + last
            case Not(one):
                return b"NOT " + self.program(one)
            case InMailbox(mask):
                shown = self._names.shown(self._folder.name)
                found = matches_folder(mask, shown, self._names.separator)
                return _EVERYTHING if found else _NOTHING
            case WithGuid(guid, folder=True):
                return _EVERYTHING if self._folder.index.uidlist.guid == guid else _NOTHING
            case WithGuid(guid):
                bases = self._folder.index.bases
                return self._those(lambda info: bases.get(info.uid) == guid)
            case When("received", start, end):
                dates = internal_dates(self._folder.index, self._view.uids)
                return self._those(lambda info: start <= dates.get(info.uid, 0) < end)
            case When(_, start, end):
                saved = saved_dates(self._folder.index, self._view.uids)
                return self._those(lambda info: start <= saved.get(info.uid, 0) < end)
            case Modseq(least):
                return self._those(lambda info: info.modseq >= least)
            case Numbers(numbers):
                return self._numbered(numbers)
        raise TypeError(node)

    def _those(self, wanted: Callable[[MessageInfo], bool]) -> bytes:
        """Messages of the view that answer to this."""
        infos = (self._folder.get(uid) for uid in self._view.uids)
        return _uids([info.uid for info in infos if info is not None and wanted(info)])

    def _numbered(self, numbers: bytes) -> bytes:
        """By sequence number; those beyond the end are nobody's."""
        ranges = parse_sequence_set(numbers).resolved(len(self._view.uids))
        return _uids([uid for low, high in ranges for uid in self._view.uids[low - 1 : high]])


def _members(listing: bytes) -> list[set[int]]:
    """The numbers of each thread in an answer to THREAD."""
    threads: list[set[int]] = []
    depth = 0
    for token in re.findall(rb"[()]|\d+", listing):
        if token == b"(":
            depth += 1
            if depth == 1:
                threads.append(set())
        elif token == b")":
            depth -= 1
        else:
            threads[-1].add(int(token))
    return threads


def _uids(uids: Sequence[int]) -> bytes:
    return b"UID " + text.uid_set(uids) if uids else _NOTHING


def save_date(folder: MaildirFolder, uid: int) -> int:
    """When a message came into this folder; 0 if it is gone. Blocks."""
    return saved_dates(folder.index, [uid]).get(uid, 0)
