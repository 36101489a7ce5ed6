"""The operator's log."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest

from resel_mta.maillog import MailLog


class Kept:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, lines: list[str]) -> None:
        self.lines += lines

    def reopen(self) -> None: ...


class Full(Kept):
    def write(self, lines: list[str]) -> None:
        raise OSError(28, "No space left on device")


def test_maillog_lines_are_worded_as_postfix_words_them() -> None:
    sink = Kept()
    log = MailLog(sink, hostname="toad", stamped=False)
    log.event("smtpd", "client=unknown[192.0.2.1]", "4D2")
    log.warning("master", "hm")
    assert sink.lines[0].startswith("postfix/smtpd[")
    assert sink.lines[0].endswith("]: 4D2: client=unknown[192.0.2.1]\n")
    assert sink.lines[1].endswith("]: warning: hm\n")


def test_maillog_a_peer_cannot_forge_a_line() -> None:
    sink = Kept()
    MailLog(sink, stamped=False).event("smtpd", "helo=<a>\nNov 24 00:00:00 x\x1b[0m")
    [line] = sink.lines
    assert line.count("\n") == 1
    assert "\x1b" not in line


async def test_maillog_one_write_for_what_one_turn_of_the_loop_logs() -> None:
    class Counting(Kept):
        writes = 0

        def write(self, lines: list[str]) -> None:
            self.writes += 1
            super().write(lines)

    sink = Counting()
    log = MailLog(sink)
    for number in range(5):
        log.event("qmgr", "removed", str(number))
    await asyncio.sleep(0)
    assert (sink.writes, len(sink.lines)) == (1, 5)


async def test_maillog_a_busy_log_is_written_now_and_then() -> None:
    sink = Kept()
    log = MailLog(sink, gather=60)
    log.event("qmgr", "first", "1")
    await asyncio.sleep(0)
    assert len(sink.lines) == 1  # after a silence at once
    log.event("qmgr", "second", "1")
    await asyncio.sleep(0)
    assert len(sink.lines) == 1
    log.flush()
    assert len(sink.lines) == 2


async def test_maillog_what_a_busy_log_holds_back_is_written_without_more() -> None:
    class Telling(Kept):
        def __init__(self) -> None:
            super().__init__()
            self.second = asyncio.Event()

        def write(self, lines: list[str]) -> None:
            super().write(lines)
            if "second" in lines[-1]:
                self.second.set()

    sink = Telling()
    log = MailLog(sink, gather=0.01)
    log.event("qmgr", "first", "1")
    await asyncio.sleep(0)
    log.event("qmgr", "second", "1")
    async with asyncio.timeout(10):
        await sink.second.wait()


def test_maillog_no_line_is_lost_between_threads() -> None:
    sink = Kept()
    log = MailLog(sink, stamped=False)

    def chatter() -> None:
        for number in range(2000):
            log.event("local", str(number))

    threads = [threading.Thread(target=chatter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.flush()
    assert len(sink.lines) == 8000


def test_maillog_a_full_disk_does_not_stop_the_mail(capfd: pytest.CaptureFixture[str]) -> None:
    MailLog(Full()).event("qmgr", "removed", "1")
    assert "1 log lines lost" in capfd.readouterr().err


def test_maillog_json_is_one_ecs_object_a_line() -> None:
    sink = Kept()
    log = MailLog(sink, as_json=True, hostname="toad")
    log.event("smtpd", "client=x", "4D2", client_ip="192.0.2.1")
    record = json.loads(sink.lines[0])
    assert record["client.ip"] == "192.0.2.1"
    assert record["email.local_id"] == "4D2"
    assert record["message"] == "4D2: client=x"
