"""The queue's log lines, worded and formatted as Postfix's qmgr, delivery agents and bounce."""

from __future__ import annotations

import asyncio
import traceback
import uuid
from collections.abc import Iterable

from resel_mta.mail import Message, Outcome, Recipient, Relayed
from resel_mta.maillog import MailLog

_HUNDREDTHS = tuple(f"{n / 100:.2f}".rstrip("0").rstrip(".") for n in range(101))


def format_delay(seconds: float) -> str:
    """A duration as Postfix logs it: two significant digits, none beyond a hundredth of a
    second, no zeros at the end; whole seconds from ten up."""
    if seconds < 0.004:
        return "0"
    micros = round(seconds * 1_000_000)
    if micros < 1_000_000:
        return _HUNDREDTHS[(micros + 5_000) // 10_000]
    unit = 1_000_000 if micros >= 10_000_000 else 100_000
    rounded = (micros + unit // 2) // unit * unit
    whole, rest = divmod(rounded, 1_000_000)
    return f"{whole}.{rest:06d}".rstrip("0").rstrip(".")


def reason(outcome: Outcome) -> str:
    """What Postfix puts in the parentheses after the status, and in a listing: a success in the
    peer's own words with their codes, anything else as the transport tells it."""
    if isinstance(outcome, Relayed):
        return str(outcome.reply)
    return outcome.reply.text.replace("\n", " ")


def _says_the_same(one: Outcome, other: Outcome) -> bool:
    """Whether their log lines end alike, which those of one transaction mostly do."""
    return one is other or (
        one.reply is other.reply
        and type(one) is type(other)
        and one.connect == other.connect
        and one.transmit == other.transmit
        and one.relay == other.relay
    )


class Journal:
    """Writes them."""

    def __init__(self, log: MailLog) -> None:
        self._log = log

    def active(self, message: Message) -> None:
        sender = message.envelope.reverse_path
        self._log.event(
            "qmgr",
            f"from=<{sender}>, size={message.size}, nrcpt={len(message.recipients)} (queue active)",
            message.queue_id,
        )

    def outcomes(
        self,
        service: str,
        message: Message,
        pairs: Iterable[tuple[Recipient, Outcome]],
        *,
        activated: float,
        started: float,
        now: float,
    ) -> None:
        """A line for each. activated, started, now: when the message became active, when its
        delivery began, and when it ended (seconds since the epoch)."""
        delay = format_delay(now - message.arrival)
        before = f"{format_delay(activated - message.arrival)}/{format_delay(started - activated)}"
        event, queue_id = self._log.event, message.queue_id
        last, text = None, ""
        for recipient, outcome in pairs:
            if last is None or not _says_the_same(outcome, last):
                last = outcome
                text = (
                    f" relay={outcome.relay}, delay={delay}, delays={before}/"
                    f"{format_delay(outcome.connect)}/{format_delay(outcome.transmit)}, "
                    f"dsn={outcome.reply.enhanced}, status={outcome.status} ({reason(outcome)})"
                )
            address, orig_to = recipient.address, recipient.orig_to
            if orig_to and orig_to != address:
                event(service, f"to=<{address}>, orig_to=<{orig_to}>,{text}", queue_id)
            else:
                event(service, f"to=<{address}>,{text}", queue_id)

    def expired(self, message: Message) -> None:
        sender = message.envelope.reverse_path
        status = "force-expired" if message.expires < 0 else "expired"
        self._log.event(
            "qmgr", f"from=<{sender}>, status={status}, returned to sender", message.queue_id
        )

    def removed(self, queue_id: str) -> None:
        self._log.event("qmgr", "removed", queue_id)

    def notice(self, queue_id: str, kind: str, notice_id: str) -> None:
        """kind: "sender non-delivery", "sender delay", "sender delivery status",
        "postmaster non-delivery".
        """
        self._log.event("bounce", f"{kind} notification: {notice_id}", queue_id)

    def undeliverable(self, message: Message) -> None:
        self._log.warning("bounce", "undeliverable notification discarded", message.queue_id)

    def warning(self, text: str, queue_id: str = "") -> None:
        self._log.warning("qmgr", text, queue_id)

    def exception(self, what: str, queue_id: str, error: BaseException) -> str:
        """An unknown exception, with its traceback; the reference that a reply may show."""
        reference = uuid.uuid4().hex[:8]
        self._log.warning("qmgr", f"{what} failed: {error!r} (reference {reference})", queue_id)
        for part in traceback.format_exception(error):
            for line in part.rstrip("\n").split("\n"):
                self._log.event("qmgr", f"{reference}: {line}", queue_id)
        return reference

    def task_ended(self, task: asyncio.Task[None]) -> None:
        """A task that ended by an exception is a bug; it must not pass unseen."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self.exception("the queue", "", error)
