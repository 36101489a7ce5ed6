"""Fills the caches of mailboxes to which mail was delivered, before anybody looks at it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import apsw

from resel_lda.mailbox import MailboxError, MailStore
from resel_lda.maildir.arrivals import prepare_closed
from resel_lda.maildir.background import Background
from resel_lda.maildir.layout import MailLocation
from resel_lda.maildir.store import MaildirStore
from resel_mta.disk import Disk
from resel_mta.maillog import MailLog

# Seconds without a delivery until it begins, so that it takes nothing from those that come
# together, and seconds after which it begins all the same.
_QUIET = 0.5
_LATEST = 5.0
# Messages at a time, and that are waited for in all; what is beyond is made when it is asked for.
_BATCH = 20
_MOST = 20_000


@dataclass(slots=True)
class _Mailbox:
    user: str
    location: MailLocation
    bases: deque[str] = field(default_factory=deque)


class ArrivalFiller:
    """Of one worker. held: the store of a user, if a session has it open. Lives in the loop."""

    def __init__(
        self, background: Background, held: Callable[[str], MailStore | None], log: MailLog
    ) -> None:
        self._background = background
        self._held = held
        self._log = log
        self._waiting: dict[MailLocation, _Mailbox] = {}
        self._count = 0
        self._last = 0.0
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    def delivered(self, user: str, location: MailLocation, base: str) -> None:
        """A message lies in new/ of the user's INBOX."""
        loop = asyncio.get_running_loop()
        self._last = loop.time()
        if self._count >= _MOST or self._closing.is_set():
            return
        mailbox = self._waiting.setdefault(location, _Mailbox(user, location))
        mailbox.bases.append(base)
        self._count += 1
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._run())

    async def close(self) -> None:
        """Finish what is being made, and leave the rest."""
        self._closing.set()
        if self._task is not None:
            await asyncio.wait((self._task,))

    async def _run(self) -> None:
        await self._quiet()
        while self._waiting and not self._closing.is_set():
            mailbox = next(iter(self._waiting.values()))
            async with self._background.turn():
                await self._some(mailbox)
            # The next one's turn.
            del self._waiting[mailbox.location]
            if mailbox.bases:
                self._waiting[mailbox.location] = mailbox

    async def _quiet(self) -> None:
        """Until the deliveries that come together are through, or it is time."""
        loop = asyncio.get_running_loop()
        latest = loop.time() + _LATEST
        while (left := min(self._last + _QUIET, latest) - loop.time()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._closing.wait()
                return

    async def _some(self, mailbox: _Mailbox) -> None:
        bases = [mailbox.bases.popleft() for _ in range(min(_BATCH, len(mailbox.bases)))]
        self._count -= len(bases)
        store = self._held(mailbox.user)
        try:
            if isinstance(store, MaildirStore):
                await store.prepare_arrivals(bases)
            else:
                await asyncio.to_thread(prepare_closed, mailbox.location, bases, Disk(), self._log)
        except MailboxError:
            # The store has logged it, and makes what is asked for then.
            return
        except (OSError, apsw.Error) as error:
            self._log.warning("local", f"{mailbox.location.index}/cache: {error}")
