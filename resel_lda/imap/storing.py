"""STORE, EXPUNGE, COPY, MOVE and their UID forms."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from resel_lda.imap import text
from resel_lda.imap.errors import Refused
from resel_lda.imap.fetch_ready import flag_lines
from resel_lda.imap.parser import ParseError, Parser
from resel_lda.imap.resync import MAX_MODSEQ
from resel_lda.imap.session import Session
from resel_lda.imap.view import View
from resel_lda.mailbox import MailboxError

_MODES = {b"FLAGS": "set", b"+FLAGS": "add", b"-FLAGS": "remove"}
_TELL_BATCH = 2_000


async def store(session: Session, args: Parser, by_uid: bool) -> str:
    view = session.selected()
    args.space()
    numbers = args.sequence_set()
    args.space()
    unchanged_since = _unchanged_since(args)
    word = args.word()
    silent = word.endswith(b".SILENT")
    mode = _MODES.get(word.removesuffix(b".SILENT"))
    if mode is None:
        raise ParseError("Invalid STORE parameter")
    args.space()
    flags = args.flags()
    args.finish()
    session.selected(writable=True)
    pairs = view.select(numbers, by_uid)
    if unchanged_since is not None:
        session.use_condstore()
    result = await view.mailbox.store([uid for _, uid in pairs], flags, mode, unchanged_since)
    if silent:
        view.already_told(result.done)
    conflicts = set(result.conflicts)
    told = [pair for pair in pairs if pair[1] not in conflicts] if conflicts else pairs
    gone = await _tell(session, view, told, silent)
    if conflicts:
        failed = [uid if by_uid else n for n, uid in pairs if uid in conflicts]
        code = text.uid_set(failed).decode("ascii")
        return f"[MODIFIED {code}] Conditional store failed."
    if gone:
        return "[EXPUNGEISSUED] Some messages were already expunged."
    return "Store completed."


def _unchanged_since(args: Parser) -> int | None:
    """``(UNCHANGEDSINCE n) `` (RFC 7162 §3.1.3)."""
    if not args.skip(b"("):
        return None
    if args.word() != b"UNCHANGEDSINCE":
        raise ParseError("Unknown STORE modifier")
    args.space()
    modseq = args.number(MAX_MODSEQ)
    args.expect(b")")
    args.space()
    return modseq


async def _tell(session: Session, view: View, pairs: list[tuple[int, int]], silent: bool) -> int:
    """The new flags of all, changed or not, unless they are not wanted; how many are gone."""
    uids = [uid for _, uid in pairs]
    gone = view.mailbox.marks_of(uids).count(None)
    if silent and not view.with_modseq:
        return gone
    # A new keyword has to be in FLAGS before it is in a FETCH.
    session.extend(view.new_keywords())
    for start in range(0, len(pairs), _TELL_BATCH):
        view.already_told(uids[start : start + _TELL_BATCH])
        session.extend(_responses(view, pairs[start : start + _TELL_BATCH], silent))
        if start + _TELL_BATCH < len(pairs):
            await session.flush()
            await asyncio.sleep(0)
    return gone


def _responses(view: View, pairs: list[tuple[int, int]], silent: bool) -> list[bytes]:
    if not (silent or view.uid_only):
        return [flag_lines(view, pairs, with_uid=True, with_modseq=view.with_modseq)[0]]
    get = view.mailbox.get
    found = [(sequence, info) for sequence, uid in pairs if (info := get(uid)) is not None]
    respond = view.modseq_response if silent else view.flags_response
    return [respond(sequence, info) for sequence, info in found]


async def expunge(session: Session, args: Parser) -> str:
    args.finish()
    view = session.selected(writable=True)
    return await _expunge(session, view, view.uids)


async def uid_expunge(session: Session, args: Parser) -> str:
    """RFC 4315 §2.1."""
    args.space()
    numbers = args.sequence_set()
    args.finish()
    view = session.selected(writable=True)
    return await _expunge(session, view, [uid for _, uid in view.select(numbers, by_uid=True)])


async def _expunge(session: Session, view: View, uids: list[int]) -> str:
    await session.look()
    mailbox = view.mailbox
    found = zip(uids, mailbox.marks_of(uids), strict=True)
    deleted = [uid for uid, one in found if one is not None and "\\Deleted" in one.flags]
    if deleted:
        session.expunged += len(await mailbox.expunge(deleted))
        if session.qresync:
            return f"[HIGHESTMODSEQ {mailbox.highestmodseq}] Expunge completed."
    return "Expunge completed."


async def copy(session: Session, args: Parser, by_uid: bool) -> str:
    view, uids, target = await _targets(session, args, by_uid)
    if not uids:
        return "No messages found."
    try:
        validity, copied = await view.mailbox.copy(uids, target)
    except MailboxError as error:
        raise _try_create(session, error) from None
    session.brought[target] = {new for _, new in copied}
    return f"{_copyuid(validity, copied)}Copy completed."


async def move(session: Session, args: Parser, by_uid: bool) -> str:
    """RFC 6851: COPYUID goes in an untagged OK before the EXPUNGEs."""
    view, uids, target = await _targets(session, args, by_uid)
    session.selected(writable=True)
    if not uids:
        return "No messages found."
    try:
        validity, moved = await view.mailbox.move(uids, target)
    except MailboxError as error:
        raise _try_create(session, error) from None
    session.brought[target] = {new for _, new in moved}
    code = _copyuid(validity, moved)
    if code:
        session.untagged(f"OK {code}Moved UIDs.".encode("ascii"))
    session.expunged += len(moved)
    if session.qresync:
        return f"[HIGHESTMODSEQ {view.mailbox.highestmodseq}] Move completed."
    return "Move completed."


async def _targets(session: Session, args: Parser, by_uid: bool) -> tuple[View, list[int], str]:
    view = session.selected()
    args.space()
    numbers = args.sequence_set()
    args.space()
    wire = args.astring()
    args.finish()
    uids = [uid for _, uid in view.select(numbers, by_uid)]
    return view, uids, await session.folder_name(wire)


def _try_create(session: Session, error: MailboxError) -> Exception:
    if error.code in ("NONEXISTENT", "TRYCREATE"):
        return Refused("NO", session.names.explain(error), "TRYCREATE")
    return error


def _copyuid(validity: int, copied: Sequence[tuple[int, int]]) -> str:
    if not copied:
        return ""
    source = text.uid_set([old for old, _ in copied]).decode("ascii")
    target = text.uid_set([new for _, new in copied]).decode("ascii")
    return f"[COPYUID {validity} {source} {target}] "
