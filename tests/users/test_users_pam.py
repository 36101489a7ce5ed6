"""PAM: asked in threads, or by a process of its own. The modules are the system's."""

from __future__ import annotations

import asyncio
import os
import pwd
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from resel_mta.config import Settings
from resel_mta.mail import TempFail
from resel_mta.users import User, open_users
from resel_mta.users.pam import PamFailure, PamLogin, ThreadPam, check_password
from resel_mta.users.pam_remote import RemotePam

NAME = "games"


class FakePam:
    """Accepts "secret"; "hang" finds PAM undecided."""

    def __init__(self, service: str) -> None:
        self.service = service
        self.asked: list[str] = []
        self.closed = False

    async def check(self, name: str, password: bytes) -> bool:
        self.asked.append(name)
        if password == b"hang":
            raise PamFailure("directory is down")
        return password == b"secret"

    def close(self) -> None:
        self.closed = True


async def test_the_machines_users_log_in_by_pam() -> None:
    made: list[FakePam] = []

    def make(service: str) -> PamLogin:
        made.append(FakePam(service))
        return made[-1]

    users = open_users(Settings.build(passdb="pam:imap"), make_pam=make)
    entry = pwd.getpwnam(NAME)
    expected = User(NAME, entry.pw_uid, entry.pw_gid, entry.pw_dir)
    assert await users.authenticate(NAME.upper(), b"secret") == expected
    assert made[0].asked == [NAME]
    assert await users.authenticate(NAME, b"wrong") is None
    assert await users.authenticate("no such user", b"secret") is None
    assert await users.authenticate(NAME, b"x" * 5000) is None
    with pytest.raises(TempFail):
        await users.authenticate(NAME, b"hang")
    users.reconfigure(Settings.build(passdb="pam:other"))
    assert (made[0].closed, made[1].service) == (True, "other")
    users.close()
    assert made[1].closed


async def test_a_passwd_file_is_asked_first(tmp_path: Path) -> None:
    (tmp_path / "users").write_text("games:{PLAIN}own\n")
    passdb = f"passwd-file:{tmp_path}/users, pam:imap"
    users = open_users(Settings.build(passdb=passdb), make_pam=FakePam)
    assert await users.authenticate(NAME, b"own")
    assert await users.authenticate(NAME, b"secret") is None
    assert await users.authenticate("daemon", b"secret")
    users.close()


def test_what_pam_is_never_asked() -> None:
    assert not check_password("other", "root", b"x")
    assert not check_password("other", "", b"x")
    assert not check_password("other", "a\nb", b"x")
    assert not check_password("other", NAME, b"a\0b")


async def test_the_systems_pam_denies() -> None:
    """Debian's "other" service asks pam_unix, and nobody has the password of `games`."""
    if not os.path.exists("/etc/pam.d/other") or os.getuid() != 0:
        pytest.skip("needs root and PAM's files")
    login = ThreadPam("other")
    assert not await login.check(NAME, b"wrong")
    login.close()


def test_what_the_modules_say_counts(tmp_path: Path, need: Callable[[str], str]) -> None:
    """With files of our own in the place of /etc/pam.d, in a mount namespace."""
    if os.getuid() != 0:
        pytest.skip("only root can mount")
    (tmp_path / "yes").write_text("auth required pam_permit.so\naccount required pam_permit.so\n")
    (tmp_path / "no").write_text("auth required pam_deny.so\naccount required pam_permit.so\n")
    (tmp_path / "late").write_text("auth required pam_permit.so\naccount required pam_deny.so\n")
    (tmp_path / "odd").write_text("auth required pam_nosuchmodule.so\n")
    code = (
        "from resel_mta.users.pam import PamFailure, check_password\n"
        "for service in ('yes', 'no', 'late', 'odd'):\n"
        f"    try: print(service, check_password(service, '{NAME}', b'x'))\n"
        "    except PamFailure: print(service, 'failed')\n"
        "print('root', check_password('yes', 'root', b'x'))\n"
    )
    script = f'mount --bind {tmp_path} /etc/pam.d && exec {sys.executable} -c "$1"'
    words = [need("unshare"), "--mount", "--propagation", "private", "sh", "-c", script, "sh", code]
    found = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    if "mount:" in found.stderr or "unshare:" in found.stderr:
        pytest.skip(f"no mount namespace here: {found.stderr.strip()}")
    lines = found.stdout.splitlines()
    assert lines[:3] == ["yes True", "no False", "late False"]
    assert lines[3] in ("odd failed", "odd False")
    assert lines[4] == "root False"


async def _start() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = await asyncio.to_thread(
            subprocess.Popen,
            [sys.executable, "-m", "resel_mta.users.pam_process", "other"],
            stdin=theirs.fileno(),
        )
    _started.append(process)
    return ours


_started: list[subprocess.Popen[bytes]] = []


async def test_a_process_of_its_own_answers_and_comes_again() -> None:
    if not os.path.exists("/etc/pam.d/other") or os.getuid() != 0:
        pytest.skip("needs root and PAM's files")
    login = RemotePam("other", _start)
    answers = await asyncio.gather(*(login.check(NAME, b"wrong") for _ in range(3)))
    assert answers == [False] * 3
    _started[0].kill()
    _started[0].wait()
    for _ in range(3):
        try:
            assert not await login.check(NAME, b"wrong")
            break
        except PamFailure:
            continue
    else:
        raise AssertionError("no new process")
    assert len(_started) == 2
    login.close()
    assert await asyncio.to_thread(_started[1].wait, 10) == 0


async def test_a_dead_process_is_no_denial() -> None:
    async def connect() -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.close()
        return ours

    login = RemotePam("other", connect)
    with pytest.raises(PamFailure):
        await login.check(NAME, b"x")
    login.close()
