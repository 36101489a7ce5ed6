"""What users of the machine do wrong: a few lines of each, and then a count."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from resel_mta.config import Settings
from resel_mta.maillog import MailLog
from resel_mta.maillog.limited import LINES, MOST_LINES, LimitedLog
from resel_mta.public_queue import PUBLIC_VERBS, PublicQueue, public_queue_path
from resel_mta.sockets import unix_address


class Kept:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, lines: list[str]) -> None:
        self.lines += (line.partition(": ")[2].rstrip("\n") for line in lines)

    def reopen(self) -> None: ...


def kept() -> tuple[MailLog, list[str]]:
    sink = Kept()
    return MailLog(sink, stamped=False), sink.lines


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not what():  # noqa: ASYNC110 - lines of a log wake nobody
            await asyncio.sleep(0.01)


async def test_maillog_limited_first_lines_and_then_a_count() -> None:
    log, lines = kept()
    limited = LimitedLog(log, "pickup", minute=0.2)
    for number in range(1000):
        limited.warning(1000, f"nonsense {number}")
    limited.warning(1001, "once")
    await until(lambda: len(lines) > LINES + 1)
    assert lines == [
        *(f"warning: uid=1000: nonsense {number}" for number in range(LINES)),
        "warning: uid=1001: once",
        f"warning: uid=1000: {1000 - LINES} more such warnings, not shown",
    ]
    # Who goes on is counted from the start.
    limited.warning(1000, "nonsense")
    limited.warning(1001, "again")
    await until(lambda: len(lines) > LINES + 3)
    assert lines[-2:] == [
        "warning: uid=1001: again",
        "warning: uid=1000: 1 more such warnings, not shown",
    ]
    limited.close()


async def test_maillog_limited_who_was_quiet_begins_anew() -> None:
    log, lines = kept()
    limited = LimitedLog(log, "pickup", minute=0.01)
    for _ in range(LINES + 1):
        limited.warning(1000, "nonsense")
    await until(lambda: limited._timer is None)
    limited.warning(1000, "new")
    await asyncio.sleep(0)
    assert lines[-1] == "warning: uid=1000: new"
    limited.close()


async def test_maillog_limited_many_uids_are_one_user_with_many() -> None:
    log, lines = kept()
    limited = LimitedLog(log, "pickup")
    for uid in range(100_000, 120_000):
        limited.warning(uid, "nonsense")
    limited.close()
    await asyncio.sleep(0)
    assert len(lines) == 2 * MOST_LINES + 1
    others = 20_000 - 2 * MOST_LINES
    assert lines[-1] == f"warning: {others} other users: {others} more such warnings, not shown"


async def test_maillog_limited_bad_requests_name_the_uid_and_do_not_fill_the_log(
    tmp_path: Path,
) -> None:
    log, lines = kept()
    settings = Settings.build(queue_directory=str(tmp_path))

    async def walk(args: object) -> None:
        raise AssertionError

    public_queue_path(str(tmp_path)).parent.mkdir()
    server = PublicQueue(settings, dict.fromkeys(PUBLIC_VERBS, walk), log)  # type: ignore[arg-type]
    await server.start()
    for _ in range(100):
        with unix_address(public_queue_path(str(tmp_path))) as address:
            reader, writer = await asyncio.open_unix_connection(address)
        writer.write(b"nonsense\n")
        assert b'"exit": 65' in await reader.readline()
        writer.close()
    await server.stop()
    await asyncio.sleep(0)
    assert len(lines) == LINES + 1
    assert lines[0].startswith(f"warning: uid={os.getuid()}: bad request: ")
    assert lines[-1] == f"warning: uid={os.getuid()}: {100 - LINES} more such warnings, not shown"
