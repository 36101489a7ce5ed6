"""local(8) and virtual(8): the Transport that finds whose mailbox it is.

What is unknown or unexpected defers; only an unknown user, a forwarding loop, a full quota and
what a command says bounce. What happens on disk is a `deposit.Depositor`'s, or a helper's where it
needs the rights of the user or of an alias's owner.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from resel_lda.by_helper import ByHelper
from resel_lda.deposit import Depositor
from resel_lda.job import Job
from resel_lda.mailbox_place import mailbox_command
from resel_mta.config import Settings
from resel_mta.local_target import LocalTarget, forward_mark
from resel_mta.mail import (
    Bounced,
    Deferred,
    Message,
    Outcome,
    Recipient,
    Reply,
    Route,
    TempFail,
)
from resel_mta.maillog import MailLog
from resel_mta.users import User, Users


class LocalTransport:
    """Implements `mail.Transport`. name: "local", "virtual" or, for the LMTP server, "lmtp"; a
    virtual user is only ever found by the full address, others by its local part too."""

    def __init__(
        self,
        settings: Settings,
        users: Users,
        log: MailLog,
        depositor: Depositor,
        by_helper: ByHelper | None = None,
        *,
        name: str = "local",
    ) -> None:
        self.name = name
        self.log_name = name
        self._users = users
        self._log = log
        self._depositor = depositor
        self._by_helper = by_helper
        self.reconfigure(settings)

    def reconfigure(self, settings: Settings) -> None:
        self._delimiters = settings.text("recipient_delimiter")
        self._needs_uid = self.name == "local" and bool(mailbox_command(settings))

    async def deliver(
        self, message: Message, recipients: Sequence[Recipient], route: Route
    ) -> dict[Recipient, Outcome]:
        content = message.content
        if content is None:
            raise ValueError("a message without content cannot be delivered")
        start = time.monotonic()
        outcomes: dict[Recipient, Outcome] = {}
        found: list[tuple[Recipient, User]] = []
        loops: set[bytes] = set()
        if b"Delivered-To" in content.header:
            loops.update(value.lower() for value in content.header.get_all(b"Delivered-To"))
        for recipient in recipients:
            target = recipient.target
            if target is not None:
                outcomes[recipient] = await self._to_target(message, recipient, target)
                continue
            user = await self._find(recipient, loops)
            if user is None:
                outcomes[recipient] = await self._to_nobody(message, recipient)
            elif isinstance(user, Outcome):
                outcomes[recipient] = user
            elif self._by_helper is not None and self._by_helper.serves(user):
                job = self._job(message, recipient, user)
                outcomes[recipient] = await self._by_helper.to_user(message, recipient, job)
            elif self._needs_uid:
                text = f"mailbox_command is set, and cannot run as user {user.name}"
                outcomes[recipient] = self._deferred(text, "4.3.5")
            else:
                found.append((recipient, user))
        if found:
            jobs = [self._job(message, recipient, user) for recipient, user in found]
            done = await self._depositor.deposit(content, jobs)
            outcomes.update(zip((recipient for recipient, _ in found), done, strict=True))
        spent = time.monotonic() - start
        return {one: replace(outcome, transmit=spent) for one, outcome in outcomes.items()}

    def _job(self, message: Message, recipient: Recipient, user: User) -> Job:
        reverse_path = recipient.reverse_path
        if reverse_path is None:
            reverse_path = message.envelope.reverse_path
        return Job(
            user,
            recipient.address,
            recipient.orig_to or recipient.address,
            reverse_path,
            message.queue_id,
            message.size,
            self.name,
        )

    async def _to_target(
        self, message: Message, recipient: Recipient, target: LocalTarget
    ) -> Outcome:
        if self._by_helper is None:
            return self._deferred("commands and files are not served here", "4.3.5")
        user: User | None = User("")
        if target.source == "forward":
            try:
                user = await self._users.find(target.name)
            except TempFail as error:
                return Deferred(error.reply, relay=self.name)
        if user is None:
            return self._bounced(f'unknown user: "{target.name}"')
        job = self._job(message, recipient, user)
        return await self._by_helper.to_target(message, recipient, target, job)

    async def _to_nobody(self, message: Message, recipient: Recipient) -> Outcome:
        if self._by_helper is not None and self.name == "local":
            relayed = await self._by_helper.to_nobody(message, recipient)
            if relayed is not None:
                return relayed
        return self._bounced(f'unknown user: "{recipient.address.rpartition("@")[0].lower()}"')

    async def _find(self, recipient: Recipient, loops: set[bytes]) -> User | Outcome | None:
        address = recipient.address
        try:
            for name in self._candidates(address):
                user = await self._users.find(name)
                if user is None:
                    continue
                if (
                    _encode(address).lower() in loops
                    and forward_mark(user.name) not in recipient.via
                ):
                    return self._bounced(f"mail forwarding loop for {address}", "5.4.6")
                return user
        except TempFail as error:
            return Deferred(error.reply, relay=self.name)
        except Exception as error:
            self._log.warning(self.log_name, f"user lookup for {address}: {error!r}")
            return self._deferred("user lookup failed", "4.3.0")
        return self._bounced(f'unknown user: "{address.rpartition("@")[0].lower()}"')

    async def knows(self, address: str) -> bool:
        """Whether somebody has that address. Raises TempFail."""
        for name in self._candidates(address):
            if await self._users.find(name) is not None:
                return True
        return False

    def _candidates(self, address: str) -> list[str]:
        """Names to look up, the most specific first."""
        local, _, domain = address.rpartition("@") if "@" in address else (address, "", "")
        local = local.lower()
        domain = domain.lower()
        bare = local
        if self._delimiters:
            cuts = [i for i in (local.find(c, 1) for c in self._delimiters) if i > 0]
            bare = local[: min(cuts)] if cuts else local
        locals_ = [local] if bare == local else [local, bare]
        found = [f"{one}@{domain}" for one in locals_] if domain else []
        return found if self.name == "virtual" else [*found, *locals_]

    def _bounced(self, text: str, enhanced: str = "5.1.1") -> Outcome:
        return Bounced(Reply(550 if enhanced == "5.1.1" else 554, enhanced, text), relay=self.name)

    def _deferred(self, text: str, enhanced: str) -> Outcome:
        return Deferred(Reply(451, enhanced, text), relay=self.name)

    async def close(self) -> None:
        """The depositor is its owner's to close."""


def _encode(address: str) -> bytes:
    return address.encode("utf-8", "surrogateescape")
