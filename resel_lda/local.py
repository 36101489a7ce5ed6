"""local(8) and virtual(8) for Maildir: the Transport that puts mail into mailboxes.

A message is on disk, synced, under its final name in new/ and that directory synced, before its
recipient is reported as delivered. What is unknown or unexpected defers; only an unknown user, a
forwarding loop and a full quota bounce.
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from resel_lda.maildir.files import MaildirFiles, create_maildir
from resel_lda.maildir.layout import LocationError, MailLocation
from resel_lda.maildir.locate import locate
from resel_lda.maildir.names import NameMaker
from resel_lda.maildir.quota import add_to_maildirsize
from resel_mta.config import Settings
from resel_mta.content import Content
from resel_mta.disk import Disk
from resel_mta.mail import (
    Bounced,
    Deferred,
    Delivered,
    Message,
    Outcome,
    PermFail,
    Recipient,
    Reply,
    Route,
    TempFail,
)
from resel_mta.maillog import MailLog
from resel_mta.users import User, Users

_THREADS = 4
_BLOCK = 1 << 18

DELIVERED = Reply(250, "2.0.0", "delivered to maildir")

# Would this many more octets go over the user's quota? Called in a thread.
QuotaCheck = Callable[[User, MailLocation, int], bool]


def no_quota(user: User, location: MailLocation, size: int) -> bool:
    """Nobody has a quota."""
    return False


class LocalTransport:
    """Implements `mail.Transport`. name: "local" or "virtual"; a virtual user is only ever found
    by the full address, a local one by its local part too."""

    def __init__(
        self,
        settings: Settings,
        users: Users,
        log: MailLog,
        disk: Disk,
        *,
        name: str = "local",
        over_quota: QuotaCheck = no_quota,
    ) -> None:
        self.name = name
        self.log_name = name
        self._users = users
        self._log = log
        self._disk = disk
        self._over_quota = over_quota
        self._maker = NameMaker()
        self._executor = ThreadPoolExecutor(_THREADS, f"deliver-{name}")
        self.reconfigure(settings)

    def reconfigure(self, settings: Settings) -> None:
        self._settings = settings
        self._delimiters = settings.text("recipient_delimiter")

    async def deliver(
        self, message: Message, recipients: Sequence[Recipient], route: Route
    ) -> dict[Recipient, Outcome]:
        content = message.content
        if content is None:
            raise ValueError("a message without content cannot be delivered")
        start = time.monotonic()
        outcomes: dict[Recipient, Outcome] = {}
        jobs: list[tuple[Recipient, User]] = []
        loops = {value.lower() for value in content.header.get_all(b"Delivered-To")}
        for recipient in recipients:
            found = await self._find(recipient, loops)
            if isinstance(found, Outcome):
                outcomes[recipient] = found
            else:
                jobs.append((recipient, found))
        if jobs:
            loop = asyncio.get_running_loop()
            done = loop.run_in_executor(
                self._executor, self._deliver_all, message, content, jobs, self._settings
            )
            # The thread goes on if we are cancelled; its result is what happened on disk.
            outcomes.update(await asyncio.shield(done))
        spent = time.monotonic() - start
        return {one: replace(outcome, transmit=spent) for one, outcome in outcomes.items()}

    async def _find(self, recipient: Recipient, loops: set[bytes]) -> User | Outcome:
        address = recipient.address
        if _encode(address).lower() in loops:
            return self._bounced(f"mail forwarding loop for {address}", "5.4.6")
        try:
            for name in self._candidates(address):
                user = await self._users.find(name)
                if user is not None:
                    return user
        except TempFail as error:
            return Deferred(error.reply, relay=self.name)
        except Exception as error:
            self._log.warning(self.log_name, f"user lookup for {address}: {error!r}")
            return self._deferred("user lookup failed", "4.3.0")
        return self._bounced(f'unknown user: "{address.rpartition("@")[0].lower()}"')

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

    # -- in a thread --------------------------------------------------------------------------

    def _deliver_all(
        self,
        message: Message,
        content: Content,
        jobs: Sequence[tuple[Recipient, User]],
        settings: Settings,
    ) -> dict[Recipient, Outcome]:
        return {
            recipient: self._deliver_one(message, content, recipient, user, settings)
            for recipient, user in jobs
        }

    def _deliver_one(
        self,
        message: Message,
        content: Content,
        recipient: Recipient,
        user: User,
        settings: Settings,
    ) -> Outcome:
        try:
            location = locate(user, settings)
        except LocationError as error:
            self._log.warning(self.log_name, f"user {user.name}: {error}", message.queue_id)
            return self._deferred(f"mail system configuration error: {error}", "4.3.5")
        try:
            if self._over_quota(user, location, message.size):
                return self._bounced(f"mailbox of {user.name} is full: quota exceeded", "5.2.2")
            create_maildir(self._disk, location.inbox)
            files = MaildirFiles(self._disk, location.inbox, self._maker)
            base = files.deliver(_blocks(message, content, recipient))
            add_to_maildirsize(self._disk, location.root, base, 1)
        except OSError as error:
            return self._failed(location, error)
        except (TempFail, PermFail) as error:
            return self._deferred(error.reply.text, "4.3.0")
        except Exception as error:
            self._log.warning(self.log_name, f"delivery failed: {error!r}", message.queue_id)
            return self._deferred("unexpected failure in local delivery", "4.3.0")
        return Delivered(DELIVERED, relay=self.name)

    def _failed(self, location: MailLocation, error: OSError) -> Outcome:
        number = error.errno or errno.EIO
        where = f"maildir delivery to {location.inbox} failed"
        if number == errno.ENOSPC:
            return self._deferred(f"{where}: disk full", "4.3.1")
        if number == errno.EDQUOT:
            return self._deferred(f"{where}: disk quota exceeded", "4.2.2")
        path = f"{error.filename}: " if isinstance(error.filename, str) else ""
        return self._deferred(f"{where}: {path}{os.strerror(number)}", "4.2.0")

    async def close(self) -> None:
        """Wait for what is being written."""
        await asyncio.to_thread(self._executor.shutdown, True)


def _encode(address: str) -> bytes:
    return address.encode("utf-8", "surrogateescape")


def _blocks(message: Message, content: Content, recipient: Recipient) -> Iterator[bytes]:
    """The message as stored: Postfix's three fields, the header, an empty line, the body."""
    reverse_path = recipient.reverse_path
    if reverse_path is None:
        reverse_path = message.envelope.reverse_path
    prefix = (
        f"Return-Path: <{reverse_path}>\r\n"
        f"X-Original-To: {recipient.orig_to or recipient.address}\r\n"
        f"Delivered-To: {recipient.address}\r\n"
    )
    yield _encode(prefix) + content.header.raw + b"\r\n"
    position = 0
    body = content.body
    while position < body.size:
        block = body.read(position, _BLOCK)
        if not block:
            raise OSError(errno.EIO, "the queue file is shorter than it should be")
        yield block
        position += len(block)
