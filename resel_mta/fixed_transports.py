"""Transports that reach no one: ``error``, ``retry`` and ``discard``, as in Postfix's master.cf.

Their next hop is the text to say, optionally with an enhanced status code before it
("5.7.1 no mail for this domain").
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from resel_mta.mail import (
    Bounced,
    Deferred,
    Delivered,
    Message,
    Outcome,
    Recipient,
    Reply,
    Route,
)

_STATUS = re.compile(r"([245])\.\d{1,3}\.\d{1,3}(?=\s|$)")


def _reply(code: int, default: str, nexthop: str) -> Reply:
    """A status code of another class than `code` keeps its detail and takes our class."""
    match = _STATUS.match(nexthop)
    if match is None:
        return Reply(code, default, nexthop or "no reason given")
    enhanced = f"{code // 100}{match.group()[1:]}"
    return Reply(code, enhanced, nexthop[match.end() :].strip() or "no reason given")


class FixedTransport:
    """One of the three, by name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.log_name = "discard" if name == "discard" else "error"

    def _outcome(self, nexthop: str) -> Outcome:
        if self.name == "error":
            return Bounced(_reply(550, "5.0.0", nexthop))
        if self.name == "retry":
            return Deferred(_reply(450, "4.0.0", nexthop))
        return Delivered(_reply(250, "2.0.0", nexthop or "mail discarded"))

    async def deliver(
        self, message: Message, recipients: Sequence[Recipient], route: Route
    ) -> dict[Recipient, Outcome]:
        outcome = self._outcome(route.nexthop)
        return dict.fromkeys(recipients, outcome)

    async def close(self) -> None:
        """Nothing is kept open."""


def fixed_transports() -> dict[str, FixedTransport]:
    """The three, by name."""
    return {name: FixedTransport(name) for name in ("error", "retry", "discard")}
