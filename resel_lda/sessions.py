"""What runs in the worker for a session that was handed over: IMAP, POP3, or an administrator's
command."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Protocol

from resel_lda.admin.session import AdminSession, names_of
from resel_lda.handover import Handover
from resel_lda.imap.serve import Server
from resel_lda.imap.session import Session, Who
from resel_lda.imap.stream import ConnectionLost, Stream
from resel_lda.mailbox import MailboxError, MailStore
from resel_lda.maildir.store import MaildirStore
from resel_lda.pop3.drop import DropLock
from resel_lda.pop3.session import Pop3Session
from resel_lda.pop3.uidl import parse_format
from resel_mta.config import Settings
from resel_mta.users import User

#: The services of an administrator's commands and of deliveries by resel-lda, as in the log.
ADMIN, DELIVERY = "doveadm", "lda"

Report = Callable[[str], None]


class Running(Protocol):
    """A session."""

    def stop(self) -> None:
        """End it politely, after the command that is running."""
        ...

    async def run(self) -> str:
        """To its end; why it ended, for the log, "" if that is of no interest."""
        ...


def user_of(request: Handover) -> User:
    """Whose session it is."""
    return User(
        request.user,
        request.uid,
        request.gid,
        request.home,
        request.mail_location,
        request.quota_storage_size,
    )


def make_session(
    request: Handover,
    stream: Stream,
    store: MailStore,
    settings: Settings,
    report: Report,
    drop_lock: DropLock,
) -> Running:
    """The session that `request` asks for. drop_lock: of this user's maildrop. Raises MailboxError
    for one that cannot be."""
    if request.service == "pop3":
        namer = parse_format(settings.text("pop3_uidl_format"))
        return Pop3Session(
            stream, store, request.session, drop_lock, namer, report, agreed=request.agreed
        )
    if request.service in (ADMIN, DELIVERY):
        if not isinstance(store, MaildirStore):
            raise MailboxError("This store has no administrator's commands", "CANNOT")
        return AdminSession(stream, user_of(request), store, settings, report)
    return _ImapSession(request, stream, store, settings, report)


class _ImapSession:
    def __init__(
        self,
        request: Handover,
        stream: Stream,
        store: MailStore,
        settings: Settings,
        report: Report,
    ) -> None:
        who = Who(request.user, request.session, request.secured)
        self._session = Session(stream, store, who, names_of(settings), report)
        self._server = Server(self._session)
        self._tag = request.tag.encode("latin-1")

    def stop(self) -> None:
        self._server.stop()

    async def run(self) -> str:
        reason = await self._server.run(self._tag)
        session = self._session
        counts = f"in={session.stream.received} out={session.stream.sent}"
        return f"{reason} {counts} expunged={session.expunged}"


def refuse(request: Handover, stream: Stream, error: MailboxError) -> None:
    """Tell the client that its mailbox is of no use."""
    if request.service in (ADMIN, DELIVERY):
        said = json.dumps({"problem": error.text, "exit": 75}) + '\n{"done": true}\n'
    elif request.service == "pop3":
        said = f"-ERR [SYS/PERM] {error.text}\r\n"
    else:
        code = error.code or "UNAVAILABLE"
        said = f"{request.tag} NO [{code}] {error.text}\r\n* BYE {error.text}\r\n"
    with contextlib.suppress(ConnectionLost):
        stream.write(said.encode())
