"""What becomes of messages, as rows: progress, notices, removal. Every function runs in the
writer's thread and raises apsw.Error."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

import apsw

from resel_mta.mail import Bounced, Deferred, Message
from resel_mta.queue import rows, trash
from resel_mta.queue.door import Result, Watcher
from resel_mta.queue.journal import reason
from resel_mta.queue.ledger import Ledger
from resel_mta.queue.schema import DONE
from resel_mta.queue.spool import THRESHOLD


def _text(text: str) -> str:
    """A peer's words as text that the database can hold."""
    return text.encode("utf-8", "replace").decode() if not text.isascii() else text


def _record_progress(db: apsw.Connection, number: int, result: Result) -> None:
    for recipient, outcome in result.done:
        db.execute(
            "UPDATE recipient SET status = ?, attempts = attempts + 1, reply = ?, relay = ?, "
            "waits_for = '' WHERE message = ? AND row = ?",
            (DONE, _text(reason(outcome)), outcome.relay, number, recipient.row),
        )
    for retry in result.retries:
        if retry.outcome is None:
            db.execute(
                "UPDATE recipient SET next_attempt = ? WHERE message = ? AND row = ?",
                (retry.next_attempt, number, retry.recipient.row),
            )
        else:
            db.execute(
                "UPDATE recipient SET next_attempt = ?, attempts = attempts + ?, reply = ?, "
                "relay = ?, waits_for = ? WHERE message = ? AND row = ?",
                (
                    retry.next_attempt,
                    retry.tried,
                    _text(reason(retry.outcome)),
                    retry.outcome.relay,
                    retry.waits_for,
                    number,
                    retry.recipient.row,
                ),
            )


def record(db: apsw.Connection, number: int, result: Result, owner: str) -> bool:
    """Apply a result to a message, its notices excepted; whether the message is gone."""
    if result.complete:
        rows.remove(db, number)
        return True
    rows.unfold(db, number)
    _record_progress(db, number, result)
    if result.added:
        last = db.execute("SELECT max(row) FROM recipient WHERE message = ?", (number,)).get
        rows.add_recipients(db, number, result.added, 0.0, first=(last or 0) + 1)
    if result.warned:
        db.execute("UPDATE message SET warned = 1 WHERE id = ?", (number,))
    due = db.execute(
        "SELECT min(next_attempt) FROM recipient WHERE message = ? AND status = 0", (number,)
    ).get
    if due is None:
        rows.remove(db, number)
        return True
    if result.release:
        db.execute(
            "UPDATE message SET next_attempt = ?, owner = NULL WHERE id = ? AND owner = ?",
            (due, number, owner),
        )
    else:
        db.execute("UPDATE message SET next_attempt = ? WHERE id = ?", (due, number))
    return False


def _still_due(db: apsw.Connection, number: int, result: Result) -> Result:
    """Only for recipients that are not done according to the database."""
    message = rows.read(db, number)
    due = {recipient.row for recipient in message.recipients} if message is not None else set()
    return replace(result, done=[pair for pair in result.done if pair[0].row in due])


def _only_successes(result: Result) -> Result:
    done = [pair for pair in result.done if not isinstance(pair[1], Bounced | Deferred)]
    return replace(result, done=done, notices=())


@dataclass(frozen=True, slots=True)
class Entering:
    """A notice that is to be entered, with the watcher that admitted it."""

    number: int
    message: Message
    owner: str | None
    watcher: Watcher | None


@dataclass(frozen=True, slots=True)
class Step:
    """A result, with its message's number and its notices."""

    number: int
    result: Result
    notices: list[Entering]


@dataclass(slots=True)
class Recorded:
    """gone: ids of messages that are not there any more; files: those of them with a file;
    entered: the numbers of the notices that were entered."""

    gone: set[str] = field(default_factory=set)
    files: list[str] = field(default_factory=list)
    entered: set[int] = field(default_factory=set)


def disown(db: apsw.Connection, numbers: Iterable[int]) -> list[int]:
    """Notices of steps that may have been committed or not: those that are there, which are
    nobody's from now on."""
    there = [number for number in dict.fromkeys(numbers) if rows.exists(db, number)]
    for number in there:
        db.execute("UPDATE message SET owner = NULL WHERE id = ?", (number,))
    return there


def record_all(
    db: apsw.Connection,
    ledger: Ledger,
    owner: str,
    steps: Iterable[Step],
    complete: Sequence[tuple[int, Result]],
    disowned: Collection[int] = (),
) -> Recorded:
    """For each result its notices first, then what they are about. complete: messages that are
    only to be removed. disowned: what `disown` has found; those steps were committed."""
    recorded = Recorded()
    # First what is left of messages: the last word on one of them may be in `complete`.
    for step in steps:
        if not _is_recorded(db, step, disowned, recorded):
            _record_step(db, ledger, owner, step, recorded)
    plain = [pair for pair in complete if not ledger.doubts(pair[0])]
    numbers = [number for number, _ in plain]
    rows.remove_all(db, numbers)
    ledger.removed(numbers)
    ledger.done(outcome for _, result in plain for _, outcome in result.done)
    if len(plain) < len(complete):
        for number, result in complete:
            if ledger.doubts(number):
                _record_step(db, ledger, owner, Step(number, result, []), recorded)
    return recorded


def _is_recorded(
    db: apsw.Connection, step: Step, disowned: Collection[int], recorded: Recorded
) -> bool:
    """Whether an earlier try did all of this step, though its commit failed. The notices are what
    tells: they are there with the rest of it, and may have been delivered by now."""
    if not any(notice.number in disowned for notice in step.notices):
        return False
    if not rows.exists(db, step.number):
        recorded.gone.add(step.result.message.queue_id)
    return True


def _record_step(
    db: apsw.Connection, ledger: Ledger, owner: str, step: Step, recorded: Recorded
) -> None:
    number, result, notices = step.number, step.result, step.notices
    queue_id = result.message.queue_id
    trashed = lost = False
    if ledger.doubts(number):
        lost = not rows.exists(db, number)
        if lost and (not notices or ledger.doubts_alone(number)):
            recorded.gone.add(queue_id)
            return
        # Lost all the same: another result, without notices to be made, was the last word already.
        if not lost:
            result = _still_due(db, number, result)
        if result.complete:
            # Results were put off, and some may come after this one: they have the last word.
            result = replace(result, complete=False, release=False)
        trashed = trash.is_trashed(db, number)
        if trashed:
            # Nobody is told of what somebody deleted; it may come back, and fail then.
            recorded.gone.add(queue_id)
            notices, result = [], _only_successes(result)
    for notice in notices:
        rows.insert(db, ledger, notice.number, notice.message, notice.owner)
        recorded.entered.add(notice.number)
    spooled = result.message.size > THRESHOLD and rows.is_spooled(db, number)
    there = not lost and (result.complete or bool(result.retries) or rows.exists(db, number))
    if record(db, number, result, owner):
        # Not there: another result, which took less time to make, was the last word already.
        if there:
            ledger.removed((number,))
        recorded.gone.add(queue_id)
        if spooled:
            recorded.files.append(queue_id)
    ledger.done(outcome for _, outcome in result.done)
    ledger.added(len(result.added))
    if trashed:
        ledger.deleted(len(result.added) - len(result.done))
