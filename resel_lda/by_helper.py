"""Deliveries that need somebody's rights: to commands, files, and mailboxes of users with a uid of
their own. What helpers answer becomes outcomes here."""

from __future__ import annotations

from typing import Any, Protocol

from resel_lda import errand as errands
from resel_lda.errand import Errand
from resel_lda.helpers import HelperFailure, Helpers
from resel_lda.job import Job, deferred
from resel_lda.mailbox_place import is_in_spool
from resel_lda.parcel import row_outcome
from resel_mta.config import Settings
from resel_mta.config.aliases import Target, TargetKind
from resel_mta.config.target_files import Found
from resel_mta.local_target import LocalTarget, forward_mark
from resel_mta.mail import (
    Message,
    Outcome,
    Recipient,
    Reply,
    TempFail,
)
from resel_mta.maillog import MailLog
from resel_mta.users import User


class Forwards(Protocol):
    """Enters what a .forward file or luser_relay asks for as mail of its own."""

    async def forward(
        self, message: Message, recipient: Recipient, user: str, targets: Found
    ) -> Outcome: ...

    async def relay_unknown(self, message: Message, recipient: Recipient) -> Outcome | None: ...


class ByHelper:
    """One outcome for each recipient, whatever the helper does."""

    def __init__(
        self, settings: Settings, log: MailLog, helpers: Helpers, forwards: Forwards
    ) -> None:
        self._log = log
        self._helpers = helpers
        self._forwards = forwards
        self.reconfigure(settings)

    def reconfigure(self, settings: Settings) -> None:
        self._settings = settings
        self._delimiters = settings.text("recipient_delimiter")

    def serves(self, user: User) -> bool:
        """Whether this user's mailbox is a helper's business."""
        return self._helpers.serves(user)

    async def to_target(
        self, message: Message, recipient: Recipient, target: LocalTarget, job: Job
    ) -> Outcome:
        """Run the command, or append to the file. job.user: whose .forward names it, if one does."""
        is_command = target.text.startswith("|")
        is_user = target.source == "forward"
        errand = self._errand(
            errands.COMMAND if is_command else errands.FILE,
            job,
            argument=target.text[1:] if is_command else target.text,
            alias="" if is_user else target.name,
            source=target.source,
            is_user=is_user,
        )
        return await self._run(errand, message, recipient)

    async def to_user(self, message: Message, recipient: Recipient, job: Job) -> Outcome:
        """To the user: where his .forward says, or into his mailbox."""
        # Neither virtual(8) nor LMTP knows .forward files.
        if job.relay != "local" or forward_mark(job.user.name) in recipient.via:
            return await self._run(self._mailbox(job), message, recipient)
        return await self._run(self._errand(errands.DELIVER, job), message, recipient)

    async def to_nobody(self, message: Message, recipient: Recipient) -> Outcome | None:
        """To `luser_relay`, if it is set."""
        return await self._forwards.relay_unknown(message, recipient)

    def _mailbox(self, job: Job) -> Errand:
        in_spool = is_in_spool(job.user, self._settings)
        return self._errand(errands.SPOOL if in_spool else errands.MAILBOX, job)

    def _errand(self, do: str, job: Job, **values: Any) -> Errand:
        local = job.address.rpartition("@")[0] or job.address
        cuts = [place for place in (local.find(c, 1) for c in self._delimiters) if place > 0]
        cut = min(cuts, default=len(local))
        return Errand(
            do,
            job,
            local=local[:cut].lower() if values.get("is_user", True) else local[:cut],
            delimiter=local[cut : cut + 1],
            extension=local[cut + 1 :],
            **values,
        )

    async def _run(self, errand: Errand, message: Message, recipient: Recipient) -> Outcome:
        job = errand.job
        try:
            answer = await self._helpers.run(errand, message.content)
            for warning in _strings(answer.get("warnings")):
                self._log.warning("local", warning[:1000], job.queue_id)
            return await self._outcome(errand, answer, message, recipient)
        except HelperFailure as failure:
            return deferred(job, str(failure), failure.enhanced)
        except (KeyError, TypeError, ValueError) as error:
            # A helper is its account's: what it says may be anything.
            self._log.warning("local", f"helper's answer: {error!r}"[:1000], job.queue_id)
            return deferred(job, "the delivery process gave no proper answer", "4.3.0")

    async def _outcome(
        self, errand: Errand, answer: dict[str, Any], message: Message, recipient: Recipient
    ) -> Outcome:
        """Raises HelperFailure, KeyError, TypeError, ValueError."""
        is_for_user = errand.do == errands.DELIVER
        if "targets" in answer and is_for_user:
            targets = found_of(answer["targets"])
            return await self._forwards.forward(message, recipient, errand.job.user.name, targets)
        if answer.get("spool") and is_for_user:
            return await self._run(self._mailbox(errand.job), message, recipient)
        if answer.get("gone"):
            if not errand.is_user:
                text = f"{errand.argument} is no longer named by its owner"
                raise HelperFailure(text, "4.3.5")
            # The user thought better of it: it is his mail all the same.
            return await self._run(self._mailbox(errand.job), message, recipient)
        row = answer["outcome"] if "outcome" in answer else answer["failure"]
        return row_outcome(row, errand.job.relay)


class IncludeReader:
    """Implements `routing.targets.ReadInclude` with the rights of the alias file's owner."""

    def __init__(self, helpers: Helpers) -> None:
        self._helpers = helpers

    async def __call__(self, alias: str, path: str) -> Found:
        """Raises TempFail."""
        job = Job(User(""), alias, alias, "", "", 0, "local")
        errand = Errand(errands.INCLUDE, job, argument=path, alias=alias, is_user=False)
        try:
            answer = await self._helpers.run(errand, None)
            if "targets" in answer:
                return found_of(answer["targets"])
            reply = row_outcome(answer["failure"], "local").reply
        except HelperFailure as failure:
            reply = Reply(451, failure.enhanced, f":include: file {path}: {failure}")
        except (KeyError, TypeError, ValueError) as error:
            text = "the delivery process gave no proper answer"
            raise TempFail(Reply(451, "4.3.0", text)) from error
        raise TempFail(reply)


def found_of(rows: Any) -> Found:
    """The targets in an answer. Raises TypeError, ValueError."""
    return [
        (Target(TargetKind(str(kind)), str(value)), str(stands_in))
        for kind, value, stands_in in rows
    ]


def _strings(value: Any) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else []
