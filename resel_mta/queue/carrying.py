"""Cut-through (`relay_cut_through`): mail that is handed on before it is kept.

The client waits for its last reply until the next hop has taken the message. On any trouble, and
after `PATIENCE`, the message is entered in the queue, and goes on from where it is, also if a
delivery is under way. So the client gets its 250 only when somebody has the message on disk, the
next hop or this queue.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from resel_mta.mail import Message, Notify, TempFail
from resel_mta.queue.door import QueueStore
from resel_mta.queue.journal import Journal
from resel_mta.queue.settling import Settler
from resel_mta.queue.sites import Active, Unkept

PATIENCE = 5.0
"""Seconds after which the client is not made to wait any longer."""


def may_be_carried(message: Message) -> bool:
    """Not what has to be remembered or reported in any case."""
    if message.hold or message.token or message.origin_protocol == "internal":
        return False
    return not any(recipient.notify & Notify.SUCCESS for recipient in message.recipients)


class Carrier:
    """activate: begins the delivery of a message that is not kept. drop: begins nothing more of
    messages that are withdrawn. settled: a message is nobody's, or no more."""

    def __init__(
        self,
        store: QueueStore,
        owner: str,
        journal: Journal,
        settler: Settler,
        activate: Callable[[Message, Unkept], Active],
        drop: Callable[[], None],
        settled: Callable[[Active, bool], None],
    ) -> None:
        self._store = store
        self._owner = owner
        self._journal = journal
        self._settler = settler
        self._activate = activate
        self._drop = drop
        self._settled = settled
        self.tasks: set[asyncio.Task[None]] = set()

    async def carry(self, message: Message) -> None:
        """Returns when somebody keeps all of it. Raises what `QueueStore.enter` raises."""
        task = asyncio.get_running_loop().create_task(self._carry(message))
        self.tasks.add(task)
        task.add_done_callback(self._ended)
        # The client may go away meanwhile; what has begun is finished all the same.
        await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled():
            # The client is told, if it is still there.
            task.exception()

    async def _carry(self, message: Message) -> None:
        unkept = Unkept()
        active = self._activate(message, unkept)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await unkept.changed.wait()
        if active.waiting or active.failed or active.retries:
            await self._keep(active, unkept)
            return
        active.finishing = True
        self._store.passed(message, unkept.done)
        self._journal.removed(message.queue_id)
        self._settled(active, True)
        if message.content is not None:
            await self._store.discard(message.content)

    async def _keep(self, active: Active, unkept: Unkept) -> None:
        """Enter what is not done; outcomes that come meanwhile are recorded after that."""
        message = active.message
        done, unkept.done = unkept.done, []
        if done:
            gone = {recipient for recipient, _ in done}
            message.recipients[:] = [each for each in message.recipients if each not in gone]
            self._store.passed(message, done)
        try:
            await self._store.enter(message, claim_for=self._owner)
        except TempFail:
            active.withdrawn = active.finishing = True
            self._drop()
            self._settled(active, True)
            raise
        message.whole = True
        active.unkept = None
        if active.waiting <= 0:
            self._settler.finish(active, unkept.done)
        elif unkept.done:
            self._settler.record_delivered(active, unkept.done)
