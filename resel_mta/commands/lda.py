"""resel-lda: dovecot-lda(1) for this store, for another program to deliver with.

A failure that may pass is 75, whatever its cause: the program that called keeps the message and
tries again. Only an unknown user (67) and a full quota (77) are final.
"""

from __future__ import annotations

import asyncio
import getopt
import getpass
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from resel_lda.admin.deliver import OverQuota, deliver_to
from resel_lda.admin.session import names_of
from resel_lda.maildir.layout import LocationError
from resel_mta import __version__
from resel_mta.commands import cli
from resel_mta.commands.adm_run import MailboxOwner
from resel_mta.commands.cli import Failure
from resel_mta.config import Settings, load
from resel_mta.control import ControlClient, ControlError, NotRunning, control_path
from resel_mta.mail import PermFail, TempFail
from resel_mta.users import User, open_users

PROGRAM = "resel-lda"

_USAGE = f"""\
Usage: {PROGRAM} [-c <config file>] [-o <name=value>] [-d <username>] [-p <path>]
                 [-m <mailbox>] [-e] [-k] [-f <envelope sender>]
                 [-a <original envelope recipient>]
                 [-r <final envelope recipient>]
"""
_HELP = f"""\
Deliver the message on standard input, as dovecot-lda(1).

{_USAGE}
  -d   whose mailbox; without it the caller's
  -m   the folder; INBOX where it does not exist
  -p   the message's file, instead of standard input
  -f   the envelope sender: for an mbox's "From " line
  -a, -r, -e, -k   accepted

Exit status: 0 delivered, 64 usage, 67 no such user, 75 try again, 77 over quota.
"""
_FINAL = frozenset((cli.EX_OK, cli.EX_USAGE, cli.EX_NOUSER, cli.EX_NOPERM))


class _Refused(Exception):
    """A failure with its exit code, one of _FINAL."""

    def __init__(self, exit_code: int, text: str) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script; its exit status."""
    return cli.run(PROGRAM, _main, arguments)


def _main(arguments: Sequence[str]) -> int:
    """What else goes wrong is temporary, so that no message bounces for a mistake here."""
    try:
        return _deliver(arguments)
    except _Refused as refused:
        print(f"{PROGRAM}: {refused}", file=sys.stderr)
        return refused.exit_code
    except Failure as failure:
        print(f"{PROGRAM}: fatal: {failure.text}", file=sys.stderr)
    except (OSError, LocationError, TempFail, PermFail) as error:
        print(f"{PROGRAM}: fatal: {_reason(error)}", file=sys.stderr)
    except Exception as error:
        print(f"{PROGRAM}: fatal: {' '.join(str(error).split())}", file=sys.stderr)
    return cli.EX_TEMPFAIL


def _reason(error: Exception) -> str:
    if isinstance(error, TempFail | PermFail):
        return error.reply.text
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}"
    return str(error)


def _options(arguments: Sequence[str]) -> tuple[Mapping[str, str], list[str]]:
    """(the last value of each letter, -o's). Raises _Refused."""
    try:
        found, rest = getopt.getopt(list(arguments), "a:c:d:ef:hkm:o:p:r:", ["help", "version"])
    except getopt.GetoptError as error:
        raise _Refused(cli.EX_USAGE, f"{error.msg}\n{_USAGE}".rstrip()) from None
    if rest:
        raise _Refused(cli.EX_USAGE, f"Fatal: Unknown argument: {rest[0]}\n{_USAGE}".rstrip())
    return dict(found), [value for letter, value in found if letter == "-o"]


def _deliver(arguments: Sequence[str]) -> int:
    options, overrides = _options(arguments)
    if "--version" in options:
        print(f"{PROGRAM} {__version__}")
        return cli.EX_OK
    if "--help" in options or "-h" in options:
        print(_HELP, end="")
        return cli.EX_OK
    settings = load(options.get("-c"), overrides)
    name = options.get("-d") or os.environ.get("USER") or getpass.getuser()
    path = options.get("-p")
    message = Path(path).read_bytes() if path else sys.stdin.buffer.read()
    mailbox, sender = options.get("-m", ""), options.get("-f", "")
    if _mbox_is_usual(settings) or not _asked(settings, name, mailbox, sender, message):
        _directly(settings, name, mailbox, sender, message)
    return cli.EX_OK


def _mbox_is_usual(settings: Settings) -> bool:
    """Then it is appended as its owner, which the worker is not."""
    home_mailbox = settings.text("home_mailbox")
    return not settings.text("mail_location") and not home_mailbox.endswith("/")


def _asked(settings: Settings, name: str, mailbox: str, sender: str, message: bytes) -> bool:
    """Have the daemon's worker deliver; False where none runs, or it does not hear this caller.
    Raises _Refused, Failure."""
    client = ControlClient(control_path(settings.text("data_directory")))
    args = {"mailbox": mailbox, "sender": sender}
    try:
        for row in client.call("mail.run", message, user=name, command="deliver", args=args):
            if "problem" in row:
                _refuse(int(row["exit"]), row["problem"])
    except NotRunning:
        return False
    except ControlError as error:
        if error.exit_code == cli.EX_NOPERM:
            return False
        _refuse(error.exit_code, f"user {name}: {error.text}")
    return True


def _refuse(exit_code: int, text: str) -> None:
    if exit_code in _FINAL:
        raise _Refused(exit_code, text)
    raise Failure(cli.EX_TEMPFAIL, text)


def _directly(settings: Settings, name: str, mailbox: str, sender: str, message: bytes) -> None:
    """A plain Maildir delivery, as the mailbox's owner: whoever has the mailbox open sees it."""
    user = asyncio.run(_find(settings, name))
    with MailboxOwner(settings, user):
        try:
            deliver_to(user, settings, names_of(settings), mailbox, sender, message)
        except OverQuota as error:
            raise _Refused(cli.EX_NOPERM, str(error)) from None


async def _find(settings: Settings, name: str) -> User:
    try:
        user = await open_users(settings).find(name)
    except TempFail as error:
        raise cli.lookup_failed(error) from error
    if user is None:
        raise _Refused(cli.EX_NOUSER, f"user {name}: User doesn't exist")
    return user


if __name__ == "__main__":
    sys.exit(main())
