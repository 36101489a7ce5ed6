"""Guessing is slow: failures are answered late, and one address has few attempts at a time."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import random
from collections import deque
from dataclasses import dataclass, field
from time import monotonic
from typing import NamedTuple, Protocol

from resel_mta.mail import Reply, TempFail

#: Attempts of one address that are looked at together, those that wait for their "no" included.
SLOTS = 4
#: Attempts of one address that wait for their turn; more are turned away, undecided.
MAX_WAITING = 64
# After each so many failures the delay doubles, up to so many times the first.
_DOUBLING = 8
_MOST = 8
#: Seconds without a failure after which an address is as good as new.
FORGIVEN = 600.0
_MAX_ADDRESSES = 4096
_LOCAL = ("127.0.0.1", "::")
# Seconds between two looks whether another process has let go of a slot; a random part of it more.
_LOOK_EVERY = 0.05


class Attempts(NamedTuple):
    """Of one address. used, waiting: attempts that have a slot, and that want one. failures: since
    it was as good as new. last: when the latest one was, as of `time.monotonic`."""

    used: int = 0
    waiting: int = 0
    failures: int = 0
    last: float = 0.0


class Elsewhere(Protocol):
    """What other processes that take log-ins know of an address, and are told of it."""

    def tell(self, address: str, attempts: Attempts) -> None:
        """What this process has of it now."""
        ...

    def of(self, address: str) -> Attempts:
        """What all others have of it together; nothing that is forgiven."""
        ...


class _Nowhere:
    """There are no others. Implements Elsewhere."""

    def tell(self, address: str, attempts: Attempts) -> None:
        pass

    def of(self, address: str) -> Attempts:
        return _NONE


_NONE = Attempts()


@dataclass(slots=True)
class _Address:
    """used: slots taken. known: users whose last attempt from here was right, none under way.
    local: this machine's own address, from which webmail speaks for everybody. looking: whether
    somebody looks if a slot is free elsewhere."""

    name: str
    elsewhere: Elsewhere
    local: bool = False
    looking: bool = False
    used: int = 0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)
    failures: int = 0
    last: float = 0.0
    known: set[str] = field(default_factory=set)

    @property
    def idle(self) -> bool:
        return not self.used and not self.waiting

    def tell(self) -> None:
        """The other processes."""
        attempts = Attempts(self.used, len(self.waiting), self.failures, self.last)
        self.elsewhere.tell(self.name, attempts)

    def take(self) -> bool:
        """A slot, if there is one. Two processes that want the last one at the same moment get
        none, and try again."""
        if self.used >= SLOTS:
            return False
        self.used += 1
        self.tell()
        if self.used + self.elsewhere.of(self.name).used <= SLOTS:
            return True
        self.used -= 1
        self.tell()
        return False

    def release(self) -> None:
        """A slot is free."""
        self.used -= 1
        self.tell()
        # Where others want it too, chance decides who is next.
        if not self.elsewhere.of(self.name).waiting:
            self.serve()

    def serve(self) -> None:
        """Whoever waits, while there are slots."""
        while self.waiting:
            if self.waiting[0].done():
                self.waiting.popleft()
            elif self.take():
                self.waiting.popleft().set_result(None)
            else:
                break
        self.tell()
        if self.waiting and not self.looking:
            self.looking = True
            pause = random.uniform(_LOOK_EVERY, 2 * _LOOK_EVERY)
            asyncio.get_running_loop().call_later(pause, self._look)

    def _look(self) -> None:
        self.looking = False
        self.serve()


class Turn:
    """One attempt under way. Exactly one of `succeeded`, `failed`, `undecided` ends it."""

    def __init__(self, address: _Address, name: str, delay: float, held: bool) -> None:
        self._address = address
        self._name = name
        self._delay = delay
        self._held = held
        self._began = monotonic()

    def succeeded(self) -> None:
        """The next attempts of this user from there need not wait behind guesses at others."""
        if len(self._address.known) < 1000:
            self._address.known.add(self._name)
        self.undecided()

    def undecided(self) -> None:
        """The back end could not say."""
        if self._held:
            self._address.release()

    def failed(self) -> float:
        """Seconds after which the client may be told; the slot is free only then, even if he does
        not wait for it. The delay counts from the start of the attempt, so that the time that the
        check took, which may be another for a user that there is not, cannot be seen."""
        address, now = self._address, monotonic()
        if now - address.last > FORGIVEN:
            address.failures = 0
        failures = address.failures + address.elsewhere.of(address.name).failures
        doubled = 0 if address.local else failures // _DOUBLING
        delay = self._delay * min(1 << doubled, _MOST)
        address.failures += 1
        address.last = now
        address.tell()
        delay = max(delay - (now - self._began), 0.0)
        if self._held:
            asyncio.get_running_loop().call_later(delay, address.release)
        return delay


class Penalties:
    """Of all protocols together. delay: seconds before the first failures are answered. elsewhere:
    other processes that take log-ins."""

    def __init__(self, delay: float, elsewhere: Elsewhere | None = None) -> None:
        self.delay = delay
        self.elsewhere = elsewhere or _Nowhere()
        self._addresses: dict[str, _Address] = {}

    async def turn(self, remote: str, name: str) -> Turn:
        """Waits while too many attempts of the address `remote` are under way. Raises TempFail
        where too many wait already."""
        address = self._of(remote)
        name = name.lower()
        if name in address.known:
            address.known.remove(name)
            return Turn(address, name, self.delay, held=False)
        if address.waiting or not address.take():
            if len(address.waiting) >= MAX_WAITING:
                raise TempFail(Reply(454, "4.7.0", "Temporary authentication failure"))
            await _wait(address)
        return Turn(address, name, self.delay, held=True)

    def _of(self, remote: str) -> _Address:
        key = network(remote)
        address = self._addresses.pop(key, None)
        if address is None:
            address = _Address(key, self.elsewhere, key in _LOCAL)
        # The least recently used come first.
        self._addresses[key] = address
        if len(self._addresses) > _MAX_ADDRESSES:
            for old, state in list(self._addresses.items())[: _MAX_ADDRESSES // 4]:
                if state.idle and state is not address:
                    del self._addresses[old]
        return address


async def _wait(address: _Address) -> None:
    waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    address.waiting.append(waiting)
    address.serve()
    try:
        await waiting
    except asyncio.CancelledError:
        if waiting.done() and not waiting.cancelled():
            address.release()
        else:
            with contextlib.suppress(ValueError):
                address.waiting.remove(waiting)
            address.tell()
        raise


def network(remote: str) -> str:
    """What counts as one address: of IPv6 a /64, which one subscriber has to himself, and all of
    127.0.0.0/8."""
    try:
        address = ipaddress.ip_address(remote.partition("%")[0])
    except ValueError:
        return remote
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if isinstance(address, ipaddress.IPv4Address):
        return "127.0.0.1" if address.is_loopback else str(address)
    return str(ipaddress.IPv6Address(int(address) >> 64 << 64))
