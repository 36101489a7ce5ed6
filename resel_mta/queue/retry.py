"""When a recipient is tried again, when it is given up, and how many deliveries run at a time."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from resel_mta.config import Settings
from resel_mta.mail import Message

JITTER = 0.25
"""A wait is up to this fraction longer than the rule has it, so that a backlog spreads out."""

Random = Callable[[], float]


@dataclass(frozen=True, slots=True)
class TransportLimits:
    """concurrency: deliveries to one next hop at a time (0: no limit); initial: to a new one;
    recipients: in one delivery (0: no limit); rate_delay: seconds between two deliveries to a next
    hop, made one at a time then (0: none)."""

    concurrency: int
    initial: int
    recipients: int
    rate_delay: int


class Policy:
    """The queue's parameters, read once. Times in seconds.

    uniform: gives a number in [0, 1); tests fix it.
    """

    def __init__(self, settings: Settings, uniform: Random = random.random) -> None:
        self._settings = settings
        self._uniform = uniform
        self._limits: dict[str, TransportLimits] = {}
        self.minimal_backoff = settings.seconds("minimal_backoff_time")
        self.maximal_backoff = max(settings.seconds("maximal_backoff_time"), self.minimal_backoff)
        self.queue_lifetime = settings.seconds("maximal_queue_lifetime")
        self.bounce_lifetime = min(settings.seconds("bounce_queue_lifetime"), self.queue_lifetime)
        self.delay_warning = settings.seconds("delay_warning_time")
        self.soft_bounce = settings.flag("soft_bounce")
        self.active_limit = settings.number("qmgr_message_active_limit")
        self.process_limit = settings.number("default_process_limit")
        self.trash_time = settings.seconds("queue_trash_time")
        self.queue_run_delay = settings.seconds("queue_run_delay")

    def next_attempt(self, attempts: int, now: float) -> float:
        """When a recipient whose attempt number `attempts` (from 1) failed at `now` is due."""
        doubled: float = self.minimal_backoff * 2 ** min(max(attempts - 1, 0), 30)
        wait = min(doubled * (1 + JITTER * self._uniform()), self.maximal_backoff)
        return now + wait

    def next_look(self, arrival: float, now: float) -> float:
        """When mail is due that was not tried, since its next hop is down: by its age."""
        wait = max(now - arrival, self.minimal_backoff) * (1 + JITTER * self._uniform())
        return now + min(wait, self.maximal_backoff)

    def expires(self, message: Message) -> float:
        """When a message is given up; in the past for one that is forced to expire."""
        return self.deadline(message.arrival, message.envelope.reverse_path, message.expires)

    def deadline(self, arrival: float, reverse_path: str, expires: float) -> float:
        """The same, by `Message.expires` and what it depends on where that is 0."""
        if expires:
            return expires
        return arrival + (self.queue_lifetime if reverse_path else self.bounce_lifetime)

    def limits(self, transport: str) -> TransportLimits:
        found = self._limits.get(transport)
        if found is None:
            delay = self._of(transport, "destination_rate_delay", "default_")
            found = self._limits[transport] = TransportLimits(
                1 if delay else self._of(transport, "destination_concurrency_limit", "default_"),
                self._of(transport, "initial_destination_concurrency"),
                self._of(transport, "destination_recipient_limit", "default_"),
                delay,
            )
        return found

    def _of(self, transport: str, suffix: str, prefix: str = "") -> int:
        try:
            return self._settings.number(f"{transport}_{suffix}")
        except KeyError:
            return self._settings.number(f"{prefix}{suffix}")
