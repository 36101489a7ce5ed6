"""MailIntake over a store in memory: header, envelope, filters, what is refused and what is lost
(nothing)."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from intake_fakes import ListSink, MemoryStore

from resel_mta.config import Settings
from resel_mta.content import Content, MemoryBody
from resel_mta.intake import Filter, MailIntake, Submission
from resel_mta.mail import (
    Bounced,
    Deferred,
    Envelope,
    Expanded,
    Message,
    Origin,
    PermFail,
    Recipient,
    Reply,
    Route,
    TempFail,
)
from resel_mta.maillog import MailLog
from resel_mta.queue.door import Result
from resel_mta.queue.sqlite import SQLiteStore
from resel_mta.routing import Expander, RoutingTable
from resel_mta.routing.deferred import ExpandTransport
from resel_mta.users import open_users


class House:
    """An intake with everything around it."""

    def __init__(
        self, tmp_path: Path, filters: tuple[Filter, ...] = (), aliases: str = "", **values: str
    ) -> None:
        self.aliases = tmp_path / "aliases"
        self.aliases.write_text(aliases)
        self.settings = Settings.build(
            **{
                "myhostname": "vm.adm.resel.fr",
                "mydomain": "adm.resel.fr",
                "myorigin": "resel.fr",
                "mydestination": "vm.adm.resel.fr, localhost",
                "alias_maps": f"hash:{self.aliases}",
                **values,
            }
        )
        self.table = RoutingTable(self.settings, open_users(self.settings))
        self.expander = Expander(self.settings, self.table)
        self.store = MemoryStore()
        self.sink = ListSink()
        self.log = MailLog(self.sink, stamped=False)
        self.intake = MailIntake(
            self.settings,
            self.expander,
            self.table,
            self.store,  # type: ignore[arg-type]
            self.log,
            filters,
        )

    async def submit(
        self, text: bytes, *to: str, sender: str = "", rewrite: bool = True
    ) -> Message:
        envelope = Envelope(sender, [Recipient(address) for address in to])
        origin = Origin("ESMTP", rewrite=rewrite, received=b"Received: by us\r\n")
        await self.intake.submit(envelope, Content.from_bytes(text), origin)
        return self.store.entered[-1]

    def lines(self) -> list[str]:
        self.log.flush()
        return [line.split(": ", 1)[1].rstrip("\n") for line in self.sink.lines]


def header(message: Message) -> bytes:
    assert message.content is not None
    return message.content.header.raw


async def test_cron_mail(tmp_path: Path) -> None:
    house = House(tmp_path)
    message = await house.submit(
        b"From: root (Cron Daemon)\r\nTo: root\r\nSubject: x\r\n\r\nhi\r\n",
        "root@x.org",
        sender="root",
    )
    raw = header(message)
    assert raw.startswith(
        b"Received: by us\r\nFrom: root@resel.fr (Cron Daemon)\r\nTo: root@resel.fr\r\nSubject: x\r\n"
    )
    found = re.search(rb"\r\nMessage-Id: (<\d{14}\.000001@vm\.adm\.resel\.fr>)\r\nDate: \w", raw)
    assert found
    assert message.envelope.reverse_path == "root@resel.fr"
    assert message.size == len(raw) + 2 + len(b"hi\r\n")
    assert house.lines() == [f"000001: message-id={found[1].decode()}"]
    assert message.content is not None
    assert message.content.body.read(0, 100) == b"hi\r\n"


async def test_other_clients_mail_is_left_alone(tmp_path: Path) -> None:
    text = b"From: root\r\nto: a,\r\n b\r\nX: \xff\r\nmessage-id:\r\n <a@b>\r\n\r\n"
    message = await House(tmp_path).submit(text, "a@x.org", sender="s@x.org", rewrite=False)
    assert header(message) == b"Received: by us\r\n" + text[:-2]


async def test_message_id_is_logged(tmp_path: Path) -> None:
    house = House(tmp_path)
    await house.submit(b"MESSAGE-ID: <x@y>\r\n\r\n", "a@x.org", rewrite=False)
    await house.submit(b"A: b\r\n\r\nMessage-ID: <body@y>\r\n", "a@x.org", rewrite=False)
    await house.submit(
        b"Message-ID: <o@y>\r\nResent-Message-ID: <r@y>\r\n\r\n", "a@x.org", rewrite=False
    )
    await house.submit(b"", "a@x.org", rewrite=False)
    assert [line.partition("message-id=")[2] for line in house.lines()] == [
        "<x@y>", "<>", "<r@y>", "<>",
    ]  # fmt: skip


async def test_fields_that_must_not_travel(tmp_path: Path) -> None:
    text = (
        b"Return-Path: <x@y>\r\nBCC: secret@x.org,\r\n more@x.org\r\nBccX: y\r\nTo: a@b.c\r\n\r\n"
    )
    message = await House(tmp_path).submit(text, "a@x.org", rewrite=False)
    assert header(message) == b"Received: by us\r\nBccX: y\r\nTo: a@b.c\r\n"


async def test_missing_fields(tmp_path: Path) -> None:
    house = House(tmp_path, undisclosed_recipients_header="To: undisclosed-recipients:;")
    raw = header(await house.submit(b"Subject: x\r\n\r\n", "a@x.org"))
    assert b"\r\nFrom: MAILER-DAEMON@resel.fr\r\nTo: undisclosed-recipients:;\r\n" in raw
    raw = header(
        await house.submit(b"Resent-To: a@x.org\r\nDate: x\r\n\r\n", "a@x.org", sender="s@x.org")
    )
    assert b"\r\nResent-From: s@x.org\r\n" in raw
    assert b"\r\nResent-Date: " in raw
    assert b"undisclosed" not in raw
    assert b"\r\nFrom:" not in raw
    always = House(tmp_path, always_add_missing_headers="yes")
    assert b"\r\nDate:" in header(await always.submit(b"A: b\r\n\r\n", "a@x.org", rewrite=False))


async def test_remote_header_rewrite_domain(tmp_path: Path) -> None:
    house = House(tmp_path, remote_header_rewrite_domain="domain.invalid")
    raw = header(await house.submit(b"From: root\r\nTo: a@b\r\n\r\n", "a@x.org", rewrite=False))
    assert raw == b"Received: by us\r\nFrom: root@domain.invalid\r\nTo: a@b\r\n"


async def test_alias_and_unqualified_recipient(tmp_path: Path) -> None:
    house = House(
        tmp_path, aliases="root: root@resel.fr\n", mydestination="$myhostname, resel.local"
    )
    message = await house.submit(b"\r\n", "root@vm.adm.resel.fr", "bare")
    assert [(r.address, r.orig_to) for r in message.recipients] == [
        ("bare@resel.fr", "bare"),
        ("root@resel.fr", "root@vm.adm.resel.fr"),
    ]
    assert message.envelope.recipients is message.recipients


async def test_recipients_are_counted_for_the_ledger(tmp_path: Path) -> None:
    house = House(tmp_path, aliases="root: bob\nteam: bob, carol\n")
    for to, named, merged, left in (
        (["bob@resel.fr"], 1, 0, 1),
        (["bob@resel.fr", "BOB@resel.fr"], 2, 1, 1),
        (["root@localhost", "bob@resel.fr", "x@x.org"], 3, 1, 2),
        (["team@localhost", "root@localhost", "bob@resel.fr"], 3, 2, 2),
    ):
        message = await house.submit(b"\r\n", *to)
        assert (message.named, message.merged, len(message.recipients)) == (named, merged, left)


async def test_expands_to_nobody(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("# nobody\n")
    house = House(tmp_path, aliases=f"none: :include:{tmp_path}/empty\n")
    envelope = Envelope("s@x.org", [Recipient("none@localhost")])
    content = Content.from_bytes(b"\r\n")
    assert await house.intake.submit(envelope, content, Origin("SMTP")) == "000001"
    assert house.store.entered == []
    assert house.store.discarded == [content]
    assert house.store.dropped_recipients == 1
    assert house.lines()[1] == "000001: to=<none@localhost>, status=sent (expands to nobody)"


async def test_a_store_that_fails(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.store.failure = TempFail(Reply(452, "4.3.1", "full"))
    with pytest.raises(TempFail):
        await house.submit(b"\r\n", "a@x.org")


class Scripted:
    """A filter that does as the Subject says."""

    async def apply(self, submission: Submission) -> None:
        match submission.content.header.get(b"Subject"):
            case b"hold":
                submission.hold = True
            case b"discard":
                submission.discard = True
            case b"reject":
                raise PermFail(Reply(550, "5.7.1", "no"))
            case b"defer":
                raise TempFail(Reply(451, "4.7.1", "later"))
            case b"change":
                submission.content.header.append(b"X-Filter: yes\r\n")
                submission.content.body = MemoryBody(b"other\r\n")
                submission.envelope.reverse_path = "new"
                submission.envelope.recipients.append(Recipient("root@localhost"))


async def test_filters(tmp_path: Path) -> None:
    house = House(tmp_path, (Scripted(),), aliases="root: r@r.org\n")
    message = await house.submit(
        b"Subject: change\r\n\r\nx", "a@x.org", sender="s@x.org", rewrite=False
    )
    assert header(message).endswith(b"Subject: change\r\nX-Filter: yes\r\n")
    assert message.size == len(header(message)) + 2 + 7
    assert message.envelope.reverse_path == "new@resel.fr"
    assert [r.address for r in message.recipients] == ["a@x.org", "r@r.org"]
    assert (await house.submit(b"Subject: hold\r\n\r\n", "a@x.org")).hold
    entered = len(house.store.entered)
    for failure, subject in ((PermFail, b"reject"), (TempFail, b"defer")):
        with pytest.raises(failure):
            await house.submit(b"Subject: " + subject + b"\r\n\r\n", "a@x.org")
    await house.submit(b"Subject: discard\r\n\r\n", "a@x.org")
    assert len(house.store.entered) == entered
    assert len(house.store.discarded) == 3


async def test_deferred_expansion(tmp_path: Path) -> None:
    members = tmp_path / "members"
    house = House(
        tmp_path, aliases=f"list: :include:{members}, root\nroot: r@r.org\n", myorigin="localhost"
    )
    message = await house.submit(
        b"A: b\r\n\r\nbody\r\n", "list@localhost", sender="s@x.org", rewrite=False
    )
    assert [r.address for r in message.recipients] == ["list@localhost"]
    recipient = message.recipients[0]
    assert any("is kept unexpanded" in line for line in house.lines())
    route = await house.table.route(recipient.address, "s@x.org", recipient.via)
    assert route == Route("expand", "localhost")
    transport = ExpandTransport(house.expander, house.intake)
    outcome = (await transport.deliver(message, [recipient], route))[recipient]
    assert isinstance(outcome, Deferred)
    assert "No such file" in outcome.reply.text
    members.write_text("m@m.org\n")
    outcome = (await transport.deliver(message, [recipient], route))[recipient]
    assert isinstance(outcome, Expanded)
    child = house.store.entered[-1]
    assert child.queue_id != message.queue_id
    assert [(r.address, r.orig_to) for r in child.recipients] == [
        ("m@m.org", "list@localhost"),
        ("r@r.org", "list@localhost"),
    ]
    assert header(child) == header(message)
    assert child.content is not None
    assert message.content is not None
    assert child.content.body is not message.content.body
    assert child.content.body.read(0, 99) == b"body\r\n"


async def test_a_deferred_expansion_to_nobody_counts_as_one_at_once(tmp_path: Path) -> None:
    members = tmp_path / "members"
    house = House(tmp_path, aliases=f"none: :include:{members}\n", myorigin="localhost")
    message = await house.submit(b"\r\n", "none@localhost", sender="s@x.org")
    recipient = message.recipients[0]
    members.write_text("# nobody\n")
    transport = ExpandTransport(house.expander, house.intake)
    outcome = (await transport.deliver(message, [recipient], Route("expand", "")))[recipient]
    store = await SQLiteStore.open(tmp_path / "queue")
    message.queue_id = store.new_id()
    await store.enter(message, claim_for="me")
    await store.apply("me", [Result(message, [(recipient, outcome)], release=True)])
    audit = await store.audit(0)
    assert audit.is_balanced
    assert {name: n for name, n in audit.counts.items() if n} == {"accepted": 1, "deleted": 1}
    await store.close()


async def test_a_loop_bounces(tmp_path: Path) -> None:
    house = House(tmp_path, aliases="a: b\nb: a\n", myorigin="localhost")
    message = await house.submit(b"\r\n", "a@localhost", sender="s@x.org")
    transport = ExpandTransport(house.expander, house.intake)
    route = Route("expand", "localhost")
    outcomes = await transport.deliver(message, message.recipients, route)
    outcome = outcomes[message.recipients[0]]
    assert isinstance(outcome, Bounced)
    assert outcome.reply == Reply(550, "5.4.6", "alias database loop for a@localhost")


async def test_relayed_mail_is_cheap(tmp_path: Path) -> None:
    """Ten times the budget of 30 µs, so that a busy machine does not fail it."""
    house = House(tmp_path)
    lines = b"".join(
        b"X-Field-%d: some value of a usual length, as it is\r\n" % n for n in range(15)
    )
    text = lines + b"Message-ID: <a@b>\r\nFrom: A <a@x.org>\r\nTo: b@x.org\r\n\r\n" + b"x" * 5000
    origin = Origin("ESMTP", received=b"Received: by us\r\n")
    contents = [Content.from_bytes(text) for _ in range(500)]
    envelopes = [Envelope("a@x.org", [Recipient("b@y.org")]) for _ in range(500)]
    start = time.process_time()
    for envelope, content in zip(envelopes, contents, strict=True):
        await house.intake.submit(envelope, content, origin)
    assert (time.process_time() - start) / 500 < 300e-6


async def test_why_the_disk_has_no_room_is_told_once_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(tmp_path)
    store = await SQLiteStore.open(tmp_path / "queue", minfree=1 << 60)
    intake = MailIntake(house.settings, house.expander, house.table, store, house.log)
    for _ in range(3):
        with pytest.raises(TempFail):
            intake.sink()
        with pytest.raises(TempFail):
            await intake.submit(
                Envelope("a@x.org", [Recipient("b@y.org")]),
                Content.from_bytes(b"Subject: x\r\n\r\nx\r\n"),
                Origin("ESMTP"),
            )

    def told() -> list[str]:
        house.log.flush()
        return [line for line in house.sink.lines if "not enough free space" in line]

    (line,) = told()
    assert re.search(
        rf"warning: .* in {tmp_path}/queue: \d+ bytes < {1 << 60} bytes needed \(queue_minfree",
        line,
    )
    monkeypatch.setattr("resel_mta.intake.MINUTE", 0.0)
    with pytest.raises(TempFail):
        intake.sink()
    assert len(told()) == 2
    await store.close()
