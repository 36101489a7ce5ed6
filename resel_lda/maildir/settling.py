"""Names that STORE changed, until they survive a power cut: a second later, many at a time.

Flags are acknowledged when the files are renamed, which a kill cannot take back; Dovecot does as
much. A power cut within the second may. So that no client goes on believing in flags that are no
more, `state` holds, durably and before the first rename, that the folder is unsettled: when such a
folder is loaded, each message counts as changed, and clients with CONDSTORE are told its flags.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable

from resel_lda.mailbox import MailboxError
from resel_lda.maildir.index import FolderIndex

_DELAY = 1.0

# A folder's way of having work done in a thread. What it raises has been logged.
InThread = Callable[[Callable[[], bool]], Awaitable[bool]]


class Settling:
    """Of one folder."""

    def __init__(self, index: FolderIndex, in_thread: InThread) -> None:
        self._index = index
        self._in_thread = in_thread
        self._guard = threading.Lock()
        # Rounds of renames that were begun, that are done, and that are durable.
        self._begun = self._done = self._durable = 0
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Before names are changed. Blocks, under the folder's lock. Raises apsw.Error."""
        with self._guard:
            if self._begun == self._durable:
                self._index.set_unsettled(True)
            self._begun += 1

    def end(self) -> None:
        """After they were changed."""
        with self._guard:
            self._done += 1

    def settle(self) -> bool:
        """Make what was changed durable; False if some was, or is being, changed meanwhile. Blocks,
        in any thread. Raises OSError, apsw.Error."""
        with self._guard:
            begun = self._begun
            if begun == self._durable:
                return True
            if begun != self._done:
                return False
        # In a folder that is no more, nothing is left to be lost.
        with contextlib.suppress(FileNotFoundError):
            self._index.files.disk.sync_directory(self._index.files.cur)
        with self._guard:
            if begun != self._begun:
                return False
            self._durable = begun
            self._index.set_unsettled(False)
            return True

    def soon(self) -> None:
        """On the loop, after names may have been changed."""
        if self._task is None and self._begun != self._durable:
            self._task = asyncio.get_running_loop().create_task(self._later())

    async def _later(self) -> None:
        try:
            settled = False
            while not settled:
                await asyncio.sleep(_DELAY)
                settled = await self._in_thread(self.settle)
        except MailboxError:
            # It stays unsettled, as `state` says.
            pass
        finally:
            self._task = None

    async def finish(self) -> None:
        """Before the folder is closed, when nothing is being changed any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        with contextlib.suppress(MailboxError):
            await self._in_thread(self.settle)
