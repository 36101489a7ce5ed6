"""What the schedulers of all parts share: limits per next hop, turns, and which hosts are down.

Worker 0 has the `Hub`. Every scheduler, also those in worker 0, has `SharingPeers`, which speaks
to the hub in the packets of `channel`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from resel_mta.mail import Deferred, Outcome, Reply
from resel_mta.queue.peers import Listener
from resel_mta.workers import channel
from resel_mta.workers.channel import Fields

Say = Callable[[bytes, Fields], None]
"""Takes kind and fields of a packet."""


class SharingPeers:
    """Implements `queue.peers.Peers`. say: tells the hub. Give `hear` what the hub says."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._index = 0
        self._count = 1
        self._listener: Listener | None = None
        self._waiting: dict[str, Callable[[], None]] = {}

    def listen(self, listener: Listener) -> None:
        self._listener = listener

    def share(self, limit: int) -> int:
        own = limit // self._count + (self._index < limit % self._count)
        return max(own, 1) if limit else 0

    def take_turns(self, limit: int, delay: int) -> bool:
        return self._count > 1 and (delay > 0 or 0 < limit < self._count)

    def want_turn(self, site: str, limit: int, delay: int, granted: Callable[[], None]) -> None:
        self._waiting[site] = granted
        self._say(channel.WANT, {"site": site, "limit": max(limit, 1), "delay": delay})

    def end_turn(self, site: str, *, used: bool) -> None:
        self._say(channel.OVER, {"site": site, "used": used})

    def tell_down(self, site: str, until: float, outcome: Outcome) -> None:
        reply = outcome.reply
        self._say(
            channel.DOWN,
            {
                "site": site,
                "until": until,
                "code": reply.code,
                "enhanced": reply.enhanced,
                "text": reply.text,
            },
        )

    def tell_up(self, site: str) -> None:
        self._say(channel.UP, {"site": site})

    def leave(self) -> None:
        """Turns that are granted from now on are given back."""
        self._waiting.clear()
        self._listener = None

    def hear(self, kind: bytes, fields: Fields) -> None:
        """What the hub says."""
        if kind == channel.SHARES:
            self._index, self._count = fields["index"], fields["count"]
            if self._listener is not None:
                self._listener.shares_changed()
        elif kind == channel.GRANT:
            granted = self._waiting.pop(fields["site"], None)
            if granted is None:
                self.end_turn(fields["site"], used=False)
            else:
                granted()
        elif self._listener is None:
            return
        elif kind == channel.DOWN:
            reply = Reply(fields["code"], fields["enhanced"], fields["text"])
            outcome = Deferred(reply, host_down=True)
            self._listener.told_down(fields["site"], fields["until"], outcome)
        elif kind == channel.UP:
            self._listener.told_up(fields["site"])


@dataclass(slots=True)
class _Turns:
    """Of one next hop. holders, waiting: parts. free_at: when the next turn may begin."""

    limit: int
    delay: int
    holders: list[int] = field(default_factory=list)
    waiting: deque[int] = field(default_factory=deque)
    free_at: float = 0.0
    timer: asyncio.TimerHandle | None = None


class Hub:
    """Tells what one scheduler says to the others, and gives out turns."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._members: dict[int, Say] = {}
        self._idle: set[int] = set()
        self._turns: dict[str, _Turns] = {}

    def peers(self, part: int) -> SharingPeers:
        """For a scheduler in this process; it has joined."""
        peers = SharingPeers(lambda kind, fields: self.heard(part, kind, fields))

        def say(kind: bytes, fields: Fields) -> None:
            # Later, as over a channel: a scheduler need not expect the answer in its own call.
            self._loop.call_soon(peers.hear, kind, fields)

        self.join(part, say)
        return peers

    def join(self, part: int, say: Say) -> None:
        """The scheduler of this part delivers. say: takes what the hub tells it."""
        self._members[part] = say
        self._share()

    def leave(self, part: int) -> None:
        """It delivers no more; its turns are over."""
        if self._members.pop(part, None) is None:
            return
        self._idle.discard(part)
        for site in list(self._turns):
            self._forget(site, part)
        self._share()

    def set_idle(self, part: int, *, idle: bool) -> None:
        """Whether a scheduler has nothing to deliver, and the others may have its share."""
        if part in self._members and idle is not (part in self._idle):
            self._idle ^= {part}
            self._share()

    def _share(self) -> None:
        active = sorted(self._members.keys() - self._idle)
        for index, part in enumerate([*active, *sorted(self._idle)]):
            self._members[part](channel.SHARES, {"index": index, "count": max(len(active), 1)})

    def heard(self, part: int, kind: bytes, fields: Fields) -> None:
        """Something that a scheduler says."""
        if part not in self._members:
            return
        if kind == channel.WANT:
            self._want(part, fields)
        elif kind == channel.OVER:
            self._over(part, fields)
        elif kind in (channel.DOWN, channel.UP):
            for other, say in list(self._members.items()):
                if other != part:
                    say(kind, fields)

    def _want(self, part: int, fields: Fields) -> None:
        site = fields["site"]
        turns = self._turns.get(site)
        if turns is None:
            turns = self._turns[site] = _Turns(fields["limit"], fields["delay"])
        turns.limit, turns.delay = fields["limit"], fields["delay"]
        turns.waiting.append(part)
        self._grant(site)

    def _over(self, part: int, fields: Fields) -> None:
        turns = self._turns.get(fields["site"])
        if turns is None or part not in turns.holders:
            return
        turns.holders.remove(part)
        if fields["used"]:
            turns.free_at = self._loop.time() + turns.delay
        self._grant(fields["site"])

    def _forget(self, site: str, part: int) -> None:
        turns = self._turns[site]
        turns.waiting = deque(each for each in turns.waiting if each != part)
        if part in turns.holders:
            turns.holders = [each for each in turns.holders if each != part]
            # Nobody knows when it delivered last.
            turns.free_at = self._loop.time() + turns.delay
        self._grant(site)

    def _grant(self, site: str) -> None:
        turns = self._turns[site]
        now = self._loop.time()
        if now < turns.free_at:
            if turns.timer is None:
                turns.timer = self._loop.call_at(turns.free_at, self._free, site)
            return
        while turns.waiting and len(turns.holders) < turns.limit:
            part = turns.waiting.popleft()
            turns.holders.append(part)
            self._members[part](channel.GRANT, {"site": site})
        if not (turns.waiting or turns.holders):
            del self._turns[site]

    def _free(self, site: str) -> None:
        self._turns[site].timer = None
        self._grant(site)
