"""What becomes of recipients: noted, logged, recorded; with the notifications that it calls for."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any

from resel_mta.mail import Bounced, Deferred, PermFail, Recipient, Reply, TempFail
from resel_mta.queue.dispatch import Pairs
from resel_mta.queue.door import QueueStore, Result, Retry
from resel_mta.queue.journal import Journal
from resel_mta.queue.notices import Cause, Notice, Notices, wanted_causes, wants_success
from resel_mta.queue.recorder import Recorder
from resel_mta.queue.retry import Policy
from resel_mta.queue.sites import Active, is_suspension

FORCED = "message is administratively expired"


class Settler:
    """ended: called when a message is recorded for the last time: (message, whether it is gone).

    What was delivered is recorded at once; failures and retries when every recipient has an
    outcome, so that the sender gets one bounce.
    """

    def __init__(
        self,
        policy: Policy,
        store: QueueStore,
        owner: str,
        journal: Journal,
        notices: Notices,
        recovered: Callable[[], None],
        ended: Callable[[Active, bool], None],
    ) -> None:
        self._policy = policy
        self._store = store
        self._journal = journal
        self._notices = notices
        self._ended = ended
        self.recorder = Recorder(store, owner, journal, recovered, self._without_notices)
        self.tasks: set[asyncio.Task[None]] = set()

    def reconfigure(self, policy: Policy) -> None:
        self._policy = policy

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        self._journal.task_ended(task)

    def settle(
        self, active: Active, outcomes: Pairs, service: str, started: float, waits_for: str
    ) -> None:
        """Note what became of recipients, and log it."""
        now = time.time()
        if self._policy.soft_bounce:
            outcomes = [
                (recipient, _softened(outcome) if isinstance(outcome, Bounced) else outcome)
                for recipient, outcome in outcomes
            ]
        self._journal.outcomes(
            service,
            active.message,
            outcomes,
            activated=active.activated,
            started=started,
            now=now,
        )
        done: Pairs = []
        for recipient, outcome in outcomes:
            if isinstance(outcome, Bounced):
                active.failed.append((recipient, outcome))
            elif isinstance(outcome, Deferred):
                self._put_off(active, recipient, outcome, waits_for, now)
            else:
                done.append((recipient, outcome))
        active.waiting -= len(outcomes)
        if active.unkept is not None:
            active.unkept.note(active, done)
        elif active.waiting <= 0:
            self.finish(active, done)
        elif done:
            self.record_delivered(active, done)

    def _put_off(
        self, active: Active, recipient: Recipient, outcome: Deferred, waits_for: str, now: float
    ) -> None:
        if self._policy.expires(active.message) <= now:
            active.expired = True
            active.failed.append((recipient, outcome))
            return
        if tried := not is_suspension(outcome):
            due = self._policy.next_attempt(recipient.attempts + 1, now)
        else:
            due = self._policy.next_look(active.message.arrival, now)
        active.retries.append(Retry(recipient, due, outcome, waits_for, tried))

    async def give_up(self, active: Active) -> None:
        """An administrator wants it returned, untried. Its sender is told why it is still here."""
        reasons: dict[str, str] = {}
        with contextlib.suppress(TempFail):
            entry = await self._store.get(active.message.queue_id)
            if entry is not None:
                reasons = {each.address: each.reason for each in entry.recipients}
        active.routed = True
        active.waiting = 0
        if not active.withdrawn:
            active.expired = True
            for each in active.message.recipients:
                reply = Reply(450, "4.4.7", reasons.get(each.address) or FORCED)
                active.failed.append((each, Deferred(reply)))
        self.finish(active, [])

    def record_delivered(self, active: Active, done: Pairs) -> None:
        """Some recipients of a message are done while others are not."""
        if _wants_notice(done):
            task = self._spawn(self._record_with_notices(active, Result(active.message, done)))
            active.telling.add(task)
            task.add_done_callback(active.telling.discard)
        else:
            self.recorder.add(Result(active.message, done), _nothing_more)

    def finish(self, active: Active, done: Pairs) -> None:
        """Every recipient has an outcome, or is not to be tried."""
        if active.finishing:
            return
        active.finishing = True
        if active.expired:
            self._journal.expired(active.message)
        message = active.message
        complete = message.whole and not (active.failed or active.retries or active.withdrawn)
        result = Result(message, done, active.retries, release=True, complete=complete)
        if active.failed or active.telling or self._is_late(active) or _wants_notice(done):
            self._spawn(self._record_with_notices(active, result))
        else:
            self.recorder.add(result, partial(self._recorded, active))

    def _is_late(self, active: Active) -> bool:
        """Whether its sender is to be warned now."""
        message, wait = active.message, self._policy.delay_warning
        if not wait or message.warned or not active.retries:
            return False
        return time.time() >= message.arrival + wait

    async def _record_with_notices(self, active: Active, result: Result) -> None:
        """Record a result and the notifications that it calls for in one step (rule 3); the last
        one of a message after all others, or it would be given back with recipients that are done.
        """
        late = result.release and self._is_late(active)
        queue_id = active.message.queue_id
        failed = tuple(active.failed) if result.release else ()
        delayed = [(r.recipient, r.outcome) for r in result.retries if r.outcome] if late else []
        expires = self._policy.expires(active.message)
        cause = wanted_causes(Cause(active.message, failed, delayed, result.done, expires))
        notices: list[Notice] | None
        try:
            notices = await self._make_notices(cause)
        except (TempFail, PermFail) as error:
            self._journal.warning(f"no notification could be made: {error.reply}", queue_id)
            notices = None
        except Exception as error:
            self._journal.exception("making a notification", queue_id, error)
            notices = None
        except asyncio.CancelledError:
            # There is no time left. That mail was delivered must not be forgotten.
            notices = None
        if notices is None:
            notices, failed, late = [], (), False
            result = self._kept_back(result, [*active.failed])
        while result.release and active.telling:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait(active.telling)
        whole = replace(
            result,
            done=[*result.done, *failed],
            notices=[notice.message for notice in notices],
            warned=late,
        )
        self.recorder.add(whole, partial(self._notified, active, cause, notices, result.release))

    async def _make_notices(self, cause: Cause) -> list[Notice]:
        if not (cause.failed or cause.delayed or cause.done):
            return []
        message = cause.message
        content = message.content
        if content is None:
            content = await self._store.content(message)
        return await self._notices.make(cause, content)

    def _kept_back(self, result: Result, failed: Pairs) -> Result:
        """Without its notifications, what failed stays in the queue."""
        if not result.release:
            return result
        now = time.time()
        kept = [
            Retry(recipient, self._policy.next_attempt(recipient.attempts + 1, now), outcome)
            for recipient, outcome in failed
        ]
        return replace(result, retries=[*result.retries, *kept])

    def _without_notices(self, result: Result) -> Result:
        """What to record of a result whose notifications the store can't take."""
        failed: Pairs = [(r, o) for r, o in result.done if isinstance(o, Bounced | Deferred)]
        done = [(r, o) for r, o in result.done if not isinstance(o, Bounced | Deferred)]
        return self._kept_back(replace(result, done=done, notices=(), warned=False), failed)

    def _notified(
        self,
        active: Active,
        cause: Cause,
        notices: list[Notice],
        last: bool,
        gone: bool,
        entered: bool,
    ) -> None:
        if entered:
            self._notices.entered(active.message, notices)
        if last:
            self._recorded(active, gone, entered)

    def _recorded(self, active: Active, gone: bool, entered: bool) -> None:
        """The message is nobody's, or no more."""
        if gone and not active.withdrawn:
            self._journal.removed(active.message.queue_id)
        self._ended(active, gone)


def _softened(outcome: Bounced) -> Deferred:
    return Deferred(
        outcome.reply.softened(),
        outcome.host,
        outcome.relay,
        outcome.connect,
        outcome.transmit,
        outcome.diagnostic,
    )


def _wants_notice(done: Pairs) -> bool:
    """Whether somebody is to be told of these successes."""
    for recipient, outcome in done:
        if recipient.notify and wants_success(recipient, outcome):
            return True
    return False


def _nothing_more(gone: bool, entered: bool) -> None:
    """A message that has recipients left goes on."""
