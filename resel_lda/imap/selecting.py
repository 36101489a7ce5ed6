"""SELECT, EXAMINE, CLOSE, UNSELECT."""

from __future__ import annotations

from resel_lda.imap import folders
from resel_lda.imap.parser import Parser
from resel_lda.imap.resync import parse_select_parameters, resynchronise
from resel_lda.imap.session import Session
from resel_lda.imap.view import View


async def select(session: Session, args: Parser) -> str:
    return await _select(session, args, read_only=False)


async def examine(session: Session, args: Parser) -> str:
    return await _select(session, args, read_only=True)


async def _select(session: Session, args: Parser, read_only: bool) -> str:
    args.space()
    wire = args.astring()
    view, session.view = session.view, None
    try:
        known = None
        if args.skip(b" ("):
            args.pos -= 1
            known = parse_select_parameters(session, args)
        args.finish()
    finally:
        session.view = view
    if session.view is not None:
        # Whatever becomes of the new one, the old one is closed (RFC 3501 §6.3.1).
        session.close_view()
        session.untagged(b"OK [CLOSED] Previous mailbox closed.")
    mailbox = await session.open_folder(wire)
    try:
        recent = mailbox.recent_count() if read_only else 0
        view = session.view = View(mailbox, mailbox.name, read_only, recent)
        view.with_modseq, view.uid_only = session.condstore, session.uid_only
        view.with_uids = session.qresync or session.uid_only
        view.international = session.names.utf8
        if session.rev2:
            view.hide_recent()
    except BaseException:
        mailbox.release()
        raise
    await _describe(session, view, wire)
    if known is not None:
        resynchronise(session, view, known)
    code, word = ("READ-ONLY", "Examine") if read_only else ("READ-WRITE", "Select")
    return f"[{code}] {word} completed."


async def _describe(session: Session, view: View, wire: bytes) -> None:
    mailbox = view.mailbox
    session.extend(view.flag_responses())
    session.untagged(b"%d EXISTS" % len(view.uids))
    if session.rev2:
        words = await folders.attributes(session, view.name)
        old = wire if wire != session.names.wire(view.name) else b""
        session.untagged(folders.list_response(session, view.name, words, old))
    else:
        session.untagged(b"%d RECENT" % view.count_recent())
    unseen = 0 if session.rev2 or session.uid_only else mailbox.first_unseen()
    if unseen:
        session.untagged(b"OK [UNSEEN %d] First unseen." % unseen)
    session.untagged(b"OK [UIDVALIDITY %d] UIDs valid" % mailbox.uidvalidity)
    session.untagged(b"OK [UIDNEXT %d] Predicted next UID" % mailbox.uidnext)
    session.untagged(b"OK [HIGHESTMODSEQ %d] Highest" % view.modseq)
    session.untagged(b"OK [MAILBOXID (%b)] Ok" % mailbox.mailbox_id.encode("ascii"))


async def close(session: Session, args: Parser) -> str:
    """Expunges without saying so, then closes."""
    args.finish()
    view = session.selected()
    code = ""
    if not view.read_only:
        mailbox = view.mailbox
        deleted = [
            uid
            for uid in view.uids
            if (info := mailbox.get(uid)) is not None and "\\Deleted" in info.flags
        ]
        if deleted:
            session.expunged += len(await mailbox.expunge(deleted))
            if session.condstore:
                code = f"[HIGHESTMODSEQ {mailbox.highestmodseq}] "
    session.close_view()
    return f"{code}Close completed."


async def unselect(session: Session, args: Parser) -> str:
    args.finish()
    session.selected()
    session.close_view()
    return "Unselect completed."
