"""NOTIFY (RFC 5465): events of the selected folder and of others, between commands and in IDLE."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from resel_lda.imap import folders, notify_request, search_context, text
from resel_lda.imap.errors import Refused
from resel_lda.imap.notify_request import EXPUNGE, FLAGS, NEW, Request
from resel_lda.imap.parser import Parser
from resel_lda.imap.session import Session
from resel_lda.mailbox import FolderEvent, FolderStatus, Mailbox, MailboxError

# Folders one session watches, and changes of the tree that may wait for it.
_MAX_FOLDERS, _MAX_WAITING = 250, 1_000
# What the client's own command asks for is told whatever was chosen.
_ASKED = frozenset((b"EXPUNGE", b"MOVE", b"REPLACE"))


@dataclass(slots=True)
class _Watched:
    mailbox: Mailbox
    stop: Callable[[], None]
    flags: bool
    told: FolderStatus


@dataclass(slots=True)
class _Event:
    """own: this session's own doing, of which it is not told (RFC 5465 §5)."""

    what: FolderEvent
    own: bool


class Notifier:
    """Of one session, from its NOTIFY to the next. Made in the task that runs its commands.
    `changed` is set when there is something."""

    def __init__(self, session: Session, request: Request) -> None:
        self.changed = asyncio.Event()
        self._task = asyncio.current_task()
        self._session = session
        self._request = request
        self._watched: dict[str, _Watched] = {}
        self._subscribed: set[str] = set()
        self._events: list[_Event] = []
        self._dirty: set[str] = set()
        self._overflow = False
        self._rescan = False
        self._selected: tuple[Mailbox, Callable[[], None]] | None = None
        self._stop_tree = session.store.watch_tree(self._tree_changed)

    def close(self) -> None:
        self._stop_tree()
        if self._selected is not None:
            self._selected[1]()
            self._selected = None
        for name in list(self._watched):
            self._forget(name)

    # -- what happens -------------------------------------------------------------------------

    def _tree_changed(self, event: FolderEvent) -> None:
        if len(self._events) >= _MAX_WAITING:
            self._overflow = True
        elif not self._overflow:
            self._events.append(_Event(event, asyncio.current_task() is self._task))
        self.changed.set()

    def _folder_changed(self, name: str) -> None:
        self._dirty.add(name)
        self.changed.set()

    def _forget(self, name: str) -> None:
        watched = self._watched.pop(name, None)
        self._dirty.discard(name)
        if watched is not None:
            watched.stop()
            watched.mailbox.release()

    # -- watching -----------------------------------------------------------------------------

    async def begin(self) -> None:
        """Watch what was asked for, and tell how it is if that was asked for too. Raises
        Refused."""
        await self._scan(self._request.status)
        if self._overflow:
            text = f"More than {_MAX_FOLDERS} mailboxes can't be watched"
            raise Refused("NO", text, "NOTIFICATIONOVERFLOW")

    async def _scan(self, tell: bool = False) -> None:
        held = await self._session.store.folders()
        self._subscribed = {info.name for info in held if info.subscribed}
        wanted: dict[str, set[bytes]] = {}
        for info in held:
            if info.attributes & {"\\Noselect", "\\NonExistent"}:
                continue
            events = self._request.events(info.name, self._subscribed)
            if NEW in events:
                wanted[info.name] = events
        if len(wanted) > _MAX_FOLDERS:
            self._overflow = True
            return
        for name in self._watched.keys() - wanted.keys():
            self._forget(name)
        for name, watched in self._watched.items():
            watched.flags = FLAGS in wanted[name]
        for name in sorted(wanted.keys() - self._watched.keys()):
            await self._watch(name, FLAGS in wanted[name])
        if tell:
            for name in sorted(self._watched):
                if not self._is_selected(name):
                    self._tell_status(name, self._watched[name], self._watched[name].flags)

    async def _watch(self, name: str, flags: bool) -> None:
        store = self._session.store
        try:
            mailbox = await store.open(name)
        except MailboxError:
            # It went away meanwhile, or cannot be read: nothing of it can be told.
            return
        stop = mailbox.watch(lambda: self._folder_changed(name))
        try:
            self._watched[name] = _Watched(mailbox, stop, flags, await store.status(name, False))
        except MailboxError:
            stop()
            mailbox.release()

    def follow(self) -> None:
        """Watch the folder that is selected now."""
        view = self._session.view
        mailbox = view.mailbox if view is not None else None
        if self._selected is not None and self._selected[0] is not mailbox:
            self._selected[1]()
            self._selected = None
        if mailbox is not None and self._selected is None:
            self._selected = mailbox, mailbox.watch(self.changed.set)
        if view is not None:
            group = self._request.selected
            view.tells_flags = group is not None and FLAGS in group.events

    def _is_selected(self, name: str) -> bool:
        view = self._session.view
        return view is not None and view.name == name

    # -- telling ------------------------------------------------------------------------------

    async def tell(self, word: bytes, expunges: bool) -> None:
        """Queue what there is to tell. word: the command that is being answered, b"" between
        commands. expunges: whether sequence numbers may change as far as that one goes."""
        self.changed.clear()
        self.follow()
        await self._tell_selected(word, expunges)
        events, self._events = self._events, []
        if not self._overflow:
            for event in events:
                await self._tell_event(event)
        if self._rescan and not self._overflow:
            self._rescan = False
            await self._scan()
        if self._overflow:
            # From now on it is as after NOTIFY NONE (RFC 5465 §5.8).
            self._session.untagged(b"OK [NOTIFICATIONOVERFLOW] Too many notifications")
            self.close()
            self._request = Request()
            self._overflow = False
            return
        dirty, self._dirty = self._dirty, set()
        for name in sorted(dirty):
            await self._tell_folder(name)

    async def _tell_selected(self, word: bytes, expunges: bool) -> None:
        session, view = self._session, self._session.view
        group = self._request.selected
        if view is None:
            return
        if group is None or EXPUNGE not in group.events:
            if word in _ASKED:
                await search_context.sync(session, expunges=True)
            return
        if group.filter == b"SELECTED" or word == b"IDLE":
            expunges = True
        await search_context.sync(session, expunges, group.items)

    async def _tell_folder(self, name: str) -> None:
        watched = self._watched.get(name)
        if watched is None:
            return
        try:
            status = await self._session.store.status(name)
        except MailboxError:
            self._forget(name)
            return
        before, watched.told = watched.told, status
        if self._is_selected(name) or self._is_own(watched, before):
            return
        if self._differ(watched, before):
            self._tell_status(name, watched)

    def _is_own(self, watched: _Watched, before: FolderStatus) -> bool:
        """Whether all that changed is what the client's command brought."""
        own = self._session.brought.get(watched.mailbox.name)
        if not own or watched.mailbox.vanished_since(before.highestmodseq):
            return False
        return all(one.uid in own for one in watched.mailbox.changed_since(before.highestmodseq))

    def _differ(self, watched: _Watched, before: FolderStatus) -> bool:
        """Whether there is something to tell: without CONDSTORE no other flag than \\Seen shows in
        STATUS (RFC 5465 §5.1)."""
        now = watched.told
        if (now.messages, now.uidnext) != (before.messages, before.uidnext):
            return True
        if not watched.flags:
            return False
        if now.uidvalidity != before.uidvalidity or now.unseen != before.unseen:
            return True
        return self._session.condstore and now.highestmodseq != before.highestmodseq

    def _tell_status(self, name: str, watched: _Watched, with_modseq: bool = False) -> None:
        """with_modseq: whatever the client has enabled (RFC 5465 §3.1)."""
        items = [b"MESSAGES", b"UIDNEXT", b"UIDVALIDITY", b"UNSEEN"]
        if self._session.condstore or with_modseq:
            items.append(b"HIGHESTMODSEQ")
        wire = self._session.names.wire(name)
        self._session.untagged(folders.status_response(wire, items, watched.told))

    async def _tell_event(self, happened: _Event) -> None:
        event = happened.what
        name, old = event.name, event.old_name
        before = self._request.events(old, self._subscribed) if old else set()
        if event.kind == "subscribed":
            self._subscribed.add(name)
        events = self._request.events(name, self._subscribed)
        if event.kind == "unsubscribed":
            self._subscribed.discard(name)
        if event.kind == "metadata":
            self._tell_metadata(happened, events)
            return
        self._rescan = True
        if event.kind in ("deleted", "renamed", "moved") and old != "INBOX":
            self._forget(old or name)
        # Whoever knows of a folder's new name knows those below it (RFC 5465 §5.4).
        if happened.own or event.kind == "moved":
            return
        subscription = event.kind in ("subscribed", "unsubscribed")
        asked = notify_request.SUBSCRIPTION if subscription else notify_request.NAME
        if asked in events | before:
            await self._tell_list(name, old, gone=event.kind == "deleted")
        parent = name.rpartition("/")[0]
        # A parent has children now, or none any more.
        affected = parent and event.kind in ("created", "deleted")
        if affected and notify_request.NAME in self._request.events(parent, self._subscribed):
            await self._tell_list(parent)

    async def _tell_list(self, name: str, old: str = "", gone: bool = False) -> None:
        """LIST of the folder as it is now (RFC 5465 §5.4, §5.5). gone: there may still be a
        directory for those below it."""
        words = await folders.attributes(self._session, name)
        if gone and "\\Noselect" in words:
            # One of the two only (RFC 9051 §9, mbx-list-sflag): this says the other too.
            words = {*words - {"\\Noselect"}, "\\NonExistent"}
        old_wire = self._session.names.wire(old) if old else b""
        self._session.untagged(folders.list_response(self._session, name, words, old_wire))

    def _tell_metadata(self, happened: _Event, events: set[bytes]) -> None:
        """The names of the entries that changed or went, without values (RFC 5464 §4.4.2)."""
        name, entries = happened.what.name, happened.what.entries
        wanted = notify_request.METADATA in events
        if not name:
            groups = self._request.groups
            wanted = any(notify_request.SERVER_METADATA in one.events for one in groups)
        if wanted and entries and not happened.own:
            words = b" ".join(text.astring(entry.encode()) for entry in sorted(entries))
            label = text.mailbox(self._session.names.wire(name)) if name else b'""'
            self._session.untagged(b"METADATA %b %b" % (label, words))


async def notify(session: Session, args: Parser) -> str:
    """NOTIFY SET, NOTIFY NONE. The next one that succeeds takes the place of the last."""
    request = notify_request.parse(args, session.names)
    # What happened before is told by the rules of before.
    await session.look(now=True)
    if session.notifier is not None:
        await session.notifier.tell(b"NOTIFY", expunges=True)
    else:
        await search_context.sync(session, expunges=True)
    notifier = Notifier(session, request)
    try:
        await notifier.begin()
    except BaseException:
        notifier.close()
        raise
    session.close_notifier()
    session.notifier = notifier
    notifier.follow()
    return "NOTIFY completed."
