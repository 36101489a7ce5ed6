"""resel-sendmail -bs while no daemon runs: SMTP as far as that needs none. What is taken lies in the
drop folder, safe, before its 250.

DSN, CHUNKING, STARTTLS and AUTH are not offered; whether a recipient exists is not known yet, and mail
for one who does not bounces when the daemon takes it.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from resel_mta.commands.cli import EX_DATAERR, EX_OK, Failure
from resel_mta.config import Settings
from resel_mta.content import Body, Content, Header, MemoryBody
from resel_mta.disk import Disk
from resel_mta.mail import BodySink, Envelope, Message, Origin, PermFail, Reply, TempFail
from resel_mta.pickup.collect import Hold
from resel_mta.pickup.drop import Full, leave
from resel_mta.pickup.letter import BLOCK, Letter, LetterError
from resel_mta.receiver import ContentReceiver
from resel_mta.smtpd import replies
from resel_mta.smtpd.parameters import Offers, Refused, parse_mail, parse_rcpt
from resel_mta.trace import check_hops

_DISK_FULL = Reply(452, "4.3.1", "Insufficient system storage")
_NO_DROP = Reply(451, "4.3.0", "Error: the message could not be stored")
_FULL_ERRORS = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


class _HoldSink:
    """Implements `mail.BodySink`."""

    def __init__(self, hold: Hold) -> None:
        self._hold = hold

    async def write(self, block: bytes) -> None:
        try:
            self._hold.write(block)
        except OSError as error:
            raise TempFail(_reply_to(error)) from error

    async def finish(self) -> Body:
        return MemoryBody(b"")

    async def discard(self) -> None:
        """The hold is closed with its message."""


class _HoldIntake:
    """Implements `mail.Intake` as far as a `ContentReceiver` needs one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.hold: Hold | None = None

    def new_id(self) -> str:
        return ""

    def sink(self) -> BodySink:
        self.hold = Hold((str(self._folder), None))
        return _HoldSink(self.hold)

    async def submit(
        self, envelope: Envelope, content: Content, origin: Origin, queue_id: str = ""
    ) -> str:
        raise TempFail(_NO_DROP)

    async def prepare(
        self, envelope: Envelope, content: Content, origin: Origin, queue_id: str = ""
    ) -> Message:
        raise TempFail(_NO_DROP)


class OfflineSession:
    """One dialog on standard input and output. folder: the drop folder."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._folder = folder
        self._hostname = settings.text("myhostname")
        self._banner = settings.text("smtpd_banner")
        self._size_limit = settings.number("message_size_limit")
        self._recipient_limit = settings.number("smtpd_recipient_limit")
        self._hopcount_limit = settings.number("hopcount_limit")
        self._line_limit = settings.number("line_length_limit")
        self._offers = Offers(dsn=False, utf8=settings.flag("smtputf8_enable"))
        self._envelope: Envelope | None = None

    async def run(self, source: BinaryIO) -> int:
        """Until QUIT or the end of input; the exit status. Raises Failure where that comes within a
        message. Nothing else runs in this process: reading may block."""
        self._say(Reply(220, "", self._banner))
        while (line := self._command(source)) is not None:
            verb, _, argument = line.partition(b" ")
            if verb.upper() == b"QUIT":
                self._say(replies.BYE)
                break
            if verb.upper() == b"DATA":
                await self._data(source)
            elif verb.upper() == b"BDAT":
                # Where its octets end is nobody's business here.
                self._say(replies.SYNTAX_BDAT)
                break
            else:
                self._say(self._answer(verb.upper(), argument.strip()))
        return EX_OK

    def _say(self, reply: Reply | bytes) -> None:
        out = sys.stdout.buffer
        out.write(reply if isinstance(reply, bytes) else reply.wire())
        out.flush()

    def _command(self, source: BinaryIO) -> bytes | None:
        """The next one; None at the end of input."""
        while True:
            line = source.readline(self._line_limit)
            if not line:
                return None
            if line.endswith(b"\n") or len(line) < self._line_limit:
                return line.strip()
            while line and not line.endswith(b"\n"):
                line = source.readline(BLOCK)
            self._say(replies.LINE_TOO_LONG)

    def _answer(self, verb: bytes, argument: bytes) -> Reply | bytes:
        try:
            match verb:
                case b"HELO" | b"EHLO":
                    return self._hello(verb, argument)
                case b"MAIL":
                    return self._mail(argument)
                case b"RCPT":
                    return self._rcpt(argument)
                case b"RSET":
                    self._envelope = None
                    return replies.OK
                case b"NOOP":
                    return replies.OK
                case b"VRFY" | b"EXPN" | b"ETRN" | b"STARTTLS" | b"AUTH" | b"HELP":
                    return replies.NOT_IMPLEMENTED
        except Refused as refused:
            return refused.reply
        return replies.UNKNOWN_COMMAND

    def _hello(self, verb: bytes, argument: bytes) -> Reply | bytes:
        if not argument:
            return replies.SYNTAX_HELO if verb == b"HELO" else replies.SYNTAX_EHLO
        self._envelope = None
        lines = [self._hostname]
        if verb == b"EHLO":
            lines += ["PIPELINING", f"SIZE {self._size_limit}".removesuffix(" 0")]
            lines += ["ENHANCEDSTATUSCODES", "8BITMIME"]
            lines += ["SMTPUTF8"] if self._offers.utf8 else []
        return Reply(250, "", "\n".join(lines))

    def _mail(self, argument: bytes) -> bytes:
        """Raises Refused."""
        if self._envelope is not None:
            return replies.NESTED_MAIL
        self._envelope, _ = parse_mail(argument, self._offers, self._size_limit)
        return replies.MAIL_OK

    def _rcpt(self, argument: bytes) -> bytes:
        """Raises Refused."""
        envelope = self._envelope
        if envelope is None:
            return replies.NEED_MAIL
        recipient = parse_rcpt(argument, self._offers, smtputf8=envelope.smtputf8)
        if len(envelope.recipients) >= self._recipient_limit:
            return replies.TOO_MANY_RECIPIENTS
        envelope.recipients.append(recipient)
        return replies.RCPT_OK

    # -- the message ----------------------------------------------------------------------------

    async def _data(self, source: BinaryIO) -> None:
        envelope = self._envelope
        if envelope is None or not envelope.recipients:
            self._say(replies.NEED_RCPT if envelope is None else replies.NO_VALID_RECIPIENTS)
            return
        self._say(replies.GO_AHEAD)
        intake = _HoldIntake(self._folder)
        receiver = ContentReceiver(intake, self._size_limit)
        try:
            bare_cr = await _receive(source, receiver)
            if receiver.failure is None and bare_cr:
                await receiver.fail(replies.BARE_CR)
            if receiver.failure is not None:
                self._say(receiver.failure)
                return
            content = await receiver.finish(self._check_hops)
            self._say(self._leave(envelope, content, intake.hold))
        except (TempFail, PermFail) as failure:
            self._say(failure.reply)
        finally:
            self._envelope = None
            if intake.hold is not None:
                intake.hold.close()

    def _check_hops(self, header: Header) -> Reply | None:
        return check_hops(header, self._hopcount_limit)

    def _leave(self, envelope: Envelope, content: Content, hold: Hold | None) -> Reply | bytes:
        head = content.header.raw + b"\r\n"
        size = len(head) + (content.body.size if hold is None else hold.size)

        def blocks() -> Iterator[bytes]:
            yield head
            if hold is not None:
                yield from hold.blocks()
            else:
                yield content.body.read(0, content.body.size)

        letter = Letter(
            token=os.urandom(16).hex(),
            sender=envelope.reverse_path,
            recipients=tuple(dict.fromkeys(each.address for each in envelope.recipients)),
            size=size,
            body=envelope.body,
        )
        try:
            leave(self._folder, letter, blocks(), Disk())
        except Full as error:
            return Reply(452, "4.3.1", f"Error: {error}")
        except LetterError as error:
            return Reply(452, "4.5.3", f"Error: {error}")
        except OSError as error:
            return _reply_to(error)
        return replies.queued(letter.token)


async def _receive(source: BinaryIO, receiver: ContentReceiver) -> bool:
    """A message up to its dot; whether a CR in it ends no line. Raises Failure."""
    bare_cr = False
    at_start, held = True, b""
    while True:
        piece = source.readline(BLOCK)
        if not piece:
            raise Failure(EX_DATAERR, "end of input within the message: it was not sent")
        piece = held + piece
        held = b""
        if not piece.endswith(b"\n") and piece.endswith(b"\r"):
            # It may be half of a line end.
            piece, held = piece[:-1], b"\r"
        ended = piece.endswith(b"\n")
        text = piece.removesuffix(b"\n").removesuffix(b"\r") if ended else piece
        if at_start and ended and text == b".":
            return bare_cr
        if at_start:
            text = text.removeprefix(b".")
        bare_cr = bare_cr or b"\r" in text
        await receiver.add(text + b"\r\n" if ended else text)
        # Of a piece that was only held, the line has still its start before it.
        at_start = ended or (at_start and not piece)


def _reply_to(error: OSError) -> Reply:
    return _DISK_FULL if error.errno in _FULL_ERRORS else _NO_DROP
