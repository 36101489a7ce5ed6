"""The command loop of a logged-in session: which commands there are, and what ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from resel_lda.imap import (
    append,
    basic,
    fetch,
    folders,
    listing,
    metadata,
    notify,
    quotas,
    search,
    search_context,
    selecting,
    sort,
    storing,
    thread,
)
from resel_lda.imap.errors import End, Refused
from resel_lda.imap.parser import ParseError, Parser
from resel_lda.imap.reader import CommandRefused, Incoming, tag_of
from resel_lda.imap.session import Session
from resel_lda.imap.stream import ConnectionLost
from resel_lda.imap.view import uid_required
from resel_lda.mailbox import MailboxError

MAX_BAD_COMMANDS = 20
# Seconds without a command after which a session ends (RFC 3501 §5.4: at least 30 minutes).
INACTIVITY = 30 * 60.0
# Seconds between signs of life of a command that takes long (RFC 9585).
PROGRESS = 10.0

Handler = Callable[[Session, Parser], Awaitable[str]]
NumberHandler = Callable[[Session, Parser, bool], Awaitable[str]]

_COMMANDS: dict[bytes, Handler] = {
    b"CAPABILITY": basic.capability,
    b"NOOP": basic.noop,
    b"CHECK": basic.check,
    b"LOGOUT": basic.logout,
    b"ID": basic.identify,
    b"ENABLE": basic.enable,
    b"COMPRESS": basic.compress,
    b"NAMESPACE": basic.namespace,
    b"IDLE": basic.idle,
    b"SELECT": selecting.select,
    b"EXAMINE": selecting.examine,
    b"CLOSE": selecting.close,
    b"UNSELECT": selecting.unselect,
    b"CANCELUPDATE": search_context.cancel,
    b"CREATE": folders.create,
    b"DELETE": folders.delete,
    b"RENAME": folders.rename,
    b"SUBSCRIBE": folders.subscribe,
    b"UNSUBSCRIBE": folders.unsubscribe,
    b"STATUS": folders.status,
    b"LIST": listing.list_,
    b"LSUB": listing.lsub,
    b"EXPUNGE": storing.expunge,
    b"GETQUOTA": quotas.get_quota,
    b"GETQUOTAROOT": quotas.get_quota_root,
    b"SETQUOTA": quotas.set_quota,
    b"GETMETADATA": metadata.get_metadata,
    b"SETMETADATA": metadata.set_metadata,
    b"NOTIFY": notify.notify,
}
# Commands that take message numbers, or UIDs after UID. The first three must not be answered
# with an EXPUNGE in their plain form (RFC 3501 §7.4.1).
_NUMBERED: dict[bytes, NumberHandler] = {
    b"FETCH": fetch.fetch,
    b"STORE": storing.store,
    b"COPY": storing.copy,
    b"MOVE": storing.move,
    b"THREAD": thread.thread,
}
_NO_EXPUNGE = frozenset((b"FETCH", b"STORE", b"SEARCH", b"SORT", b"THREAD"))


@dataclass(slots=True)
class _State:
    waiting: bool = False
    stopping: bool = False
    bad_commands: int = 0
    word: bytes = b""
    # The same, without UID before it.
    plain_word: bytes = b""
    # The next sign of life of the running command.
    sign: asyncio.TimerHandle | None = None
    # When the next command began to be waited for; 0 while one runs.
    since: float = 0.0
    # It was waited for too long.
    expired: bool = False


class Server:
    """Runs one session to its end."""

    def __init__(
        self, session: Session, inactivity: float = INACTIVITY, progress: float = PROGRESS
    ) -> None:
        self.session = session
        self._progress = progress
        self._inactivity = inactivity
        self._state = _State()
        self._task: asyncio.Task[None] | None = None

    def stop(self) -> None:
        """End with BYE after the command that is running; at once where there is none."""
        self._state.stopping = True
        if self._state.waiting and self._task is not None:
            self._task.cancel()

    async def run(self, login_tag: bytes = b"") -> str:
        """login_tag: of the log-in command, which is answered first. Returns why it ended."""
        session = self.session
        self._task = asyncio.create_task(self._loop(login_tag))
        self._watch()
        try:
            await asyncio.wait((self._task,))
            end = self._task.exception() if not self._task.cancelled() else None
        except asyncio.CancelledError:
            self._task.cancel()
            raise
        finally:
            self._watcher.cancel()
            session.close_notifier()
            session.close_view()
        if self._task.cancelled():
            end = End("Server shutting down.")
        if isinstance(end, End):
            if end.said:
                await self._bye(end.said)
            session.stream.close()
            return end.reason
        if isinstance(end, ConnectionLost):
            session.stream.abort()
            return session.stream.why_lost
        session.stream.abort()
        if end is not None:
            raise end
        return "Connection closed"

    async def _bye(self, said: str) -> None:
        try:
            self.session.untagged(f"BYE {said}".encode())
            async with asyncio.timeout(5):
                await self.session.flush()
        except (ConnectionLost, TimeoutError):
            self.session.stream.abort()

    async def _loop(self, login_tag: bytes) -> None:
        session = self.session
        if login_tag:
            code = b"[CAPABILITY %b] " % basic.capabilities()
            session.tagged(login_tag, b"OK " + code + b"Logged in")
            await session.flush()
        while not session.logged_out:
            incoming = await self._next()
            if incoming is not None:
                await self._command(incoming)
            await session.flush()
            if session.compressing:
                session.compressing = False
                session.stream.start_deflate()
        raise End("Logged out", said="")

    async def _next(self) -> Incoming | None:
        if self._state.stopping:
            raise End("Server shutting down.")
        self._state.waiting = True
        self._state.since = asyncio.get_running_loop().time()
        try:
            return await self._notified(self.session.reader.next())
        except asyncio.CancelledError:
            if self._state.expired:
                raise End("Disconnected for inactivity.") from None
            raise
        except CommandRefused as error:
            self._count_bad()
            self.session.tagged(error.tag, error.status + b" " + error.text.encode())
            return None
        finally:
            self._state.waiting = False
            self._state.since = 0.0

    def _watch(self) -> None:
        """End a session without commands. One timer for all of them: most come much too early to
        have one of their own made and cancelled."""
        loop = asyncio.get_running_loop()
        left = self._inactivity
        if self._state.since:
            left += self._state.since - loop.time()
        if left <= 0 and self._task is not None:
            self._state.expired = True
            self._task.cancel()
            return
        self._watcher = loop.call_later(left, self._watch)

    async def _notified(self, command: Coroutine[Any, Any, Incoming]) -> Incoming:
        """The next command; until it comes, what NOTIFY asked for is told."""
        session = self.session
        notifier = session.notifier
        if notifier is None:
            return await command
        reading = asyncio.ensure_future(command)
        try:
            while True:
                changed = asyncio.create_task(notifier.changed.wait())
                try:
                    await asyncio.wait((reading, changed), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    changed.cancel()
                if reading.done():
                    return reading.result()
                await self._tell(b"", expunges=False)
                await session.flush()
        finally:
            reading.cancel()

    async def _tell(self, word: bytes, expunges: bool) -> None:
        """What changed, as far as the client wants to know."""
        session = self.session
        try:
            if session.notifier is not None:
                await session.notifier.tell(word, expunges)
            elif session.view is not None:
                await search_context.sync(session, expunges)
        except MailboxError as error:
            where = session.view.name if session.view is not None else "NOTIFY"
            session.report(f"warning: {where}: {error.text}")

    def _count_bad(self) -> None:
        self._state.bad_commands += 1
        if self._state.bad_commands >= MAX_BAD_COMMANDS:
            raise End("Too many invalid IMAP commands.")

    async def _command(self, incoming: Incoming) -> None:
        """Run it and answer it, whatever happens."""
        session = self.session
        tag = tag_of(incoming.data)
        self._state.word = self._state.plain_word = b""
        session.progress = None
        session.brought = {}
        loop = asyncio.get_running_loop()
        self._state.sign = loop.call_later(self._progress, self._tell_progress, tag)
        try:
            text = await self._dispatch(tag, incoming)
            answer = b"OK " + text.encode()
            self._state.bad_commands = 0
        except (ConnectionLost, End):
            raise
        except CommandRefused as error:
            answer = error.status + b" " + error.text.encode()
        except ParseError as error:
            answer = Refused("BAD", f"{error}.").response()
        except Refused as error:
            answer = error.response()
        except MailboxError as error:
            answer = Refused("NO", session.names.explain(error), error.code).response()
        except Exception as error:
            session.report(f"error: {_command_name(incoming)} failed: {error!r}")
            answer = Refused("NO", "Internal error occurred.", "SERVERBUG").response()
        finally:
            if self._state.sign is not None:
                self._state.sign.cancel()
        await self._finish(tag, answer)

    def _tell_progress(self, tag: bytes) -> None:
        # A client in IDLE waits for nothing.
        if self._state.word == b"IDLE":
            return
        self.session.tell_progress(tag)
        loop = asyncio.get_running_loop()
        self._state.sign = loop.call_later(self._progress, self._tell_progress, tag)

    async def _finish(self, tag: bytes, answer: bytes) -> None:
        session = self.session
        if session.view is not None:
            try:
                await session.look()
            except MailboxError as error:
                session.report(f"warning: {session.view.name}: {error.text}")
        await self._tell(self._state.plain_word, self._state.word not in _NO_EXPUNGE)
        session.tagged(tag, answer)
        if answer.startswith(b"BAD"):
            self._count_bad()

    async def _dispatch(self, tag: bytes, incoming: Incoming) -> str:
        args = Parser(incoming.data)
        args.tag()
        args.space()
        word = self._state.word = self._state.plain_word = args.word()
        if word == b"APPEND":
            return await append.append(self.session, args, incoming.message)
        if word == b"REPLACE":
            return await append.replace(self.session, args, incoming.message, by_uid=False)
        if word == b"UID":
            args.space()
            word = self._state.plain_word = args.word()
            if word == b"REPLACE":
                return await append.replace(self.session, args, incoming.message, by_uid=True)
            self.session.selected()
            return await self._numbered(tag, word, args, by_uid=True)
        handler = _COMMANDS.get(word)
        if handler is None:
            return await self._numbered(tag, word, args, by_uid=False)
        if word == b"IDLE":
            self._state.waiting = True
        try:
            return await handler(self.session, args)
        finally:
            self._state.waiting = False

    async def _numbered(self, tag: bytes, word: bytes, args: Parser, by_uid: bool) -> str:
        if word in _NO_EXPUNGE and not by_uid and self.session.uid_only:
            raise uid_required()
        if word == b"SEARCH":
            return await search.search(self.session, tag, args, by_uid)
        if word == b"SORT":
            return await sort.sort(self.session, tag, args, by_uid)
        if word == b"EXPUNGE" and by_uid:
            return await storing.uid_expunge(self.session, args)
        handler = _NUMBERED.get(word)
        if handler is None:
            raise ParseError(f"Unknown command: {word.decode('ascii', 'replace')}")
        return await handler(self.session, args, by_uid)


def _command_name(incoming: Incoming) -> str:
    """For the log: never the arguments."""
    words = incoming.data[:64].split(b" ", 3)
    return b" ".join(words[1:2]).decode("ascii", "replace")
