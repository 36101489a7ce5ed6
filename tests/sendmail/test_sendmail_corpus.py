"""The command lines of real programs, each beside what the real Postfix's sendmail makes of it."""

from __future__ import annotations

import grp
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sendmail_helpers import Office

LOGIN = pwd.getpwuid(os.getuid()).pw_name
PLAIN = b"Subject: report\n\nline\n.\nend\n"
TO_ROOT = b"To: root\nSubject: report\n\nline\n.\nend\n"


@dataclass(frozen=True)
class Call:
    """program: who calls it so. message: what it pipes in."""

    program: str
    words: str
    message: bytes = PLAIN
    recipients: tuple[str, ...] = ("root",)
    sender: str | None = LOGIN
    whole: bool = True


CALLS = [
    Call("cron", "-FCronDaemon -i -B8BITMIME -oem root", b"From: root (Cron Daemon)\nTo: root\nSubject: Cron <root@vm1> ls\nContent-Type: text/plain; charset=UTF-8\nX-Cron-Env: <LANG=fr>\n\nd\xc3\xa9j\xc3\xa0\n.\n"),
    Call("cronie", "-FCronDaemon -i -odi -oem -oi -t -f root", TO_ROOT, sender="root"),
    Call("systemd-cron", "-i -B8BITMIME root", TO_ROOT),
    Call("anacron", "-FAnacron -odi root", whole=False),
    Call("atd", "-i root"),
    Call("bsd-mailx", "-i root lcarr@resel.fr", recipients=("root", "lcarr@resel.fr")),
    Call("s-nail", "-i -r lcarr@resel.fr -- root", sender="lcarr@resel.fr"),
    Call("mutt", "-oem -oi -f lcarr@resel.fr -- root a@b.fr", recipients=("root", "a@b.fr"), sender="lcarr@resel.fr"),
    Call("git send-email", "-f lcarr@resel.fr -i root", sender="lcarr@resel.fr"),
    Call("git send-email without an envelope sender", "-i root lcarr@resel.fr", recipients=("root", "lcarr@resel.fr")),
    Call("a script without -i", "-f lcarr@resel.fr root", sender="lcarr@resel.fr", whole=False),
    Call("PHP mail()", "-t -i", b"To: root\r\nSubject: report\r\nX-PHP-Originating-Script: 33:x.php\r\n\r\nline\r\n.\r\nend\r\n"),
    Call("PHP mail() with -f", "-t -i -fwww@resel.fr", TO_ROOT, sender="www@resel.fr"),
    Call("Sympa", "-oi -odi -oem -f list-owner@resel.fr -N failure,delay -- a@b.fr c@d.fr", recipients=("a@b.fr", "c@d.fr"), sender="list-owner@resel.fr"),
    Call("Sympa, null sender", "-oi -odi -oem -f <> -- a@b.fr", recipients=("a@b.fr",), sender=""),
    Call("smartd", "-i root", b"Subject: SMART error (ErrorCount) detected on host: vm1\nTo: root\n\nx\n"),
    Call("mdadm", "-t", b"From: mdadm monitoring <root>\nTo: root\nSubject: DegradedArray event on /dev/md0:vm1\n\nx\n"),
    Call("logwatch", "-t", b"To: root\nFrom: Logwatch <root>\nSubject: Logwatch for vm1 (Linux)\nAuto-Submitted: auto-generated\nPrecedence: bulk\n\n ### Logwatch ###\n"),
    Call("unattended-upgrades", "-oi -t", TO_ROOT),
    Call("sudo", "-t", b"To: root\nFrom: lcarr\nAuto-Submitted: auto-generated\nSubject: *** SECURITY information for vm1 ***\n\nx\n"),
    Call("fail2ban", "-f fail2ban@vm1 root", sender="fail2ban@vm1", whole=False),
    Call("dovecot-lda", "-i -f <> -- root", sender=""),
    Call("Ruby's mail", "-i -f lcarr@resel.fr -- root", sender="lcarr@resel.fr"),
    Call("sendmail's own options", "-Am -odq -om -L tag -h 3 -O DeliveryMode=b -p esmtp -U -x -c -e m -o7 root", whole=False),
    Call("an mbox From line", "-i root", b"From lcarr Mon Nov 24\n" + PLAIN),
    Call("recipients with names", "-i Root,<a@b.fr>", recipients=("Root", "a@b.fr")),
    Call("two in one word", "-i root\x20lcarr", recipients=("root", "lcarr")),
    Call("options after a recipient are recipients", "-i root lcarr", recipients=("root", "lcarr")),
    Call("-t with Bcc", "-t -i", b"To: root\nBcc: a@b.fr\nCc: Carr <lcarr>\n\nx\n", recipients=("root", "a@b.fr", "lcarr")),
    Call("-t with more", "-i -t root", b"To: lcarr\n\nx\n", recipients=("root", "lcarr")),
    Call("-t, sent again", "-i -t", b"To: lcarr\nResent-To: root\n\nx\n"),
    Call("-t, a group", "-i -t", b"To: admins: root, lcarr;\n\nx\n", recipients=("root", "lcarr")),
    Call("-t, folded", "-i -t", b"To: root,\n  \"Carr, L\" <lcarr>\n\nx\n", recipients=("root", "lcarr")),
]  # fmt: skip


def split(call: Call) -> list[str]:
    if call.program == "two in one word":
        return ["-i", "root lcarr"]
    return call.words.split(" ")


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.program)
async def test_sendmail_corpus(office: Office, call: Call) -> None:
    done = await office.run(*split(call), data=call.message)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (taken,) = office.intake.taken
    assert tuple(taken.recipients) == call.recipients
    assert taken.envelope.reverse_path == call.sender
    assert (b"\r\nend\r\n" in taken.data) == (b"\nend" in call.message and call.whole)


@dataclass
class Found:
    """What postcat shows of a file in Postfix's maildrop."""

    sender: str
    recipients: list[str]
    data: bytes


class Postfix:
    """A Postfix of our own, of which only sendmail and postdrop ever run."""

    def __init__(self, directory: Path, sendmail: str, postcat: str) -> None:
        self.directory = directory
        self._sendmail = sendmail
        self._postcat = postcat
        queue = directory / "queue"
        for folder in (queue, queue / "maildrop", queue / "public", queue / "pid"):
            folder.mkdir()
        self._maildrop = queue / "maildrop"
        os.chown(self._maildrop, -1, grp.getgrnam("postdrop").gr_gid)
        self._maildrop.chmod(0o730)
        (directory / "main.cf").write_text(
            f"compatibility_level = 3.6\nqueue_directory = {queue}\ndata_directory = {directory}\n"
            "myhostname = vm1.adm.resel.fr\nmaillog_file =\ninet_interfaces = 127.0.0.1\n"
        )

    def run(self, words: list[str], data: bytes) -> tuple[int, str]:
        done = subprocess.run(
            [self._sendmail, "-C", str(self.directory), *words],
            input=data, capture_output=True, timeout=30, check=False,
            env=Office.environment(),
        )  # fmt: skip
        lines = done.stderr.decode().splitlines(keepends=True)
        # That its pickup does not run is no surprise.
        said = [line for line in lines if not line.startswith("postdrop: warning: unable to look")]
        return done.returncode, "".join(said)

    def take(self) -> Found:
        (path,) = self._maildrop.iterdir()
        shown = subprocess.run(
            [self._postcat, "-c", str(self.directory), str(path)],
            capture_output=True, timeout=30, check=True,
        ).stdout  # fmt: skip
        path.unlink()
        envelope, _, rest = shown.partition(b"*** MESSAGE CONTENTS ")
        content, _, extracted = rest.partition(b"\n")[2].partition(b"*** HEADER EXTRACTED ")
        records = (envelope + b"\n" + extracted).decode()
        sender = re.search(r"^sender: (.*)$", records, re.MULTILINE)
        assert sender is not None
        return Found(sender[1], re.findall(r"^recipient: (.*)$", records, re.MULTILINE), content)


@pytest.fixture(scope="module")
def postfix(need: Callable[[str], str]) -> Iterator[Postfix]:
    sendmail, postcat = need("postdrop").replace("postdrop", "sendmail"), need("postcat")
    if os.getuid() != 0:
        pytest.skip("only root can give Postfix a configuration of its own")
    directory = Path(tempfile.mkdtemp(prefix="resel-postfix-"))
    directory.chmod(0o755)
    yield Postfix(directory, sendmail, postcat)
    shutil.rmtree(directory)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.program)
async def test_sendmail_corpus_as_postfix(office: Office, postfix: Postfix, call: Call) -> None:
    assert postfix.run(split(call), call.message) == (0, "")
    theirs = postfix.take()
    assert (await office.run(*split(call), data=call.message)).returncode == 0
    (ours,) = office.intake.taken
    assert ours.recipients == theirs.recipients
    assert ours.envelope.reverse_path == theirs.sender
    # A From field and Bcc's removal are cleanup(8)'s work in Postfix, of which nothing runs here.
    header, _, body = ours.data.replace(b"\r\n", b"\n").partition(b"\n\n")
    their_header, _, their_body = theirs.data.partition(b"\n\n")
    assert body == their_body
    added = set(header.split(b"\n")) - set(their_header.split(b"\n"))
    assert all(re.match(rb"(Resent-)?From: ", line) for line in added)


@pytest.mark.parametrize(
    "words",
    [
        "", "-t", "-n root", "-d0.1 root", "-bt", "-bz root", "-B 8 root", "-X/a root", "-q x",
        "-bp x", "-bi x", "-bs x", "-qfoo", "-t -bp", "-bv -t", "-bv -Nnever root", "-f", "-k root",
        "-oA", "-qR", "-bp -qRx",
    ],
)  # fmt: skip
async def test_sendmail_corpus_usage_in_postfix_words(
    office: Office, postfix: Postfix, words: str
) -> None:
    """Postfix ends with 75 whatever the reason; we with the code for it."""
    code, said = postfix.run(words.split(), b"Subject: x\n\nx\n")
    assert code == 75
    done = await office.run(*words.split())
    assert done.returncode == 64
    if "usage:" in said:
        assert "usage: sendmail [options]" in done.stderr
    else:
        assert done.stderr == said
