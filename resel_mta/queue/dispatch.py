"""Has batches delivered, as many at a time as each next hop and transport bears."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

from resel_mta.mail import (
    Deferred,
    Message,
    Outcome,
    Recipient,
    Reply,
    Route,
    TempFail,
    Transport,
)
from resel_mta.queue.door import QueueStore
from resel_mta.queue.journal import Journal
from resel_mta.queue.peers import Peers
from resel_mta.queue.retry import Policy
from resel_mta.queue.sites import Active, Batch, Lane, Run, Site, Turn
from resel_mta.queue.why import HostState

Pairs = list[tuple[Recipient, Outcome]]
Settle = Callable[[Active, Pairs, str, float, str], None]
"""(message, outcomes, service for the log, when it began, site that they wait for or "")."""

KEPT_LIMIT = 64 * 1024 * 1024
"""Octets of content that active messages keep in memory, in all processes together; beyond, it is
read when needed."""
YIELD_AFTER = 100
"""Outcomes handled before other tasks get their turn."""


def internal_error(reference: str) -> Reply:
    """What is said of a failure that nobody foresaw."""
    return Reply(451, "4.3.0", f"Error: internal error (reference {reference})")


class Dispatcher:
    """settle: takes the outcomes of each delivery. may_begin: False while nothing may start."""

    def __init__(
        self,
        policy: Policy,
        store: QueueStore,
        transports: Mapping[str, Transport],
        journal: Journal,
        settle: Settle,
        may_begin: Callable[[], bool],
        peers: Peers,
    ) -> None:
        self._policy = policy
        self._peers = peers
        self._store = store
        self._transports = transports
        self._journal = journal
        self._settle = settle
        self._may_begin = may_begin
        self._lanes: dict[str, Lane] = {}
        self._kept = 0
        self.tasks: set[asyncio.Task[None]] = set()
        peers.listen(self)

    def knows(self, transport: str) -> bool:
        return transport in self._transports

    def reconfigure(self, policy: Policy) -> None:
        self._policy = policy
        self.shares_changed()

    # peers.Listener

    def shares_changed(self) -> None:
        for name, lane in self._lanes.items():
            lane.limit = self._peers.share(self._policy.process_limit)
            lane.limits = limits = self._policy.limits(name)
            for site in lane.sites.values():
                site.limit = self._peers.share(limits.concurrency)
                if site.turn in (Turn.FREE, Turn.NONE):
                    site.turn = self._first_turn(name)
                self._want_turn(lane, site)
                lane.ready(site)
        self.pump_all()

    def told_down(self, site: str, until: float, outcome: Outcome) -> None:
        transport = site.partition(":")[0]
        if not self.knows(transport):
            return
        lane, found = self._site(transport, site, probe=True)
        found.found_down(outcome, time.time(), until)
        if dropped := found.drop_all():
            self._spawn(self._suspend_all(found, dropped))
        self._give_up_turn(lane, found)

    def told_up(self, site: str) -> None:
        lane = self._lanes.get(site.partition(":")[0])
        found = lane.sites.get(site) if lane is not None else None
        if lane is not None and found is not None and found.dead_until:
            found.revive()
            found.backlog = False
            found.failed_at = 0.0
            lane.forget_idle(found)
        self._spawn(self._wake_backlog(site))

    @property
    def room(self) -> int:
        """Octets of content that may still be kept in memory."""
        return max(self._peers.share(KEPT_LIMIT) - self._kept, 0)

    def keep(self, active: Active) -> None:
        """Account for content in memory; drop it if there is too much, and the store has it."""
        weight = active.weight()
        if weight > self.room and active.unkept is None:
            active.message.content = None
        else:
            active.kept = weight
            self._kept += weight

    def forget(self, active: Active) -> None:
        self._kept -= active.kept
        active.kept = 0

    def site_key(self, route: Route, recipient: Recipient) -> str:
        """The name of a next hop. Where each recipient is delivered alone (local mailboxes),
        it is the recipient, as in Postfix."""
        if self.shares_site(route):
            return f"{route.transport}:{route.nexthop}"
        return f"{route.transport}:{recipient.address}"

    def shares_site(self, route: Route) -> bool:
        """Whether all recipients with this route have one next hop."""
        return self._policy.limits(route.transport).recipients != 1

    def host_state(self, route: Route, address: str) -> HostState:
        """How things stand with a next hop, for people."""
        limit = self._policy.limits(route.transport).concurrency
        lane = self._lanes.get(route.transport)
        site = lane.sites.get(self.site_key(route, Recipient(address))) if lane else None
        if site is None:
            return HostState(limit=limit)
        return HostState(
            site.dead_until,
            site.in_flight,
            site.window,
            sum(len(run.recipients) for run in site.runs),
        )

    def enqueue(self, key: str, run: Run) -> Lane | None:
        """Put recipients in line. None: the next hop is dead, and they were settled at once."""
        lane, site = self._site(run.route.transport, key, run.active.waited)
        if site.is_dead(time.time()):
            self._suspend(site, [run])
            return None
        site.runs.append(run)
        if site.turn is Turn.NONE:
            self._want_turn(lane, site)
        lane.ready(site)
        return lane

    def _site(self, transport: str, key: str, probe: bool) -> tuple[Lane, Site]:
        lane = self._lanes.get(transport)
        if lane is None:
            lane = self._lanes[transport] = Lane(
                self._transports[transport],
                self._peers.share(self._policy.process_limit),
                self._policy.limits(transport),
            )
        site = lane.sites.get(key)
        if site is None:
            limits = self._policy.limits(transport)
            limit = self._peers.share(limits.concurrency)
            site = lane.sites[key] = Site(key, limits.initial, limit)
            site.turn = self._first_turn(transport)
            if probe:
                site.window = 1
        return lane, site

    # Turns.

    def _first_turn(self, transport: str) -> Turn:
        limits = self._policy.limits(transport)
        by_turns = self._peers.take_turns(limits.concurrency, limits.rate_delay)
        return Turn.NONE if by_turns else Turn.FREE

    def _want_turn(self, lane: Lane, site: Site) -> None:
        if site.turn is not Turn.NONE or not site.runs:
            return
        site.turn = Turn.ASKED
        limits = self._policy.limits(lane.transport.name)

        def granted() -> None:
            site.turn = Turn.OURS
            lane.ready(site)
            self.pump(lane)
            self._give_up_turn(lane, site)
            lane.forget_idle(site)

        self._peers.want_turn(site.key, limits.concurrency, limits.rate_delay, granted)

    def _give_up_turn(self, lane: Lane, site: Site) -> None:
        """What it was wanted for may have gone meanwhile."""
        if site.turn is Turn.OURS and not (site.runs or site.in_flight):
            self._end_turn(lane, site, used=False)

    def _end_turn(self, lane: Lane, site: Site, *, used: bool) -> None:
        site.turn = self._first_turn(lane.transport.name)
        self._peers.end_turn(site.key, used=used)
        self._want_turn(lane, site)

    def pump_all(self) -> None:
        for lane in self._lanes.values():
            self.pump(lane)

    def pump(self, lane: Lane) -> None:
        """Begin what can begin."""
        while (batch := self._begin(lane)) is not None:
            self._spawn(self._work(lane, batch))

    async def work(self, lane: Lane) -> None:
        """Begin what can begin; the first of it in this task, which saves the usual message one."""
        batch = self._begin(lane)
        if batch is not None:
            self.pump(lane)
            await self._work(lane, batch)

    def _begin(self, lane: Lane) -> Batch | None:
        if not lane.line or not self._may_begin():
            return None
        site = lane.next_site()
        if site is None:
            return None
        batch = site.take(lane.limits.recipients)
        lane.begin(site)
        return batch

    async def _work(self, lane: Lane, first: Batch) -> None:
        """Deliver as long as there is something; what can be begun beside it gets its own task."""
        batch = first
        for count in itertools.count(1):
            await self._deliver(lane, batch)
            if not count % YIELD_AFTER:
                await asyncio.sleep(0)
            following = self._begin(lane)
            if following is None:
                return
            batch = following
            self.pump(lane)

    async def _deliver(self, lane: Lane, batch: Batch) -> None:
        started = time.time()
        try:
            outcomes = await self._attempt(lane.transport, batch)
            waits_for = self._feedback(batch.site, outcomes)
        finally:
            self._end(lane, batch.site)
        self._settle(batch.active, outcomes, lane.transport.log_name, started, waits_for)
        lane.forget_idle(batch.site)

    def _end(self, lane: Lane, site: Site) -> None:
        delay = lane.limits.rate_delay
        if site.turn is Turn.OURS:
            lane.end(site)
            self._end_turn(lane, site, used=True)
            return
        lane.end(site, paused=delay > 0)
        if delay:
            asyncio.get_running_loop().call_later(delay, self._resume, lane, site)

    def _resume(self, lane: Lane, site: Site) -> None:
        lane.resume(site)
        lane.forget_idle(site)
        self.pump(lane)

    async def _attempt(self, transport: Transport, batch: Batch) -> Pairs:
        """One outcome for each recipient, whatever the transport does."""
        message, recipients = batch.active.message, batch.recipients
        try:
            if message.content is None:
                message.content = await self._store.content(message)
                self._keep_loaded(batch.active)
            outcomes = await transport.deliver(message, recipients, batch.route)
        except TempFail as failure:
            return [(recipient, Deferred(failure.reply)) for recipient in recipients]
        except Exception as error:
            return self._unknown(transport, message, recipients, error)
        for recipient in recipients:
            if recipient not in outcomes:
                missing = [each for each in recipients if each not in outcomes]
                gap = KeyError(f"no outcome for <{recipient.address}>")
                return [*outcomes.items(), *self._unknown(transport, message, missing, gap)]
        return list(outcomes.items())

    def _keep_loaded(self, active: Active) -> None:
        """Content that was read stays for the message's other deliveries, if there is room."""
        weight = active.weight()
        if weight <= self.room:
            active.kept += weight
            self._kept += weight

    def _unknown(
        self,
        transport: Transport,
        message: Message,
        recipients: Iterable[Recipient],
        error: Exception,
    ) -> Pairs:
        """Rule 5: it defers, never bounces."""
        what = f"delivery by {transport.name}"
        reply = internal_error(self._journal.exception(what, message.queue_id, error))
        return [(recipient, Deferred(reply)) for recipient in recipients]

    def _feedback(self, site: Site, outcomes: Pairs) -> str:
        """Adjust the site's window; the site's key if they all failed because of it."""
        first = outcomes[0][1]
        down = isinstance(first, Deferred) and all(
            isinstance(o, Deferred) and o.host_down for _, o in outcomes
        )
        if not down:
            if site.failed_at:
                self._peers.tell_up(site.key)
            tried = [1 for recipient, _ in outcomes if recipient.attempts or recipient.waited]
            if site.succeeded(tried_before=bool(tried)):
                self._spawn(self._wake_backlog(site.key))
            return ""
        if site.failed(first, time.time(), self._policy.minimal_backoff):
            # Taken out at once, so that none of it is begun before it is their turn.
            self._spawn(self._suspend_all(site, site.drop_all()))
            self._peers.tell_down(site.key, site.dead_until, first)
        return site.key

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if task.cancelled() or task.exception() is not None:
            self._journal.task_ended(task)

    async def _wake_backlog(self, key: str) -> None:
        """A next hop is back: what was put off because of it is due."""
        try:
            await self._store.wake_waiting(key)
        except TempFail as failure:
            # It is tried all the same, each message at its own time.
            self._journal.warning(f"backlog of {key} not woken: {failure.reply}")

    async def _suspend_all(self, site: Site, runs: Iterable[Run]) -> None:
        """A next hop died: nothing that waits for it in memory is tried."""
        for count, run in enumerate(runs, 1):
            self._suspend(site, [run])
            if not count % YIELD_AFTER:
                await asyncio.sleep(0)

    def _suspend(self, site: Site, runs: Iterable[Run]) -> None:
        outcome = site.suspension()
        now = time.time()
        for run in runs:
            pairs: Pairs = [(recipient, outcome) for recipient in run.recipients]
            self._settle(run.active, pairs, "error", now, site.key)

    def drop_withdrawn(self) -> None:
        """Begin nothing more for withdrawn messages."""
        for lane in self._lanes.values():
            for site in list(lane.sites.values()):
                for run in site.drop_withdrawn():
                    run.active.waiting -= len(run.recipients)
                self._give_up_turn(lane, site)
                lane.forget_idle(site)

    def revive(self, host: str | None = None) -> None:
        """Forget that next hops are dead: all, or those of one host or domain."""
        for lane in self._lanes.values():
            for site in list(lane.sites.values()):
                nexthop = site.key.partition(":")[2]
                if site.dead_until and (host is None or host_of(nexthop) == host):
                    site.revive()
                    lane.forget_idle(site)

    def forget_old(self) -> None:
        """Drop what is known of next hops that were dead long ago."""
        before = time.time() - self._policy.maximal_backoff
        for lane in self._lanes.values():
            lane.forget_old(before)


def host_of(nexthop: str) -> str:
    """The host or domain of a next hop, without brackets and port, in lower case."""
    if nexthop.startswith("["):
        return nexthop[1:].partition("]")[0].lower()
    return nexthop.partition(":")[0].lower()
