"""Real mail programs that call sendmail."""

from __future__ import annotations

import asyncio
import os
import pwd
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from sendmail_helpers import Office


@pytest.fixture
def program(office: Office) -> Path:
    """A file that is sendmail."""
    path = office.directory / "sendmail"
    words = " ".join(map(shlex.quote, office.words([])))
    path.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    path.chmod(0o755)
    return path


async def call(office: Office, words: list[str], data: bytes, **variables: str) -> None:
    environment = office.environment() | {"HOME": str(office.directory), "LC_ALL": "C.UTF-8"}
    environment |= variables
    done = await asyncio.to_thread(
        subprocess.run, words, input=data, capture_output=True, timeout=30, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""


async def test_sendmail_clients_bsd_mailx(
    office: Office, program: Path, need: Callable[[str], str]
) -> None:
    rc = office.directory / "mailrc"
    rc.write_text(f"set sendmail={program}\n")
    words = [need("bsd-mailx"), "-n", "-s", "report", "-c", "lcarr", "root"]
    await call(office, words, "ligne é\n".encode(), MAILRC=str(rc))
    # It does not wait for sendmail's end.
    async with asyncio.timeout(30):
        await office.intake.entered.wait()
    (taken,) = office.intake.taken
    assert sorted(taken.recipients) == ["lcarr", "root"]
    assert b"Subject: report\r\n" in taken.data
    assert "ligne é\r\n".encode() in taken.data


async def test_sendmail_clients_mutt(
    office: Office, program: Path, need: Callable[[str], str]
) -> None:
    rc = office.directory / "muttrc"
    rc.write_text(
        f'set sendmail="{program} -oem -oi"\nset sendmail_wait=30\nset copy=no\n'
        "set use_envelope_from=yes\nset envelope_from_address=lcarr@resel.fr\n"
        "set from=lcarr@resel.fr\nset hostname=vm1\n"
    )
    words = [need("mutt"), "-n", "-F", str(rc), "-s", "été", "-b", "b@resel.fr", "root@resel.fr"]
    await call(office, words, b"corps\n.\n..\n")
    (taken,) = office.intake.taken
    assert sorted(taken.recipients) == ["b@resel.fr", "root@resel.fr"]
    assert taken.envelope.reverse_path == "lcarr@resel.fr"
    assert taken.data.endswith(b"\r\n\r\ncorps\r\n.\r\n..\r\n")
    assert b"b@resel.fr" not in taken.data
    assert taken.origin.uid == os.getuid()


PATCH = """\
From 53a3d92e7b12e3e6d1a5d5c5d5a4c1a5b1c5d5e5 Mon Sep 17 00:00:00 2001
From: =?UTF-8?q?L=C3=A9a=20Carr?= <lcarr@resel.fr>
Date: Tue, 24 Nov 2026 12:00:00 +0000
Subject: [PATCH] =?UTF-8?q?cl=C3=A9=20de=20vo=C3=BBte?=
MIME-Version: 1.0
Content-Type: text/plain; charset=UTF-8
Content-Transfer-Encoding: 8bit

Ligne accentuée.
.
---
 a | 1 +
"""


@pytest.mark.parametrize("sender", ["lcarr@resel.fr", ""])
async def test_sendmail_clients_git_send_email(
    office: Office, program: Path, need: Callable[[str], str], sender: str
) -> None:
    git = need("git")
    need("/usr/lib/git-core/git-send-email")
    # Debian only recommends it, and it does not start without.
    if not Path("/usr/share/perl5/Mail/Address.pm").exists():
        need("libmailtools-perl")
    patch = office.directory / "0001-cle.patch"
    patch.write_text(PATCH)
    words = [git, "send-email", f"--smtp-server={program}", "--confirm=never", "--quiet"]
    words += ["--from=lcarr@resel.fr", "--to=Liste <list@resel.fr>", "--bcc=root"]
    words += [f"--envelope-sender={sender}"] if sender else []
    config = office.directory / "gitconfig"
    config.write_text("[user]\nname = Carr\nemail = lcarr@resel.fr\n")
    mine = {"GIT_CONFIG_GLOBAL": str(config), "GIT_CONFIG_SYSTEM": os.devnull}
    done = await asyncio.to_thread(
        subprocess.run, [*words, str(patch)], capture_output=True, timeout=60, cwd=office.directory,
        env=office.environment() | mine | {"HOME": str(office.directory)}, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (taken,) = office.intake.taken
    assert sorted(taken.recipients) == ["lcarr@resel.fr", "list@resel.fr", "root"]
    assert taken.envelope.reverse_path == (sender or pwd.getpwuid(os.getuid()).pw_name)
    assert b"Subject: [PATCH] =?UTF-8?q?cl=C3=A9=20de=20vo=C3=BBte?=\r\n" in taken.data
    assert "\r\nLigne accentuée.\r\n.\r\n---\r\n".encode() in taken.data
    assert b"Bcc" not in taken.data


async def test_sendmail_clients_php_mail(
    office: Office, program: Path, need: Callable[[str], str]
) -> None:
    script = """
        $headers = "From: Site <www@resel.fr>\\r\\nBcc: b@resel.fr";
        exit(mail("root@resel.fr", "sujet", "ligne\\n.\\nfin\\n", $headers, "-fwww@resel.fr") ? 0 : 1);
    """
    words = [need("php"), "-n", "-d", f"sendmail_path={program} -t -i", "-r", script]
    await call(office, words, b"")
    (taken,) = office.intake.taken
    assert sorted(taken.recipients) == ["b@resel.fr", "root@resel.fr"]
    assert taken.envelope.reverse_path == "www@resel.fr"
    assert b"Subject: sujet\r\nFrom: Site <www@resel.fr>\r\n" in taken.data
    assert b"\r\n\r\nligne\r\n.\r\nfin\r\n" in taken.data


async def test_sendmail_clients_php_is_told_of_failure(
    closed: Office, need: Callable[[str], str]
) -> None:
    """mail() gives false where sendmail cannot take the mail."""
    words = " ".join(map(shlex.quote, closed.words(["-t", "-i"])))
    script = 'exit(mail("@", "sujet", "ligne") ? 0 : 1);'
    done = await asyncio.to_thread(
        subprocess.run, [need("php"), "-n", "-d", f"sendmail_path={words}", "-r", script],
        capture_output=True, timeout=60, env=closed.environment(),
    )  # fmt: skip
    assert done.returncode == 1
