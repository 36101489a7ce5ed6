"""The journal's own protocol, to a socket that plays journald. tests/system has the real one."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from resel_mta.composition import open_log
from resel_mta.config import Settings
from resel_mta.maillog import JournalSink, MailLog, StreamSink, is_journal


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "journal"))
        listening.settimeout(5)
        yield listening


def entry(journal: socket.socket) -> dict[str, str]:
    data = journal.recv(65536).decode()
    assert data.endswith("\n")
    return dict(line.split("=", 1) for line in data.splitlines())


def test_maillog_journal_fields(journal: socket.socket) -> None:
    text = "to=<a@b.fr>, status=sent (250 2.0.0 Ok: queued as 5F)"
    with closing(JournalSink(journal.getsockname())) as sink:
        MailLog(sink, stamped=False).event("smtp", text, "1FACC72BBAA")
    assert entry(journal) == {
        "PRIORITY": "6",
        "SYSLOG_FACILITY": "2",
        "SYSLOG_IDENTIFIER": "postfix/smtp",
        "SYSLOG_PID": str(os.getpid()),
        "QUEUE_ID": "1FACC72BBAA",
        "MESSAGE": f"1FACC72BBAA: {text}",
    }


@pytest.mark.parametrize(
    ("service", "text", "queue_id", "expected"),
    [
        ("smtpd", "warning: hm", "", {"PRIORITY": "4", "MESSAGE": "warning: hm"}),
        ("bounce", "warning: hm", "1FACC72BBAA", {"PRIORITY": "4", "QUEUE_ID": "1FACC72BBAA"}),
        ("master", "fatal: no", "", {"PRIORITY": "2"}),
        ("smtpd", "reject: RCPT from x", "NOQUEUE", {"PRIORITY": "6"}),
        ("imap-login", "Login: user=<a>", "", {"SYSLOG_IDENTIFIER": "dovecot"}),
        ("smtpd", "a\nMESSAGE=forged", "", {"MESSAGE": "a?MESSAGE=forged"}),
        ("smtpd", "x" * 100_000, "", {"MESSAGE": "x" * 16384}),
    ],
)
def test_maillog_journal_kinds_of_lines(
    journal: socket.socket, service: str, text: str, queue_id: str, expected: dict[str, str]
) -> None:
    with closing(JournalSink(journal.getsockname())) as sink:
        MailLog(sink, stamped=False).event(service, text, queue_id)
    got = entry(journal)
    assert {name: got[name] for name in expected} == expected
    assert ("QUEUE_ID" in got) == (queue_id == "1FACC72BBAA")


def test_maillog_journal_started_again(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as first:
        first.bind(str(path))
        sink = JournalSink(str(path))
        log = MailLog(sink, stamped=False)
    path.unlink()
    with closing(sink), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as second:
        second.bind(str(path))
        second.settimeout(5)
        log.event("qmgr", "removed", "1FACC72BBAA")
        assert entry(second)["MESSAGE"] == "1FACC72BBAA: removed"


def test_maillog_journal_stream_is_known_by_its_inode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable alone is inherited by everything that a service starts."""
    path = tmp_path / "stream"
    path.touch()
    fd = os.open(path, os.O_RDWR)
    try:
        status = os.fstat(fd)
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        assert is_journal(fd)
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino + 1}")
        assert not is_journal(fd)
        monkeypatch.delenv("JOURNAL_STREAM")
        assert not is_journal(fd)
    finally:
        os.close(fd)


def test_maillog_journal_is_not_used_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "1:1")
    log = open_log(Settings.build("relay"))
    assert isinstance(log._sink, StreamSink)
    assert log.stamped
