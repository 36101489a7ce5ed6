"""APPEND, also of several messages (RFC 3502), and REPLACE (RFC 8508)."""

from __future__ import annotations

from resel_lda.imap import text
from resel_lda.imap.catenate import from_url
from resel_lda.imap.errors import Refused
from resel_lda.imap.parser import ParseError, Parser
from resel_lda.imap.reader import Literal
from resel_lda.imap.session import Session
from resel_lda.imap.upload import Upload
from resel_lda.imap.view import View
from resel_lda.mailbox import MailboxError


async def append(session: Session, args: Parser, literal: Literal | None) -> str:
    """literal: the first one that follows `args`; None if the command has none."""
    upload = Upload(session, args, literal)
    try:
        args.space()
        wire = args.astring()
        args.space()
        mailbox = await session.open_folder(wire, missing="TRYCREATE")
        try:
            uids = await mailbox.append(upload.messages(from_url))
        finally:
            mailbox.release()
    except (ParseError, Refused, MailboxError):
        await upload.abandon()
        raise
    session.brought[mailbox.name] = set(uids)
    code = text.uid_set(uids).decode("ascii")
    return f"[APPENDUID {mailbox.uidvalidity} {code}] Append completed."


async def replace(session: Session, args: Parser, literal: Literal | None, by_uid: bool) -> str:
    """The new message is on disk before the old one goes; if that cannot go, the new one does."""
    upload = Upload(session, args, literal)
    try:
        view = session.selected()
        args.space()
        old = _old(view, args, by_uid)
        args.space()
        wire = args.astring()
        args.space()
        session.selected(writable=True)
        if view.mailbox.get(old) is None:
            raise Refused("NO", "The message to be replaced is gone", "EXPUNGEISSUED")
        mailbox = await session.open_folder(wire, missing="TRYCREATE")
        try:
            (new,) = await mailbox.append(upload.messages(from_url, most=1))
            try:
                session.expunged += len(await view.mailbox.expunge([old]))
            except MailboxError:
                await mailbox.expunge([new], keep=False)
                raise
        finally:
            mailbox.release()
    except (ParseError, Refused, MailboxError):
        await upload.abandon()
        raise
    session.brought[mailbox.name] = {new}
    code = f"APPENDUID {mailbox.uidvalidity} {new}"
    session.untagged(f"OK [{code}] Replacement message ready".encode("ascii"))
    # EXISTS before EXPUNGE, so that a client never sees the draft gone.
    session.sync(expunges=False)
    if session.qresync:
        return f"[HIGHESTMODSEQ {view.mailbox.highestmodseq}] Replace completed."
    return "Replace completed."


def _old(view: View, args: Parser, by_uid: bool) -> int:
    """The UID of the one message that is named."""
    numbers = args.sequence_set()
    if numbers.saved or len(numbers.ranges) != 1 or numbers.ranges[0][0] != numbers.ranges[0][1]:
        raise ParseError("REPLACE takes one message")
    pairs = view.select(numbers, by_uid)
    if not pairs:
        raise Refused("NO", "There is no such message", "NONEXISTENT")
    return pairs[0][1]
