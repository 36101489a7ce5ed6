"""Runs one command on one user's mail: asks the daemon, or does it where none runs.

Only one process writes a user's `state` and `cache` at a time: the daemon's worker, or this
command while it holds the store's claim (`resel_lda.maildir.claim`).
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from resel_lda.admin.session import COMMANDS, names_of, perform
from resel_lda.admin.work import Work
from resel_lda.mailbox import MailboxError
from resel_lda.maildir.layout import LocationError
from resel_lda.maildir.locate import locate
from resel_lda.maildir.store import MaildirStore
from resel_mta.commands import cli
from resel_mta.commands.cli import Failure
from resel_mta.config import Settings
from resel_mta.control import ControlClient, ControlError, NotRunning, control_path
from resel_mta.disk import Disk
from resel_mta.mail import TempFail
from resel_mta.maillog import MailLog, StreamSink
from resel_mta.privileges import Account, PrivilegeError, mail_owner, mailbox_account
from resel_mta.users import User, open_users

_BLOCK = 1 << 16
# A command on a large mailbox may be silent for long.
_PATIENCE = 3600.0

RowSink = Callable[[Sequence[str]], None]
# Told (text, exit code); 0 for what is only to be known.
ProblemSink = Callable[[str, int], None]


class Mailboxes:
    """The mailboxes of these settings, whoever may work on them now."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        path = control_path(settings.text("data_directory"))
        self._client = ControlClient(path, timeout=_PATIENCE)
        self._users = open_users(settings)

    def names(self) -> list[str]:
        """Of all users. Raises Failure."""
        try:
            return asyncio.run(self._users.names())
        except TempFail as error:
            raise cli.lookup_failed(error) from error

    def run(
        self,
        user: str,
        command: str,
        args: Mapping[str, Any],
        content: bytes,
        row: RowSink,
        problem: ProblemSink,
    ) -> None:
        """command, args: of `resel_lda.admin.session`. Raises Failure where nothing can be
        asked at all."""
        try:
            self._ask(user, command, args, content, row, problem)
        except NotRunning:
            asyncio.run(self._perform(user, command, args, content, row, problem))
        except ControlError as error:
            if error.exit_code == cli.EX_NOPERM and os.geteuid() != 0:
                # Not an administrator of this machine; but his own mail may be his own files.
                asyncio.run(self._perform(user, command, args, content, row, problem))
                return
            problem(error.text, error.exit_code)

    def _ask(
        self,
        user: str,
        command: str,
        args: Mapping[str, Any],
        content: bytes,
        row: RowSink,
        problem: ProblemSink,
    ) -> None:
        rows = self._client.call("mail.run", content, user=user, command=command, args=args)
        for answer in rows:
            if "values" in answer:
                row(answer["values"])
            elif "info" in answer:
                problem(answer["info"], 0)
            else:
                problem(answer["problem"], int(answer["exit"]))

    async def _perform(
        self,
        name: str,
        command: str,
        args: Mapping[str, Any],
        content: bytes,
        row: RowSink,
        problem: ProblemSink,
    ) -> None:
        try:
            user = await self._users.find(name)
        except TempFail as error:
            raise cli.lookup_failed(error) from error
        if user is None:
            problem("User doesn't exist", cli.EX_NOUSER)
            return
        with MailboxOwner(self._settings, user):
            log = MailLog(StreamSink(2))
            try:
                store = MaildirStore(user, self._settings, Disk(), log)
            except MailboxError as error:
                problem(error.text, cli.EX_TEMPFAIL)
                return
            try:
                work = Work(
                    user,
                    store,
                    self._settings,
                    names_of(self._settings),
                    args,
                    _Sinks(row, problem),
                    lambda: _blocks(content),
                    _report,
                )
                await perform(COMMANDS[command], work)
            finally:
                await store.close()


def _report(text: str) -> None:
    print(f"resel-adm: {text}", file=sys.stderr)


class _Sinks:
    """Implements `work.Tell`."""

    def __init__(self, row: RowSink, problem: ProblemSink) -> None:
        self._row = row
        self._problem = problem

    async def row(self, values: Sequence[str]) -> None:
        self._row(values)

    async def problem(self, text: str, code: int) -> None:
        self._problem(text, code)

    async def info(self, text: str) -> None:
        self._problem(text, 0)


async def _blocks(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), _BLOCK):
        yield content[start : start + _BLOCK]


class MailboxOwner:
    """While it is entered, root works as the owner of a user's mailbox, so that no file becomes
    root's. Who is not root stays who he is."""

    def __init__(self, settings: Settings, user: User) -> None:
        self._settings = settings
        self._user = user
        self._before: tuple[int, int, list[int], int] | None = None

    def __enter__(self) -> None:
        """Raises Failure."""
        # A store keeps all but its owner out, whatever the caller's umask.
        mask = os.umask(0o077)
        if os.geteuid() != 0:
            self._before = (os.geteuid(), os.getegid(), [], mask)
            return
        account = self._account()
        self._before = (0, os.getegid(), os.getgroups(), mask)
        os.setgroups([account.gid])
        os.setegid(account.gid)
        os.seteuid(account.uid)

    def __exit__(self, *_: object) -> None:
        if self._before is None:
            return
        uid, gid, groups, mask = self._before
        os.umask(mask)
        if uid == 0:
            os.seteuid(0)
            os.setegid(gid)
            os.setgroups(groups)

    def _account(self) -> Account:
        """The mailbox's owner as it is on disk; where there is none yet, the user's or mail_uid."""
        try:
            found = os.stat(locate(self._user, self._settings).root)
            if found.st_uid != 0:
                return Account(self._user.name, found.st_uid, found.st_gid)
        except (OSError, LocationError):
            # Not there yet, or of no use: the store will say so.
            pass
        if self._user.uid:
            gid = self._user.uid if self._user.gid is None else self._user.gid
            return Account(self._user.name, self._user.uid, gid)
        try:
            return mailbox_account(self._settings, mail_owner(self._settings))
        except PrivilegeError as error:
            raise Failure(cli.EX_CONFIG, str(error)) from None
