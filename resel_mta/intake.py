"""The one way in for all mail: header fix-up, filters, expansion, commit (what cleanup(8) does)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from resel_mta.config import Settings
from resel_mta.content import Content
from resel_mta.mail import BodySink, Envelope, Message, Origin, Recipient, TempFail
from resel_mta.maillog import MailLog
from resel_mta.maillog.limited import MINUTE
from resel_mta.queue.door import Courier, QueueStore
from resel_mta.routing.address import AddressRules
from resel_mta.routing.bcc import AutomaticBcc
from resel_mta.routing.canonical import Canonical
from resel_mta.routing.expand import Expander
from resel_mta.routing.rewrite import HeaderFixer, drop_fields, find_message_id
from resel_mta.routing.table import RoutingTable


@dataclass(slots=True)
class Submission:
    """A message on its way in, as filters see it: they may change envelope and content.

    hold: it is kept, and not delivered until somebody releases it. discard: it is accepted, and
    goes nowhere.
    """

    queue_id: str
    envelope: Envelope
    content: Content
    origin: Origin
    hold: bool = False
    discard: bool = False


class Filter(Protocol):
    """One step of the filter chain."""

    async def apply(self, submission: Submission) -> None:
        """Change the message, hold or discard it. Raises TempFail or PermFail to refuse it."""
        ...


class MailIntake:
    """Implements `mail.Intake`. courier: hands mail on before it is kept (`relay_cut_through`)."""

    def __init__(
        self,
        settings: Settings,
        expander: Expander,
        router: RoutingTable,
        store: QueueStore,
        log: MailLog,
        filters: Sequence[Filter] = (),
    ) -> None:
        self._expander = expander
        self._canonical = Canonical(settings, router)
        self._bcc = AutomaticBcc(settings, router)
        self._store = store
        self._log = log
        self._filters = tuple(filters)
        self.courier: Courier | None = None
        # When it was last told why no mail could be taken.
        self._told = -MINUTE
        self.reconfigure(settings)

    def reconfigure(self, settings: Settings) -> None:
        """From the next message on, by these."""
        self._rules = AddressRules(settings)
        self._cut_through = settings.flag("relay_cut_through")
        self._fixer = HeaderFixer(settings, self._rules)
        self._canonical.reconfigure(settings)
        self._bcc.reconfigure(settings)

    def new_id(self) -> str:
        """A queue id that was never used before and never will be again."""
        return self._store.new_id()

    def check_space(self, size: int) -> None:
        """Raises TempFail(452) if the queue has no room for a message of so many octets (0: it is
        not known)."""
        try:
            self._store.check_space(size)
        except TempFail as failure:
            self._tell_why(failure)
            raise

    def sink(self) -> BodySink:
        """Raises TempFail(452) below `queue_minfree`."""
        try:
            return self._store.sink()
        except TempFail as failure:
            self._tell_why(failure)
            raise

    async def submit(
        self, envelope: Envelope, content: Content, origin: Origin, queue_id: str = ""
    ) -> str:
        """Take responsibility for a message; its queue id once it would survive a power cut.

        Raises TempFail and PermFail: nothing was kept then.
        """
        message = await self.prepare(envelope, content, origin, queue_id)
        if message.recipients:
            try:
                if self._cut_through and self.courier is not None:
                    await self.courier.carry(message)
                else:
                    await self._store.enter(message)
            except TempFail as failure:
                self._tell_why(failure)
                raise
        else:
            await self._store.discard(content)
            await self._store.dropped(message.named)
        return message.queue_id

    def _tell_why(self, failure: TempFail) -> None:
        """Clients that come again and again must not fill what is left of the disk."""
        now = time.monotonic()
        if failure.why and now - self._told > MINUTE:
            self._told = now
            self._log.warning("cleanup", failure.why)

    async def prepare(
        self, envelope: Envelope, content: Content, origin: Origin, queue_id: str = ""
    ) -> Message:
        """All that `submit` does short of the commit. A message that ends up without recipients
        (discarded, or an alias that names nobody) has been logged, and needs no commit."""
        queue_id = queue_id or self._store.new_id()
        try:
            return await self._prepare(Submission(queue_id, envelope, content, origin))
        except BaseException:
            await self._store.discard(content)
            raise

    async def _prepare(self, submission: Submission) -> Message:
        now = time.time()
        queue_id = submission.queue_id
        message_id = self._fix_header(submission, now)
        if self._canonical.is_active:
            await self._rewrite(submission)
        if submission.origin.received:
            submission.content.header.prepend(submission.origin.received)
        self._log.event("cleanup", f"message-id={message_id}", queue_id)
        for step in self._filters:
            await step.apply(submission)
        envelope, origin = submission.envelope, submission.origin
        # Those of an alias that had to wait were counted when it came.
        named = 0 if origin.service == "local" else len(envelope.recipients)
        recipients: list[Recipient] = []
        merged = 0
        if submission.discard:
            self._log.event("cleanup", "discard: by a filter", queue_id)
        else:
            recipients, merged = await self._expand(submission)
        envelope.recipients = recipients
        content = submission.content
        return Message(
            queue_id,
            now,
            envelope,
            len(content.header.raw) + 2 + content.body.size,
            recipients,
            content,
            origin.protocol,
            submission.hold,
            token=origin.token,
            named=named,
            merged=merged,
            generated=origin.service == "bounce",
        )

    def _fix_header(self, submission: Submission, now: float) -> str:
        """The header as it is kept; the Message-ID for the log."""
        header = submission.content.header
        origin = submission.origin
        fixer = self._fixer
        raw = header.raw
        folded = b"\n" + raw.lower()
        drop_fields(header, folded)
        if origin.rewrite:
            fixer.complete(header, folded)
        elif fixer.rewrites_remote:
            fixer.complete_remote(header)
        if header.raw is not raw:
            folded = b"\n" + header.raw.lower()
        if origin.rewrite or fixer.always_add_missing:
            sender = submission.envelope.reverse_path
            if fixer.add_missing(header, folded, sender, submission.queue_id, now):
                folded = b"\n" + header.raw.lower()
        message_id = find_message_id(header.raw, folded)
        return message_id or "<>"

    async def _rewrite(self, submission: Submission) -> None:
        """Canonical maps: the envelope always, the header where it is ours to complete."""
        envelope = submission.envelope
        rewrite, qualify = self._canonical.rewrite, self._rules.qualify
        envelope.reverse_path = await rewrite(qualify(envelope.reverse_path), "envelope_sender")
        for recipient in envelope.recipients:
            address = await rewrite(qualify(recipient.address), "envelope_recipient")
            if address != recipient.address:
                recipient.orig_to = recipient.orig_to or recipient.address
                recipient.address = address
        if submission.origin.rewrite or self._fixer.rewrites_remote:
            await self._canonical.rewrite_header(submission.content.header)

    async def _expand(self, submission: Submission) -> tuple[list[Recipient], int]:
        """And how many were merged with others."""
        envelope = submission.envelope
        envelope.reverse_path = self._rules.qualify(envelope.reverse_path)
        if self._bcc.is_active and submission.origin.protocol != "internal":
            await self._bcc.add(envelope)
        recipients, trouble, merged = await self._expander.expand_all(
            envelope.recipients, envelope.reverse_path
        )
        for address, reply in trouble:
            self._log.warning(
                "cleanup", f"<{address}> is kept unexpanded: {reply}", submission.queue_id
            )
        if not recipients:
            names = ", ".join(f"to=<{recipient.address}>" for recipient in envelope.recipients)
            self._log.event(
                "cleanup", f"{names or 'no recipients'}, status=sent (expands to nobody)",
                submission.queue_id,
            )  # fmt: skip
        return recipients, merged
