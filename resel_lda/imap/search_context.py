"""Searches whose results are kept up to date: RETURN (UPDATE) of RFC 5267 §4.3, with what RFC 5465
§7 adds: items that are fetched of the messages that come."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from resel_lda.imap import fetch, fetch_items, search_run, text
from resel_lda.imap.errors import Refused
from resel_lda.imap.fetch_items import Item
from resel_lda.imap.parser import Parser
from resel_lda.imap.search_program import Program
from resel_lda.imap.session import Session
from resel_lda.imap.view import View

# Results kept up to date in one session; RFC 5267 §4.3.1 lets a server refuse more.
_MAX_CONTEXTS = 16

Order = Callable[[View], Awaitable[Sequence[int]]]


class Context:
    """One result. items: to be fetched of new messages. order: all UIDs of the folder in the order
    of a SORT; None for a SEARCH, whose updates give no positions."""

    def __init__(
        self,
        tag: bytes,
        by_uid: bool,
        program: Program,
        view: View,
        items: Sequence[Item],
        order: Order | None,
    ) -> None:
        self.tag = tag
        self.items = items
        # UIDs that the last call of `changes` found to be in the result now.
        self.added: Collection[int] = ()
        self._by_uid = by_uid
        self._program = program
        self._view = view
        self._order = order
        self._modseq = view.modseq
        self._uids: list[int] = []

    def keep(self, session: Session, uids: Sequence[int]) -> None:
        """From what the client was told on."""
        self._uids = list(uids)
        session.contexts[self.tag] = self

    def removed(self, gone: Collection[int]) -> bytes:
        """The response that takes these out, b"" if none is in. Before their numbers change."""
        members = set(self._uids).intersection(gone)
        if not members:
            return b""
        if self._order is None:
            lost = [uid for uid in self._uids if uid in members]
            items = [b"0 " + text.uid_set(self._numbers(lost))]
        else:
            # From the last on, so that none moves another.
            places = [at for at, uid in enumerate(self._uids) if uid in members]
            items = [
                b"%d %d" % (at + 1, self._numbers([self._uids[at]])[0]) for at in reversed(places)
            ]
        self._uids = [uid for uid in self._uids if uid not in members]
        return self._response(b"REMOVEFROM", items)

    async def changes(self, session: Session) -> list[bytes]:
        """Responses for what flags and new messages changed since the last call."""
        view = self._view
        self.added = ()
        if view.modseq == self._modseq:
            return []
        changed = {info.uid for info in view.mailbox.changed_since(self._modseq)}
        self._modseq = view.modseq
        matching = {uid for _, uid in await search_run.find(session, view, self._program, changed)}
        out = [self.removed(changed - matching)]
        held = set(self._uids)
        self.added = added = sorted(matching - held)
        if added and self._order is None:
            self._uids = sorted(held.union(added))
            out.append(self._response(b"ADDTO", [b"0 " + text.uid_set(self._numbers(added))]))
        elif added and self._order is not None:
            held.update(added)
            self._uids = [uid for uid in await self._order(view) if uid in held]
            new = set(added)
            items = [
                b"%d %d" % (at, self._numbers([uid])[0])
                for at, uid in enumerate(self._uids, 1)
                if uid in new
            ]
            out.append(self._response(b"ADDTO", items))
        return [response for response in out if response]

    def _numbers(self, uids: list[int]) -> list[int]:
        return uids if self._by_uid else [self._view.sequence(uid) for uid in uids]

    def _response(self, word: bytes, items: list[bytes]) -> bytes:
        uid = b" UID" if self._by_uid else b""
        return b'ESEARCH (TAG "%b")%b %b (%b)' % (self.tag, uid, word, b" ".join(items))


def begin(
    session: Session,
    view: View,
    tag: bytes,
    by_uid: bool,
    program: Program,
    items: Sequence[Item],
    order: Order | None = None,
) -> Context | None:
    """A context that counts once its result is kept; None, and NOUPDATE, where there can be none.
    items, order: see `Context`. Raises Refused."""
    if tag in session.contexts:
        raise Refused("BAD", "Tag reuse")
    if program.passing or len(session.contexts) >= _MAX_CONTEXTS:
        why = b"Too many contexts" if not program.passing else b"Such a search can't be updated"
        session.untagged(b'NO [NOUPDATE "%b"] %b' % (tag, why))
        return None
    return Context(tag, by_uid, program, view, items, order)


async def cancel(session: Session, args: Parser) -> str:
    """CANCELUPDATE: tags of searches, quoted (RFC 5267 §4.3.5)."""
    session.selected()
    tags: list[bytes] = []
    while not tags or args.skip(b" "):
        if not tags:
            args.space()
        tags.append(args.string())
    args.finish()
    if any(tag not in session.contexts for tag in tags):
        raise Refused("BAD", "Unknown tag")
    for tag in tags:
        session.contexts.pop(tag, None)
    return "Updates cancelled."


async def sync(session: Session, expunges: bool, items: Sequence[Item] = ()) -> None:
    """`Session.sync`, and what it means for results that are kept up to date: they lose a message
    before its number is another's, and get one once the client knows that it exists.

    items: of each new message that this session did not bring itself (RFC 5465 §5.2). They come
    with those that searches want, in one response, and before what is said of the results.
    """
    contexts = list(session.contexts.values())
    view = session.view
    if view is None or not (contexts or items):
        session.sync(expunges)
        return
    if expunges and contexts:
        gone = view.going()
        for context in contexts:
            response = context.removed(gone) if gone else b""
            if response:
                session.untagged(response)
    known = view.uids[-1] if view.uids else 0
    session.sync(expunges)
    responses: list[bytes] = []
    for context in contexts:
        responses += await context.changes(session)
    own = session.brought.get(view.name, ())
    wanted = {uid: list(items) for uid in view.uids if uid > known and uid not in own}
    for context in contexts:
        for uid in wanted.keys() & context.added:
            wanted[uid] += context.items
    await _tell_new(session, view, wanted)
    for response in responses:
        session.untagged(response)


async def _tell_new(session: Session, view: View, wanted: Mapping[int, Sequence[Item]]) -> None:
    """wanted: items by UID."""
    groups: dict[tuple[bytes, ...], tuple[list[Item], list[tuple[int, int]]]] = {}
    for uid, asked in wanted.items():
        items = list({item.name: item for item in asked}.values())
        if not items:
            continue
        if fetch_items.UID not in items and not view.uid_only:
            items.insert(0, fetch_items.UID)
        names = tuple(item.name for item in items)
        groups.setdefault(names, (items, []))[1].append((view.sequence(uid), uid))
    for items, pairs in groups.values():
        if fetch_items.MODSEQ in items:
            session.use_condstore()
        await fetch.tell(session, view, pairs, items)
