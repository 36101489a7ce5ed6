"""Where lines go: files, syslog, and daemons that are slow, away, or new."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from resel_mta.maillog import FileSink, MailLog, SyslogSink
from resel_mta.maillog.sinks import Datagrams


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[socket.socket]:
    """A log daemon's socket; it reads when the test does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "log"))
        listening.settimeout(5)
        yield listening


def fill(sender: Datagrams) -> None:
    """Until the daemon's queue takes no more."""
    for _ in range(100_000):
        try:
            sender.send_all([b"x"])
        except OSError:
            return
    raise AssertionError("it takes everything")


def read_all(daemon: socket.socket) -> None:
    daemon.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while daemon.recv(9):
            continue


def test_maillog_syslog_facility_and_severity(daemon: socket.socket) -> None:
    with contextlib.closing(SyslogSink(daemon.getsockname())) as sink:
        log = MailLog(sink, stamped=False)
        log.event("smtpd", "connect from unknown[192.0.2.1]")
        log.warning("smtpd", "hm")
        log.event("imap-login", "Login: user=<a>")
    pid = os.getpid()
    assert daemon.recv(999) == f"<22>postfix/smtpd[{pid}]: connect from unknown[192.0.2.1]".encode()
    assert daemon.recv(999) == f"<20>postfix/smtpd[{pid}]: warning: hm".encode()
    assert daemon.recv(999) == b"<22>dovecot: imap-login: Login: user=<a>"


def test_maillog_a_daemon_that_does_not_read_holds_nobody_up(daemon: socket.socket) -> None:
    with contextlib.closing(Datagrams(daemon.getsockname(), patience=0.01, rest=60)) as sender:
        fill(sender)
        began = time.monotonic()
        with pytest.raises(OSError, match="did not take 1000 of them"):
            sender.send_all([b"x"] * 1000)
        assert time.monotonic() - began < 5


def test_maillog_a_daemon_that_reads_again_gets_lines_again(daemon: socket.socket) -> None:
    with contextlib.closing(Datagrams(daemon.getsockname(), patience=0.01, rest=0)) as sender:
        fill(sender)
        read_all(daemon)
        sender.send_all([b"again"])
        assert daemon.recv(9) == b"again"


def test_maillog_lost_lines_are_counted_on_standard_error(
    daemon: socket.socket, capfd: pytest.CaptureFixture[str]
) -> None:
    path = Path(daemon.getsockname())
    with contextlib.closing(SyslogSink(str(path))) as sink:
        daemon.close()
        path.unlink()
        MailLog(sink, stamped=False).event("qmgr", "removed", "4D2")
    assert "1 log lines lost" in capfd.readouterr().err


def test_maillog_file_is_opened_again_after_rotation(tmp_path: Path) -> None:
    path = tmp_path / "mail.log"
    log = MailLog(FileSink(str(path)), hostname="toad")
    log.event("qmgr", "removed", "1")
    path.rename(tmp_path / "mail.log.1")
    log.event("qmgr", "removed", "2")
    log.reopen()
    log.event("qmgr", "removed", "3")
    assert len((tmp_path / "mail.log.1").read_text().splitlines()) == 2
    assert "3: removed" in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_a_file_of_the_mail_owner_in_a_folder_as_tmp(tmp_path: Path) -> None:
    """Linux refuses even root what asks for somebody else's file there to be made."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    folder.chmod(0o1777)
    path = folder / "log"
    path.write_text("before\n")
    os.chown(path, 12_345, -1)
    FileSink(str(path)).write(["after\n"])
    assert path.read_text() == "before\nafter\n"
