"""The scheduler: claims due messages, routes their recipients, and has them delivered.

A message goes from `_activate` (claimed) over the `Sorter` (each recipient to a next hop) and the
`Dispatcher` (deliveries) to the `Settler` (outcomes), and is `_settled` when those are recorded.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from resel_mta.config import Settings
from resel_mta.mail import (
    Intake,
    Message,
    PermFail,
    Route,
    TempFail,
    Transport,
)
from resel_mta.maillog import MailLog
from resel_mta.queue.carrying import Carrier, may_be_carried
from resel_mta.queue.dispatch import Dispatcher, host_of
from resel_mta.queue.door import Entry, QueueStore
from resel_mta.queue.feeder import LEASE, Feeder
from resel_mta.queue.journal import Journal
from resel_mta.queue.notices import Notices
from resel_mta.queue.peers import Alone, Peers
from resel_mta.queue.retry import Policy
from resel_mta.queue.settling import Settler
from resel_mta.queue.sites import Active, Unkept
from resel_mta.queue.sorting import Bound, KnowingRouter, Sorter
from resel_mta.queue.why import HostState, marks

FRESH_SHARE = 5
"""One in so many places of the active window is for mail that goes from its arrival straight to
its delivery, so that no backlog, however large, is in its way."""


class Scheduler:
    """Implements `door.Watcher`. Call `start`, and `stop` at the end."""

    running = True

    def __init__(
        self,
        settings: Settings,
        store: QueueStore,
        router: KnowingRouter,
        transports: Mapping[str, Transport],
        intake: Intake,
        log: MailLog,
        peers: Peers | None = None,
    ) -> None:
        """peers: other schedulers that deliver from other parts of the queue."""
        self._peers = peers or Alone()
        self._store = store
        self._router = router
        self._policy = Policy(settings)
        self._journal = journal = Journal(log)
        self._notices = Notices(settings, intake, journal)
        self.owner = f"{socket.gethostname()}/{os.getpid()}/{time.time_ns():x}"
        self._settler = Settler(
            self._policy, store, self.owner, journal, self._notices, self._recovered, self._settled
        )
        self._carrier = Carrier(
            store, self.owner, journal, self._settler, self._carried, self._drop, self._settled
        )
        self._feeder = Feeder(store, self.owner, journal, self._room, self._claimed)
        self._dispatcher = Dispatcher(
            self._policy,
            store,
            transports,
            journal,
            self._settler.settle,
            self._may_begin,
            self._peers,
        )
        self._sorter = Sorter(router, self._dispatcher, journal)
        self._active: dict[str, Active] = {}
        self._admitted = 0
        # Of the active ones, those that come from the store.
        self._waited = 0
        self._stopping = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begin: everything due is tried, and whether next hops that were down are back."""
        try:
            await self._store.renew(self.owner, LEASE)
            await self._store.wake_probes()
        except TempFail as failure:
            # A full disk: the feeder goes on asking.
            self._journal.warning(f"queue: {failure.reply}")
        self._store.watch(self)
        self._feeder.start(self._policy.queue_run_delay)

    def reconfigure(self, settings: Settings) -> None:
        """Use other parameters from now on; deliveries under way are not touched."""
        self._policy = Policy(settings)
        self._notices.reconfigure(settings)
        self._settler.reconfigure(self._policy)
        self._dispatcher.reconfigure(self._policy)
        self._feeder.queue_run_delay = self._policy.queue_run_delay
        self._feeder.wake()

    async def stop(self, timeout: float) -> None:
        """Begin nothing more; deliveries under way finish within `timeout` seconds or are
        broken off. What is not done stays queued."""
        self._stopping = True
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        await self._feeder.stop()
        for active in self._active.values():
            if active.unkept is not None:
                active.unkept.changed.set()
        while running := self._running:
            _, late = await asyncio.wait(running, timeout=max(deadline - loop.time(), 0.0))
            if late:
                for task in late:
                    task.cancel()
                await asyncio.wait(late)
        for active in list(self._active.values()):
            if active.unkept is None and not active.finishing and (active.failed or active.retries):
                active.waiting = 0
                self._settler.finish(active, [])
        self._peers.leave()
        if self._settler.tasks:
            await asyncio.wait(self._settler.tasks, timeout=1.0)
        if not await self._settler.recorder.drain(max(deadline - loop.time(), 1.0)):
            self._journal.warning("stopping with outcomes that could not be recorded")
        try:
            await self._store.unclaim(self.owner)
        except TempFail as failure:
            # The next start undoes the claims of a dead owner.
            self._journal.warning(f"claims not given back: {failure.reply}")

    @property
    def active(self) -> int:
        """Messages in the active queue."""
        return len(self._active)

    # door.Watcher

    def admit(self, message: Message) -> str | None:
        if not self._has_room_for_fresh:
            return None
        self._admitted += 1
        return self.owner

    @property
    def _has_room_for_fresh(self) -> bool:
        fresh = len(self._active) - self._waited + self._admitted
        return not self._stopping and fresh < self._policy.active_limit // FRESH_SHARE

    def entered(self, message: Message) -> None:
        self._admitted -= 1
        message.whole = True
        if not self._stopping:
            self._activate(message)

    def refused(self, message: Message) -> None:
        self._admitted -= 1

    def arrived(self) -> None:
        self._feeder.wake()

    def withdrawn(self, queue_ids: Sequence[str]) -> None:
        touched = [self._active[name] for name in queue_ids if name in self._active]
        for active in touched:
            active.withdrawn = True
        if touched:
            self._dispatcher.drop_withdrawn()
        for active in touched:
            if active.routed and not active.waiting:
                self._settler.finish(active, [])

    def restored(self, claimed: Sequence[str]) -> None:
        self._spawn(self._give_back_others(claimed))

    async def _give_back_others(self, claimed: Sequence[str]) -> None:
        """What the store says is ours, and is not being delivered: nobody else would."""
        # What was claimed just before is on its way here.
        await asyncio.sleep(1.0)
        try:
            await self._store.unclaim(
                self.owner, [name for name in claimed if name not in self._active]
            )
        except TempFail as failure:
            self._journal.warning(f"claims not given back: {failure.reply}")

    # door.Courier

    async def carry(self, message: Message) -> None:
        if may_be_carried(message) and self._has_room_for_fresh and self._may_begin():
            await self._carrier.carry(message)
        else:
            await self._store.enter(message)

    def _carried(self, message: Message, unkept: Unkept) -> Active:
        return self._activate(message, unkept=unkept)

    def _drop(self) -> None:
        self._dispatcher.drop_withdrawn()

    # Administration.

    async def flush(self, queue_id: str | None = None, site: str | None = None) -> int:
        """Try deferred mail now: all, one message, or what waits for one domain or next hop.
        How many messages."""
        chosen: list[str] | None = None
        if queue_id is not None:
            chosen = [queue_id]
        elif site is not None:
            chosen = await self._waiting_for(host_of(site))
        self._dispatcher.revive(None if site is None else host_of(site))
        return await self._store.wake(chosen)

    async def route(self, address: str) -> Route | None:
        """Where a recipient that has been expanded goes; None if that cannot be told now."""
        via = marks(address)
        if not via and (known := self._router.known_route(address)) is not None:
            return known
        try:
            return await self._router.route(address, via=via)
        except (TempFail, PermFail):
            return None

    def host_state(self, route: Route, address: str) -> HostState:
        """What is known of the next hop."""
        return self._dispatcher.host_state(route, address)

    def deadline(self, entry: Entry) -> float:
        """When a message is given up."""
        return self._policy.deadline(entry.arrival, entry.sender, entry.expires)

    def active_since(self, queue_id: str) -> float:
        """When its delivery began; 0 for a message that is not active."""
        active = self._active.get(queue_id)
        return active.activated if active is not None else 0.0

    @property
    def trash_time(self) -> float:
        """Seconds for which deleted mail can be brought back; 0: not at all."""
        return self._policy.trash_time

    def revive(self) -> None:
        """Next hops that count as down are tried at once."""
        self._dispatcher.revive()

    async def _waiting_for(self, host: str) -> list[str]:
        """Deferred messages with a recipient in the domain, or routed to the next hop."""
        bound = Bound(self._router, host)
        return [
            entry.queue_id
            async for entry in self._store.walk("deferred")
            if await bound.has_one_of(each.address for each in entry.recipients)
        ]

    # From claimed to recorded.

    def _room(self) -> tuple[int, int]:
        limit = self._policy.active_limit
        return limit - limit // FRESH_SHARE - self._waited, self._dispatcher.room

    def _may_begin(self) -> bool:
        return not (self._stopping or self._settler.recorder.failing)

    def _settled(self, active: Active, gone: bool) -> None:
        """The message is nobody's, or no more."""
        queue_id = active.message.queue_id
        if self._active.get(queue_id) is active:
            del self._active[queue_id]
            self._waited -= active.waited
        self._dispatcher.forget(active)
        if self._feeder.behind or not gone:
            self._feeder.wake()

    @property
    def _running(self) -> set[asyncio.Task[None]]:
        return self._tasks | self._carrier.tasks | self._dispatcher.tasks | self._settler.tasks

    def _recovered(self) -> None:
        self._dispatcher.pump_all()
        self._feeder.wake()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._journal.task_ended(task)

    def _claimed(self, messages: list[Message]) -> None:
        self._dispatcher.forget_old()
        for message in messages:
            self._activate(message, waited=True)

    def _activate(
        self, message: Message, *, waited: bool = False, unkept: Unkept | None = None
    ) -> Active:
        active = Active(message, time.time(), len(message.recipients), waited=waited, unkept=unkept)
        replaced = self._active.get(message.queue_id)
        if replaced is not None:
            self._waited -= replaced.waited
        self._waited += waited
        self._active[message.queue_id] = active
        self._dispatcher.keep(active)
        self._journal.active(message)
        found = self._sorter.at_once(active)
        if found is None:
            self._spawn(self._route(active))
            return active
        active.routed = True
        lane = self._dispatcher.enqueue(*found)
        if lane is not None:
            self._dispatcher.pump(lane)
        return active

    async def _route(self, active: Active) -> None:
        """Hand each recipient to its next hop; those that have none get their outcome here."""
        if active.message.expires < 0:
            await self._settler.give_up(active)
            return
        runs, settled, answered = await self._sorter.sort(active)
        active.routed = True
        if active.withdrawn:
            active.waiting = 0
        if answered and not active.withdrawn:
            self._settler.settle(active, answered, "cleanup", time.time(), "")
        if settled or not active.waiting:
            self._settler.settle(active, settled, "error", time.time(), "")
        if active.withdrawn:
            return
        last = None
        for key, run in runs.items():
            lane = self._dispatcher.enqueue(key[0], run)
            if lane is not None and lane is not last:
                if last is not None:
                    self._dispatcher.pump(last)
                last = lane
        if last is not None:
            await self._dispatcher.work(last)
