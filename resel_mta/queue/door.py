"""The door between the queue's store and everybody else: `QueueStore` and what passes through it.

Nothing here assumes SQLite or a single machine. A message has at most one owner at a time, the
scheduler that tries to deliver it; an owner holds a lease that it renews, and what belongs to an
owner whose lease ran out can be claimed by another.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from resel_mta.content import Content
from resel_mta.mail import BodySink, Message, Outcome, QueueStats, Recipient
from resel_mta.queue.audit import Audit


class AlreadyEntered(Exception):
    """Another message has the token of this one, which was not entered."""


@dataclass(frozen=True, slots=True)
class Retry:
    """A recipient that is to be tried again.

    outcome: None keeps the reply of the last attempt, and does not count as an attempt.
    waits_for: the next hop that is down, by a name of the scheduler's; see `QueueStore.wake`.
    tried: False for one that was only put off, since its next hop is down.
    """

    recipient: Recipient
    next_attempt: float
    outcome: Outcome | None = None
    waits_for: str = ""
    tried: bool = True


@dataclass(slots=True)
class Result:
    """What became of some recipients of one claimed message: one atomic step of `QueueStore.apply`.

    done: recipients that need nothing more, with what became of them.
    retries: recipients that stay, with the time of their next attempt.
    added: recipients that come into being (an expansion that had to wait); they get their `row`.
    notices: messages made by this step (bounces, delay warnings), from `Intake.prepare`. They
        are entered before anything of `message` goes.
    release: give up the claim; the message is due at the earliest `next_attempt` of those left.
    warned: the delay warning has been sent.
    complete: the caller knows that no recipient is left (`Message.whole`), so that the store need
    not look.
    A message that is left without recipients is removed with its content.
    """

    message: Message
    done: Sequence[tuple[Recipient, Outcome]] = ()
    retries: Sequence[Retry] = ()
    added: Sequence[Recipient] = ()
    notices: Sequence[Message] = ()
    release: bool = False
    warned: bool = False
    complete: bool = False


class RecipientEntry(NamedTuple):
    """A recipient as listings show it.

    reason: why it is still here, as the log has it; relay: who said so; "" before the first
    attempt. waits_for: as in `Retry`.
    """

    address: str
    orig_to: str
    next_attempt: float
    attempts: int
    reason: str
    relay: str
    waits_for: str = ""


class Entry(NamedTuple):
    """A message as listings show it. A named tuple, and not a dataclass, for speed: a listing makes
    hundreds of thousands, and JSON's encoder takes them as they are.

    queue: "incoming" (due, not claimed), "active" (claimed), "deferred", "hold", "corrupt" or
    "trash" (deleted, can be brought back).
    size: octets of the content. recipients: those not yet done. deleted: since when it is in the
    trash; 0 outside.
    """

    queue_id: str
    queue: str
    arrival: float
    size: int
    sender: str
    recipients: tuple[RecipientEntry, ...]
    next_attempt: float
    expires: float
    forced_expire: bool = False
    deleted: float = 0.0


@dataclass(slots=True)
class Checked:
    """What `QueueStore.check` has looked at, and found.

    files: contents in files. octets: of the database. corrupt: messages that had been set aside
    before. problems: a line for each, with what was done about it. left: files for
    `QueueStore.sweep`.
    """

    messages: int = 0
    files: int = 0
    octets: int = 0
    corrupt: int = 0
    left: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Swept:
    """Files that `QueueStore.sweep` has removed."""

    files: int = 0
    octets: int = 0


class Watcher(Protocol):
    """Told, on the event loop, what happens in the queue. The scheduler is one."""

    def admit(self, message: Message) -> str | None:
        """Asked when a message is entered without `claim_for`: the owner that will deliver it at
        once, or None to leave it to be claimed later (the active window is full, or it is held).
        An admitted message is followed by `entered` or `refused`."""
        ...

    def entered(self, message: Message) -> None:
        """An admitted message is committed, with the rows of its recipients set, and claimed."""
        ...

    def refused(self, message: Message) -> None:
        """An admitted message could not be committed."""
        ...

    def arrived(self) -> None:
        """Messages that nobody has claimed became due (entered, released, requeued)."""
        ...

    def withdrawn(self, queue_ids: Sequence[str]) -> None:
        """Held, deleted or requeued from outside: attempts that have not begun must not begin."""
        ...

    def restored(self, claimed: Sequence[str]) -> None:
        """The queue was put together again from what was left of it, which may be older: according
        to it these are somebody's. Those that are not have to be given back."""
        ...


class Courier(Protocol):
    """Hands mail on before it is kept, if it can. The scheduler is one."""

    async def carry(self, message: Message) -> None:
        """As `QueueStore.enter`; returns when the next hop or the queue has all of the message
        on disk."""
        ...


class QueueStore(Protocol):
    """Keeps messages until every recipient is done.

    All verbs that take several messages are one commit. Where a queue id is unknown, the message
    is gone: it is skipped, and the answer says which were found. Errors: TempFail(452) when the
    disk is full, TempFail(451) when the store fails in any other way; nothing was changed then.
    """

    def new_id(self) -> str:
        """A queue id, [0-9A-F]+, never given before and never to be given again."""
        ...

    def check_space(self, size: int) -> None:
        """Raises TempFail(452) if a message of so many octets cannot be taken: below
        `queue_minfree`, or too little would be left. 0: the size is not known."""
        ...

    def sink(self) -> BodySink:
        """For a body as it arrives. Raises TempFail(452) below `queue_minfree`."""
        ...

    async def discard(self, content: Content) -> None:
        """Forget content whose body came from `sink` and that will not be entered."""
        ...

    async def enter(self, message: Message, *, claim_for: str | None = None) -> None:
        """Keep a message; returns when it would survive a power cut.

        Raises TempFail(452) below `queue_minfree`; AlreadyEntered for a token that is known.
        The message must have a `queue_id` from `new_id`, and `content`; both belong to the store
        from the call on, also when it raises. Each recipient gets its `row`.
        claim_for: the owner that claims it. None: the watchers are asked (`Watcher.admit`), so
        that a message can go from its arrival to its delivery without being read again.
        """
        ...

    async def claim(
        self,
        owner: str,
        lease: float,
        n: int,
        *,
        queue_ids: Iterable[str] | None = None,
        octets: int = 0,
    ) -> list[Message]:
        """Up to `n` due messages, earliest first, with those recipients that are due; they belong
        to `owner` for `lease` seconds from now, as does all it has, be its lease run out or not.

        octets: so much content may come with the first of them; the others have none.
        queue_ids: only these, with all recipients that are not done, due or not; those that are
        held or somebody's already are left out.
        """
        ...

    async def renew(self, owner: str, lease: float) -> None:
        """All that `owner` has stays its own for `lease` seconds from now."""
        ...

    async def unclaim(self, owner: str, queue_ids: Iterable[str] | None = None) -> None:
        """Give messages back (None: all that `owner` has); they stay as due as they were."""
        ...

    async def next_commit(self) -> None:
        """Returns at once, or when something that is recorded now goes into a commit that is made
        in any case; soon, if there is none."""
        ...

    async def apply(self, owner: str, results: Sequence[Result]) -> set[str]:
        """Record results of messages that `owner` has claimed, all in one commit.

        The ids of the messages that are gone from the queue now, because their last recipient
        was done or because somebody deleted them meanwhile. One result that cannot be recorded
        (a notice that cannot be entered) raises TempFail and leaves all as it was; what is given
        back cannot be claimed before it was tried again, and recorded.
        """
        ...

    async def content(self, message: Message) -> Content:
        """What the message says. Raises TempFail; if the content is damaged, the message has
        been set aside as corrupt by then, and is in nobody's claim."""
        ...

    async def hold(self, queue_ids: Iterable[str] | None = None) -> list[str]:
        """Nothing is delivered until `release`. None: all. The ids whose state changed."""
        ...

    async def release(self, queue_ids: Iterable[str] | None = None) -> list[str]:
        """Held messages are due at once. None: all held. The ids whose state changed."""
        ...

    async def requeue(self, queue_ids: Iterable[str] | None = None) -> list[str]:
        """All recipients are due at once, also of held messages. None: all."""
        ...

    async def expire(self, queue_ids: Iterable[str] | None = None) -> list[str]:
        """Messages are given up at their next attempt (`Message.expires` is negative from then
        on), which is due at once but for held ones. None: all. The ids of those for which that
        is new."""
        ...

    async def delete(
        self, queue_ids: Iterable[str] | None = None, *, keep: bool = False
    ) -> list[str]:
        """Remove messages without telling anybody. None: all but those in the trash. The ids of
        those that were there.

        keep: they go to the queue "trash", from where `undelete` brings them back. What is being
        delivered just then is still recorded: who got it does not get it again, and a message
        that is left without recipients is gone for good.
        """
        ...

    async def undelete(self, queue_ids: Iterable[str] | None = None) -> list[str]:
        """Messages in the trash are what they were: due at once, on hold, or damaged. None: all
        of them. The ids of those that were there."""
        ...

    async def purge(self, before: float, n: int) -> int:
        """Remove for good what was put into the trash before then: the oldest `n` of it. How many
        were looked at; less than `n` when that was all."""
        ...

    async def dropped(self, recipients: int) -> None:
        """For the ledger: so many were accepted, and go nowhere (discarded, an alias that names
        nobody)."""
        ...

    def passed(self, message: Message, done: Sequence[tuple[Recipient, Outcome]]) -> None:
        """For the ledger: so many of a message were handed on and never entered; called before
        the rest of it is entered. It is written down within `ledger.PASSED_AFTER`."""
        ...

    async def audit(self, since: float) -> Audit:
        """What came in since then, what became of it, and what does not add up."""
        ...

    async def check(self) -> Checked:
        """Look at all that is stored; what is damaged is set aside (rule 4)."""
        ...

    async def sweep(self) -> Swept:
        """Remove files that a crash has left; those that the last start removed count too."""
        ...

    async def forget_ledger(self, before: float) -> None:
        """Only the sum is kept of what was before then."""
        ...

    async def is_short(self) -> bool:
        """Whether there is less room than new mail needs (`queue_minfree`). Raises OSError."""
        ...

    async def wake(self, queue_ids: Iterable[str] | None = None) -> int:
        """Messages that wait for their next attempt are due at once (flush); held ones stay held.
        None: all. How many."""
        ...

    async def wake_waiting(self, waits_for: str) -> int:
        """Recipients that wait for this next hop are due at once: it is back. How many."""
        ...

    async def wake_stranded(self, after: float) -> int:
        """Messages whose next attempt is later than that are due at once: the clock was ahead when
        it was set. How many, not more than some at a time."""
        ...

    async def wake_probes(self) -> int:
        """One recipient for each next hop that is waited for is due at once. How many."""
        ...

    async def knows_token(self, token: str) -> bool:
        """Whether a message with this `Message.token` was entered, also if it is gone again."""
        ...

    async def forget_tokens(self, before: float) -> None:
        """Of messages that arrived before then."""
        ...

    def walk(self, queue: str | None = None) -> AsyncIterator[Entry]:
        """Every message but those in the trash in order of arrival, read in pages: none is open
        between two of them. queue: only those in this queue."""
        ...

    async def get(self, queue_id: str) -> Entry | None:
        """One message, or None."""
        ...

    async def headers(self, queue_ids: Iterable[str]) -> dict[str, bytes]:
        """The header fields of those that are there, as they are kept."""
        ...

    async def load(self, queue_id: str) -> Message | None:
        """A message with envelope and content, whoever has claimed it, for people to look at."""
        ...

    def watch(self, watcher: Watcher) -> None:
        """From now on, tell `watcher`."""
        ...

    async def next_due(self) -> float | None:
        """When the next message that nobody has claimed is due; None if there is none."""
        ...

    async def stats(self) -> QueueStats:
        """How many messages are in which queue."""
        ...

    async def close(self) -> None:
        """Finish what has been asked for, then let go of the queue."""
        ...
