"""What commands ask of the queue, over the admin socket or, with the daemon down, in their own process.

Each verb is an async generator over rows that survive JSON. `QueueVerbs` is the same object on
both sides: with a scheduler in the daemon, without one in a command that took the queue's lock.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any, Protocol

from resel_mta.content import Body
from resel_mta.control import ControlError, Row, Verb
from resel_mta.mail import TempFail
from resel_mta.queue.door import Entry, QueueStore, RecipientEntry

BLOCK = 256 * 1024


class Flusher(Protocol):
    """What the verbs need of the scheduler."""

    async def flush(self, queue_id: str | None = None, site: str | None = None) -> int:
        """Try deferred mail now: all, one message, or what waits for one domain. How many."""
        ...


def entry_from_row(row: Mapping[str, Any]) -> Entry:
    """The Entry that `queue.walk` sent as a row."""
    recipients = tuple(RecipientEntry(**recipient) for recipient in row["recipients"])
    return Entry(**{**row, "recipients": recipients})


class QueueVerbs:
    """Queue verbs by name: see `table`."""

    def __init__(self, store: QueueStore, flusher: Flusher | None) -> None:
        self._store = store
        self._flusher = flusher

    def table(self) -> dict[str, Verb]:
        verbs: dict[str, Callable[[Mapping[str, Any]], AsyncIterator[Row]]] = {
            "queue.walk": self.walk,
            "queue.flush": self.flush,
            "queue.change": self.change,
            "queue.show": self.show,
        }
        return {name: _explaining(verb) for name, verb in verbs.items()}

    async def walk(self, args: Mapping[str, Any]) -> AsyncIterator[Row]:
        """args: queue, one queue's name or nothing. Rows: Entry as a dict, by arrival."""
        async for entry in self._store.walk(args.get("queue")):
            yield asdict(entry)

    async def flush(self, args: Mapping[str, Any]) -> AsyncIterator[Row]:
        """args: id or site, or neither for all. One row: {"count": n}."""
        if self._flusher is None:
            raise ControlError(
                69,
                "the mail system is down: nothing can be flushed; it will be tried at the next start",
            )
        queue_id, site = args.get("id"), args.get("site")
        if queue_id is not None and await self._store.get(queue_id) is None:
            raise ControlError(65, f"no message {queue_id} in the queue")
        yield {"count": await self._flusher.flush(queue_id=queue_id, site=site)}

    async def change(self, args: Mapping[str, Any]) -> AsyncIterator[Row]:
        """args: action (delete, hold, release, requeue), ids (None: all), queue (None: any).

        One row per message changed: {"id": …}.
        """
        action, ids, queue = args["action"], args.get("ids"), args.get("queue")
        if queue is not None and action != "delete":
            ids = await self._members(queue, ids)
        changed = await self._apply(action, ids, queue)
        for queue_id in changed:
            yield {"id": queue_id}

    async def _members(self, queue: str, ids: Iterable[str] | None) -> list[str]:
        wanted = None if ids is None else set(ids)
        return [
            entry.queue_id
            async for entry in self._store.walk(queue)
            if wanted is None or entry.queue_id in wanted
        ]

    async def _apply(self, action: str, ids: list[str] | None, queue: str | None) -> list[str]:
        if action == "delete":
            return await self._store.delete(ids, queue=queue)
        if action == "hold":
            return await self._store.hold(ids)
        if action == "release":
            return await self._store.release(ids)
        if action == "requeue":
            return await self._store.requeue(ids)
        raise ControlError(64, f"unknown action '{action}'")

    async def show(self, args: Mapping[str, Any]) -> AsyncIterator[Row]:
        """args: id. First row: the Entry; then {"data": base64} blocks of the message."""
        queue_id = args["id"]
        entry = await self._store.get(queue_id)
        message = await self._store.load(queue_id) if entry is not None else None
        if entry is None or message is None or message.content is None:
            raise ControlError(65, f"no message {queue_id} in the queue")
        yield asdict(entry)
        content = message.content
        yield {"data": base64.b64encode(content.header.raw + b"\r\n").decode("ascii")}
        async for block in _blocks(content.body):
            yield {"data": base64.b64encode(block).decode("ascii")}


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
