"""What is known about recipients, so that a rule need not wait to be answered.

Access rules are plain functions. One that asks something that is not known here raises `LookUp`;
whoever evaluated the rules awaits it and evaluates them again (`AccessPolicy.settle`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from resel_mta.mail import AddressClass, Reply, Router

#: Seconds that a good answer serves others too. A refusal is never kept: whoever adds a user
#: wants to see it work at once.
KEPT_TIME = 5.0
_MOST_KEPT = 5000


@dataclass(frozen=True, slots=True)
class Facts:
    """About one recipient.

    checked: whether it was asked if mail for it can be accepted. refusal: None if it can.
    until: of the table's clock.
    """

    address_class: AddressClass
    checked: bool
    refusal: Reply | None
    until: float


class LookUp(Exception):
    """The rules cannot be evaluated before this is looked up.

    checked: as in `Facts`.
    """

    def __init__(self, address: str, *, checked: bool) -> None:
        super().__init__(address)
        self.address = address
        self.checked = checked


class RecipientTable:
    """The router's answers, for all sessions of a service."""

    def __init__(self, router: Router, clock: Callable[[], float] = time.monotonic) -> None:
        self._router = router
        self._clock = clock
        self._known: dict[str, Facts] = {}

    def get(self, address: str, *, checked: bool) -> Facts | None:
        """What was learnt lately, else None."""
        facts = self._known.get(address) or self._known.get(_domain_key(address))
        if facts is None or facts.until < self._clock() or (checked and not facts.checked):
            return None
        return facts

    async def learn(self, address: str, *, checked: bool) -> Facts:
        """Ask the router. Raises TempFail."""
        address_class = await self._router.classify(address)
        refusal = None
        remote = address_class is AddressClass.DEFAULT
        # Nobody can be asked whether somebody else's users exist.
        if checked and not remote:
            refusal = await self._router.check_recipient(address)
        facts = Facts(address_class, checked or remote, refusal, self._clock() + KEPT_TIME)
        if refusal is None:
            if len(self._known) >= _MOST_KEPT:
                self._known.clear()
            self._known[(_domain_key(address) if remote else "") or address] = facts
        return facts

    def forget(self) -> None:
        """The configuration has changed."""
        self._known.clear()


def _domain_key(address: str) -> str:
    """Under which an answer for a whole domain is kept; "" for an address whose local part may
    name another domain ("user%other@domain"), since it tells nothing about its own."""
    if "%" in address or "!" in address or '"' in address:
        return ""
    _, at, domain = address.partition("@")
    return at + domain
