"""resel-adm: look at users as `doveadm user` does."""

from __future__ import annotations

import asyncio
import fnmatch
import sys
from collections.abc import Sequence

from resel_mta.commands import cli
from resel_mta.config import Settings, load
from resel_mta.mail import TempFail
from resel_mta.users import User, Users, open_users

PROGRAM = "resel-adm"


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script; its exit status."""
    return cli.run(PROGRAM, _main, arguments)


def _main(arguments: Sequence[str]) -> int:
    parser = cli.parser(PROGRAM, "Administer mail users, as doveadm(1).")
    commands = parser.add_subparsers(dest="command", required=True)
    user = commands.add_parser("user", help="what is known of a user; * and ? list names")
    user.add_argument("-f", dest="field", metavar="FIELD", help="print this field alone")
    user.add_argument("users", nargs="+", metavar="USER")
    options = parser.parse_args(arguments)
    settings = load(options.config, options.override)
    try:
        return asyncio.run(_users(settings, options.users, options.field))
    except TempFail as error:
        raise cli.Failure(cli.EX_TEMPFAIL, error.reply.text) from error


async def _users(settings: Settings, wanted: Sequence[str], field: str | None) -> int:
    users = open_users(settings)
    if any("*" in name or "?" in name for name in wanted):
        names = await users.names()
        for name in names:
            if any(fnmatch.fnmatchcase(name, mask.replace("[", "[[]")) for mask in wanted):
                print(name)
        return cli.EX_OK
    return await _show(users, wanted, field, settings.text("mail_location"))


async def _show(users: Users, wanted: Sequence[str], field: str | None, location: str) -> int:
    """doveadm's order: one table of all users, then the separators and the unknown names."""
    status = cli.EX_OK
    last = ""
    if field is None:
        print("field\tvalue")
    for number, name in enumerate(wanted):
        if number and field is None:
            last += "\n"
        elif number:
            print()
        user = await users.find(name)
        if user is None:
            status = cli.EX_NOUSER
            text = f"\nuserdb lookup: user {name} doesn't exist\n"
            if field is None:
                last += text
            else:
                sys.stderr.write(text)
            continue
        fields = _fields(user, location)
        if field is None:
            print("".join(f"{key}\t{value}\n" for key, value in fields.items()), end="")
        elif field in fields:
            print(fields[field])
    print(last, end="")
    return status


def _fields(user: User, location: str) -> dict[str, str]:
    """In doveadm's order; what the user's source does not give is left out."""
    known = {
        "uid": user.uid,
        "gid": user.gid,
        "home": user.home,
        "mail": user.mail_location or location,
    }
    return {key: str(value) for key, value in known.items() if value not in (None, "")}


if __name__ == "__main__":
    sys.exit(main())
