"""Next hops: how many deliveries run to each at a time, and in what order.

A `Lane` is one transport, a `Site` one of its next hops. Deliveries are picked round-robin over
the sites of a lane, and within a site over the messages that wait for it, one batch of
recipients at a time, so that a message with 10,000 recipients does not delay a single one.

A site's window grows by one with each delivery that uses it up and succeeds, and shrinks by one
with each connection that fails. When a whole window of them failed, the site is dead: its mail
is put off without connecting, until one probe after `minimal_backoff_time` finds it back. A
next hop of which nothing is known gets one probe too, if mail that has waited goes there: after a
restart its backlog follows as the window grows.
"""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from dataclasses import dataclass, field

from resel_mta.content import MemoryBody
from resel_mta.mail import Bounced, Deferred, Message, Outcome, Recipient, Reply, Route, Transport
from resel_mta.queue.door import Retry
from resel_mta.queue.meanings import SUSPENDED
from resel_mta.queue.retry import TransportLimits


class Unkept:
    """What became of a message that is not in the queue (see `carrying`).

    done: recipients that need nothing more. changed: set when all have an outcome, or one failed.
    """

    __slots__ = ("changed", "done")

    def __init__(self) -> None:
        self.done: list[tuple[Recipient, Outcome]] = []
        self.changed = asyncio.Event()

    def note(self, active: Active, done: list[tuple[Recipient, Outcome]]) -> None:
        self.done += done
        if active.waiting <= 0 or active.failed or active.retries:
            self.changed.set()


@dataclass(slots=True, eq=False)
class Active:
    """A claimed message.

    waiting: recipients without an outcome. routed: all of those have their site.
    failed, retries: recorded when all recipients have an outcome, so that there is one bounce.
    withdrawn: held, deleted or requeued from outside: nothing more is begun.
    kept: octets of content that it keeps in memory, as accounted.
    waited: it comes from the store, and not straight from whoever handed it in.
    unkept: it is not in the store, and nothing can be recorded there yet.
    telling: recordings of deliveries, with their notifications, that are under way.
    """

    message: Message
    activated: float
    waiting: int
    routed: bool = False
    finishing: bool = False
    failed: list[tuple[Recipient, Bounced | Deferred]] = field(default_factory=list)
    retries: list[Retry] = field(default_factory=list)
    withdrawn: bool = False
    expired: bool = False
    kept: int = 0
    waited: bool = False
    unkept: Unkept | None = None
    telling: set[asyncio.Task[None]] = field(default_factory=set)

    def weight(self) -> int:
        """Octets that its content takes in memory."""
        content = self.message.content
        if content is None:
            return 0
        body = content.body.size if isinstance(content.body, MemoryBody) else 0
        return len(content.header.raw) + body


@dataclass(slots=True, eq=False)
class Run:
    """Recipients of one message that go to one next hop with one reverse-path."""

    active: Active
    route: Route
    reverse_path: str | None
    recipients: deque[Recipient] = field(default_factory=deque)


@dataclass(slots=True, eq=False)
class Batch:
    """What one delivery takes."""

    site: Site
    active: Active
    route: Route
    recipients: list[Recipient]


class Turn(enum.Enum):
    """FREE: no turns are taken. NONE, ASKED, OURS: it is another's turn, we wait for ours, it is
    ours."""

    FREE = 0
    NONE = 1
    ASKED = 2
    OURS = 3


_USABLE = frozenset((Turn.FREE, Turn.OURS))


class Site:
    """One next hop of one transport."""

    __slots__ = (
        "backlog",
        "dead_until",
        "failed_at",
        "failures",
        "in_flight",
        "initial",
        "key",
        "last_failure",
        "limit",
        "paused",
        "queued",
        "runs",
        "turn",
        "window",
    )

    def __init__(self, key: str, initial: int, limit: int) -> None:
        self.key = key
        self.limit = limit
        self.initial = min(initial, limit) if limit else initial
        self.window = max(self.initial, 1)
        self.in_flight = 0
        # Between two deliveries, while destination_rate_delay lasts.
        self.paused = False
        # Where it is used by turns with other processes (see `peers`).
        self.turn = Turn.FREE
        self.failures = 0.0
        self.dead_until = 0.0
        self.failed_at = 0.0
        # Whether mail may wait in the store for this next hop to come back; as little is known
        # of a new one, the first success of mail that was tried before asks.
        self.backlog: bool | None = None
        self.last_failure: Outcome | None = None
        self.runs: deque[Run] = deque()
        self.queued = False

    def is_dead(self, now: float) -> bool:
        """Whether its mail is put off without connecting."""
        return self.dead_until > now

    @property
    def has_room(self) -> bool:
        return self.in_flight < self.window and not self.paused and self.turn in _USABLE

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do and nothing to remember."""
        waits = self.paused or self.turn in (Turn.ASKED, Turn.OURS)
        return not (self.runs or self.in_flight or self.failed_at or waits)

    def take(self, limit: int) -> Batch:
        """The next batch of at most `limit` recipients (0: all)."""
        run = self.runs.popleft()
        waiting = run.recipients
        if not limit or len(waiting) <= limit:
            return Batch(self, run.active, run.route, list(waiting))
        batch = [waiting.popleft() for _ in range(limit)]
        self.runs.append(run)
        return Batch(self, run.active, run.route, batch)

    def drop_withdrawn(self) -> list[Run]:
        """Take out what waits for withdrawn messages."""
        dropped = [run for run in self.runs if run.active.withdrawn]
        if dropped:
            self.runs = deque(run for run in self.runs if not run.active.withdrawn)
        return dropped

    def drop_all(self) -> list[Run]:
        dropped = list(self.runs)
        self.runs.clear()
        return dropped

    def revive(self) -> None:
        """Forget that it is dead."""
        self.failures = 0.0
        self.dead_until = 0.0
        self.window = max(self.initial, 1)

    def succeeded(self, tried_before: bool) -> bool:
        """The next hop answered (before the delivery is counted as ended). Whether to wake what
        waits for it."""
        self.failures = self.failed_at = 0.0
        wake = self.backlog or (self.backlog is None and tried_before)
        if wake:
            self.backlog = False
        if self.dead_until:
            self.revive()
        elif self.in_flight >= self.window and (not self.limit or self.window < self.limit):
            self.window += 1
        return bool(wake)

    def found_down(self, outcome: Outcome, now: float, until: float) -> None:
        """Another process found it down."""
        self.last_failure = outcome
        self.backlog = True
        self.failed_at = now
        self.failures = 0.0
        self.window = 1
        self.dead_until = until

    def failed(self, outcome: Outcome, now: float, retry_after: float) -> bool:
        """The next hop did not answer. Whether it is dead now."""
        self.last_failure = outcome
        self.backlog = True
        self.failed_at = now
        self.failures += 1.0 / self.window
        probe_failed = self.dead_until > 0.0
        if self.failures < 0.999 and not probe_failed:
            self.window = max(self.window - 1, 1)
            return False
        self.failures = 0.0
        self.window = 1
        self.dead_until = now + retry_after
        return True

    def suspension(self) -> Deferred:
        """The outcome of mail that is put off without connecting."""
        last = self.last_failure
        reply = last.reply if last is not None else Reply(450, "4.4.1", "next hop is unreachable")
        text = reply.text if reply.text.startswith(SUSPENDED) else SUSPENDED + reply.text
        return Deferred(Reply(reply.code, reply.enhanced, text), host_down=True)


def is_suspension(outcome: Deferred) -> bool:
    """Whether nothing was tried."""
    return outcome.relay == "none" and outcome.reply.text.startswith(SUSPENDED)


class Lane:
    """One transport with its next hops. limit: deliveries at a time; line: sites that have
    something to begin."""

    __slots__ = ("in_flight", "limit", "limits", "line", "sites", "transport")

    def __init__(self, transport: Transport, limit: int, limits: TransportLimits) -> None:
        self.transport = transport
        self.limit = limit
        self.limits = limits
        self.in_flight = 0
        self.sites: dict[str, Site] = {}
        self.line: deque[Site] = deque()

    @property
    def has_room(self) -> bool:
        return not self.limit or self.in_flight < self.limit

    def ready(self, site: Site) -> None:
        """Put a site in line, if it has something to begin."""
        if site.runs and not site.queued and site.has_room:
            site.queued = True
            self.line.append(site)

    def next_site(self) -> Site | None:
        """The next site in line that can begin a delivery."""
        while self.line and self.has_room:
            site = self.line.popleft()
            site.queued = False
            if site.runs and site.has_room:
                return site
        return None

    def begin(self, site: Site) -> None:
        site.in_flight += 1
        self.in_flight += 1
        self.ready(site)

    def end(self, site: Site, *, paused: bool = False) -> None:
        site.in_flight -= 1
        self.in_flight -= 1
        site.paused = paused
        self.ready(site)

    def resume(self, site: Site) -> None:
        site.paused = False
        self.ready(site)

    def forget_idle(self, site: Site) -> None:
        if site.is_idle:
            self.sites.pop(site.key, None)

    def forget_old(self, before: float) -> None:
        """Drop sites that failed and that nobody has asked for since their probe was due."""
        for site in [s for s in self.sites.values() if not s.runs and not s.in_flight]:
            if max(site.dead_until, site.failed_at) < before:
                del self.sites[site.key]
