"""What commands ask of the queue, over the admin socket or, with the daemon down, in their own process.

Each verb is an async generator over rows that survive JSON. `QueueVerbs` is the same object on
both sides: with the scheduler in the daemon, with a stand-in for it in a command that took the
queue's lock.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Set
from dataclasses import asdict
from typing import Any, Protocol

from resel_mta.content import Body
from resel_mta.control import ControlError, Row, Verb
from resel_mta.mail import Route, TempFail
from resel_mta.maillog import MailLog
from resel_mta.queue import why
from resel_mta.queue.door import Entry, QueueStore, RecipientEntry
from resel_mta.queue.selection import Selection, host_of_site, names_host, subject_of

BLOCK = 256 * 1024
BATCH = 200
"""Messages whose headers are read at once, and recipients looked at before others get a turn."""

# In which queues each change finds something to do.
APPLIES = {
    "delete": frozenset(("incoming", "active", "deferred", "hold", "corrupt", "trash")),
    "hold": frozenset(("incoming", "active", "deferred")),
    "release": frozenset(("hold",)),
    "requeue": frozenset(("incoming", "active", "deferred", "hold")),
    "expire": frozenset(("incoming", "active", "deferred", "hold")),
    "undelete": frozenset(("trash",)),
}


# What postsuper(1) says, and logs, of one message.
SAID = {
    "delete": "removed",
    "hold": "placed on hold",
    "release": "released from hold",
    "requeue": "requeued",
    "expire": "expired",
    "undelete": "restored",
}


class Deliverer(Protocol):
    """What the verbs need of the scheduler."""

    running: bool
    """Whether anything is delivered."""

    @property
    def trash_time(self) -> float:
        """Seconds for which deleted mail can be brought back; 0: not at all."""
        ...

    async def flush(self, queue_id: str | None = None, site: str | None = None) -> int:
        """Try deferred mail now: all, one message, or what waits for one domain. How many.
        Raises ControlError."""
        ...

    async def route(self, address: str) -> Route | None:
        """Where a recipient that has been expanded goes; None if that cannot be told now."""
        ...

    def host_state(self, route: Route, address: str) -> why.HostState:
        """What is known of the next hop."""
        ...

    def deadline(self, entry: Entry) -> float:
        """When a message is given up."""
        ...

    def active_since(self, queue_id: str) -> float:
        """When its delivery began; 0 for a message that is not active."""
        ...

    def revive(self) -> None:
        """Next hops that count as down are tried at once."""
        ...


def entries_from_row(row: Mapping[str, Any]) -> Iterator[Entry]:
    """The entries of a row such as {"entries": […]}, after its way through JSON."""
    make = RecipientEntry._make
    for queue_id, queue, arrival, size, sender, recipients, *others in row["entries"]:
        listed = tuple(map(make, recipients))
        yield Entry(queue_id, queue, arrival, size, sender, listed, *others)


class QueueVerbs:
    """Queue verbs by name: see `table`."""

    def __init__(self, store: QueueStore, deliverer: Deliverer, log: MailLog | None) -> None:
        """log: what people change is logged as postsuper(1) does; None: nowhere."""
        self._store = store
        self._deliverer = deliverer
        self._log = log

    def table(self) -> dict[str, Verb]:
        verbs: dict[str, Callable[[Mapping[str, Any]], AsyncIterator[Row]]] = {
            "queue.walk": self.walk,
            "queue.flush": self.flush,
            "queue.change": self.change,
            "queue.show": self.show,
            "queue.why": self.explain,
            "queue.audit": self.audit,
            "queue.check": self.check,
            "queue.sweep": self.sweep,
            "queue.waiting": self.waiting,
            "queue.stats": self.stats,
        }
        return {name: _explaining(verb) for name, verb in verbs.items()}

    async def walk(self, args: Mapping[str, Any]) -> AsyncIterator[Row]:
        """args: queue, one queue's name or nothing; select, a Selection as a row or nothing.
        Rows: {"entries": [Entry, …]}, by arrival."""
        selection = Selection.from_row(args.get("select"))
        async for row in _in_rows(self._selected(self._store.walk(args.get("queue")), selection)):
            yield row

    async def flush(self, args: Mapping[str, Any]) -> AsyncIterator[Row]:
        """args: id or site, or neither for all. One row: {"count": n}."""
        queue_id, site = args.get("id"), args.get("site")
        if not all(each is None or isinstance(each, str) for each in (queue_id, site)):
            raise TypeError("an id and a site are text")
        if self._deliverer.running and queue_id is not None:
            entry = await self._store.get(queue_id)
            if entry is None:
                raise ControlError(65, f"no message {queue_id} in the queue")
            if entry.queue in ("hold", "corrupt", "trash"):
                raise ControlError(65, f"{queue_id} is {_WHERE[entry.queue]}")
        yield {"count": await self._deliverer.flush(queue_id=queue_id, site=site)}

    async def change(self, args: Mapping[str, Any]) -> AsyncIterator[Row]:
        """args: action (of `APPLIES`), ids (None: all), queue (None: any), select (a Selection as
        a row; None: all), dry_run.

        Deleting goes to the trash; from there, or without one (`queue_trash_time`), for good.
        One row per message changed, {"id": …}; with dry_run, rows as of `walk` with what would be.
        """
        action, ids, queue = args["action"], args.get("ids"), args.get("queue")
        if action not in APPLIES:
            raise ControlError(64, f"unknown action '{action}'")
        selection = Selection.from_row(args.get("select"))
        if args.get("dry_run"):
            async for row in _in_rows(self._members(action, ids, queue, selection)):
                yield row
            return
        if queue is not None or not selection.is_everything:
            members = self._members(action, ids, queue, selection)
            ids = [entry.queue_id async for entry in members]
        changed = await self._apply(action, ids, queue)
        if self._log is not None:
            for queue_id in changed:
                self._log.event("postsuper", SAID[action], queue_id)
        for queue_id in changed:
            yield {"id": queue_id}

    async def _members(
        self, action: str, ids: Iterable[str] | None, queue: str | None, selection: Selection
    ) -> AsyncIterator[Entry]:
        """What a change would change."""
        if queue is None and action == "undelete":
            queue = "trash"
        entries = self._store.walk(queue) if ids is None else self._get_each(ids)
        async for entry in self._selected(entries, selection):
            if entry.queue not in APPLIES[action] or queue not in (None, entry.queue):
                continue
            if entry.queue == "trash" and queue is None:
                continue
            if action == "expire" and entry.forced_expire:
                continue
            yield entry

    async def _get_each(self, ids: Iterable[str]) -> AsyncIterator[Entry]:
        for queue_id in dict.fromkeys(ids):
            entry = await self._store.get(queue_id)
            if entry is not None:
                yield entry

    async def _apply(self, action: str, ids: list[str] | None, queue: str | None) -> list[str]:
        if action == "delete":
            keep = bool(self._deliverer.trash_time) and queue != "trash"
            return await self._store.delete(ids, keep=keep)
        if action == "hold":
            return await self._store.hold(ids)
        if action == "expire":
            return await self._store.expire(ids)
        # What somebody brings back is tried at once, also where the next hop was down.
        self._deliverer.revive()
        if action == "release":
            return await self._store.release(ids)
        if action == "undelete":
            return await self._store.undelete(ids)
        return await self._store.requeue(ids)

    # -- selection ------------------------------------------------------------------------------

    async def _selected(
        self, entries: AsyncIterator[Entry], selection: Selection
    ) -> AsyncIterator[Entry]:
        if selection.is_everything:
            async for entry in entries:
                yield entry
            return
        now = time.time()
        batch: list[Entry] = []
        async for entry in entries:
            if selection.matches(entry, now) and await self._goes_there(entry, selection):
                batch.append(entry)
            if len(batch) == BATCH:
                for found in await self._with_subject(batch, selection):
                    yield found
                batch = []
        for found in await self._with_subject(batch, selection):
            yield found

    async def _with_subject(self, batch: list[Entry], selection: Selection) -> list[Entry]:
        if selection.subject is None or not batch:
            return batch
        headers = await self._store.headers(entry.queue_id for entry in batch)
        return [
            entry
            for entry in batch
            if entry.queue_id in headers and selection.matches_subject(headers[entry.queue_id])
        ]

    async def _goes_there(self, entry: Entry, selection: Selection) -> bool:
        """Whether one recipient is as asked."""
        if not selection.asks_recipients:
            return True
        for count, recipient in enumerate(entry.recipients, 1):
            if selection.matches_recipient(recipient) and (
                selection.host is None or await self._goes_to(recipient, selection.host)
            ):
                return True
            if not count % BATCH:
                await asyncio.sleep(0)
        return False

    async def _goes_to(self, recipient: RecipientEntry, host: str) -> bool:
        if names_host(host, recipient):
            return True
        route = await self._deliverer.route(recipient.address)
        return route is not None and host_of_site(f":{route.nexthop}") == host.lower().strip("[]")

    # -- one message ----------------------------------------------------------------------------

    async def show(self, args: Mapping[str, Any]) -> AsyncIterator[Row]:
        """args: id. First row: as of `walk`; then {"data": base64} blocks of the message."""
        queue_id = args["id"]
        entry = await self._store.get(queue_id)
        message = await self._store.load(queue_id) if entry is not None else None
        if entry is None or message is None or message.content is None:
            raise ControlError(65, f"no message {queue_id} in the queue")
        yield {"entries": [entry]}
        content = message.content
        yield {"data": base64.b64encode(content.header.raw + b"\r\n").decode("ascii")}
        async for block in _blocks(content.body):
            yield {"data": base64.b64encode(block).decode("ascii")}

    async def explain(self, args: Mapping[str, Any]) -> AsyncIterator[Row]:
        """args: id. One row: `why.Facts` as a dict."""
        queue_id = args["id"]
        entry = await self._store.get(queue_id)
        if entry is None:
            raise ControlError(65, _gone(queue_id))
        header = (await self._store.headers([queue_id])).get(queue_id, b"")
        deliverer = self._deliverer
        facts = why.Facts(
            queue_id=queue_id,
            queue=entry.queue,
            arrival=entry.arrival,
            size=entry.size,
            sender=entry.sender,
            subject=subject_of(header),
            now=time.time(),
            expires=deliverer.deadline(entry),
            next_attempt=entry.next_attempt,
            deleted=entry.deleted,
            restorable=entry.deleted + deliverer.trash_time if entry.deleted else 0.0,
            active_since=deliverer.active_since(queue_id),
            running=deliverer.running,
            recipients=tuple([await self._facts(each) for each in entry.recipients]),
        )
        keys = {
            why.waiting_key(each.address, each.relay, each.waits_for) for each in entry.recipients
        }
        yield asdict(why.with_others(facts, await self._waiting(keys)))

    async def waiting(self, args: Mapping[str, Any]) -> AsyncIterator[Row]:
        """args: keys, pairs as of `why.waiting_key`. One row for each: {"key", "ids"}, the messages
        that wait for it, oldest first."""
        for key, ids in (
            await self._waiting({(kind, name) for kind, name in args["keys"]})
        ).items():
            yield {"key": list(key), "ids": ids}

    async def audit(self, args: Mapping[str, Any]) -> AsyncIterator[Row]:
        """args: since, seconds since the epoch. One row: an Audit as a dict."""
        yield asdict(await self._store.audit(args["since"]))

    async def check(self, args: Mapping[str, Any]) -> AsyncIterator[Row]:
        """One row: a Checked as a dict."""
        yield asdict(await self._store.check())

    async def sweep(self, args: Mapping[str, Any]) -> AsyncIterator[Row]:
        """One row: a Swept as a dict."""
        yield asdict(await self._store.sweep())

    async def _facts(self, recipient: RecipientEntry) -> why.RecipientFacts:
        route = await self._deliverer.route(recipient.address)
        host = why.HostState()
        if route is not None:
            host = self._deliverer.host_state(route, recipient.address)
        return why.RecipientFacts(
            **recipient._asdict(),
            transport=route.transport if route is not None else "",
            nexthop=route.nexthop if route is not None else "",
            host=host,
        )

    async def stats(self, args: Mapping[str, Any]) -> AsyncIterator[Row]:
        """One row: how many messages are in which queue."""
        yield asdict(await self._store.stats())

    async def _waiting(self, wanted: Set[tuple[str, str]]) -> dict[tuple[str, str], list[str]]:
        """Which messages wait for these hosts."""
        waiting: dict[tuple[str, str], list[str]] = {key: [] for key in wanted}
        async for entry in self._store.walk("deferred"):
            keys = {
                why.waiting_key(each.address, each.relay, each.waits_for)
                for each in entry.recipients
            }
            for key in keys & waiting.keys():
                waiting[key].append(entry.queue_id)
        return waiting


_WHERE = {
    "hold": "on hold: release it first (resel-queue -H)",
    "corrupt": "damaged, and cannot be delivered",
    "trash": "deleted: bring it back first (resel-queue --undelete)",
}


def _gone(queue_id: str) -> str:
    return (
        f"no message {queue_id} in the queue: delivered, bounced or deleted, or never there; "
        f"the log tells: grep {queue_id}"
    )


async def _in_rows(entries: AsyncIterator[Entry]) -> AsyncIterator[Row]:
    """Many in a row, as long as they are small."""
    found: list[Entry] = []
    recipients = 0
    async for entry in entries:
        found.append(entry)
        recipients += len(entry.recipients)
        if len(found) == BATCH or recipients >= 5 * BATCH:
            yield {"entries": found}
            found, recipients = [], 0
    if found:
        yield {"entries": found}


async def _blocks(body: Body) -> AsyncIterator[bytes]:
    offset = 0
    while True:
        if body.in_memory:
            block = body.read(offset, BLOCK)
        else:
            block = await asyncio.to_thread(body.read, offset, BLOCK)
        if not block:
            return
        offset += len(block)
        yield block


def _explaining(verb: Verb) -> Verb:
    """The queue's own temporary failures (disk full, I/O error) are for the asker to read."""

    async def explained(args: Mapping[str, Any]) -> AsyncIterator[Row]:
        try:
            async for row in verb(args):
                yield row
        except TempFail as failure:
            raise ControlError(75, f"the queue failed for now: {failure.reply.text}") from failure

    return explained
