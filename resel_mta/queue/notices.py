"""Which notifications a message's outcomes call for (RFC 3461 §5, §6), made through the intake.

Nobody is ever told about a message with the null reverse-path; such a message that fails is
dropped with a log line, or reported to the postmaster if `notify_classes` has 2bounce or bounce. What
is sent to the postmaster comes from `double_bounce_sender`, and is dropped when it fails.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from email.utils import formatdate

from resel_mta.config import Settings
from resel_mta.content import Content
from resel_mta.mail import (
    Delivered,
    Expanded,
    Intake,
    Message,
    Notify,
    Origin,
    Outcome,
    Recipient,
    Relayed,
)
from resel_mta.queue.bounce import Kind, Report, build
from resel_mta.queue.journal import Journal

Pairs = Sequence[tuple[Recipient, Outcome]]
_LOGGED = {
    Kind.FAILURE: "sender non-delivery",
    Kind.DELAY: "sender delay",
    Kind.SUCCESS: "sender delivery status",
    Kind.POSTMASTER: "postmaster non-delivery",
}


@dataclass(frozen=True, slots=True)
class Notice:
    """A notification, ready to be entered."""

    kind: Kind
    message: Message


@dataclass(frozen=True, slots=True)
class Cause:
    """What became of some of a message's recipients. expires: when it is given up."""

    message: Message
    failed: Pairs
    delayed: Pairs
    done: Pairs
    expires: float


def wants_success(recipient: Recipient, outcome: Outcome) -> bool:
    """Whether the sender asked to be told of this success, and nobody else will do it."""
    # The first test is for speed: that of a flag costs many times as much.
    if (
        recipient.notify == 0
        or not recipient.notify & Notify.SUCCESS
        or recipient.notify & Notify.NEVER
    ):
        return False
    if isinstance(outcome, Relayed):
        return not outcome.dsn_capable
    if isinstance(outcome, Expanded):
        return bool(outcome.action)
    return isinstance(outcome, Delivered)


def _wants(recipient: Recipient, wish: Notify) -> bool:
    return recipient.notify == Notify.UNSET or bool(recipient.notify & wish)


class Notices:
    """Makes them."""

    def __init__(self, settings: Settings, intake: Intake, journal: Journal) -> None:
        self._intake = intake
        self._journal = journal
        self.reconfigure(settings)

    def reconfigure(self, settings: Settings) -> None:
        self._host = settings.text("myhostname")
        self._size_limit = settings.number("bounce_size_limit")
        classes = set(settings.items("notify_classes"))
        if "bounce" in classes:
            classes.add("2bounce")
        self._classes = frozenset(classes)
        origin = settings.text("myorigin")
        self._double_bounce = _qualified(settings.text("double_bounce_sender"), origin)
        self._copies_to = {
            name: _qualified(settings.text(f"{name}_notice_recipient"), origin)
            for name in ("bounce", "2bounce", "delay")
        }

    async def make(self, cause: Cause, content: Content) -> list[Notice]:
        """Raises TempFail, PermFail from the intake, OSError from reading the body."""
        message = cause.message
        notices = []
        for sender, failed in _by_sender(message, cause.failed).items():
            if not sender or sender == self._double_bounce:
                notices += await self._undeliverable(cause, content, sender, failed)
                continue
            wanted = [pair for pair in failed if _wants(pair[0], Notify.FAILURE)]
            if wanted:
                notices.append(await self._notice(Kind.FAILURE, sender, cause, content, wanted))
            if "bounce" in self._classes:
                notices.append(await self._copy("bounce", cause, content, failed))
        for kind, pairs in ((Kind.DELAY, cause.delayed), (Kind.SUCCESS, cause.done)):
            for sender, some in _by_sender(message, pairs).items():
                if sender and sender != self._double_bounce:
                    notices.append(await self._notice(kind, sender, cause, content, some))
        if cause.delayed and "delay" in self._classes:
            notices.append(await self._copy("delay", cause, content, cause.delayed))
        return notices

    async def _undeliverable(
        self, cause: Cause, content: Content, sender: str, failed: Pairs
    ) -> list[Notice]:
        """A notification that can't be delivered."""
        if not sender and "2bounce" in self._classes:
            return [await self._copy("2bounce", cause, content, failed)]
        self._journal.undeliverable(cause.message)
        return []

    async def _copy(self, name: str, cause: Cause, content: Content, pairs: Pairs) -> Notice:
        """For the postmaster."""
        to = self._copies_to[name]
        return await self._notice(Kind.POSTMASTER, to, cause, content, pairs)

    async def _notice(
        self, kind: Kind, to: str, cause: Cause, content: Content, pairs: Pairs
    ) -> Notice:
        queue_id, now = self._intake.new_id(), time.time()
        message = cause.message
        if all(recipient.reverse_path is not None for recipient, _ in pairs):
            # The owner of a list gets nothing of what its author asked for (RFC 3461 §5.2.7.1).
            message = replace(message, envelope=replace(message.envelope, ret="", envid=""))
        full = (
            kind is Kind.FAILURE
            and message.envelope.ret != "HDRS"
            and content.size <= self._size_limit
        )
        report = Report(
            kind=kind,
            message=message,
            content=content,
            recipients=pairs,
            to=to,
            host=self._host,
            queue_id=queue_id,
            now=now,
            expires=cause.expires,
            full=full,
        )
        in_memory = not full or content.body.in_memory
        made, envelope = build(report) if in_memory else await asyncio.to_thread(build, report)
        envelope.recipients.append(Recipient(to, notify=Notify.NEVER))
        if kind is Kind.POSTMASTER:
            envelope.reverse_path = self._double_bounce
        received = (
            f"Received: by {self._host} (resel-mta)\r\n\tid {queue_id}; "
            f"{formatdate(now, localtime=True)}\r\n"
        )
        origin = Origin("internal", "bounce", received=received.encode())
        return Notice(kind, await self._intake.prepare(envelope, made, origin, queue_id))

    def entered(self, cause: Message, notices: Iterable[Notice]) -> None:
        """Log those that are committed."""
        for notice in notices:
            self._journal.notice(cause.queue_id, _LOGGED[notice.kind], notice.message.queue_id)


def _by_sender(message: Message, pairs: Pairs) -> dict[str, list[tuple[Recipient, Outcome]]]:
    """Outcomes by whom to tell: the recipient's own reverse-path, else the envelope's."""
    found: dict[str, list[tuple[Recipient, Outcome]]] = {}
    for recipient, outcome in pairs:
        sender = recipient.reverse_path
        if sender is None:
            sender = message.envelope.reverse_path
        found.setdefault(sender, []).append((recipient, outcome))
    return found


def wanted_causes(cause: Cause) -> Cause:
    """Only those delays and successes that the sender wants to hear of."""
    return replace(
        cause,
        delayed=[pair for pair in cause.delayed if _wants(pair[0], Notify.DELAY)],
        done=[pair for pair in cause.done if wants_success(*pair)],
    )


def _qualified(address: str, origin: str) -> str:
    return address if "@" in address else f"{address}@{origin}"
