"""``resel-adm pw``: make a stored password, or check one."""

from __future__ import annotations

from resel_mta.commands import cli
from resel_mta.commands.adm_options import Command, Context, Fatal, Options
from resel_mta.commands.adm_users import read_password
from resel_mta.users.libcrypt import CryptUnavailable
from resel_mta.users.making import DEFAULT_SCHEME, SCHEMES, make_password
from resel_mta.users.schemes import SchemeError, verify


def _pw(context: Context, options: Options) -> int:
    if "l" in options.letters:
        print(" ".join(SCHEMES))
        return cli.EX_OK
    stored = options.values.get("t", "")
    password = _password(options, twice=not stored).encode("utf-8", "surrogateescape")
    try:
        if not stored:
            stored = make_password(
                options.values.get("s", DEFAULT_SCHEME), password, _rounds(options)
            )
            if "V" not in options.letters:
                print(stored)
                return cli.EX_OK
        matches = verify(stored, password)
    except (SchemeError, CryptUnavailable) as error:
        raise Fatal(cli.EX_TEMPFAIL, f"Fatal: {error}") from None
    if not matches:
        text = "Fatal: reverse password verification check failed: Password mismatch"
        raise Fatal(cli.EX_TEMPFAIL, text)
    print(f"{stored} (verified)")
    return cli.EX_OK


def _password(options: Options, twice: bool) -> str:
    if "p" in options.values:
        return options.values["p"]
    password = read_password("Enter new password: ")
    if twice and read_password("Retype new password: ") != password:
        raise Fatal(cli.EX_TEMPFAIL, "Error: Passwords don't match!")
    return password


def _rounds(options: Options) -> int:
    text = options.values.get("r", "0")
    if not text.isascii() or not text.isdigit():
        raise Fatal(cli.EX_TEMPFAIL, f"Fatal: Invalid number of rounds: {text}")
    return int(text)


COMMANDS = (
    Command("pw", "[-l] [-p plaintext] [-r rounds] [-s scheme] [-t hash] [-u user] [-V]",
            "lp:r:s:t:u:V", _pw, most=0),
)  # fmt: skip
