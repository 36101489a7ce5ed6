"""resel-lda beside dovecot-lda: what is stored, and the exit codes that a caller acts on."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from test_admin_daemon import Daemon, daemon
from test_admin_doveadm import copy_of, dovecot, root

from resel_mta.commands.lda import main

__all__ = ["daemon", "dovecot", "root"]

MESSAGE = b"Message-ID: <1@x>\nSubject: lda\n\nFrom here on\nbody\n"


class Input:
    """Standard input with these octets."""

    def __init__(self, octets: bytes) -> None:
        self.buffer = io.BytesIO(octets)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "users").write_text(
        "lcarr:{PLAIN}x::::::\nfull:{PLAIN}x::::::userdb_quota_rule=*:bytes=10\n"
    )
    (tmp_path / "main.cf").write_text(
        f"passdb = passwd-file:{tmp_path}/users\n"
        f"mail_location = maildir:{tmp_path}/mail/%u\n"
        f"data_directory = {tmp_path}/data\nqueue_directory = {tmp_path}/queue\n"
        "namespace_separator = /\nmail_owner = nobody\n"
    )
    (tmp_path / "mail" / "lcarr" / ".Sent" / "cur").mkdir(parents=True)
    for name in ("new", "tmp"):
        (tmp_path / "mail" / "lcarr" / ".Sent" / name).mkdir()
    return tmp_path / "main.cf"


def stored(config: Path, folder: str = "") -> list[bytes]:
    new = config.parent / "mail" / "lcarr" / folder / "new"
    return [path.read_bytes() for path in new.iterdir()] if new.exists() else []


@pytest.fixture
def lda(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Runs it as the account this test has: (exit status, standard error)."""

    def run(*words: str, stdin: bytes = MESSAGE) -> tuple[int, str]:
        monkeypatch.setattr(sys, "stdin", Input(stdin))
        monkeypatch.setattr(os, "geteuid", lambda: 1)
        status = main(["-c", str(config), *words])
        return status, capsys.readouterr().err

    return run


Lda = Callable[..., tuple[int, str]]


def test_lda_stores_the_message_as_it_is(lda: Lda, config: Path) -> None:
    assert lda("-d", "lcarr", "-f", "s@x.org", "-a", "lcarr+x@example.org") == (0, "")
    assert stored(config) == [MESSAGE]


def test_lda_folder(lda: Lda, config: Path) -> None:
    assert lda("-d", "lcarr", "-m", "Sent")[0] == 0
    assert (stored(config, ".Sent"), stored(config)) == ([MESSAGE], [])


@pytest.mark.parametrize("name", ["Nosuch", "../../etc", "a//b", "inbox", ""])
def test_lda_goes_to_the_inbox_where_there_is_no_folder(lda: Lda, config: Path, name: str) -> None:
    assert lda("-d", "lcarr", "-m", name)[0] == 0
    assert stored(config) == [MESSAGE]


def test_lda_an_mbox_line_is_no_header(lda: Lda, config: Path) -> None:
    assert lda("-d", "lcarr", stdin=b"From s@x.org Mon Jun  1 10:00:00 2026\n" + MESSAGE)[0] == 0
    assert stored(config) == [MESSAGE]


def test_lda_message_from_a_file(lda: Lda, config: Path, tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(MESSAGE.replace(b"\n", b"\r\n"))
    assert lda("-d", "lcarr", "-p", str(tmp_path / "m"))[0] == 0
    assert stored(config) == [MESSAGE]


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["-d", "nosuch"], 67),
        (["-e", "-d", "nosuch"], 67),
        (["-d", "lcarr", "extra"], 64),
        (["-x"], 64),
        (["-d"], 64),
        (["-d", "lcarr", "-p", "/nonexistent"], 75),
        (["-d", "full"], 77),
        (["-d", "lcarr", "-o", "no_such_parameter_syntax"], 75),
        (["-d", "lcarr", "-o", "mail_location=maildir:relative"], 75),
        (["-d", "lcarr", "-o", "userdb=passwd-file:/nonexistent"], 75),
    ],
)
def test_lda_exit_codes(lda: Lda, config: Path, words: list[str], status: int) -> None:
    found, error = lda(*words)
    assert (found, bool(error)) == (status, True)
    assert "Traceback" not in error
    assert stored(config) == []


def test_lda_mbox(lda: Lda, config: Path, tmp_path: Path) -> None:
    spool = ["-o", "mail_location=", "-o", f"mail_spool_directory={tmp_path}/spool"]
    (tmp_path / "spool").mkdir()
    assert lda("-d", "lcarr", "-f", "s@x.org", *spool) == (0, "")
    lines = (tmp_path / "spool" / "lcarr").read_bytes().split(b"\n")
    assert lines[0].startswith(b"From s@x.org  ")
    assert lines[1:] == [
        b"Message-ID: <1@x>",
        b"Subject: lda",
        b"",
        b">From here on",
        b"body",
        b"",
        b"",
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="Dovecot is started as root")
def test_lda_as_dovecot_lda(
    dovecot: object, root: Path, need: Callable[[str], str], tmp_path: Path
) -> None:
    program = "/usr/lib/dovecot/dovecot-lda"
    if not os.access(program, os.X_OK):
        need(program)
    ours = copy_of(dovecot, root)  # type: ignore[arg-type]
    config = str(dovecot.config)  # type: ignore[attr-defined]
    for words in (
        ["-d", "lcarr", "-f", "s@x.org"],
        ["-d", "lcarr", "-m", "Sent"],
        ["-d", "lcarr", "-m", "Nosuch"],
        ["-d", "nosuch"],
        ["-d", "lcarr", "-p", "/nonexistent"],
        ["-d", "lcarr", "extra"],
        ["-x"],
    ):
        theirs = subprocess.run(
            [program, "-c", config, *words], input=MESSAGE, capture_output=True, check=False
        )
        mine = subprocess.run(
            [sys.executable, "-m", "resel_mta.commands.lda", *ours, *words],
            input=MESSAGE,
            capture_output=True,
            check=False,
        )
        assert (words, mine.returncode) == (words, theirs.returncode)
    folders = ("Maildir/new", "Maildir/.Sent/new")
    for folder in folders:
        found = [
            sorted(path.read_bytes() for path in (top / "mail/lcarr" / folder).iterdir())
            for top in (root, dovecot.root)  # type: ignore[attr-defined]
        ]
        assert found[0] == found[1]
        owners = {path.stat().st_uid for path in (root / "mail/lcarr" / folder).iterdir()}
        assert owners == {65534}


def test_lda_through_the_daemon(daemon: Daemon) -> None:
    client = daemon.session()
    client.select("INBOX")
    for words, status in ((["-d", "lcarr"], 0), (["-d", "nosuch"], 67)):
        done = subprocess.run(
            [sys.executable, "-m", "resel_mta.commands.lda", "-c", str(daemon.config), *words],
            input=MESSAGE,
            capture_output=True,
            check=False,
        )
        assert (done.returncode, b"Traceback" in done.stderr) == (status, False), done.stderr
    client.noop()
    assert client.response("EXISTS")[1][-1] == b"1"
    line = next(line for line in daemon.log().splitlines() if "saved mail" in line)
    assert re.search(r"dovecot: lda\(lcarr\)<\d+><\S+>: msgid=<1@x>: saved mail to INBOX$", line)
    client.logout()
