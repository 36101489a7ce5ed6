"""What commands ask of the mailboxes, over the admin socket: see `control`.

A user's mail is worked on by the worker that owns it; here its questions and answers pass through.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from resel_lda.handover import Handover
from resel_lda.keeper import WorkerUnavailable
from resel_lda.sessions import ADMIN, DELIVERY
from resel_lda.worker_pool import WorkerPool
from resel_mta.control import ControlError, Input, Row, Verb
from resel_mta.mail import TempFail
from resel_mta.users import User, Users

# A line of the worker's answer: a whole message may be in it.
_LINE_LIMIT = 1 << 30


class Session(Protocol):
    """Somebody who is logged in: `front.Active`."""

    @property
    def user(self) -> str: ...

    @property
    def service(self) -> str: ...

    @property
    def remote_address(self) -> str: ...

    @property
    def session(self) -> str: ...

    @property
    def pid(self) -> int: ...


class MailVerbs:
    """Verbs on users' mail by name: see `table`. sessions: who is logged in now."""

    def __init__(
        self, users: Users, pool: WorkerPool, sessions: Callable[[], Iterable[Session]]
    ) -> None:
        self._users = users
        self._pool = pool
        self._sessions = sessions

    def table(self) -> dict[str, Verb]:
        return {"mail.run": self.run, "mail.who": self.who, "mail.kick": self.kick}

    async def run(self, args: Mapping[str, Any]) -> AsyncIterator[Row]:
        """args: user, command, args (see `resel_lda.admin.session`), input. Rows: its answers."""
        user = await self._find(str(args["user"]))
        given: Input = args["input"]
        request = {"command": args["command"], "args": args["args"], "octets": given.size}
        service = DELIVERY if args["command"] == "deliver" else ADMIN
        reader, writer = await self._open(user, service)
        sending = asyncio.create_task(_send(writer, request, given))
        try:
            async for row in _answers(reader):
                yield row
        finally:
            sending.cancel()
            # Nobody else may read the asker's octets before it is done with them.
            await asyncio.gather(sending, return_exceptions=True)
            writer.close()

    async def _find(self, name: str) -> User:
        try:
            user = await self._users.find(name)
        except TempFail as error:
            raise ControlError(75, error.reply.text) from error
        if user is None:
            raise ControlError(67, "User doesn't exist")
        return user

    async def _open(
        self, user: User, service: str
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self._pool.start()
        ours, theirs = socket.socketpair()
        request = Handover(
            session=base64.b64encode(os.urandom(9), b"+/").decode("ascii"),
            service=service,
            user=user.name,
            uid=user.uid,
            gid=user.gid,
            home=user.home,
            mail_location=user.mail_location,
            quota_storage_size=user.quota_storage_size,
            tag="",
            secured=True,
            remote_address="",
            local_address="",
        )
        try:
            with theirs:
                await self._pool.hand_over(request, theirs, lambda: None)
            ours.setblocking(False)
            return await asyncio.open_unix_connection(sock=ours, limit=_LINE_LIMIT)
        except WorkerUnavailable:
            ours.close()
            raise ControlError(75, "no mailbox process is running; the log says why") from None
        except BaseException:
            ours.close()
            raise

    async def who(self, args: Mapping[str, Any]) -> AsyncIterator[Row]:
        """Rows: user, service, ip, pid, session of everybody who is logged in."""
        for one in list(self._sessions()):
            yield {
                "user": one.user,
                "service": one.service,
                "ip": one.remote_address,
                "pid": one.pid,
                "session": one.session,
            }

    async def kick(self, args: Mapping[str, Any]) -> AsyncIterator[Row]:
        """args: sessions, as `who` names them. Rows: each of them."""
        sessions: Sequence[str] = args["sessions"]
        for session in sessions:
            await self._pool.kick(session)
            yield {"session": session}


async def _send(writer: asyncio.StreamWriter, request: Row, given: Input) -> None:
    writer.write(json.dumps(request).encode("ascii") + b"\n")
    async for block in given.blocks():
        writer.write(block)
        await writer.drain()


async def _answers(reader: asyncio.StreamReader) -> AsyncIterator[Row]:
    async for line in reader:
        row: Row = json.loads(line)
        if "done" in row:
            return
        yield row
    raise ControlError(75, "the mailbox process went away; the log says why")
