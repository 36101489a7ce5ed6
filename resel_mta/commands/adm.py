"""resel-adm: doveadm(1) for this store, with its arguments, output and exit codes."""

from __future__ import annotations

import getopt
import sys
from collections.abc import Iterator, Sequence

from resel_mta import __version__
from resel_mta.commands import (
    adm_mail_commands,
    adm_misc,
    adm_pw,
    adm_users,
    adm_who,
    cli,
)
from resel_mta.commands.adm_help import text_of
from resel_mta.commands.adm_options import (
    EX_USAGE,
    PROGRAM,
    Command,
    Context,
    Fatal,
    UsageError,
    fail,
)
from resel_mta.commands.adm_print import PRINTERS

_USAGE = f"usage: {PROGRAM} [-c <main.cf>] [-o <name=value>] [-Dv] [-f <formatter>]"

_EPILOG = f"""\
Administer users' mail, with doveadm(1)'s arguments, output and exit codes.

  -c FILE         main.cf, or the directory that holds it (default: $RESEL_CONFIG, then
                  /etc/resel-mta/main.cf)
  -o NAME=VALUE   overrides a parameter of main.cf; repeatable
  -f FORMATTER    {", ".join(PRINTERS)}
  -D, -v          accepted
  --version, --help

-u takes a user's name, or a mask with * and ?; -A is all users. A search query is doveadm's
(doveadm-search-query(7)): mailbox, mailbox-guid, guid, uid, numbers, flags, from, to, cc, bcc,
subject, header, body, text, keyword, larger, smaller, before, on, since and their sent… and
saved… forms, older, younger, modseq; NOT, OR, ( ).

  {PROGRAM} -f table mailbox status -u lcarr "messages vsize" INBOX
  {PROGRAM} expunge -u lcarr mailbox Trash savedbefore 30d
  {PROGRAM} fetch -u lcarr "uid hdr.subject" mailbox INBOX unseen

What is expunged is kept for expunge_keep_time (7 days): undelete -l shows it, with the same
queries (saved… is then when it was expunged), undelete brings it back, purge frees it, and
expunge --purge keeps nothing. mailbox status knows kept and keptsize.

  {PROGRAM} undelete -u lcarr mailbox INBOX savedsince 1h
"""


def _commands() -> dict[str, Command]:
    every = (
        *adm_mail_commands.COMMANDS,
        *adm_misc.COMMANDS,
        *adm_pw.COMMANDS,
        *adm_users.COMMANDS,
        *adm_who.COMMANDS,
    )
    return {command.name: command for command in sorted(every, key=lambda one: one.name)}


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script; its exit status."""
    return cli.run(PROGRAM, _main, arguments)


def _main(arguments: Sequence[str]) -> int:
    commands = _commands()
    context = Context()
    try:
        options, rest = getopt.getopt(list(arguments), "c:o:f:Dv", ["help", "version"])
    except getopt.GetoptError as error:
        return fail(f"{PROGRAM}: fatal: {error.msg}\n{_overview(commands)}", EX_USAGE)
    for letter, value in options:
        match letter:
            case "-c":
                context.config = value
            case "-o":
                context.overrides.append(value)
            case "-f":
                context.formatter = value
            case "--help":
                print(f"{_overview(commands)}\n\n{_EPILOG}", end="")
                return cli.EX_OK
            case "--version":
                print(f"{PROGRAM} {__version__}")
                return cli.EX_OK
    if context.formatter and context.formatter not in PRINTERS:
        text = f"{PROGRAM}: Fatal: Unknown print formatter: {context.formatter}"
        return fail(text, cli.EX_TEMPFAIL)
    return _run(context, commands, rest)


def _run(context: Context, commands: dict[str, Command], words: Sequence[str]) -> int:
    command, given = _find(commands, words)
    if command is None:
        if words[1:] == ["--help"] and _inside(commands, words[0]):
            print(_overview(commands, words[0]))
            return cli.EX_OK
        return fail(_overview(commands, words[0] if words else ""), EX_USAGE)
    if given[:1] == ["--help"]:
        print(text_of(command), end="")
        return cli.EX_OK
    try:
        return command.run(context, command.read(given))
    except UsageError as error:
        return fail(str(error), EX_USAGE)
    except Fatal as error:
        return fail(error.text, error.exit_code)


def _find(commands: dict[str, Command], words: Sequence[str]) -> tuple[Command | None, list[str]]:
    """The command that the words begin with, and the others."""
    for length in (2, 1):
        name = " ".join(words[:length])
        if len(words) >= length and name in commands:
            return commands[name], list(words[length:])
    return None, []


def _overview(commands: dict[str, Command], group: str = "") -> str:
    """Usage lines: of the commands that begin with `group`, if some do."""
    inside = _inside(commands, group)
    head = f"{_USAGE} {group} <command> [<args>]" if inside else f"{_USAGE} <command> [<args>]"
    return "\n".join((head, *_lines(inside or commands, len(group) + 1 if inside else 0)))


def _inside(commands: dict[str, Command], group: str) -> dict[str, Command]:
    return {name: one for name, one in commands.items() if name.startswith(f"{group} ")}


def _lines(commands: dict[str, Command], skip: int) -> Iterator[str]:
    for name, command in commands.items():
        yield f"  {name[skip:]:<20} {command.usage}".rstrip()


if __name__ == "__main__":
    sys.exit(main())
