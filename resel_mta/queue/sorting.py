"""The recipients of a message by next hop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Protocol

from resel_mta.mail import (
    Bounced,
    Deferred,
    Expanded,
    Message,
    Outcome,
    PermFail,
    Recipient,
    Reply,
    Route,
    Router,
    TempFail,
)
from resel_mta.queue.dispatch import YIELD_AFTER, Dispatcher, Pairs, host_of, internal_error
from resel_mta.queue.journal import Journal
from resel_mta.queue.sites import Active, Run

RunKey = tuple[str, Route, str | None]
"""Name of a next hop, route, reverse-path."""
_EXPANDED = Reply(250, "2.0.0", "alias expanded")


class KnowingRouter(Router, Protocol):
    """A router that remembers."""

    def known_route(self, address: str) -> Route | None:
        """What `route` would give for an address without `via`; None if it has to be asked."""
        ...


class Bound:
    """Tells recipients that go to a host: in that domain, or by that next hop.

    A large queue waits for few domains: each is routed once, where one look-up does for all."""

    def __init__(self, router: KnowingRouter, host: str) -> None:
        """host: as `host_of` has it."""
        self._router = router
        self._host = host
        self._domains = {host: True}

    async def has_one_of(self, addresses: Iterable[str]) -> bool:
        for address in addresses:
            domain = address.rpartition("@")[2].lower()
            known = self._domains.get(domain)
            if await self._goes_there(address, domain) if known is None else known:
                return True
        return False

    async def _goes_there(self, address: str, domain: str) -> bool:
        try:
            route = await self._router.route(address)
        except (TempFail, PermFail):
            return False
        found = host_of(route.nexthop) == self._host
        if route.alike:
            self._domains[domain] = found
        return found


class Sorter:
    """Asks the router, for the `Scheduler`."""

    def __init__(self, router: KnowingRouter, dispatcher: Dispatcher, journal: Journal) -> None:
        self._router = router
        self._dispatcher = dispatcher
        self._journal = journal

    def at_once(self, active: Active) -> tuple[str, Run] | None:
        """The next hop of the usual message, which has one recipient in a domain that had mail
        lately. None: `sort` has to be asked."""
        message = active.message
        if len(message.recipients) != 1 or message.expires < 0 or active.unkept is not None:
            return None
        recipient = message.recipients[0]
        if recipient.via or recipient.reverse_path is not None:
            return None
        route = self._router.known_route(recipient.address)
        if route is None or not self._dispatcher.knows(route.transport):
            return None
        key = self._dispatcher.site_key(route, recipient)
        return key, Run(active, route, None, deque((recipient,)))

    async def sort(self, active: Active) -> tuple[dict[RunKey, Run], Pairs, Pairs]:
        """The recipients by next hop, the outcomes of those that have none, and of those that are
        only there for an answer."""
        message = active.message
        runs: dict[RunKey, Run] = {}
        settled: Pairs = []
        answered: Pairs = []
        run: Run | None = None
        domain = ""
        for count, recipient in enumerate(message.recipients, 1):
            plain = not recipient.via and recipient.reverse_path is None
            if run and domain and plain and recipient.address.endswith(domain):
                run.recipients.append(recipient)
                continue
            if recipient.via and (action := recipient.answer):
                answered.append((recipient, Expanded(_EXPANDED, action=action)))
                continue
            route = await self._route_one(message, recipient)
            if not isinstance(route, Route):
                settled.append((recipient, route))
            else:
                key = (self._dispatcher.site_key(route, recipient), route, recipient.reverse_path)
                run = runs.setdefault(key, Run(active, route, recipient.reverse_path))
                run.recipients.append(recipient)
                domain = self._same_way(route, recipient) if plain else ""
            if not count % YIELD_AFTER:
                await asyncio.sleep(0)
        return runs, settled, answered

    def _same_way(self, route: Route, recipient: Recipient) -> str:
        """How the addresses end that go where this one goes; "" if it may go alone."""
        together = route.alike and self._dispatcher.shares_site(route)
        return "@" + recipient.address.rpartition("@")[2] if together else ""

    async def _route_one(self, message: Message, recipient: Recipient) -> Route | Outcome:
        own = recipient.reverse_path
        sender = message.envelope.reverse_path if own is None else own
        try:
            route = await self._router.route(recipient.address, sender, recipient.via)
        except TempFail as failure:
            if failure.why:
                self._journal.warning(failure.why, message.queue_id)
            return Deferred(failure.reply)
        except PermFail as failure:
            return Bounced(failure.reply)
        except Exception as error:
            what = f"routing of <{recipient.address}>"
            return Deferred(internal_error(self._journal.exception(what, message.queue_id, error)))
        if not self._dispatcher.knows(route.transport):
            self._journal.warning(f"unknown mail transport: {route.transport}", message.queue_id)
            return Deferred(Reply(451, "4.3.5", "mail transport unavailable"))
        return route
