"""The queue's log lines, worded and formatted as Postfix's qmgr, delivery agents and bounce."""

from __future__ import annotations

import asyncio
import traceback
import uuid

from resel_mta.mail import Message, Outcome, Recipient, Relayed
from resel_mta.maillog import MailLog

_HUNDREDTHS = tuple(f"{n / 100:.2f}".rstrip("0").rstrip(".") for n in range(101))


def format_delay(seconds: float) -> str:
    """A duration as Postfix logs it: two significant digits, none beyond a hundredth of a
    second, no zeros at the end; whole seconds from ten up."""
    micros = round(max(seconds, 0.0) * 1_000_000)
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

    def outcome(
        self,
        service: str,
        message: Message,
        recipient: Recipient,
        outcome: Outcome,
        *,
        activated: float,
        started: float,
        now: float,
    ) -> None:
        """activated, started, now: when the message became active, when its delivery began, and
        when it ended (seconds since the epoch)."""
        orig_to = ""
        if recipient.orig_to and recipient.orig_to != recipient.address:
            orig_to = f" orig_to=<{recipient.orig_to}>,"
        delays = "/".join(
            (
                format_delay(activated - message.arrival),
                format_delay(started - activated),
                format_delay(outcome.connect),
                format_delay(outcome.transmit),
            )
        )
        self._log.event(
            service,
            f"to=<{recipient.address}>,{orig_to} relay={outcome.relay}, "
            f"delay={format_delay(now - message.arrival)}, delays={delays}, "
            f"dsn={outcome.reply.enhanced}, status={outcome.status} ({reason(outcome)})",
            message.queue_id,
        )

    def expired(self, message: Message) -> None:
        sender = message.envelope.reverse_path
        self._log.event(
            "qmgr", f"from=<{sender}>, status=expired, returned to sender", message.queue_id
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
