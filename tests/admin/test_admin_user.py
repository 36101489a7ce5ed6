"""`resel-adm user`, with the streams and exit codes that Dovecot 2.3's doveadm was seen to give."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from resel_mta.commands import lda
from resel_mta.commands.adm import _commands, main

LCARR = "uid\t1500\ngid\t1500\nhome\t/home/lcarr\nmail\tmaildir:~/Maildir\n"
UNKNOWN = "\nuserdb lookup: user nosuch doesn't exist\n"


@pytest.mark.parametrize(
    ("arguments", "out", "err", "status"),
    [
        (["lcarr"], f"field\tvalue\n{LCARR}", "", 0),
        (["nosuch"], f"field\tvalue\n{UNKNOWN}", "", 67),
        (["-f", "home", "lcarr"], "/home/lcarr\n", "", 0),
        (["-f", "home", "nosuch"], "", UNKNOWN, 67),
        (["lcarr", "lcarr"], f"field\tvalue\n{LCARR}{LCARR}\n", "", 0),
        (["lcarr", "nosuch"], f"field\tvalue\n{LCARR}\n{UNKNOWN}", "", 67),
        (["-f", "uid", "nosuch", "lcarr"], "\n1500\n", UNKNOWN, 67),
        (["lc*"], "lcarr\n", "", 0),
        (["zz*"], "", "", 0),
    ],
)
def test_doveadm_user(
    arguments: list[str],
    out: str,
    err: str,
    status: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    passwd = tmp_path / "passwd"
    passwd.write_text("lcarr:{PLAIN}x:1500:1500::/home/lcarr::\n")
    config = tmp_path / "main.cf"
    config.write_text(
        f"passdb = passwd-file:{passwd}\nuserdb = passwd-file:{passwd}\n"
        "mail_location = maildir:~/Maildir\n"
    )
    assert main(["-c", str(config), "user", *arguments]) == status
    assert tuple(capsys.readouterr()) == (out, err)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--help"], 0, "Administer users' mail"),
        (["mailbox", "list", "--help"], 0, "resel-adm mailbox list [-u <user>|-A]"),
        (["mailbox", "--help"], 0, "create               [-u <user>|-A] [-s] <mailbox>"),
        (["--version"], 0, "resel-adm "),
        ([], 64, "usage: resel-adm"),
        (["mailbox"], 64, "mailbox <command>"),
        (["mailbox", "bogus"], 64, "mailbox <command>"),
        (["bogus"], 64, "usage: resel-adm"),
        (["-x"], 64, "option -x not recognized"),
        (["mailbox", "list", "-x"], 64, "list: invalid option -- 'x'"),
        (["mailbox", "list", "-u"], 64, "list: option requires an argument -- 'u'"),
        (["mailbox", "status", "messages"], 64, "resel-adm mailbox status [-u <user>|-A]"),
        (["-c", "/nonexistent/main.cf", "mailbox", "list"], 78, "/nonexistent/main.cf"),
        (["expunge", "mailbox", "INBOX", "or", "seen", "flagged"], 75, "Use parenthesis"),
        (["copy", "-A", "INBOX", "user", "lcarr", "all"], 64, "resel-adm copy"),
    ],
)
def test_adm_usage(
    arguments: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == status
    out, err = capsys.readouterr()
    assert said in (out if status == 0 else err)
    assert "Traceback" not in err


@pytest.mark.parametrize("command", sorted(_commands()))
def test_adm_help_of_each_command_says_what_its_options_do(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command.split(), "--help"]) == 0
    usage, _, about = capsys.readouterr().out.partition("\n\n")
    assert usage.startswith(f"usage: resel-adm {command}")
    assert about.strip()
    told = set(re.findall(r"--?\w+", about))
    assert set(re.findall(r"[|\[](--?\w+)", usage)) <= told


def test_adm_user_shows_where_the_mail_of_this_user_lies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As doveadm: with the variables' values."""
    (tmp_path / "passwd").write_text("lcarr@resel.fr:{PLAIN}x:1500:1500::/home/lcarr::\n")
    (tmp_path / "main.cf").write_text(
        f"passdb = passwd-file:{tmp_path}/passwd\nuserdb = passwd-file:{tmp_path}/passwd\n"
        "mail_location = maildir:/var/vmail/%d/%n:INDEX=%h/index\n"
    )
    assert main(["-c", str(tmp_path / "main.cf"), "user", "-f", "mail", "lcarr@resel.fr"]) == 0
    assert capsys.readouterr().out == (
        "maildir:/var/vmail/resel.fr/lcarr:INDEX=/home/lcarr/index\n"
    )


@pytest.fixture
def stranger() -> Iterator[Path]:
    """A main.cf whose user file the caller, who is not root, may not read."""
    with tempfile.TemporaryDirectory(prefix="resel-adm-") as made:
        here = Path(made)
        here.chmod(0o755)
        users = here / "users"
        users.write_text("lcarr:{PLAIN}x::::::\n")
        users.chmod(0)
        (here / "mail.eml").write_text("Subject: x\n\nx\n")
        (here / "main.cf").write_text(
            f"passdb = passwd-file:{users}\nuserdb = passwd-file:{users}\n"
            f"mail_location = maildir:{here}/%n\ndata_directory = {here}/data\n"
        )
        for name in ("main.cf", "mail.eml"):
            (here / name).chmod(0o644)
        before = os.geteuid()
        os.seteuid(before or 65534)
        try:
            yield here / "main.cf"
        finally:
            os.seteuid(before)


@pytest.mark.parametrize(
    "command",
    [
        "user lcarr",
        "user *",
        "auth test lcarr x",
        "auth lookup lcarr",
        "mailbox list -u lcarr",
        "quota get -A",
    ],
)
def test_who_may_not_read_the_users_is_told_so(
    command: str, stranger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-c", str(stranger), *command.split()]) == 77
    told = f"resel-adm: fatal: {stranger.parent}/users: Permission denied; "
    assert capsys.readouterr().err.splitlines()[-1].startswith(told)


def test_lda_names_the_users_it_may_not_read(
    stranger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """75 all the same: the caller keeps the message."""
    mail = stranger.parent / "mail.eml"
    assert lda.main(["-c", str(stranger), "-d", "lcarr", "-p", str(mail)]) == 75
    assert "/users: Permission denied" in capsys.readouterr().err
