"""One command of an administrator, on a stream: the worker's side.

A line of JSON asks: {"command", "args", "octets": how many follow}. Lines answer: {"values": […]}
for each row, {"problem": text, "exit": n} for what failed, {"info": text} for what else there is to know,
{"done": true} at the end. A stream
that ends without the last one is of a worker that died.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from resel_lda.admin import folders, messages, quota, undo
from resel_lda.admin.work import EX_TEMPFAIL, Work, exit_code
from resel_lda.imap.names import Names
from resel_lda.imap.stream import ConnectionLost, LineTooLong, Stream
from resel_lda.mailbox import MailboxError
from resel_lda.maildir.store import MaildirStore
from resel_mta.config import Settings
from resel_mta.users import User

_MAX_REQUEST = 1 << 20
_BLOCK = 1 << 16

COMMANDS: Mapping[str, Callable[[Work], Awaitable[None]]] = {
    "list": folders.list_folders,
    "status": folders.status,
    "create": folders.create,
    "delete": folders.delete,
    "rename": folders.rename,
    "subscribe": folders.subscribe,
    "unsubscribe": folders.unsubscribe,
    "path": folders.path,
    "resync": folders.resync,
    "search": messages.search,
    "fetch": messages.fetch,
    "expunge": undo.expunge,
    "flags": messages.flags,
    "copy": messages.copy,
    "move": messages.move,
    "save": messages.save,
    "deliver": messages.deliver,
    "import": messages.import_mail,
    "quota.get": quota.get,
    "quota.recalc": quota.recalc,
    "undelete": undo.undelete,
    "purge": undo.purge,
}


def names_of(settings: Settings) -> Names:
    """Between the names that people use and the store's."""
    return Names(settings.text("namespace_prefix"), settings.text("namespace_separator"))


async def perform(handler: Callable[[Work], Awaitable[None]], work: Work) -> None:
    """Carry it out; what goes wrong becomes a problem, and a bug a line in the log too."""
    try:
        await handler(work)
    except MailboxError as error:
        await work.tell.problem(error.text, exit_code(error))
    except (ConnectionLost, asyncio.CancelledError):
        raise
    except Exception as error:
        work.report(f"error: {handler.__name__} failed: {error!r}")
        await work.tell.problem("Internal error occurred; the log says more", EX_TEMPFAIL)


class AdminSession:
    """Implements `sessions.Running`. report: takes a line for the operator's log."""

    def __init__(
        self,
        stream: Stream,
        user: User,
        store: MaildirStore,
        settings: Settings,
        report: Callable[[str], None],
    ) -> None:
        self._stream = stream
        self._user = user
        self._store = store
        self._settings = settings
        self._report = report
        self._task: asyncio.Task[str] | None = None
        # Octets of what was handed in that are not read yet.
        self._left = 0

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def run(self) -> str:
        """Serve one command; what it was, or why it did not end, for the log."""
        self._task = asyncio.create_task(self._serve())
        try:
            return await self._task
        except ConnectionLost:
            return self._stream.why_lost
        finally:
            self._task.cancel()

    async def _serve(self) -> str:
        try:
            request = json.loads(await self._stream.line(_MAX_REQUEST))
            self._left = int(request.get("octets", 0))
            command = str(request["command"])
            args = request.get("args", {})
        except (LineTooLong, ValueError, KeyError, TypeError, AttributeError):
            await self.problem("the request cannot be read", EX_TEMPFAIL)
            return "bad request"
        await self._perform(command, args)
        await self._say({"done": True})
        await self._skip()
        # A delivery has its own line.
        return "" if command == "deliver" else f"Command {command}"

    async def _perform(self, command: str, args: Mapping[str, Any]) -> None:
        handler = COMMANDS.get(command)
        if handler is None:
            await self.problem(f"unknown command {command}", EX_TEMPFAIL)
            return
        work = Work(
            self._user,
            self._store,
            self._settings,
            names_of(self._settings),
            args,
            self,
            self._content,
            self._report,
        )
        await perform(handler, work)

    async def _content(self) -> AsyncIterator[bytes]:
        while self._left:
            block = await self._stream.read(min(self._left, _BLOCK))
            self._left -= len(block)
            yield block

    async def _skip(self) -> None:
        """Read what nobody wanted, up to the asker's end: a socket that is closed with octets
        unread takes the answer with it."""
        with contextlib.suppress(ConnectionLost):
            async for _ in self._content():
                continue

    # Implements `work.Tell`.

    async def row(self, values: Sequence[str]) -> None:
        await self._say({"values": list(values)})

    async def problem(self, text: str, code: int) -> None:
        await self._say({"problem": text, "exit": code})

    async def info(self, text: str) -> None:
        await self._say({"info": text})

    async def _say(self, answer: Mapping[str, object]) -> None:
        self._stream.write(json.dumps(answer).encode("ascii") + b"\n")
        await self._stream.drain()
