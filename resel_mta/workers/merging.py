"""One queue out of its parts: what commands ask is asked of each part, and the answers are put
together.

The parts may be in this process or in workers, reached over their admin sockets; in a command
that works while no daemon runs all are in its own process.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import asdict
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

from resel_mta.control import ControlError, NotRunning, Row, Verb, WentAway, ask
from resel_mta.queue import audit, why
from resel_mta.queue.door import Entry
from resel_mta.queue.ids import part_of, time_of

Table = Mapping[str, Verb]
"""`verbs.QueueVerbs.table` of one part."""

#: Seconds for which a part is waited for that nobody has open at the moment, or that goes from one
#: process to another, and between two looks.
_PATIENCE = 30.0
_LOOK_EVERY = 0.05

#: Where the arrival stands in an entry.
_ARRIVAL = Entry._fields.index("arrival")
_VERBS = (
    "walk", "flush", "change", "show", "why", "audit", "check", "sweep", "waiting", "stats",
)  # fmt: skip


def remote_table(path: Path) -> Table:
    """The verbs of a worker's part, by its admin socket."""
    names = [f"queue.{name}" for name in _VERBS]
    return {name: partial(ask, path, name) for name in names}


class MergedQueue:
    """parts: gives the verbs of each part, by number, as things are now; part 0 is always there."""

    def __init__(self, parts: Callable[[], Mapping[int, Table]]) -> None:
        self._parts = parts

    def table(self) -> dict[str, Verb]:
        """The verbs of `verbs.QueueVerbs`, over all parts."""
        return {
            "queue.walk": self.walk,
            "queue.flush": self.flush,
            "queue.change": self.change,
            "queue.show": self.show,
            "queue.why": self.explain,
            "queue.audit": self.audit,
            "queue.check": partial(self._sum, "queue.check"),
            "queue.sweep": partial(self._sum, "queue.sweep"),
            "queue.stats": partial(self._sum, "queue.stats"),
        }

    async def walk(self, args: Mapping[str, Any]) -> AsyncIterator[Row]:
        """By arrival."""
        async with AsyncExitStack() as stack:
            blocks: dict[int, list[Any]] = {}
            rest = {
                part: await stack.enter_async_context(aclosing(self._ask(part, "queue.walk", args)))
                for part in sorted(self._parts())
            }
            while True:
                for part in [part for part in rest if not blocks.get(part)]:
                    row = await anext(rest[part], None)
                    if row is not None:
                        blocks[part] = sorted(row["entries"], key=itemgetter(_ARRIVAL))
                    else:
                        del rest[part]
                        blocks.pop(part, None)
                if not blocks:
                    return
                # Up to here, no part can have another one in between.
                end = min(block[-1][_ARRIVAL] for block in blocks.values())
                found: list[Any] = []
                for part, block in blocks.items():
                    cut = bisect_right(block, end, key=itemgetter(_ARRIVAL))
                    found += block[:cut]
                    blocks[part] = block[cut:]
                found.sort(key=itemgetter(_ARRIVAL))
                yield {"entries": found}

    async def flush(self, args: Mapping[str, Any]) -> AsyncIterator[Row]:
        chosen = args.get("id")
        parts = sorted(self._parts()) if chosen is None else [self._holder(chosen)]
        yield {
            "count": sum(
                [
                    row["count"]
                    for part in parts
                    async for row in self._ask(part, "queue.flush", args)
                ]
            )
        }

    async def change(self, args: Mapping[str, Any]) -> AsyncIterator[Row]:
        for part, some in self._by_part(args):
            async for row in self._ask(part, "queue.change", some):
                yield row

    def _by_part(self, args: Mapping[str, Any]) -> Iterable[tuple[int, Mapping[str, Any]]]:
        """What each part is asked: all, or what it can have of the ids."""
        ids = args.get("ids")
        if ids is None:
            return [(part, args) for part in sorted(self._parts())]
        held: dict[int, list[str]] = {}
        for queue_id in ids:
            held.setdefault(self._holder(queue_id), []).append(queue_id)
        # Part 0 says what is wrong with the request, if something is.
        return [(part, {**args, "ids": held[part]}) for part in sorted(held)] or [(0, args)]

    async def show(self, args: Mapping[str, Any]) -> AsyncIterator[Row]:
        async for row in self._ask(self._holder(args["id"]), "queue.show", args):
            yield row

    async def explain(self, args: Mapping[str, Any]) -> AsyncIterator[Row]:
        holder = self._holder(args["id"])
        (row,) = [row async for row in self._ask(holder, "queue.why", args)]
        facts = why.facts_from_row(row)
        others = [part for part in self._parts() if part != holder]
        if others:
            waiting = {
                why.waiting_key(each.address, each.relay, each.waits_for): list(each.others)
                for each in facts.recipients
            }
            request = {"keys": [list(key) for key in waiting]}
            for part in others:
                async for found in self._ask(part, "queue.waiting", request):
                    waiting[(found["key"][0], found["key"][1])] += found["ids"]
            for ids in waiting.values():
                ids.sort(key=time_of)
            facts = why.with_others(facts, waiting)
        yield asdict(facts)

    async def audit(self, args: Mapping[str, Any]) -> AsyncIterator[Row]:
        rows = await self._of_all("queue.audit", args)
        yield asdict(audit.merged([audit.audit_from_row(row) for row in rows]))

    async def _sum(self, verb: str, args: Mapping[str, Any]) -> AsyncIterator[Row]:
        """One row of all parts': numbers are added, lists go one behind the other."""
        first, *others = await self._of_all(verb, args)
        yield {name: sum((row[name] for row in others), value) for name, value in first.items()}

    async def _of_all(self, verb: str, args: Mapping[str, Any]) -> list[Row]:
        return [row for part in sorted(self._parts()) for row in await self._rows(part, verb, args)]

    async def _rows(self, part: int, verb: str, args: Mapping[str, Any]) -> list[Row]:
        """All of an answer that may be asked for twice."""
        try:
            return [row async for row in self._ask(part, verb, args)]
        except WentAway:
            return [row async for row in self._ask(part, verb, args)]

    def _holder(self, queue_id: str) -> int:
        """The part that a message is in, if it is in one."""
        part = part_of(queue_id)
        return part if part in self._parts() else 0

    async def _ask(
        self, part: int, verb: str, args: Mapping[str, Any]
    ) -> AsyncGenerator[Row, None]:
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                async for row in self._parts()[part][verb](args):
                    yield row
                return
            except NotRunning:
                if time.monotonic() > until:
                    text = f"part {part} of the queue is not open; the daemon's log says why"
                    raise ControlError(75, text) from None
                await asyncio.sleep(_LOOK_EVERY)
