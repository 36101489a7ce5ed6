"""resel-adm beside the real doveadm, on copies of one store: same output, same exit codes."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))
from dovecot_server import DovecotServer

from resel_mta.commands.adm import main

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="Dovecot is started as root")

MAIL = """\
From: Sender {n} <s{n}@example.org>
To: lcarr@example.org
Subject: {subject}
Date: Mon, 0{n} Jun 2026 10:00:00 +0200
Message-ID: <m{n}@example.org>
{more}
line {n}
"""
# In Work/Deep.
THREAD = (
    'To: A <a@example.org>, b@example.org, "C, D" <c@example.org>',
    "To: =?utf-8?q?L=C3=A9a?= <l@example.org>\nTo: second@example.org\nReferences: <t0@x> <lost@x>",
    "To: other@example.org",
)
CASES = [
    # First: refused saves make Dovecot lose count.
    "quota get -u lcarr",
    "-f tab quota get -A",
    "-f json quota get -u lcarr",
    "quota get -u nosuch",
    # mailbox list
    "mailbox list -u lcarr",
    "mailbox list -u lcarr -s",
    "mailbox list -u lcarr -7",
    "mailbox list -u lcarr -8 W* S*",
    "mailbox list -u lcarr Work/%",
    "mailbox list -u lcarr nosuch",
    "mailbox list -u nosuch",
    "mailbox list -A",
    "-f table mailbox list -u lcarr",
    "-f tab mailbox list -u lcarr",
    # mailbox status
    "-f table mailbox status -u lcarr 'messages vsize' INBOX",
    "-f flow mailbox status -u lcarr 'messages vsize unseen uidnext uidvalidity guid' INBOX",
    "-f tab mailbox status -u lcarr 'messages vsize' INBOX Sent",
    "-f pager mailbox status -u lcarr 'vsize messages' Sent",
    "-f json mailbox status -u lcarr 'messages vsize' Sent",
    "-f table mailbox status -u lcarr 'messages unseen vsize' *",
    "-f table mailbox status -t -u lcarr 'messages vsize' *",
    "-f tab mailbox status -t -u lcarr 'messages unseen vsize' Sent",
    "-f table mailbox status -u lcarr 'messages vsize' nosuch",
    "-f table mailbox status -u lcarr 'messages vsize' nosuch INBOX",
    "mailbox status -u lcarr messages nosuch*",
    "mailbox status -u lcarr 'messages foo' INBOX",
    "mailbox status -u lcarr '' INBOX",
    "mailbox status -u nosuch messages INBOX",
    "-f table mailbox status -A 'messages vsize' INBOX",
    "-f flow mailbox status -A messages INBOX",
    "-f json mailbox status -A messages INBOX",
    "-f table mailbox status -u l* messages INBOX",
    "-f bad mailbox status -u lcarr messages INBOX",
    # search
    "search -u lcarr mailbox INBOX seen",
    "search -u lcarr all",
    "-f tab search -u lcarr mailbox INBOX 1",
    "-f table search -u lcarr mailbox INBOX 1",
    "-f pager search -u lcarr mailbox INBOX 1:2",
    "search -A mailbox INBOX seen",
    "search -u lcarr mailbox nosuch all",
    "search -u lcarr mailbox no* all",
    "search -u lcarr bogus",
    *(
        f"search -u lcarr mailbox INBOX {query}"
        for query in (
            "unseen", "not seen", "since 2026-06-03", "before 03-Jun-2026", "on 2026-06-03",
            "since 1780430000", "before 2w", "savedsince 2h", "savedbefore 2h", "savedbefore 2x",
            "larger 1K", "smaller 200", "larger foo", "( subject 'mail 1' or from s2 )",
            "or subject 'mail 1' from s2", "( seen subject 'mail 3' )", "header message-id m2",
            "uid 2:3", "2,4", "2:*", "3:100", "uid 2:1000 not from s3", "body 'line 4'",
            "text example", "keyword Work", "unkeyword Work uid 1", "older 3600", "younger 3600",
            "sentsince 2026-06-03", "sentbefore 2026-06-03", "( mailbox INBOX", "uid foo",
            "flagged", "answered", "from nobody", "header x-note yes",
            "subject 'réunion'", "since foo", "larger", "subject mail uid 2",
        )
    ),
    "search -u lcarr mailbox INBOX or mailbox Sent",
    "search -u lcarr ( mailbox INBOX or mailbox Sent ) seen",
    "search -u lcarr mailbox inbox 1",
    "search -u lcarr mailbox * flagged",
    # fetch
    "fetch -u lcarr 'uid flags hdr.subject' mailbox INBOX seen",
    "-f flow fetch -u lcarr 'uid hdr.subject' mailbox INBOX all",
    "-f tab fetch -u lcarr 'user mailbox mailbox-guid seq uid guid storageid refcount' mailbox INBOX 1:3",
    "-f tab fetch -u lcarr 'date.received date.received.unixtime date.sent date.sent.unixtime' "
    "mailbox INBOX all",
    "-f tab fetch -u lcarr 'size.virtual size.physical' mailbox INBOX all",
    "-f json fetch -u lcarr 'uid hdr.subject text' mailbox INBOX 1:2",
    "-f table fetch -u lcarr 'uid hdr.subject hdr.x-none' mailbox INBOX all",
    "-f table fetch -u lcarr 'uid hdr' mailbox INBOX all",
    "fetch -u lcarr hdr mailbox INBOX 1:2",
    "fetch -u lcarr 'uid body hdr.from' mailbox INBOX 2:3",
    "fetch -u lcarr 'hdr.subject hdr.subject.utf8' mailbox INBOX 5",
    "fetch -u lcarr 'imap.envelope imap.body imap.bodystructure' mailbox INBOX 1",
    "fetch -u lcarr body.preview mailbox INBOX 1",
    "fetch -u lcarr body.1 mailbox INBOX 1",
    "-f tab fetch -u lcarr 'uid pop3.uidl pop3.order' mailbox INBOX 1",
    "fetch -u lcarr foo mailbox INBOX 1",
    "-f tab fetch -u lcarr 'uid hdr.from.address hdr.from.address_name' mailbox INBOX all",
    "-f tab fetch -u lcarr 'hdr.to.address hdr.to.address_name hdr.to.address_name.utf8' mailbox Work/Deep all",
    *(f"fetch -u lcarr hdr.to.{bad} mailbox INBOX 1" for bad in ("addresses", "address.utf8", "utf8.utf8")),
    # Threads, and Dovecot's earlier names.
    "search -u lcarr mailbox Work/Deep inthread refs subject 'thread 0'",
    "search -u lcarr mailbox Work/Deep inthread references ( subject 'thread 2' or subject nothing )",
    "search -u lcarr mailbox INBOX inthread bogus subject mail",
    "search -u lcarr mailbox INBOX inthread",
    "search -u lcarr mailbox INBOX inthread refs",
    "search -u lcarr x-mailbox Sent x-real-uid 1:*",
    "search -u lcarr mailbox INBOX x-guid nosuch",
    "search -u lcarr mailbox INBOX fuzzy subject 'mail 2'",
    # user, in all ways to print it
    *(f"-f {formatter} user lcarr alice" for formatter in ("json", "tab", "flow", "pager")),
    "-f json user nosuch",
    "-f json user *",
    "fetch -u lcarr 'UID hdr.Message-ID' mailbox INBOX 1",
    "fetch -u lcarr uid mailbox nosuch 1",
    "fetch -A uid mailbox INBOX all",
    # what is refused, and usage
    "expunge -u lcarr all",
    "expunge -u lcarr mailbox INBOX",
    "expunge -u lcarr ( mailbox INBOX or mailbox Sent )",
    "expunge -u lcarr mailbox INBOX or ( mailbox Sent seen )",
    "expunge -u lcarr mailbox INBOX not mailbox Sent",
    "expunge -u lcarr mailbox INBOX or seen",
    "expunge -u lcarr mailbox nosuch all",
    "expunge -u nosuch mailbox INBOX all",
    "flags add -u lcarr \\Bogus mailbox INBOX 1",
    "mailbox create -u lcarr INBOX",
    "mailbox create -u lcarr Sent",
    "mailbox create -u lcarr a//b",
    "mailbox create -u lcarr a.b",
    "mailbox delete -u lcarr nosuch",
    "mailbox delete -u lcarr -e Sent",
    "mailbox rename -u lcarr nosuch Other",
    "mailbox rename -u lcarr Work/Deep Sent",
    "copy -u lcarr Nosuch mailbox INBOX 1",
    "move -u lcarr Nosuch mailbox INBOX 1",
    "save -u lcarr -m Nosuch",
    "mailbox mutf7 Été 'a & b'",
    "mailbox mutf7 -7 &AMk-t&AOk-",
    "mailbox path -u nosuch Sent",
    "auth test lcarr secret",
    "auth test lcarr wrong",
    "auth test nosuch wrong",
    "user -f home nosuch",
    "user nosuch",
    "pw -s NOPE -p secret",
    "pw -s PLAIN -p secret",
    "pw -t {PLAIN}secret -p bad",
    "pw -t {PLAIN}secret -p secret",
]  # fmt: skip
# Changes made on both sides, one after the other; each is followed by a look at everything.
CHANGES = [
    "mailbox create -u lcarr A/B",
    "mailbox create -u lcarr -s New1 New2",
    "mailbox rename -u lcarr New1 New3",
    "mailbox subscribe -u lcarr nowhere",
    "mailbox unsubscribe -u lcarr nowhere New1",
    "mailbox delete -u lcarr -s New2",
    "flags add -u lcarr '\\Flagged Work' mailbox INBOX 1",
    "flags remove -u lcarr \\Seen mailbox INBOX 1",
    "flags replace -u lcarr \\Answered mailbox INBOX 2",
    "copy -u lcarr Sent mailbox INBOX subject 'mail 3'",
    "move -u lcarr Sent mailbox INBOX 4",
    "copy -u alice INBOX user lcarr mailbox INBOX 1:2",
    "move -u alice INBOX user lcarr mailbox Sent subject 'mail 2'",
    "copy -u alice Nosuch user lcarr mailbox INBOX 1:2",
    "save -u lcarr -m Sent",
    "-v expunge -u lcarr mailbox INBOX seen",
    "-v expunge -u lcarr mailbox INBOX all",
    "mailbox delete -u lcarr -r A",
    "expunge -u lcarr mailbox * all",
]

Both = Callable[[str], tuple[tuple[int, str, str], tuple[int, str, str]]]


def words(line: str) -> list[str]:
    return [
        one[1:-1] if one.startswith("'") else one for one in re.findall(r"'[^']*'|[^' ]+", line)
    ]


def fill(dovecot: DovecotServer) -> None:
    for name in ("Sent", "Work/Deep", "Été"):
        assert dovecot.doveadm("mailbox", "create", "-u", "lcarr", "-s", name)[0] == 0
    for number in range(1, 6):
        subject = "=?utf-8?q?r=C3=A9union?=" if number == 5 else f"mail {number}"
        more = "X-Note: yes\n" + f"filler {number}\n" * 40 * (number > 3)
        mail = MAIL.format(n=number, subject=subject, more=more + "\n").encode()
        for folder in ("INBOX", "Sent")[: 1 + (number == 2)]:
            assert dovecot.doveadm("save", "-u", "lcarr", "-m", folder, stdin=mail)[0] == 0
    for number, more in enumerate(THREAD):
        mail = f"From: q@example.org\nSubject: thread {number}\nMessage-ID: <t{number}@x>\n{more}\n\nx\n"
        dovecot.doveadm("save", "-u", "lcarr", "-m", "Work/Deep", stdin=mail.encode())
    for flag, which in (("\\Seen", "1:3"), ("\\Flagged", "2"), ("Work", "3")):
        dovecot.doveadm("flags", "add", "-u", "lcarr", flag, "mailbox", "INBOX", which)
    dovecot.doveadm("mailbox", "status", "-A", "all", "*")
    dovecot.doveadm("quota", "recalc", "-A")
    maildir = dovecot.root / "mail" / "lcarr" / "Maildir"
    for number, path in enumerate(sorted(maildir.glob("???/*"), key=lambda one: one.name), 1):
        os.utime(path, (0, 1780300800 + 86400 * (number - 1)))


@contextlib.contextmanager
def running_dovecot() -> Iterator[DovecotServer]:
    root = Path(tempfile.mkdtemp(prefix="resel-doveadm-"))
    os.chmod(root, 0o755)
    try:
        with DovecotServer(root, ["alice", "lcarr"]) as server:
            fill(server)
            yield server
    finally:
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="module")
def dovecot(need: Callable[[str], str]) -> Iterator[DovecotServer]:
    """Nothing is to be changed there."""
    need("doveadm")
    need("dovecot")
    with running_dovecot() as server:
        yield server


@pytest.fixture
def own_dovecot(need: Callable[[str], str]) -> Iterator[DovecotServer]:
    need("doveadm")
    need("dovecot")
    with running_dovecot() as server:
        yield server


def copy_of(dovecot: DovecotServer, root: Path) -> list[str]:
    """Our configuration for a copy of its mail."""
    shutil.copytree(dovecot.root / "mail", root / "mail", symlinks=True)
    for directory, _, files in os.walk(root / "mail"):
        for name in ("", *files):
            shutil.chown(os.path.join(directory, name), "nobody", "nogroup")
    passwd = (dovecot.root / "passwd").read_text().replace(str(dovecot.root), str(root))
    (root / "passwd").write_text(passwd)
    settings = {
        "passdb": f"passwd-file:{root}/passwd",
        "mail_location": "maildir:~/Maildir",
        "namespace_separator": "/",
        "data_directory": f"{root}/data",
        "queue_directory": f"{root}/queue",
        "quota_storage_size": "100M",
        "mail_owner": "nobody",
    }
    (root / "main.cf").write_text("".join(f"{key} = {value}\n" for key, value in settings.items()))
    return ["-c", str(root / "main.cf")]


@pytest.fixture
def root() -> Iterator[Path]:
    # Not tmp_path: the user nobody must be able to reach it.
    path = Path(tempfile.mkdtemp(prefix="resel-adm-"))
    os.chmod(path, 0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def ours(dovecot: DovecotServer) -> Iterator[list[str]]:
    path = Path(tempfile.mkdtemp(prefix="resel-adm-"))
    os.chmod(path, 0o755)
    try:
        yield copy_of(dovecot, path)
    finally:
        shutil.rmtree(path, ignore_errors=True)


def normal(line: str, output: tuple[int, str, str]) -> tuple[int, str, str]:
    """Without what may differ: the order of folders and users, who says it, lists of all names."""
    status, out, error = output
    # Dovecot keeps \Recent of what no session was told of from before it was handed over.
    out = re.sub(r" ?\\Recent", "", out)
    # Ours says how much of what was expunged is kept.
    error = re.sub(r"resel-adm\(\w+\): Info: .*\n", "", error)
    error = re.sub(r"\)<\d+><\S+>", ")", error.replace("doveadm", "resel-adm"))
    error = re.sub(r"Available fetch fields: .*", "Available fetch fields:", error)
    error = re.sub(r"\[-S <socket_path>\] ", "", error)
    out = re.sub(r"/tmp/resel-(doveadm|adm)-\w+/", "/tmp/", out)
    if any(word in line for word in ("-A", "*", "%", "list", " all", "INBOX Sent", " or ")):
        marks = "[]{}" if "-f json" in line else "\n"
        out = "\n".join(sorted(part for part in re.split(f"[{re.escape(marks)}]", out) if part))
    return status, out, error


@pytest.mark.parametrize("line", CASES)
def test_doveadm_says_the_same(
    line: str,
    dovecot: DovecotServer,
    ours: list[str],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "quota get" in line:
        # It counts again at its own times only.
        dovecot.doveadm("quota", "recalc", "-A")
    theirs = dovecot.doveadm(*words(line))
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        status = main([*ours, *words(line)])
    out, error = capfd.readouterr()
    assert normal(line, (status, out, error)) == normal(line, theirs)


def test_adm_deleting_the_inbox_loses_nothing(
    own_dovecot: DovecotServer, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Dovecot says the same, but empties it first."""
    ours = copy_of(own_dovecot, root)
    line = "mailbox delete -u lcarr INBOX"
    status = main([*ours, *words(line)])
    said = normal(line, (status, *capfd.readouterr()))
    assert said == normal(line, own_dovecot.doveadm(*words(line)))
    assert len(list((root / "mail/lcarr/Maildir").glob("???/*"))) == 5


def test_adm_status_opens_no_mail(
    dovecot: DovecotServer, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Sizes are in names and in the UID list: files that nobody may read do not matter."""
    ours = copy_of(dovecot, root)
    for path in (root / "mail" / "lcarr" / "Maildir").glob("???/*"):
        path.chmod(0)
    line = "-f tab mailbox status -u lcarr 'messages vsize unseen' *"
    assert main([*ours, *words(line)]) == 0
    assert normal(line, (0, *capfd.readouterr())) == normal(line, dovecot.doveadm(*words(line)))


def test_adm_dovecot_sees_nothing_of_the_bin(
    dovecot: DovecotServer, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ours = copy_of(dovecot, root)
    assert main([*ours, "expunge", "-u", "lcarr", "mailbox", "INBOX", "1:2"]) == 0
    assert main([*ours, "mailbox", "delete", "-u", "lcarr", "Sent"]) == 0
    assert "2 messages" in capfd.readouterr().err
    assert len(list((root / "mail/lcarr/Maildir/resel-bin").rglob("cur/*"))) == 3
    where = f"mail_location=maildir:{root}/mail/lcarr/Maildir"
    assert sorted(dovecot.doveadm("-o", where, "mailbox", "list", "-u", "lcarr")[1].split()) == [
        "INBOX",
        "Work",
        "Work/Deep",
        "Été",
    ]
    line = ("-f", "tab", "mailbox", "status", "-u", "lcarr", "messages uidnext", "INBOX")
    assert dovecot.doveadm("-o", where, *line)[1].endswith("INBOX\t3\t6\n")
    assert main([*ours, "undelete", "-u", "lcarr", "all"]) == 0
    assert dovecot.doveadm("-o", where, *line)[1].endswith("INBOX\t5\t8\n")
    found = dovecot.doveadm("-o", where, "search", "-u", "lcarr", "mailbox", "Sent", "all")
    assert (found[0], len(found[1].splitlines())) == (0, 1)


LOOKS = (
    "mailbox list -u lcarr",
    "mailbox list -s -u lcarr",
    "-f tab fetch -A 'mailbox uid flags hdr.subject size.virtual' all",
)


def test_doveadm_changes_the_same(
    own_dovecot: DovecotServer, root: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    ours = copy_of(own_dovecot, root)
    message = tmp_path / "message"
    message.write_text("Subject: saved\n\nsaved\n")
    for line in CHANGES:
        more = [str(message)] if line.startswith("save") else []
        theirs = own_dovecot.doveadm(*words(line), stdin=message.read_bytes())
        status = main([*ours, *words(line), *more])
        out, error = capfd.readouterr()
        assert (line, *normal(line, (status, out, error))) == (line, *normal(line, theirs))
        for look in LOOKS:
            theirs = own_dovecot.doveadm(*words(look))
            status = main([*ours, *words(look)])
            out, error = capfd.readouterr()
            seen = normal(f"{look} all", (status, out, error))
            assert (line, look, *seen) == (line, look, *normal(f"{look} all", theirs))
