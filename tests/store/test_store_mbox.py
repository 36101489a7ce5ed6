"""Appending to mbox files, with locks, and what is refused. Words of Postfix 3.7.11."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mailbox
import os
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resel_lda.job import Job
from resel_lda.mailcopy import quote_from, unix_lines
from resel_lda.mbox import Locking, append, append_message
from resel_mta.content import Content
from resel_mta.disk import Disk
from resel_mta.mail import Bounced, Deferred, Delivered, PermFail, TempFail
from resel_mta.users import User

MAIL = b"Subject: x\r\n\r\nhello\r\nFrom here\r\n>From there\r\n"
JOB = Job(User("lcarr"), "list@x.org", "List@x.org", "s@y.org", "4Q", len(MAIL), "local")
QUICK = Locking(attempts=2, delay=0.01, stale=500.0)


def deliver(path: Path, **values: object):
    content = Content.from_bytes(MAIL)
    return append_message(Disk(), str(path), content, JOB, QUICK, **values)  # type: ignore[arg-type]


def test_a_file_grows_as_with_postfix(tmp_path: Path) -> None:
    path = tmp_path / "box"
    for _ in range(2):
        outcome = deliver(path)
        assert isinstance(outcome, Delivered)
        assert outcome.reply.text == f"delivered to file: {path}"
    first, _, rest = path.read_bytes().partition(b"\n")
    assert first.startswith(b"From s@y.org  ")
    assert rest.startswith(
        b"Return-Path: <s@y.org>\nX-Original-To: List@x.org\nDelivered-To: list@x.org\n"
        b"Subject: x\n\nhello\n>From here\n>From there\n\nFrom s@y.org  "
    )
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["box"]
    with contextlib.closing(mailbox.mbox(path)) as box:
        assert [message["Subject"] for message in box] == ["x", "x"]


def test_no_delivered_to(tmp_path: Path) -> None:
    deliver(tmp_path / "box", delivered_to=False)
    assert b"Delivered-To" not in (tmp_path / "box").read_bytes()


def test_a_path_with_a_slash_is_a_maildir(tmp_path: Path) -> None:
    outcome = deliver(Path(f"{tmp_path}/md"))
    assert isinstance(outcome, Delivered)
    outcome = append_message(Disk(), f"{tmp_path}/dir/", Content.from_bytes(MAIL), JOB, QUICK)
    assert outcome.reply.text == "delivered to maildir"
    [mail] = (tmp_path / "dir" / "new").iterdir()
    assert mail.read_bytes().endswith(b"\n\nhello\nFrom here\n>From there\n")


def test_what_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    (tmp_path / "soft").symlink_to(target)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    os.link(target, tmp_path / "hard")
    (tmp_path / "run").touch(0o700)
    os.mkfifo(tmp_path / "pipe")
    for name, enhanced, text in (
        ("soft", "5.2.0", "file is a symbolic link"),
        ("dangling", "5.2.0", "file is a symbolic link"),
        ("hard", "5.2.0", "file has 2 hard links"),
        ("run", "5.7.1", "file is executable"),
        ("none/x", "5.2.0", "cannot create file exclusively: No such file or directory"),
        (".", "5.2.0", "cannot open file: Is a directory"),
        ("pipe", "5.2.0", None),
    ):
        outcome = deliver(tmp_path / name if name != "." else tmp_path)
        assert isinstance(outcome, Bounced), name
        assert outcome.reply.enhanced == enhanced
        if text is not None:
            assert outcome.reply.text.endswith(f": {text}")
    assert target.read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()


def test_devices_take_what_they_are_given() -> None:
    assert isinstance(deliver(Path("/dev/null")), Delivered)


def test_locked_files_defer_and_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "box"
    path.write_text("From x\n\n")
    (tmp_path / "box.lock").touch()
    assert isinstance(deliver(path), Deferred)
    assert (tmp_path / "box.lock").exists()
    (tmp_path / "box.lock").unlink()
    holder = os.fork()
    if holder == 0:
        with path.open("r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            (tmp_path / "held").touch()
            time.sleep(30)
        os._exit(0)
    try:
        while not (tmp_path / "held").exists():
            time.sleep(0.005)
        outcome = deliver(path)
        assert isinstance(outcome, Deferred)
        assert "unable to lock for exclusive access" in outcome.reply.text
    finally:
        os.kill(holder, 9)
        os.waitpid(holder, 0)
    assert path.read_text() == "From x\n\n"
    assert isinstance(deliver(path), Delivered)


def test_a_stale_dotlock_is_broken(tmp_path: Path) -> None:
    lock = tmp_path / "box.lock"
    lock.touch()
    os.utime(lock, (time.time() - 501, time.time() - 501))
    assert isinstance(deliver(tmp_path / "box"), Delivered)
    assert not lock.exists()


def test_many_at_once_mix_nothing(tmp_path: Path) -> None:
    path = tmp_path / "box"
    locking = Locking(("dotlock", "flock"), 2000, 0.002)

    def one(number: int) -> None:
        blocks = [b"From x\n", *([b"%d\n" % number] * 50), b"\n"]
        for _ in range(5):
            append(Disk(), str(path), blocks, locking)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    messages = path.read_bytes().split(b"From x\n")[1:]
    assert len(messages) == 20
    assert all(len(set(message.split())) == 1 for message in messages)


def test_limit_and_disk_full_leave_the_file_as_it_was(tmp_path: Path) -> None:
    class Full(Disk):
        def fsync(self, fd: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "box"
    path.write_bytes(b"From x\n\nold\n\n")
    with pytest.raises(PermFail) as refused:
        append(Disk(), str(path), [b"x" * 50], QUICK, limit=60)
    assert str(refused.value.reply) == "550 5.2.2 error writing message: File too large"
    with pytest.raises(TempFail) as full:
        append(Full(), str(path), [b"x" * 50], QUICK)
    assert full.value.reply.enhanced == "4.3.1"
    assert path.read_bytes() == b"From x\n\nold\n\n"


def test_a_mailbox_that_another_made_is_not_written(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can give a file away")
    path = tmp_path / "box"
    path.touch(0o666)
    os.chown(path, 65534, 65534)
    with pytest.raises(TempFail, match="not owned by recipient"):
        append(Disk(), str(path), [b"x"], QUICK, own=True)
    assert path.read_bytes() == b""
    append(Disk(), str(path), [b"x\n"], QUICK)
    assert path.read_bytes() == b"x\n"


def test_a_line_cut_off_before_is_ended(tmp_path: Path) -> None:
    path = tmp_path / "box"
    path.write_bytes(b"From x\n\nhalf")
    append(Disk(), str(path), [b"From y\n\n"], QUICK)
    assert path.read_bytes() == b"From x\n\nhalf\nFrom y\n\n"


@given(st.lists(st.binary(max_size=3).map(lambda b: b.translate(bytes([10, 13, 70]) * 85 + b"x"))))
def test_line_ends_do_not_depend_on_blocks(blocks: list[bytes]) -> None:
    whole = b"".join(blocks)
    expected = whole.replace(b"\r\n", b"\n")
    if expected and not expected.endswith(b"\n"):
        expected += b"\n"
    assert b"".join(unix_lines(blocks)) == expected


@given(st.lists(st.sampled_from([b"\n", b"From ", b"Fro", b"m ", b"F", b"x", b"rom", b" ", b""])))
def test_quoting_does_not_depend_on_blocks(blocks: list[bytes]) -> None:
    whole = b"\n" + b"".join(blocks)
    assert b"".join(quote_from(blocks)) == whole.replace(b"\nFrom ", b"\n>From ")[1:]
