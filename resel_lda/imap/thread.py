"""THREAD and UID THREAD (RFC 5256)."""

from __future__ import annotations

import asyncio

from resel_lda.imap import search_run
from resel_lda.imap.errors import Refused
from resel_lda.imap.parser import Parser
from resel_lda.imap.session import Session
from resel_lda.imap.sort import parse_search
from resel_lda.imap.thread_tree import (
    Mail,
    by_references,
    by_subject,
    render,
)
from resel_lda.imap.view import View

_ALGORITHMS = frozenset((b"REFERENCES", b"REFS", b"ORDEREDSUBJECT"))
_COLUMNS = ("sent", "base", "reply", "message_id", "ancestors")


async def thread(session: Session, args: Parser, by_uid: bool) -> str:
    view = session.selected()
    args.space()
    algorithm = args.word()
    if algorithm not in _ALGORITHMS:
        raise Refused("BAD", "Unknown thread algorithm")
    args.space()
    program = parse_search(session, view, args)
    found = await search_run.find(session, view, program)
    complete = len(found) == len(view.uids)
    threads = view.memo(("thread", algorithm, by_uid)) if complete else None
    if threads is None:
        threads = await list_threads(view, algorithm, found, by_uid)
        if complete:
            view.remember(("thread", algorithm, by_uid), threads)
    session.untagged(b"THREAD " + threads if threads else b"THREAD")
    return "Thread completed."


async def list_threads(
    view: View, algorithm: bytes, found: list[tuple[int, int]], by_uid: bool
) -> bytes:
    """The threads of these messages, as they stand in the answer."""
    mailbox = view.mailbox
    rows = await mailbox.sort_keys([uid for _, uid in found], _COLUMNS)
    dates = await mailbox.internal_dates([uid for uid, row in rows.items() if row[0] is None])
    mails = []
    for sequence, uid in found:
        if uid in rows and mailbox.get(uid) is not None:
            sent, base, reply, message_id, ancestors = rows[uid]
            date = int(dates.get(uid, 0)) if sent is None else sent
            number = uid if by_uid else sequence
            mails.append(Mail(number, date, base, bool(reply), message_id, ancestors))

    def work() -> bytes:
        if algorithm == b"ORDEREDSUBJECT":
            return render(by_subject(mails))
        return render(by_references(mails, with_subjects=algorithm == b"REFERENCES"))

    return await asyncio.to_thread(work)
