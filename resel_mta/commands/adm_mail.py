"""Runs a command on the mail of one user, several, or all, and prints what it found."""

from __future__ import annotations

import fnmatch
import getpass
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resel_mta.commands import cli
from resel_mta.commands.adm_options import PROGRAM, Command, Context, Options, fail, user_error
from resel_mta.commands.adm_print import CannotPrint, Header, Printer, open_printer
from resel_mta.commands.adm_run import Mailboxes

_USER = Header("username", "Username", hidden=True)


@dataclass(frozen=True, slots=True)
class Request:
    """What a command asks of each user's mailbox. headers: of its rows; formatter: doveadm's
    choice where none is named, "" where nothing is printed."""

    command: str
    args: Mapping[str, Any]
    formatter: str = ""
    headers: Sequence[Header] = ()
    content: bytes = b""


def mail_command(
    name: str,
    usage: str,
    options: str,
    ask: Callable[[Options], Request],
    *,
    least: int = 0,
    most: int = 1_000_000,
    long: tuple[str, ...] = (),
) -> Command:
    """A command that is run for one user (-u), several (-u with wildcards) or all (-A)."""

    def run(context: Context, given: Options) -> int:
        return _Run(context, given, ask(given)).all_users()

    shown = f"[-u <user>|-A] {usage}"
    return Command(name, shown, f"AS:u:F:{options}", run, least, most, long)


class _Run:
    """One request for each user that was named."""

    def __init__(self, context: Context, options: Options, request: Request) -> None:
        self._options = options
        self._request = request
        self._mailboxes = Mailboxes(context.settings)
        self._status = cli.EX_OK
        self._user = ""
        self._several = False
        self._formatter = context.formatter or request.formatter
        self._printer: Printer | None = None

    def all_users(self) -> int:
        """The exit code: of the first thing that failed."""
        users = self._users()
        headers = [_USER, *self._request.headers] if self._several else self._request.headers
        if self._request.headers:
            try:
                self._printer = open_printer(self._formatter, headers)
            except CannotPrint as error:
                who = f"({users[0]})" if users else ""
                return fail(f"{PROGRAM}{who}: Fatal: {error}", cli.EX_TEMPFAIL)
        for self._user in users:
            self._mailboxes.run(
                self._user,
                self._request.command,
                self._request.args,
                self._request.content,
                self._row,
                self._problem,
            )
        if self._printer is not None:
            self._printer.finish()
        return self._status

    def _users(self) -> list[str]:
        mask = self._options.values.get("u", "")
        if "A" in self._options.letters:
            self._several = True
            return self._mailboxes.names()
        if "F" in self._options.values:
            self._several = True
            return Path(self._options.values["F"]).read_text("utf-8").split()
        if "*" in mask or "?" in mask:
            self._several = True
            wanted = mask.replace("[", "[[]")
            return [one for one in self._mailboxes.names() if fnmatch.fnmatchcase(one, wanted)]
        return [mask or getpass.getuser()]

    def _row(self, values: Sequence[str]) -> None:
        if self._printer is not None:
            self._printer.row([self._user, *values] if self._several else values)

    def _problem(self, text: str, exit_code: int) -> None:
        self._status = self._status or exit_code
        if exit_code:
            user_error(self._user, text, exit_code)
        else:
            fail(f"{PROGRAM}({self._user}): Info: {text}", exit_code)
