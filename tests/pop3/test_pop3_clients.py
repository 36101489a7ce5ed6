"""POP3 beside a real Dovecot on the same mail, and real clients: fetchmail, getmail, mpop,
curl, poplib."""

from __future__ import annotations

import asyncio
import os
import poplib
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path += [str(Path(__file__).parent.parent / room) for room in ("admin", "mime")]
from dovecot_server import PASSWORD, DovecotServer
from nasty_mails import MAILS
from pop3_service import PASSWORD as OUR_PASSWORD
from pop3_service import pop3_service

LISTENER = """\
service pop3-login {{
  inet_listener pop3 {{
    address = 127.0.0.1
    port = {port}
  }}
  inet_listener pop3s {{
    port = 0
  }}
}}
service imap-login {{
  inet_listener imap {{
    port = 0
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
"""
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="Dovecot is started as root")


@pytest.fixture
def dovecot(need: Callable[[str], str]) -> Iterator[tuple[DovecotServer, int]]:
    need("dovecot")
    if not Path("/usr/lib/dovecot/pop3").exists():
        need("/usr/lib/dovecot/pop3")
    root = Path(tempfile.mkdtemp(prefix="resel-pop3-"))
    os.chmod(root, 0o755)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = DovecotServer(root, ["lcarr"], "pop3", LISTENER.format(port=port))
    maildir = root / "mail" / "lcarr" / "Maildir"
    for name in ("cur", "new", "tmp"):
        (maildir / name).mkdir(parents=True)
    for number, message in enumerate((mail for _, mail in MAILS), 1):
        path = maildir / "new" / f"{1700000000 + number}.M{number}P1.host"
        path.write_bytes(message.replace(b"\r\n", b"\n"))
    server.own()
    try:
        with server:
            yield server, port
    finally:
        shutil.rmtree(root, ignore_errors=True)


Seen = tuple[tuple[int, int], list[bytes], list[bytes], list[bytes]]


def look(port: int, password: str, utf8: bool = False) -> Seen:
    """STAT, LIST, UIDL, and all messages."""
    client = poplib.POP3("127.0.0.1", port, timeout=30)
    if utf8:
        client.utf8()
    client.user("lcarr")
    client.pass_(password)
    stat = client.stat()
    listed = client.list()[1]
    names = client.uidl()[1]
    messages = [b"\n".join(client.retr(number)[1]) for number in range(1, stat[0] + 1)]
    client.quit()
    return stat, listed, names, messages


@as_root
async def test_pop3_says_the_same_as_dovecot(
    dovecot: tuple[DovecotServer, int], tmp_path: Path
) -> None:
    server, port = dovecot
    theirs = await asyncio.to_thread(look, port, PASSWORD)
    assert theirs[0][0] > 100
    async with pop3_service(tmp_path) as running:
        shutil.copytree(server.root / "mail" / "lcarr" / "Maildir", running.maildir)
        # Dovecot sends headers as they are without being asked to.
        ours = await asyncio.to_thread(look, running.port, OUR_PASSWORD, utf8=True)
    assert ours[:3] == theirs[:3]
    for number, (mine, other) in enumerate(zip(ours[3], theirs[3], strict=True), 1):
        assert (number, mine) == (number, other)


def fetchmail(program: str, directory: Path, port: int, password: str) -> int:
    """One run that keeps the mail: how many messages were fetched."""
    directory.mkdir(exist_ok=True)
    got = directory / "got"
    got.unlink(missing_ok=True)
    settings = directory / "fetchmailrc"
    settings.write_text(
        f"set idfile {directory}/ids\n"
        f"poll 127.0.0.1 protocol POP3 port {port} uidl\n"
        f' user "lcarr" password "{password}" keep sslproto ""\n'
        f" mda \"/bin/sh -c 'cat >/dev/null; echo x >> {got}'\"\n"
    )
    settings.chmod(0o600)
    done = subprocess.run(
        [program, "-f", str(settings), "--nodetach", "--nosyslog", "--pidfile", f"{directory}/pid"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    # 1: there was no new mail.
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return len(got.read_text().splitlines()) if got.exists() else 0


@as_root
async def test_fetchmail_downloads_nothing_again_after_the_take_over(
    dovecot: tuple[DovecotServer, int], tmp_path: Path, need: Callable[[str], str]
) -> None:
    program = need("fetchmail")
    server, port = dovecot
    keeps = tmp_path / "keeps"
    first = await asyncio.to_thread(fetchmail, program, keeps, port, PASSWORD)
    assert first > 100
    async with pop3_service(tmp_path) as running:
        shutil.copytree(server.root / "mail" / "lcarr" / "Maildir", running.maildir)
        assert await asyncio.to_thread(fetchmail, program, keeps, running.port, OUR_PASSWORD) == 0
        running.deliver(b"Subject: new\n\nnew\n")
        assert await asyncio.to_thread(fetchmail, program, keeps, running.port, OUR_PASSWORD) == 1


async def test_curl(tmp_path: Path, need: Callable[[str], str]) -> None:
    program = need("curl")

    def curl(port: int, path: str, *more: str) -> bytes:
        words = [program, "-s", "--user", f"lcarr:{OUR_PASSWORD}", *more]
        done = subprocess.run(
            [*words, f"pop3://127.0.0.1:{port}/{path}"],
            capture_output=True,
            timeout=30,
            check=True,
        )
        return done.stdout

    async with pop3_service(tmp_path) as running:
        running.deliver(b"Subject: one\n\n.one\n", b"Subject: two\n\ntwo\n")
        port = running.port
        assert await asyncio.to_thread(curl, port, "") == b"1 22\r\n2 21\r\n"
        assert await asyncio.to_thread(curl, port, "1") == b"Subject: one\r\n\r\n.one\r\n"
        assert await asyncio.to_thread(curl, port, "1", "-X", "DELE", "-I") == b""
        assert (await asyncio.to_thread(curl, port, "")).count(b"\n") == 1


GETMAILRC = """\
[retriever]
type = SimplePOP3Retriever
server = 127.0.0.1
port = {port}
username = lcarr
password = {password}
[destination]
type = MDA_external
path = /usr/bin/tee
arguments = ("-a", "{got}")
allow_root_commands = true
[options]
read_all = false
delete = {delete}
"""
MPOPRC = """\
account toad
host 127.0.0.1
port {port}
user lcarr
password {password}
auth user
tls off
keep {keep}
uidls_file {root}/uidls
delivery mda "/bin/sh -c 'cat >> {got}'"
"""


def subjects(got: Path) -> list[str]:
    """Of what has been got since the last call."""
    lines = got.read_text().splitlines() if got.exists() else []
    got.unlink(missing_ok=True)
    return sorted(line for line in lines if line.startswith("Subject: "))


def run_getmail(root: Path, port: int, delete: bool) -> list[str]:
    rc = root / "getmailrc"
    words = {"port": port, "password": OUR_PASSWORD, "got": root / "got", "delete": delete}
    rc.write_text(GETMAILRC.format(**words))
    command = ["getmail", f"--getmaildir={root}", f"--rcfile={rc}"]
    subprocess.run(command, capture_output=True, timeout=60, check=True)
    return subjects(root / "got")


def run_mpop(root: Path, port: int, delete: bool) -> list[str]:
    rc = root / "mpoprc"
    keep = "off" if delete else "on"
    rc.write_text(
        MPOPRC.format(port=port, password=OUR_PASSWORD, keep=keep, root=root, got=root / "got")
    )
    rc.chmod(0o600)
    command = ["mpop", f"--file={rc}", "toad"]
    subprocess.run(command, capture_output=True, timeout=60, check=True)
    return subjects(root / "got")


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(run_getmail, marks=pytest.mark.needs("getmail"), id="getmail"),
        pytest.param(run_mpop, marks=pytest.mark.needs("mpop"), id="mpop"),
    ],
)
async def test_pop3_fetchers_keep_and_then_delete(
    tmp_path: Path, run: Callable[[Path, int, bool], list[str]]
) -> None:
    async with pop3_service(tmp_path) as running:
        running.deliver(b"Subject: 1\n\n.one\n", b"Subject: 2\n\n..two\n")
        assert await asyncio.to_thread(run, tmp_path, running.port, False) == [
            "Subject: 1",
            "Subject: 2",
        ]
        running.deliver(b"Subject: 3\n\n\n")
        assert await asyncio.to_thread(run, tmp_path, running.port, False) == ["Subject: 3"]
        running.deliver(b"Subject: 4\n\n\n")
        assert await asyncio.to_thread(run, tmp_path, running.port, True) == ["Subject: 4"]
        left = [one for part in ("cur", "new") for one in (running.maildir / part).iterdir()]
        assert len(left) < 4
