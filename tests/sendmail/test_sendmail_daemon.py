"""resel-sendmail with a whole daemon: as an ordinary user, and started by root."""

from __future__ import annotations

import grp
import os
import pwd
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sendmail_daemon import IS_ROOT, OTHER, OWNER, Daemon, needs_root
from sendmail_helpers import ROOT, RUN

from resel_mta.config import Settings
from resel_mta.disk import Disk
from resel_mta.privileges import Account, PrivilegeError, current_account, prepare_directories


def test_sendmail_daemon_takes_mail_and_lists_it(daemon: Daemon) -> None:
    daemon.start()
    done = daemon.run("-v", "root")
    assert (done.returncode, done.stderr) == (0, "")
    queue_id = done.stdout.removeprefix("queued as ").strip()
    daemon.await_log(f"{queue_id}: to=<lcarr@resel.fr>, orig_to=<root>, relay=none")
    shown = daemon.run("-bp", data=b"")
    assert shown.returncode == 0
    assert queue_id in shown.stdout
    assert daemon.run(name="mailq", data=b"").stdout == shown.stdout
    assert shown.stdout.splitlines()[-1].endswith("in 1 Request.")
    assert daemon.run("-q", data=b"").returncode == 0
    assert daemon.run("-qRresel.fr", data=b"").returncode == 0
    assert daemon.run(f"-qI{queue_id}", data=b"").returncode == 0
    text = subprocess.run(
        [sys.executable, "-m", "resel_mta.commands.queue", "-c", str(daemon.directory), "-b", queue_id],
        capture_output=True, check=True, timeout=30,
    ).stdout.decode()  # fmt: skip
    assert f"Received: by vm1.adm.resel.fr (resel-mta, from userid {os.getuid()})" in text


def test_sendmail_daemon_speaks_smtp_for_minus_bs(daemon: Daemon) -> None:
    daemon.start()
    talk = b"EHLO x\r\nMAIL FROM:<a@resel.fr>\r\nRCPT TO:<root@localhost>\r\nDATA\r\n"
    with subprocess.Popen(
        [sys.executable, "-P", "-c", RUN, "sendmail", "-C", str(daemon.directory), "-bs"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as client:  # fmt: skip
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write(talk)
        client.stdin.flush()
        while not client.stdout.readline().startswith(b"354"):
            continue
        client.stdin.write(b"Subject: x\r\n\r\nhi\r\n.\r\nQUIT\r\n")
        client.stdin.close()
        rest = client.stdout.read()
        assert rest.startswith(b"250 2.0.0 Ok: queued as ")
        assert rest.endswith(b"221 2.0.0 Bye\r\n")
    assert client.returncode == 0
    from_file = daemon.directory / "commands"
    from_file.write_bytes(b"NOOP\r\nQUIT\r\n")
    with from_file.open("rb") as commands:
        done = subprocess.run(
            [sys.executable, "-P", "-c", RUN, "sendmail", "-C", str(daemon.directory), "-bs"],
            stdin=commands, capture_output=True, timeout=20, check=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    assert done.stdout.splitlines()[1:] == [b"250 2.0.0 Ok", b"221 2.0.0 Bye"]
    daemon.stop()
    # And while it is down.
    text = b"HELO x\nMAIL FROM:<b@resel.fr>\nRCPT TO:<root@localhost>\nDATA\nSubject: y\n\nhi\n.\nQUIT\n"
    done2 = daemon.run("-bs", data=text)
    assert (done2.returncode, done2.stderr) == (0, "")
    assert [line[:3] for line in done2.stdout.splitlines()] == (
        ["220", "250", "250", "250", "354", "250", "221"]
    )
    daemon.start()
    daemon.await_log("from=<b@resel.fr>")
    daemon.await_log("orig_to=<root@localhost>, relay=none")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_sendmail_daemon_minus_bs_takes_lines_of_this_system(daemon: Daemon, end: str) -> None:
    """printf 'HELO x\\nMAIL FROM:...' | sendmail -bs works with Postfix."""
    daemon.start()
    lines = ["HELO x", "MAIL FROM:<a@resel.fr>", "RCPT TO:<root@localhost>", "DATA"]
    mail = "Subject: x\n\n..dot\nBDAT 900\r\nhi\n"
    data = (end.join(lines) + end + mail + "." + end + "QUIT" + end).encode()
    done = daemon.run("-bs", data=data)
    assert (done.returncode, done.stderr) == (0, "")
    assert "250 2.0.0 Ok: queued as " in done.stdout
    assert done.stdout.endswith("221 2.0.0 Bye\r\n")
    (queue_id,) = re.findall(r"queued as (\w+)", done.stdout)
    assert daemon.queue_command("-b", queue_id).stdout.count("\n.dot\nBDAT 900\nhi\n") == 1
    refused = daemon.run("-bs", data=b"HELO x\nDATA\nRSET\nQUIT\n")
    assert [line[:3] for line in refused.stdout.splitlines()] == ["220", "250", "503", "250", "221"]
    for cut in range(data.index(b"Subject"), data.index(b"QUIT") - 1, 7):
        short = daemon.run("-bs", data=data[:cut])
        assert short.returncode == 65
        assert "end of input within the message" in short.stderr
        assert len(short.stderr.splitlines()) == 1


def test_sendmail_daemon_minus_bs_leaves_chunks_as_they_are(daemon: Daemon) -> None:
    daemon.start()
    chunk = b"Subject: x\r\n\r\nDATA\r\n"
    begin = b"EHLO x\nMAIL FROM:<a@resel.fr>\nRCPT TO:<root@localhost>\n"
    data = begin + b"bdat %d\n%sBDAT 4 LAST\nhi\r\nQUIT\n" % (len(chunk), chunk)
    done = daemon.run("-bs", data=data)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("221 2.0.0 Bye\r\n")
    assert "queued as" in done.stdout
    assert daemon.run("-bs", data=begin + b"BDAT 100\nshort").returncode == 65


def test_sendmail_daemon_newaliases_counts_at_once(daemon: Daemon) -> None:
    daemon.start()
    assert daemon.run("-bv", "new").returncode == 67
    daemon.aliases.write_text("root: lcarr@resel.fr\nnew: root\n")
    assert daemon.run("-bv", "new").returncode == 67
    done = daemon.run(name="newaliases", data=b"")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for number in range(4):
        assert daemon.run("-bv", "new").returncode == 0
        daemon.aliases.write_text(f"root: lcarr@resel.fr\nnew{number}: root\n")
        assert daemon.run(name="newaliases", data=b"").returncode == 0
        assert daemon.run("-bv", "new").returncode == 67
        assert daemon.run("-bv", f"new{number}").returncode == 0
        daemon.aliases.write_text("root: lcarr@resel.fr\nnew: root\n")
        assert daemon.run("-bi", data=b"").returncode == 0
    daemon.aliases.write_text("root: lcarr@resel.fr\nbroken\ntoo\n")
    done = daemon.run("-bi", data=b"")
    assert done.returncode == 65
    assert f"{daemon.aliases}:2" in done.stderr
    assert f"{daemon.aliases}:3" in done.stderr
    assert daemon.run("-bv", "new").returncode == 0
    daemon.aliases.unlink()
    assert daemon.run("-bi", data=b"").returncode == 78
    assert daemon.run("-bv", "new").returncode == 0


def test_sendmail_daemon_takes_at_its_start_what_waited(daemon: Daemon) -> None:
    daemon.start()
    daemon.stop()
    for number in range(3):
        data = f"Subject: {number}\n\nhi\n".encode()
        assert daemon.run("root", data=data).returncode == 0
    assert len(list((daemon.queue / "drop").iterdir())) == 3
    daemon.start()
    daemon.await_taken()
    assert daemon.run("-bp", data=b"").stdout.splitlines()[-1].endswith("in 3 Requests.")


def test_sendmail_daemon_a_second_letter_with_the_same_token(daemon: Daemon) -> None:
    """The daemon died between the commit and the removal of the drop file."""
    daemon.start()
    daemon.stop()
    daemon.run("root")
    (path,) = (daemon.queue / "drop").iterdir()
    data = path.read_bytes()
    daemon.start()
    daemon.await_log("orig_to=<root>")
    daemon.await_taken()
    daemon.stop()
    path.write_bytes(data)
    daemon.start()
    daemon.await_log("was taken before")
    assert daemon.run("-bp", data=b"").stdout.splitlines()[-1].endswith("in 1 Request.")


@needs_root
def test_sendmail_daemon_of_root_reads_what_others_dropped(daemon: Daemon) -> None:
    daemon.start()
    daemon.stop()
    drop = daemon.queue / "drop"
    assert drop.stat().st_uid == pwd.getpwnam(OWNER).pw_uid
    done = daemon.run("-f", "root", "root", uid=OTHER.pw_uid)
    assert (done.returncode, done.stderr) == (0, "")
    (path,) = drop.iterdir()
    status = path.stat()
    assert (status.st_uid, status.st_mode & 0o777) == (OTHER.pw_uid, 0o600)
    link = drop / ("0" * 32)
    os.link(daemon.directory / "main.cf", link)
    os.mkfifo(drop / ("1" * 32))
    daemon.start()
    daemon.await_log(f"uid={OTHER.pw_uid} from=<root>")
    daemon.await_log("a file with 2 names")
    daemon.await_log("not a regular file")
    daemon.await_taken()
    daemon.stop()
    assert len(list((daemon.queue / "aside").iterdir())) == 2


@needs_root
def test_sendmail_daemon_users_without_an_alias_have_a_mailbox(daemon: Daemon) -> None:
    """As on a satellite machine of Postfix's: in the spool, with the rights of the user."""
    spool = daemon.directory / "mail"
    spool.mkdir()
    os.chown(spool, 0, grp.getgrnam("mail").gr_gid)
    spool.chmod(0o2775)
    with (daemon.directory / "main.cf").open("a") as config:
        config.write(f"mail_spool_directory = {spool}\n")
    daemon.start()
    assert daemon.run("-bv", OTHER.pw_name).returncode == 0
    done = daemon.run(OTHER.pw_name, data=b"Subject: for you\n\nhi\n", uid=OTHER.pw_uid)
    assert (done.returncode, done.stderr) == (0, "")
    daemon.await_log("status=sent (delivered to mailbox)")
    mailbox = spool / OTHER.pw_name
    assert b"Subject: for you\n" in mailbox.read_bytes()
    assert (mailbox.stat().st_uid, mailbox.stat().st_mode & 0o777) == (OTHER.pw_uid, 0o600)
    assert daemon.run("no-such-user").returncode == 67


@needs_root
def test_sendmail_daemon_an_ordinary_user_without_new_privileges(
    daemon: Daemon, need: Callable[[str], str]
) -> None:
    daemon.start()
    before = (need("setpriv"), "--no-new-privs")
    done = daemon.run("root", uid=OTHER.pw_uid, before=before)
    assert (done.returncode, done.stderr) == (0, "")
    daemon.await_log(f"uid={OTHER.pw_uid} from=<{OTHER.pw_name}>")
    refused = daemon.run("-bi", data=b"", uid=OTHER.pw_uid)
    assert refused.returncode == 77
    assert len(refused.stderr.splitlines()) == 1
    daemon.stop()
    assert daemon.run("root", uid=OTHER.pw_uid, before=before).returncode == 0
    assert len(list((daemon.queue / "drop").iterdir())) == 1


@needs_root
def test_sendmail_daemon_root_opens_only_its_own_drop_folder(daemon: Daemon) -> None:
    """Whoever has taken over the mail owner's account puts another folder in its place."""
    daemon.start()
    secrets = daemon.directory / "secrets"
    secrets.mkdir()
    secrets.chmod(0o755)
    secret = secrets / ("5" * 32)
    secret.write_bytes(b"secret\n")
    secret.chmod(0o600)
    drop = daemon.queue / "drop"
    drop.rename(daemon.queue / "moved")
    drop.symlink_to(secrets)
    time.sleep(3)
    assert secret.exists()
    assert "no envelope" not in daemon.log.read_text()
    daemon.stop()
    log = daemon.log.read_text()
    done = subprocess.run(
        [sys.executable, "-m", "resel_mta.commands.mta", "-c", str(daemon.directory)],
        capture_output=True, timeout=20, check=False,
    )  # fmt: skip
    assert done.returncode == 73, log
    assert str(drop).encode() in done.stderr


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
def test_sendmail_daemon_folders_have_their_modes(open_folder: Path, umask: int) -> None:
    queue = open_folder / "queue"
    settings = Settings.build(queue_directory=str(queue), data_directory=str(open_folder / "data"))
    account = Account(OWNER, 65534, 65534) if IS_ROOT else current_account()
    before = os.umask(umask)
    try:
        for _ in range(2):
            prepare_directories(settings, account, Disk())
    finally:
        os.umask(before)
    for name, mode in (("public", 0o755), ("drop", 0o1777)):
        status = (queue / name).stat()
        assert (status.st_mode & 0o7777, status.st_uid) == (mode, account.uid)


@needs_root
def test_sendmail_daemon_folders_of_others_are_refused(open_folder: Path) -> None:
    queue = open_folder / "queue"
    settings = Settings.build(queue_directory=str(queue), data_directory=str(open_folder / "data"))
    account = Account(OWNER, 65534, 65534)
    prepare_directories(settings, account, Disk())
    os.chown(queue / "drop", OTHER.pw_uid, OTHER.pw_gid)
    with pytest.raises(PrivilegeError, match="belongs to "):
        prepare_directories(settings, account, Disk())
    (queue / "drop").rmdir()
    (queue / "drop").symlink_to("/etc")
    with pytest.raises(PrivilegeError):
        prepare_directories(settings, account, Disk())
    assert Path("/etc").stat().st_uid == 0
