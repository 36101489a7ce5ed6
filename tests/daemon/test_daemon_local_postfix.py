"""The same alias file given to a private Postfix: its local(8) and ours say and do the same."""

from __future__ import annotations

import os
import re
import smtplib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

if os.getuid() != 0:
    pytest.skip("only root can start Postfix", allow_module_level=True)

ALIASES = """\
ok: |/bin/true
fail: |/bin/false
out: "|echo hello world; echo second; exit 3"
u64: "|exit 64"
u65: "|exit 65"
u66: "|exit 66"
u67: "|exit 67"
u68: "|exit 68"
u69: "|echo boo; exit 69"
u70: "|exit 70"
u71: "|exit 71"
u72: "|exit 72"
u73: "|exit 73"
u74: "|exit 74"
u75: "|exit 75"
u76: "|exit 76"
u77: "|exit 77"
u78: "|exit 78"
u99: "|exit 99"
dsn5: "|echo 5.7.1 go away; exit 1"
dsn4: "|echo 4.7.1 wait; exit 1"
sig: "|kill -9 $$"
term: "|trap '' TERM; sleep 100"
eof: "|exec <&-; exit 0"
miss: |/no/such/cmd
miss2: "|/no/such/cmd; true"
file: DIR/files/box
fexec: DIR/files/exec
fmiss: DIR/nowhere/x
fdir: DIR/files
md: DIR/files/md/
null: /dev/null
hard: DIR/files/hard
inccmd: :include:DIR/inc
raw: "|cat > DIR/files/raw"
env: "|env | sort > DIR/files/env; id >> DIR/files/env"
meta: "|echo $(id -un) `id -gn` > DIR/files/meta"
spaces: "|/usr/bin/printf  '%s-'   x > DIR/files/spaces"
quoted: "|sh -c 'echo \\"a  b\\" > DIR/files/quoted'"
"""
NAMES = [line.partition(":")[0] for line in ALIASES.splitlines()]
MAIL = "Subject: x\nFrom: a@b.c\nTo: t@b.c\nDate: Tue, 24 Nov 2026 07:00:00 +0000\nMessage-ID: <1@b.c>\n\nhello\nFrom x\n.dot\n"
LINE = re.compile(r"to=<([a-z0-9]+)@pf\.test>.* dsn=(\S+), status=(\w+) \((.*)\)$", re.MULTILINE)


def prepare(path: Path) -> None:
    (path / "aliases").write_text(ALIASES.replace("DIR", str(path)))
    (path / "inc").write_text('"|/bin/true"\n')
    files = path / "files"
    files.mkdir()
    files.chmod(0o1777)
    (files / "exec").touch()
    (files / "exec").chmod(0o777)
    (files / "hard").touch()
    os.link(files / "hard", files / "hard2")
    for name in ("hard", "exec"):
        os.chown(files / name, 65534, 65534)


def await_outcomes(log: Path, prefix: Path) -> dict[str, tuple[str, str, str]]:
    until = time.monotonic() + 40
    while True:
        text = log.read_text() if log.exists() else ""
        found = {
            name: (dsn, status, said.replace(str(prefix), "DIR").replace(" )", ")").strip())
            for name, dsn, status, said in LINE.findall(text)
        }
        if len(found) == len(NAMES) or time.monotonic() > until:
            return found
        time.sleep(0.1)


@pytest.fixture(scope="module")
def postfix(need: Callable[[str], str]) -> Iterator[tuple[Path, dict[str, tuple[str, str, str]]]]:
    """What Postfix made of it: its folder, and the outcomes by name."""
    command, sendmail = need("postfix"), need("sendmail")
    with tempfile.TemporaryDirectory(prefix="resel-pf-", dir="/tmp") as name:
        path = Path(name)
        path.chmod(0o755)
        prepare(path)
        for folder in ("etc", "queue", "data"):
            (path / folder).mkdir()
        subprocess.run(["chown", "postfix", path / "data"], check=True)
        services = [
            line
            for line in Path("/usr/share/postfix/master.cf.dist").read_text().splitlines()
            if not line.startswith("#") and " inet " not in " ".join(line.split()[:3])
        ]
        (path / "etc" / "master.cf").write_text("\n".join(services) + "\n")
        (path / "etc" / "main.cf").write_text(
            f"""
compatibility_level = 3.6
queue_directory = {path}/queue
data_directory = {path}/data
myhostname = pf.test
mydestination = pf.test
alias_maps = hash:{path}/aliases
alias_database = hash:{path}/aliases
inet_interfaces = loopback-only
maillog_file = {path}/log
maillog_file_prefixes = /tmp
command_time_limit = 2s
"""
        )
        subprocess.run([need("postalias"), "-c", path / "etc", f"hash:{path}/aliases"], check=True)
        subprocess.run([command, "-c", path / "etc", "start"], check=True, capture_output=True)
        try:
            for each in NAMES:
                words = [sendmail, "-C", path / "etc", "-i", "-f", "s@b.c", f"{each}@pf.test"]
                subprocess.run(words, input=MAIL, text=True, check=True)
            yield path, await_outcomes(path / "log", path)
        finally:
            subprocess.run([command, "-c", path / "etc", "stop"], check=True, capture_output=True)


@pytest.fixture(scope="module")
def ours() -> Iterator[tuple[Path, dict[str, tuple[str, str, str]]]]:
    with tempfile.TemporaryDirectory(prefix="resel-pf-", dir="/tmp") as name:
        path = Path(name)
        path.chmod(0o755)
        prepare(path)
        (path / "main.cf").write_text(
            f"""
role = server
queue_directory = {path}/queue
data_directory = {path}/data
myhostname = pf.test
mydestination = pf.test
alias_maps = hash:{path}/aliases
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
smtpd_listen = unix:{path}/smtp
imap_listen =
imaps_listen =
submission_listen =
submissions_listen =
command_time_limit = 2s
mail_owner = games
"""
        )
        with (path / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "resel_mta.commands.mta", "-c", path],
                stdout=log,
                stderr=log,
            )
        try:
            client = connect(path / "smtp")
            for each in NAMES:
                client.sendmail("s@b.c", [f"{each}@pf.test"], MAIL)
            client.quit()
            yield path, await_outcomes(path / "log", path)
        finally:
            process.terminate()
            process.wait(30)


def connect(path: Path) -> smtplib.LMTP:
    """A client on a unix socket; LMTP's class is the one that can, with SMTP's greeting."""

    class Client(smtplib.LMTP):
        ehlo_msg = "ehlo"

    until = time.monotonic() + 30
    while True:
        try:
            return Client(str(path))
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


Run = tuple[Path, dict[str, tuple[str, str, str]]]


@pytest.mark.parametrize("name", NAMES)
def test_local_same_outcome(name: str, postfix: Run, ours: Run) -> None:
    assert name in postfix[1]
    assert ours[1].get(name) == postfix[1][name]


@pytest.mark.parametrize("name", ["raw", "box"])
def test_local_same_copy(name: str, postfix: Run, ours: Run) -> None:
    def read(run: Run) -> tuple[str, int, int]:
        path = run[0] / "files" / name
        text = re.sub(r"Received:.*\n(\t.*\n)*", "", path.read_text())
        text = re.sub(r"^From s@b.c  .*", "From s@b.c", text)
        return text, path.stat().st_mode, path.stat().st_uid

    assert read(ours) == read(postfix)
    assert "hello\n" in read(ours)[0]


@pytest.mark.parametrize("name", ["meta", "spaces", "quoted"])
def test_local_same_shell(name: str, postfix: Run, ours: Run) -> None:
    def read(run: Run) -> str:
        return (run[0] / "files" / name).read_text()

    assert read(ours) == read(postfix)


def test_local_same_environment(postfix: Run, ours: Run) -> None:
    """But for what depends on the place; CLIENT_ and SASL_ ones are not set for local mail."""

    def read(run: Run) -> dict[str, str]:
        lines = (run[0] / "files" / "env").read_text().splitlines()
        found = dict(line.partition("=")[::2] for line in lines)
        for name in ("PWD", "MAIL_CONFIG", "LANG", "TZ", "_", "OLDPWD", "SHLVL"):
            found.pop(name, None)
        assert found["SENDER"] == "s@b.c"
        return found

    assert read(ours) == read(postfix)
