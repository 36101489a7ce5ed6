"""What every `mail.Intake` promises, on a store in memory and on the real one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from intake_fakes import ListSink, MemoryStore

from resel_mta.config import Settings
from resel_mta.content import Content, Header
from resel_mta.intake import MailIntake
from resel_mta.mail import Envelope, Intake, Message, Notify, Origin, Recipient
from resel_mta.maillog import MailLog
from resel_mta.queue.door import QueueStore
from resel_mta.queue.sqlite import SQLiteStore
from resel_mta.routing import Expander, RoutingTable
from resel_mta.users import open_users


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[QueueStore]:
    if request.param == "memory":
        yield MemoryStore()  # type: ignore[misc]
        return
    real = await SQLiteStore.open(tmp_path / "queue")
    yield real
    await real.close()


@pytest.fixture
def intake(store: QueueStore, tmp_path: Path) -> Intake:
    nobody = tmp_path / "nobody"
    nobody.write_text("# nobody\n")
    aliases = tmp_path / "aliases"
    aliases.write_text(f"team: a@a.org, b@b.org\nowner-team: o@o.org\nnone: :include:{nobody}\n")
    settings = Settings.build(
        myhostname="mx.example.org", myorigin="localhost", alias_maps=f"hash:{aliases}"
    )
    table = RoutingTable(settings, open_users(settings))
    log = MailLog(ListSink(), stamped=False)
    return MailIntake(settings, Expander(settings, table), table, store, log)


ORIGIN = Origin("ESMTP", received=b"Received: by us\r\n")


async def kept(store: QueueStore, queue_id: str) -> Message:
    message = await store.load(queue_id)
    assert message is not None
    return message


async def test_small_message(intake: Intake, store: QueueStore) -> None:
    envelope = Envelope(
        "s@x.org",
        [Recipient("r@y.org", notify=Notify.FAILURE, orcpt="rfc822;r@y.org")],
        body="8BITMIME",
        ret="HDRS",
        envid="id1",
    )
    content = Content.from_bytes(b"Subject: \xff\r\n\r\n.body\r\n")
    queue_id = await intake.submit(envelope, content, ORIGIN)
    message = await kept(store, queue_id)
    assert (message.queue_id, message.envelope.reverse_path) == (queue_id, "s@x.org")
    assert (message.envelope.body, message.envelope.ret, message.envelope.envid) == (
        "8BITMIME",
        "HDRS",
        "id1",
    )
    [recipient] = message.recipients
    assert (recipient.address, recipient.notify, recipient.orcpt) == (
        "r@y.org",
        Notify.FAILURE,
        "rfc822;r@y.org",
    )
    assert message.content is not None
    assert message.content.header.raw == b"Received: by us\r\nSubject: \xff\r\n"
    assert message.content.body.read(0, 100) == b".body\r\n"
    assert message.size == message.content.size


async def test_large_body_by_sink(intake: Intake, store: QueueStore) -> None:
    sink = intake.sink()
    blocks = [bytes([65 + n]) * 99_998 + b"\r\n" for n in range(20)]
    for block in blocks:
        await sink.write(block)
    content = Content(Header(b"A: b\r\n"), await sink.finish())
    queue_id = intake.new_id()
    assert await intake.submit(Envelope("", [Recipient("r@y.org")]), content, ORIGIN, queue_id) == (
        queue_id
    )
    message = await kept(store, queue_id)
    assert message.content is not None
    assert message.content.body.read(0, 3_000_000) == b"".join(blocks)


async def test_expanded_rows(intake: Intake, store: QueueStore) -> None:
    envelope = Envelope("s@x.org", [Recipient("team"), Recipient("c@c.org")])
    queue_id = await intake.submit(envelope, Content.from_bytes(b"\r\n"), ORIGIN)
    rows = (await kept(store, queue_id)).recipients
    assert [(r.address, r.orig_to, r.reverse_path, r.via) for r in rows] == [
        ("c@c.org", "", None, ()),
        ("a@a.org", "team", "owner-team@localhost", ("team",)),
        ("b@b.org", "team", "owner-team@localhost", ("team",)),
    ]


async def test_prepare_keeps_nothing(intake: Intake, store: QueueStore) -> None:
    envelope = Envelope("", [Recipient("r@y.org")])
    message = await intake.prepare(envelope, Content.from_bytes(b"\r\nx\r\n"), ORIGIN)
    assert await store.load(message.queue_id) is None
    assert message.size == len(b"Received: by us\r\n") + 2 + 3
    await store.enter(message)
    assert await store.load(message.queue_id) is not None


async def test_nobody_left(intake: Intake, store: QueueStore) -> None:
    envelope = Envelope("s@x.org", [Recipient("none")])
    queue_id = await intake.submit(envelope, Content.from_bytes(b"\r\n"), ORIGIN)
    assert await store.load(queue_id) is None


async def test_ids_are_new(intake: Intake) -> None:
    assert len({intake.new_id() for _ in range(1000)}) == 1000
