"""``resel-adm user``, ``auth test``, ``auth lookup``: who the users are and whether they get in."""

from __future__ import annotations

import asyncio
import fnmatch
import getpass
import sys
from collections.abc import Sequence

from resel_lda.maildir.layout import LocationError, expand
from resel_mta.commands import cli
from resel_mta.commands.adm_options import Command, Context, Fatal, Options
from resel_mta.commands.adm_print import Header, open_printer
from resel_mta.config import Settings
from resel_mta.mail import TempFail
from resel_mta.users import User, Users, open_users


def _user(context: Context, options: Options) -> int:
    settings = context.settings
    only_userdb = "u" in options.letters
    try:
        found = _users(
            settings, options.words, options.values.get("f"), only_userdb, context.formatter
        )
        return asyncio.run(found)
    except TempFail as error:
        raise cli.lookup_failed(error) from error


async def _users(
    settings: Settings,
    wanted: Sequence[str],
    field: str | None,
    only_userdb: bool,
    formatter: str,
) -> int:
    users = open_users(settings)
    if any("*" in name or "?" in name for name in wanted):
        names = await users.names()
        for name in names:
            if any(fnmatch.fnmatchcase(name, mask.replace("[", "[[]")) for mask in wanted):
                print(name)
        return cli.EX_OK
    if only_userdb and field is None:
        return await _show_userdb(users, wanted)
    location = settings.text("mail_location")
    if field is not None:
        return await _show_field(users, wanted, field, location)
    return await _show(users, wanted, location, formatter)


async def _show(users: Users, wanted: Sequence[str], location: str, formatter: str) -> int:
    """doveadm's order: one table of all users, then the separators and the unknown names."""
    status = cli.EX_OK
    last = ""
    printer = open_printer(formatter or "tab", [Header("field"), Header("value")])
    for number, name in enumerate(wanted):
        if number:
            last += "\n"
        user = await users.find(name)
        if user is None:
            status = cli.EX_NOUSER
            last += f"\nuserdb lookup: user {name} doesn't exist\n"
            continue
        for pair in _fields(user, location).items():
            printer.row(pair)
    printer.finish()
    print(last, end="")
    return status


async def _show_field(users: Users, wanted: Sequence[str], field: str, location: str) -> int:
    """``user -f``: the value alone."""
    status = cli.EX_OK
    for number, name in enumerate(wanted):
        if number:
            print()
        user = await users.find(name)
        if user is None:
            status = cli.EX_NOUSER
            sys.stderr.write(f"\nuserdb lookup: user {name} doesn't exist\n")
            continue
        fields = _fields(user, location)
        if field in fields:
            print(fields[field])
    return status


async def _show_userdb(users: Users, wanted: Sequence[str]) -> int:
    """``user -u``: what the userdb says, without defaults."""
    status = cli.EX_OK
    for name in wanted:
        user = await users.find(name)
        if user is None:
            status = cli.EX_NOUSER
            print(f"userdb lookup: user {name} doesn't exist")
            continue
        print(f"userdb: {name}")
        for key, value in {"user": user.name, **_fields(user, "")}.items():
            print(f"  {key:<10}: {value}")
        print()
    return status


def _fields(user: User, location: str) -> dict[str, str]:
    """In doveadm's order; what the user's source does not give is left out."""
    known = {
        "uid": user.uid,
        "gid": user.gid,
        "home": user.home,
        "mail": _mail(user, user.mail_location or location),
    }
    return {key: str(value) for key, value in known.items() if value not in (None, "")}


def _mail(user: User, location: str) -> str:
    """As doveadm shows it: with the variables' values, a home as "~"."""
    try:
        return expand(location, user.name, user.home)
    except LocationError:
        return location


def _auth_test(context: Context, options: Options) -> int:
    name = options.words[0]
    password = options.words[1] if len(options.words) > 1 else read_password("Password: ")
    octets = password.encode("utf-8", "surrogateescape")
    try:
        user = asyncio.run(open_users(context.settings).authenticate(name, octets))
    except TempFail as error:
        raise cli.lookup_failed(error) from error
    word = "succeeded" if user is not None else "failed"
    print(f"passdb: {name} auth {word}\nextra fields:\n  user={user.name if user else name}")
    return cli.EX_OK if user is not None else cli.EX_NOPERM


def read_password(prompt: str) -> str:
    """Without echo from a terminal, else a line of standard input. Raises Fatal at its end."""
    if sys.stdin.isatty():
        return getpass.getpass(prompt)
    line = sys.stdin.readline()
    if not line:
        raise Fatal(cli.EX_TEMPFAIL, "Fatal: askpass: no password given")
    return line.rstrip("\r\n")


def _auth_lookup(context: Context, options: Options) -> int:
    status = cli.EX_OK
    users = open_users(context.settings)
    for name in options.words:
        try:
            user = asyncio.run(users.find(name))
        except TempFail as error:
            raise cli.lookup_failed(error) from error
        if user is None:
            print(f"passdb lookup: user {name} doesn't exist")
            status = cli.EX_NOUSER
            continue
        if options.values.get("f") == "user":
            print(user.name)
        elif "f" not in options.values:
            print(f"passdb: {name}\n  user      : {user.name}\n")
    return status


COMMANDS = (
    Command("auth lookup", "[-f field] <user> [<user> [...]]", "a:x:f:", _auth_lookup, least=1),
    Command("auth test", "<user> [<password>]", "a:x:M:", _auth_test, least=1, most=2),
    Command("user", "[-f field] [-u] <user mask> [<user mask> [...]]", "a:x:f:e:u", _user, least=1),
)
