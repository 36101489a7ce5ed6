"""Putting one message into one mailbox: what is done on disk, in a thread.

The message is on disk, synced, under its final name in new/ and that directory synced, before it
is reported as delivered. What is unexpected defers; only a full quota bounces, unless
quota_full_tempfail says otherwise.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from resel_lda.deposit_threads import DepositThreads
from resel_lda.job import Job, deferred, message_blocks
from resel_lda.mailbox import MailboxError
from resel_lda.mailbox_place import mbox_path
from resel_lda.mailcopy import mail_copy
from resel_lda.maildir.files import MaildirFiles, create_maildir
from resel_lda.maildir.joint_sync import JointSync
from resel_lda.maildir.layout import Layout, LocationError, MailLocation
from resel_lda.maildir.locate import locate
from resel_lda.maildir.names import NameMaker
from resel_lda.maildir.quota import Quota, limit_of
from resel_lda.mbox import Locking, append
from resel_mta.config import Settings
from resel_mta.content import Content
from resel_mta.disk import Disk
from resel_mta.mail import Bounced, Delivered, Outcome, PermFail, Reply, TempFail

# They wait for the disk nearly all the time, and those that wait together share its syncs.
_THREADS = 16

DELIVERED = Reply(250, "2.0.0", "delivered to maildir")


class Depositor(Protocol):
    """Whoever may write the mailboxes."""

    async def deposit(self, content: Content, jobs: Sequence[Job]) -> list[Outcome]:
        """One outcome for each job, in their order."""
        ...

    def reconfigure(self, settings: Settings) -> None: ...

    async def close(self) -> None: ...


# Told (service, text, queue id) in a thread, for the log.
Warn = Callable[[str, str, str], None]
# Told (user's name, where his mail lies, base in new/ of his INBOX) in a thread.
Told = Callable[[str, MailLocation, str], None]


class ThreadDepositor:
    """Writes them itself, in threads: for a process that runs as their owner. delivered: told
    of each message in a Maildir."""

    def __init__(
        self, settings: Settings, warn: Warn, disk: Disk, delivered: Told | None = None
    ) -> None:
        self._settings = settings
        self._warn = warn
        self._disk = disk
        self._delivered = delivered
        self._maker = NameMaker()
        self._syncs = JointSync(disk)
        self._threads: DepositThreads[list[Outcome]] = DepositThreads(_THREADS)

    def reconfigure(self, settings: Settings) -> None:
        """For deliveries from now on."""
        self._settings = settings

    async def deposit(self, content: Content, jobs: Sequence[Job]) -> list[Outcome]:
        # The thread goes on if we are cancelled.
        return await self._threads.run(partial(self._deposit_all, content, jobs, self._settings))

    async def close(self) -> None:
        """Wait for what is being written."""
        await asyncio.to_thread(self._threads.close)

    def _deposit_all(
        self, content: Content, jobs: Sequence[Job], settings: Settings
    ) -> list[Outcome]:
        return [self.deposit_one(content, job, settings) for job in jobs]

    def deposit_one(self, content: Content, job: Job, settings: Settings) -> Outcome:
        """Blocks, in the calling thread."""
        mbox = mbox_path(job.user, settings)
        if mbox:
            return self._to_mbox(content, job, mbox, settings)
        try:
            location = locate(job.user, settings)
        except LocationError as error:
            self._warn(job.relay, f"user {job.user.name}: {error}", job.queue_id)
            return deferred(job, f"mail system configuration error: {error}", "4.3.5")
        try:
            quota = Quota(self._disk, Layout(location), limit_of(job.user, settings))
            quota.check(job.size)
            base = self._deliver(location.inbox, content, job)
            quota.changed([base], 1)
            if self._delivered is not None:
                self._delivered(job.user.name, location, base)
        except MailboxError as error:
            return _refused(job, error, settings)
        except OSError as error:
            return _failed(job, location, error)
        except (TempFail, PermFail) as error:
            return deferred(job, error.reply.text, "4.3.0")
        except Exception as error:
            self._warn(job.relay, f"delivery failed: {error!r}", job.queue_id)
            return deferred(job, "unexpected failure in local delivery", "4.3.0")
        return Delivered(DELIVERED, relay=job.relay)

    def _deliver(self, directory: str, content: Content, job: Job) -> str:
        """Into a Maildir, which is made if it is not there: the base. Raises OSError."""
        files = MaildirFiles(self._disk, directory, self._maker)
        try:
            return files.deliver(message_blocks(content, job), self._syncs.sync)
        except FileNotFoundError:
            create_maildir(self._disk, directory)
        return files.deliver(message_blocks(content, job), self._syncs.sync)

    def _to_mbox(self, content: Content, job: Job, path: str, settings: Settings) -> Outcome:
        """As Postfix's local(8): only a mailbox that is too large bounces."""
        try:
            append(
                self._disk,
                path,
                mail_copy(content, job, mbox=True),
                Locking.from_settings(settings),
                limit=settings.number("mailbox_size_limit"),
                own=settings.flag("strict_mailbox_ownership"),
            )
        except (TempFail, PermFail) as error:
            reply = error.reply
            text = f"cannot update mailbox {path} for user {job.user.name}. {reply.text}"
            if reply.enhanced == "5.2.2":
                return Bounced(Reply(550, "5.2.2", text), relay=job.relay)
            return deferred(job, text, "4" + reply.enhanced[1:])
        except Exception as error:
            self._warn(job.relay, f"delivery failed: {error!r}", job.queue_id)
            return deferred(job, "unexpected failure in local delivery", "4.3.0")
        return Delivered(Reply(250, "2.0.0", "delivered to mailbox"), relay=job.relay)


def _refused(job: Job, error: MailboxError, settings: Settings) -> Outcome:
    """A full quota is answered as Dovecot's LMTP server and LDA do."""
    if error.code != "OVERQUOTA":
        return deferred(job, error.text, "4.2.0")
    if settings.flag("quota_full_tempfail"):
        return deferred(job, error.text, "4.2.2", 452)
    return Bounced(Reply(552, "5.2.2", error.text), relay=job.relay)


def _failed(job: Job, location: MailLocation, error: OSError) -> Outcome:
    number = error.errno or errno.EIO
    where = f"maildir delivery to {location.inbox} failed"
    if number == errno.ENOSPC:
        return deferred(job, f"{where}: disk full", "4.3.1", 452)
    if number == errno.EDQUOT:
        return deferred(job, f"{where}: disk quota exceeded", "4.2.2", 452)
    path = f"{error.filename}: " if isinstance(error.filename, str) else ""
    return deferred(job, f"{where}: {path}{os.strerror(number)}", "4.2.0")
