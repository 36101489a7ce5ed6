"""A POP3 session after log-in (RFC 1939 §5, §6): the TRANSACTION and UPDATE states."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from resel_lda.imap.stream import ConnectionLost, LineTooLong, Stream
from resel_lda.large_message import LargeMessage
from resel_lda.mailbox import Mailbox, MailboxError, MailStore
from resel_lda.pop3.answers import CAPABILITIES, Failed, choose_language, lines, shown
from resel_lda.pop3.drop import DropLock, Maildrop
from resel_lda.pop3.language import language_of
from resel_lda.pop3.message import Stuffing, first_lines, is_ascii, pieces_of, stuffed
from resel_lda.pop3.surrogate import needs_utf8, surrogate
from resel_lda.pop3.uidl import Namer

# RFC 1939 §3: at least 10 minutes.
INACTIVITY = 10 * 60.0
_MAX_LINE = 255
_MAX_BAD_COMMANDS = 20
_BLOCK = 1 << 18
_NUMBER = re.compile(rb"[0-9]{1,9}")
# TOP's: some ask for all there can be.
_LINES = re.compile(rb"[0-9]{1,20}")


@dataclass(slots=True)
class _Counts:
    """What the log says at the end."""

    top: int = 0
    top_octets: int = 0
    retr: int = 0
    retr_octets: int = 0
    removed: int = 0


class _Over(Exception):
    """The session ends; the text is why. code: as `Failed` has it."""

    def __init__(self, text: str, code: str = "") -> None:
        super().__init__(text)
        self.last = Failed(text, code)


class _Broken(Exception):
    """An answer has begun that cannot be ended: so does the session. The text is why."""


class Pop3Session:
    """Implements `sessions.Running`. lock: of this user's maildrop. agreed: what the dialog before
    log-in settled (see `login.Dialog`)."""

    def __init__(
        self,
        stream: Stream,
        store: MailStore,
        session: str,
        lock: DropLock,
        namer: Namer,
        report: Callable[[str], None],
        inactivity: float = INACTIVITY,
        agreed: Mapping[str, str] | None = None,
    ) -> None:
        self._stream = stream
        self._store = store
        self._session = session
        self._lock = lock
        self._namer = namer
        self._report = report
        self._inactivity = inactivity
        agreed = agreed or {}
        self._language = language_of(agreed.get("language", ""))
        self._utf8 = bool(agreed.get("utf8"))
        self._possible = agreed.get("capabilities", "").splitlines()
        self._drop: Maildrop | None = None
        self._counts = _Counts()
        self._bad = 0
        self._out: list[bytes] = []
        self._out_octets = 0
        self._waiting = self._stopping = False
        self._task: asyncio.Task[str] | None = None
        self._commands: dict[bytes, Callable[[Maildrop, bytes], Awaitable[bytes]]] = {
            b"CAPA": self._capa,
            b"DELE": self._dele,
            b"LANG": self._lang,
            b"LIST": self._list,
            b"NOOP": self._noop,
            b"RETR": self._retr,
            b"RSET": self._rset,
            b"STAT": self._stat,
            b"TOP": self._top,
            b"UIDL": self._uidl,
        }

    def stop(self) -> None:
        """End it after the command that is running."""
        self._stopping = True
        if self._waiting and self._task is not None:
            self._task.cancel()

    async def run(self) -> str:
        """To its end; why it ended, for the log."""
        self._task = asyncio.create_task(self._serve())
        try:
            await asyncio.wait((self._task,))
        except asyncio.CancelledError:
            self._task.cancel()
            raise
        if self._task.cancelled():
            reason = "Server shutting down."
            self._last_words(Failed("Server shutting down.", "SYS/TEMP").answer(self._language))
        else:
            error = self._task.exception()
            if error is None:
                reason = self._task.result()
            elif isinstance(error, ConnectionLost):
                reason = self._stream.why_lost
            else:
                raise error
        self._stream.close()
        return f"{reason} {self._summary()}"

    def _last_words(self, said: bytes) -> None:
        if not self._stream.lost:
            self._stream.write(said)

    def _summary(self) -> str:
        """As Dovecot's pop3_logout_format."""
        counts, drop = self._counts, self._drop
        messages = len(drop.uids) if drop is not None else 0
        return (
            f"top={counts.top}/{counts.top_octets}, retr={counts.retr}/{counts.retr_octets}, "
            f"del={counts.removed}/{messages}"
        )

    async def _serve(self) -> str:
        if not self._lock.take(self._session):
            refusal = Failed("Mailbox is locked by another POP3 session.", "IN-USE")
            self._stream.write(refusal.answer(self._language))
            return "Mailbox is locked by another POP3 session"
        mailbox: Mailbox | None = None
        try:
            mailbox = await self._store.open("INBOX")
            self._drop = Maildrop(mailbox, self._namer)
            self._stream.write(self._ok("Logged in."))
            return await self._converse(self._drop)
        except MailboxError as error:
            self._report(f"error: {error.text}")
            self._last_words(Failed(error.text, "SYS/TEMP").answer(self._language))
            return error.text
        finally:
            if mailbox is not None:
                mailbox.release()
            self._lock.release(self._session)

    async def _converse(self, drop: Maildrop) -> str:
        while True:
            try:
                line = await self._line()
                word, _, argument = line.partition(b" ")
                word = word.upper()
                if word == b"QUIT":
                    return await self._quit(drop)
                answer = await self._command(drop, word, argument)
            except Failed as error:
                answer = error.answer(self._language)
            except _Broken as broken:
                return f"{broken}, in the middle of an answer"
            except _Over as over:
                await self._flush()
                self._last_words(over.last.answer(self._language))
                return str(over)
            await self._answer(answer)
            # What is large is not kept until the next command comes.
            del answer

    async def _answer(self, answer: bytes) -> None:
        """Answers to commands that came together go out together."""
        self._out.append(answer)
        self._out_octets += len(answer)
        if not self._stream.pending or self._out_octets > _BLOCK or len(self._out) > 64:
            await self._flush()

    async def _flush(self) -> None:
        """Raises ConnectionLost."""
        if self._out:
            await self._stream.send(self._take_out())

    def _take_out(self) -> bytes:
        out, self._out, self._out_octets = self._out, [], 0
        return b"".join(out)

    async def _line(self) -> bytes:
        """Raises ConnectionLost, Failed, _Over."""
        if self._stopping:
            raise _Over("Server shutting down.", "SYS/TEMP")
        self._waiting = True
        try:
            async with asyncio.timeout(self._inactivity):
                return await self._stream.line(_MAX_LINE)
        except TimeoutError:
            # Without the UPDATE state: nothing is removed (RFC 1939 §3).
            raise _Over("Disconnected for inactivity.") from None
        except LineTooLong:
            raise self._bad_command("Command line too long.") from None
        finally:
            self._waiting = False

    def _ok(self, text: str, **values: object) -> bytes:
        return f"+OK {self._language.say(text, **values)}\r\n".encode()

    def _bad_command(self, text: str, **values: object) -> Failed:
        """Raises _Over after too many."""
        self._bad += 1
        if self._bad >= _MAX_BAD_COMMANDS:
            raise _Over("Too many bad commands.")
        return Failed(text, "", **values)

    async def _command(self, drop: Maildrop, word: bytes, argument: bytes) -> bytes:
        """Raises Failed, _Over, ConnectionLost."""
        handler = self._commands.get(word)
        if handler is None:
            raise self._bad_command("Unknown command: {shown}", shown=shown(word))
        try:
            answer = await handler(drop, argument)
        except MailboxError as error:
            self._report(f"error: {word.decode('ascii', 'replace')} failed: {error.text}")
            raise Failed(error.text, "SYS/TEMP") from None
        self._bad = 0
        return answer

    # Commands. Each gives the whole answer.

    async def _capa(self, drop: Maildrop, argument: bytes) -> bytes:
        return lines((*CAPABILITIES, *self._possible))

    async def _lang(self, drop: Maildrop, argument: bytes) -> bytes:
        answer, self._language = choose_language(argument, self._language)
        return answer

    async def _noop(self, drop: Maildrop, argument: bytes) -> bytes:
        return b"+OK\r\n"

    async def _stat(self, drop: Maildrop, argument: bytes) -> bytes:
        sizes = await drop.sizes()
        numbers = drop.numbers()
        return b"+OK %d %d\r\n" % (len(numbers), sum(sizes[number - 1] for number in numbers))

    async def _list(self, drop: Maildrop, argument: bytes) -> bytes:
        if argument.strip():
            number, _ = _number(argument, last=True)
            drop.check(number)
            return b"+OK %d %d\r\n" % (number, (await drop.sizes())[number - 1])
        sizes = await drop.sizes()
        numbers = drop.numbers()
        listed = b"".join([b"%d %d\r\n" % (number, sizes[number - 1]) for number in numbers])
        return self._ok("{count} messages:", count=len(numbers)) + listed + b".\r\n"

    async def _uidl(self, drop: Maildrop, argument: bytes) -> bytes:
        if argument.strip():
            number, _ = _number(argument, last=True)
            drop.check(number)
            return f"+OK {number} {drop.name(number)}\r\n".encode("ascii")
        return lines(f"{number} {drop.name(number)}" for number in drop.numbers())

    async def _retr(self, drop: Maildrop, argument: bytes) -> bytes:
        number, _ = _number(argument, last=True)
        large = await self._large(drop, number)
        if large is not None:
            try:
                size = large.size
                await self._send_large(large, self._ok("{count} octets", count=size))
            finally:
                large.close()
            answer = b""
        else:
            message = await self._read(drop, number)
            size = len(message)
            answer = self._ok("{count} octets", count=size) + stuffed(message) + b".\r\n"
        drop.retrieved(number)
        self._counts.retr += 1
        self._counts.retr_octets += size
        return answer

    async def _large(self, drop: Maildrop, number: int) -> LargeMessage | None:
        """The message, if it goes out in pieces, as it is."""
        large = await drop.large(number)
        if large is None or self._utf8:
            return large
        message = b""
        try:
            if await is_ascii(large):
                return large
            # Seldom: only its headers may be told in other words.
            message = b"".join([piece async for piece in large.pieces(0, large.size)])
            if not needs_utf8(message):
                return large
            if await asyncio.to_thread(surrogate, message) == message:
                return large
        except BaseException:
            large.close()
            raise
        large.close()
        return None

    async def _send_large(self, large: LargeMessage, begin: bytes, count: int | None = None) -> int:
        """count: so many lines of the body, not all. How many octets went out. Raises _Over."""
        self._out.append(begin)
        await self._flush()
        stuffing, sent = Stuffing(), 0
        try:
            async for piece in pieces_of(large, count):
                sent += len(piece)
                await self._stream.send(stuffing.add(piece))
        except MailboxError as error:
            # The client takes whatever follows for the rest of the message.
            raise _Broken(error.text) from None
        await self._stream.send(stuffing.end())
        return sent

    async def _read(self, drop: Maildrop, number: int) -> bytes:
        """As this client may have it: without UTF8 a message whose headers need it is told in
        other words (RFC 6856 §2.1)."""
        message = await drop.read(number)
        if self._utf8 or not needs_utf8(message):
            return message
        return await asyncio.to_thread(surrogate, message)

    async def _top(self, drop: Maildrop, argument: bytes) -> bytes:
        number, rest = _number(argument, last=False)
        drop.check(number)
        if not _LINES.fullmatch(rest):
            raise Failed("Invalid size: {shown}", shown=shown(rest))
        large = await self._large(drop, number)
        if large is not None:
            try:
                size = await self._send_large(large, b"+OK\r\n", int(rest))
            finally:
                large.close()
            answer = b""
        else:
            part = first_lines(await self._read(drop, number), int(rest))
            size = len(part)
            answer = b"+OK\r\n%b.\r\n" % stuffed(part)
        self._counts.top += 1
        self._counts.top_octets += size
        return answer

    async def _dele(self, drop: Maildrop, argument: bytes) -> bytes:
        number, _ = _number(argument, last=True)
        drop.check(number)
        drop.deleted.add(number)
        return self._ok("Marked to be deleted.")

    async def _rset(self, drop: Maildrop, argument: bytes) -> bytes:
        drop.reset()
        return b"+OK\r\n"

    async def _quit(self, drop: Maildrop) -> str:
        """The UPDATE state."""
        try:
            self._counts.removed = await drop.update()
            said = self._ok("Logging out, messages deleted." if drop.deleted else "Logging out.")
        except MailboxError as error:
            self._report(f"error: QUIT failed: {error.text}")
            failure = Failed("Some messages were not removed.", "SYS/TEMP")
            said = failure.answer(self._language)
        self._out.append(said)
        await self._flush()
        return "Logged out"


def _number(argument: bytes, last: bool) -> tuple[int, bytes]:
    """(message number, what follows). last: nothing may follow. Raises Failed."""
    words = argument.split(None, 1)
    if not words or not _NUMBER.fullmatch(words[0]):
        raise Failed("Invalid message number: {shown}", shown=shown(argument))
    rest = words[1].rstrip() if len(words) > 1 else b""
    if bool(rest) == last:
        raise Failed("Noise after message number: {shown}", shown=shown(rest))
    return int(words[0]), rest
