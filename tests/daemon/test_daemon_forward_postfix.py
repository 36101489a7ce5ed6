"""The same .forward files given to a private Postfix: in the end the same mail lies in the same
mailboxes and files."""

from __future__ import annotations

import json
import os
import pwd
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

# By account; DIR is the run's own folder. `forward_path` leads there, not to the homes.
FORWARD = {
    "news": '\\news, "|cat >> DIR/files/news"\n',
    "games": "news\n",
    "backup": "# all\nbackup, DIR/files/backup\n\n",
    "man": '"|touch DIR/files/evil"\n',
    "lp": "# nothing\n",
    "uucp": "proxy\n",
    "proxy": "uucp\n",
    "list": ":include:DIR/include\n",
    "irc": '"|cat > DIR/files/$USER$EXTENSION"\n',
    "www-data": '"|echo never; exit 1"\n',
}
INCLUDE = 'news, "|touch DIR/files/included"\nbackup\n'
MAIL = "Subject: x\nFrom: a@b.c\nDate: Tue, 24 Nov 2026 07:00:00 +0000\nMessage-ID: <1@b.c>\n\nhello\nFrom x\n"
SENDER = "s@b.c"
TO = ["news", "games", "backup", "man", "lp", "list", "irc+ext", "www-data", "sys", "uucp"]
COMMON = """
queue_directory = {path}/queue
data_directory = {path}/data
myhostname = pf.test
mydestination = pf.test
alias_maps = hash:{path}/aliases
mail_spool_directory = {path}/spool
forward_path = {path}/forward/$user
recipient_delimiter = +
"""


def prepare(path: Path) -> None:
    path.chmod(0o755)
    for name, mode in (("forward", 0o755), ("files", 0o1777), ("spool", 0o2775)):
        (path / name).mkdir()
        (path / name).chmod(mode)
    os.chown(path / "spool", 0, 8)
    for name, text in FORWARD.items():
        file = path / "forward" / name
        file.write_text(text.replace("DIR", str(path)))
        os.chown(file, pwd.getpwnam(name).pw_uid, -1)
    (path / "forward" / "man").chmod(0o666)
    (path / "include").write_text(INCLUDE.replace("DIR", str(path)))
    (path / "aliases").write_text("root: news\n")


def result(path: Path) -> dict[str, tuple[int, int, str]]:
    """Name, owner, mode and text of all that was written; a mailbox as its sorted messages, with
    the fields before the header."""
    found = {}
    for file in (*(path / "spool").iterdir(), *(path / "files").iterdir()):
        text = re.sub(r"Received:.*\n(\s.*\n)*", "", file.read_text())
        messages = sorted(re.split(r"^From s@b.c  .*\n", text, flags=re.MULTILINE))
        status = file.stat()
        key = str(file.relative_to(path))
        found[key] = (status.st_uid, status.st_mode, "\n---\n".join(messages))
    return found


def await_done(path: Path, queue: list[str | Path]) -> dict[str, tuple[int, int, str]]:
    """What is there once nothing waits but bounces, which nobody takes. queue: `postqueue`, or
    what understands the same."""
    until = time.monotonic() + 150
    # Postfix's looks at one queue after the other, and may miss what moves meanwhile.
    empty = 0
    while empty < 3:
        shown = subprocess.run([*queue, "-j"], check=True, capture_output=True, text=True).stdout
        rows = [json.loads(line) for line in shown.splitlines()]
        waiting = {each["address"] for row in rows for each in row["recipients"]} - {SENDER}
        empty = 0 if waiting else empty + 1
        assert time.monotonic() < until, shown
        if any(row["queue_name"] == "deferred" for row in rows) and waiting:
            # On a busy machine something may take too long the first time.
            subprocess.run([*queue, "-f"], check=True)
        time.sleep(0.3)
    return result(path)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="resel-fw-", dir="/tmp") as name:
        prepare(Path(name))
        yield Path(name)


def by_postfix(path: Path, need: Callable[[str], str]) -> dict[str, tuple[int, int, str]]:
    command, sendmail = need("postfix"), need("sendmail")
    for name in ("etc", "queue", "data"):
        (path / name).mkdir()
    subprocess.run(["chown", "postfix", path / "data"], check=True)
    services = [
        line
        for line in Path("/usr/share/postfix/master.cf.dist").read_text().splitlines()
        if not line.startswith("#") and " inet " not in " ".join(line.split()[:3])
    ]
    (path / "etc" / "master.cf").write_text("\n".join(services) + "\n")
    (path / "etc" / "main.cf").write_text(
        COMMON.format(path=path)
        + f"compatibility_level = 3.6\ninet_interfaces = loopback-only\nmaillog_file = {path}/log\n"
        "maillog_file_prefixes = /tmp\n"
    )
    subprocess.run([need("postalias"), "-c", path / "etc", f"hash:{path}/aliases"], check=True)
    subprocess.run([command, "-c", path / "etc", "start"], check=True, capture_output=True)
    try:
        for each in TO:
            words = [sendmail, "-C", path / "etc", "-i", "-f", SENDER, f"{each}@pf.test"]
            subprocess.run(words, input=MAIL, text=True, check=True)
        return await_done(path, [need("postqueue"), "-c", path / "etc"])
    finally:
        subprocess.run([command, "-c", path / "etc", "stop"], check=True, capture_output=True)


def by_us(path: Path) -> dict[str, tuple[int, int, str]]:
    with tempfile.TemporaryDirectory(prefix="resel-fw-", dir="/tmp") as ready:
        (path / "main.cf").write_text(
            COMMON.format(path=path)
            + "role = server\ninet_interfaces = 127.0.0.1\ninet_protocols = ipv4\nimap_listen =\n"
            "imaps_listen =\nsubmission_listen =\nsubmissions_listen =\nmail_owner = _apt\n"
            f"smtpd_listen = unix:{ready}/smtp\n"
        )
        with (path / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "resel_mta.commands.mta", "-c", path], stdout=log, stderr=log
            )
        try:
            client = _connect(Path(ready) / "smtp")
            for each in TO:
                client.sendmail(SENDER, [f"{each}@pf.test"], MAIL)
            client.quit()
            words = [sys.executable, "-m", "resel_mta.commands.queue", "-c", path]
            return await_done(path, words)
        finally:
            process.terminate()
            process.wait(30)


class _Client(smtplib.LMTP):
    """LMTP's class is the one that can speak to a unix socket; with SMTP's greeting."""

    ehlo_msg = "ehlo"


def _connect(path: Path) -> smtplib.LMTP:
    until = time.monotonic() + 30
    while True:
        try:
            return _Client(str(path))
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


@pytest.mark.timeout(400)
def test_forward_same_mail_in_the_end(folder: Path, need: Callable[[str], str]) -> None:
    theirs = by_postfix(folder, need)
    assert "spool/news" in theirs
    with tempfile.TemporaryDirectory(prefix="resel-fw-", dir="/tmp") as name:
        path = Path(name)
        prepare(path)
        ours = by_us(path)
        assert "Traceback" not in (path / "log").read_text()
    # Two .forward files that name each other: Postfix bounces, we leave it in the first mailbox.
    assert ours.pop("spool/uucp")[2].count("hello") == 1
    assert sorted(ours) == sorted(theirs)
    for name in ours:
        assert ours[name] == theirs[name], name
