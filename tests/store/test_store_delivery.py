"""Delivery by way of a real worker process."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from resel_lda.delivery import WorkerDepositor
from resel_lda.job import Job
from resel_lda.worker_pool import WorkerPool
from resel_mta.config import Settings
from resel_mta.content import Content, Header, MemoryBody
from resel_mta.mail import Bounced, Deferred, Delivered, Outcome
from resel_mta.maillog import MailLog
from resel_mta.users import User


class Lines:
    """A log sink that wakes whoever waits for a line."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, lines: list[str]) -> None:
        self.lines += lines

    def reopen(self) -> None: ...


def job(name: str, address: str = "") -> Job:
    address = address or f"{name}@resel.fr"
    return Job(User(name), address, address, "a@example.org", "4D2", 100, "local")


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[WorkerPool]:
    settings = Settings.build(
        myhostname="mx.example.org", mail_location=f"maildir:{tmp_path}/mail/%u"
    )
    made = WorkerPool(settings, MailLog(Lines()))
    yield made
    await made.stop(10)


def stored(tmp_path: Path, user: str) -> list[bytes]:
    return [file.read_bytes() for file in (tmp_path / "mail" / user / "new").iterdir()]


@pytest.mark.parametrize("size", [10, 3_000_000])
async def test_small_and_large_mail_arrive_whole(
    pool: WorkerPool, tmp_path: Path, size: int
) -> None:
    body = (b"x" * 70 + b"\r\n") * (size // 72 + 1)
    content = Content(Header(b"Subject: hi\r\n"), MemoryBody(body))
    depositor = WorkerDepositor(pool, str(tmp_path))
    outcomes = await depositor.deposit(content, [job("lcarr"), job("zoe")])
    assert [type(outcome) for outcome in outcomes] == [Delivered, Delivered]
    for user in ("lcarr", "zoe"):
        [mail] = stored(tmp_path, user)
        assert mail.startswith(b"Return-Path: <a@example.org>\n")
        assert f"Delivered-To: {user}@resel.fr\n".encode() in mail
        assert mail.partition(b"\n\n")[2] == body.replace(b"\r\n", b"\n")


async def test_many_recipients_need_several_packets(pool: WorkerPool, tmp_path: Path) -> None:
    content = Content(Header(b""), MemoryBody(b"x\r\n"))
    jobs = [job(f"user{number}") for number in range(60)]
    outcomes = await WorkerDepositor(pool, str(tmp_path)).deposit(content, jobs)
    assert len(outcomes) == 60
    assert len(list((tmp_path / "mail").iterdir())) == 60


async def test_a_failing_mailbox_is_told_apart(pool: WorkerPool, tmp_path: Path) -> None:
    (tmp_path / "mail").mkdir()
    (tmp_path / "mail" / "broken").write_text("a file where the Maildir should be")
    content = Content(Header(b""), MemoryBody(b"x\r\n"))
    depositor = WorkerDepositor(pool, str(tmp_path))
    broken, fine = await depositor.deposit(content, [job("broken"), job("lcarr")])
    assert isinstance(broken, Deferred)
    assert "Not a directory" in broken.reply.text
    assert isinstance(fine, Delivered)


async def test_a_worker_that_is_killed_defers_and_the_next_one_delivers(
    pool: WorkerPool, tmp_path: Path
) -> None:
    content = Content(Header(b""), MemoryBody(b"x\r\n"))
    depositor = WorkerDepositor(pool, str(tmp_path))
    await depositor.deposit(content, [job("lcarr")])
    os.kill(pool.pids()[pool.owner("lcarr")], signal.SIGSTOP)
    waiting = asyncio.ensure_future(depositor.deposit(content, [job("lcarr")]))
    await asyncio.sleep(0)
    os.kill(pool.pids()[pool.owner("lcarr")], signal.SIGKILL)
    outcomes: list[Outcome] = await waiting
    assert isinstance(outcomes[0], Deferred)
    assert not isinstance(outcomes[0], Bounced)
    [again] = await depositor.deposit(content, [job("lcarr")])
    assert isinstance(again, Delivered)
