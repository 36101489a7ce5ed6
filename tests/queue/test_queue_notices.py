"""Who is told of what, how often, and in which words."""

from __future__ import annotations

import email
import quopri
import re
from email.message import Message as Mail

import pytest
from queue_fakes import OK, make_message, read_all, until
from queue_house import BUSY, UNKNOWN, House, MakeHouse

from resel_mta.content import Content
from resel_mta.local_target import answer_mark
from resel_mta.mail import (
    Bounced,
    Delivered,
    Envelope,
    Expanded,
    Message,
    Notify,
    Outcome,
    Recipient,
    Relayed,
    Reply,
)
from resel_mta.queue.bounce import Kind, Report, build


def parts_of(mail: Mail) -> list[Mail]:
    return [part for part in mail.get_payload() if isinstance(part, Mail)]


def status_of(mail: Mail) -> str:
    """The delivery-status part as text."""
    part = mail.get_payload(1)
    assert isinstance(part, Mail)
    fields = part.get_payload()
    if isinstance(fields, list):
        return "\n".join(str(block) for block in fields)
    return str(fields)


def text_of(mail: Mail) -> str:
    part = mail.get_payload(0)
    assert isinstance(part, Mail)
    raw = part.get_payload(decode=True)
    assert isinstance(raw, bytes)
    return raw.decode()


async def sent_to(house: House, address: str) -> list[Mail]:
    """Notices that were delivered to an address, as they were seen."""
    names = [name for name, to in house.smtp.deliveries if to == [address]]
    return [email.message_from_bytes(house.smtp.seen[name]) for name in names]


async def until_sent(house: House, address: str) -> list[Mail]:
    await until(lambda: any(to == [address] for _, to in house.smtp.deliveries))
    return await sent_to(house, address)


def fail_only(house: House, domain: str, outcome: Outcome) -> None:
    house.smtp.answer = lambda m, r, route: (
        outcome if r.address.endswith(f"@{domain}") else Delivered(OK)
    )


async def test_a_storm_cannot_begin(make_house: MakeHouse) -> None:
    """Everything bounces, also what is said about it."""
    house = make_house(notify_classes="bounce, 2bounce, delay", myorigin="example.org")
    house.smtp.answer = lambda m, r, route: UNKNOWN
    await house.scheduler.start()
    for _ in range(20):
        await house.enter("cron@broken.net", sender="root@example.org")
    await until(lambda: len(house.lines("undeliverable notification discarded")) == 40)
    await house.idle()
    assert await house.names() == []
    # The mail itself, its bounce, the postmaster's copy, and the copy about the bounce.
    assert len(house.smtp.deliveries) == 20 * 4


async def test_the_postmaster_gets_copies_where_that_is_asked(make_house: MakeHouse) -> None:
    house = make_house(
        notify_classes="bounce", myorigin="example.org", bounce_notice_recipient="ops"
    )
    fail_only(house, "broken.net", UNKNOWN)
    await house.scheduler.start()
    await house.enter("a@broken.net", sender="ann@example.org")
    await until(lambda: len(house.lines("removed")) == 3)
    (copy,) = await sent_to(house, "ops@example.org")
    (bounce,) = await sent_to(house, "ann@example.org")
    assert copy["Subject"] == "Postmaster Copy: Undelivered Mail"
    assert copy.get_payload(2).get_content_type() == "text/rfc822-headers"  # type: ignore[union-attr]
    assert bounce.get_payload(2).get_content_type() == "message/rfc822"  # type: ignore[union-attr]
    assert "Action: failed" in status_of(bounce)


async def test_bounce_implies_2bounce(make_house: MakeHouse) -> None:
    house = make_house(notify_classes="bounce", myorigin="example.org")
    fail_only(house, "broken.net", UNKNOWN)
    await house.scheduler.start()
    await house.enter("a@broken.net", sender="")
    await until(lambda: len(house.lines("removed")) == 2)
    (copy,) = await sent_to(house, "postmaster@example.org")
    assert copy["Subject"] == "Postmaster Copy: Undelivered Mail"


async def test_a_delay_says_that_nothing_need_be_done(make_house: MakeHouse) -> None:
    house = make_house(delay_warning_time="1s", notify_classes="delay", myorigin="example.org")
    fail_only(house, "slow.net", BUSY)
    await house.scheduler.start()
    message = await house.enter("a@slow.net", sender="ann@example.org")
    await house.idle()
    message.arrival -= 10
    await house.scheduler.flush()
    await until(lambda: len(house.lines("removed")) == 2)
    (warning,) = await sent_to(house, "ann@example.org")
    assert "THIS IS ONLY A WARNING: you need not send it again" in text_of(warning)
    status = status_of(warning)
    assert "Action: delayed" in status
    assert "Will-Retry-Until: " in status
    assert len(await sent_to(house, "postmaster@example.org")) == 1


async def test_what_an_administrator_gives_up_is_not_tried_again(house: House) -> None:
    fail_only(house, "slow.net", BUSY)
    await house.scheduler.start()
    message = await house.enter("a@slow.net", "b@slow.net", sender="ann@example.org")
    new = make_message(house.store, "c@slow.net", sender="ann@example.org")
    new.hold = True
    await house.store.enter(new)
    await house.idle()
    tries = len(house.smtp.deliveries)
    await house.store.expire()
    await until(lambda: len(house.lines("removed")) == 2)
    assert len(house.lines("status=force-expired, returned to sender")) == 1
    await house.store.release([new.queue_id])
    await until(lambda: len(house.lines("removed")) == 4)
    assert await house.names() == []
    assert len(house.smtp.deliveries) == tries + 2, "only the notices were delivered"
    first, second = await sent_to(house, "ann@example.org")
    assert status_of(first).count("Action: failed") == 2
    assert "Status: 4.4.7" in status_of(first)
    assert "busy" in text_of(first)
    assert "postmaster of this system ended the attempts" in text_of(first)
    assert "message is administratively expired" in text_of(second)
    assert message.queue_id != new.queue_id


@pytest.mark.parametrize(
    ("outcome", "action"),
    [
        (Delivered(OK), "delivered"),
        (Relayed(OK, "mx.example.net"), "relayed"),
        (Expanded(OK), "expanded"),
    ],
)
async def test_success_is_told_with_its_action(house: House, outcome: Outcome, action: str) -> None:
    house.smtp.answer = lambda m, r, route: outcome if r.address == "a@good.net" else Delivered(OK)
    message = make_message(house.store, "a@good.net", sender="ann@example.org")
    message.recipients[0].notify = Notify.SUCCESS
    await house.store.enter(message)
    await until(lambda: bool(house.lines("sender delivery status notification")))
    await house.idle()
    (told,) = await sent_to(house, "ann@example.org")
    assert f"Action: {action}" in status_of(told)


@pytest.mark.parametrize("action", ["expanded", "delivered"])
async def test_an_expanded_alias_is_answered_at_once(house: House, action: str) -> None:
    """Its members wait; and nobody delivers to what is there for the answer."""
    fail_only(house, "busy.net", BUSY)
    alias = Recipient(
        "team@example.org",
        notify=Notify.SUCCESS,
        orcpt="rfc822;team@example.org",
        via=("team", answer_mark(action)),
    )
    message = make_message(house.store, "ann@busy.net", sender="bob@example.org")
    message.recipients.append(alias)
    await house.store.enter(message)
    await house.scheduler.start()
    await until(lambda: bool(house.lines("sender delivery status notification")))
    (mail,) = await until_sent(house, "bob@example.org")
    fields = status_of(mail)
    assert f"Action: {action}" in fields
    assert "Final-Recipient: rfc822; team@example.org" in fields
    assert "ann@" not in fields
    await house.idle()
    assert [to for _, to in house.smtp.deliveries if "team@example.org" in to] == []
    (entry,) = [each async for each in house.store.walk() if each.sender == "bob@example.org"]
    assert [each.address for each in entry.recipients] == ["ann@busy.net"]
    assert house.lines(r"to=<team@example.org>.*status=sent \(alias expanded\)")


async def test_a_request_that_was_handed_on_is_not_answered_twice(house: House) -> None:
    house.smtp.answer = lambda m, r, route: Expanded(OK, action="")
    message = make_message(house.store, "a@one.net", sender="bob@example.org")
    message.recipients[0].notify = Notify.SUCCESS
    await house.store.enter(message)
    await house.scheduler.start()
    await until(lambda: len(house.lines("removed")) == 1)
    assert not house.lines("notification")


async def test_the_owner_of_a_list_gets_nothing_of_what_its_author_asked_for(house: House) -> None:
    """RFC 3461 §5.2.7.1."""
    fail_only(house, "broken.net", UNKNOWN)
    message = make_message(house.store, "a@broken.net", "b@broken.net", sender="bob@example.org")
    message.envelope.ret, message.envelope.envid = "HDRS", "QQ314159"
    message.recipients[0].reverse_path = "owner-l@example.org"
    await house.store.enter(message)
    await house.scheduler.start()
    await until(lambda: len(house.lines("removed")) == 3)
    (owners,) = await sent_to(house, "owner-l@example.org")
    assert "Original-Envelope-Id" not in status_of(owners)
    assert [part.get_content_type() for part in owners.get_payload()][2] == "message/rfc822"
    (authors,) = await sent_to(house, "bob@example.org")
    assert "Original-Envelope-Id: QQ314159" in status_of(authors)
    assert [part.get_content_type() for part in authors.get_payload()][2] == "text/rfc822-headers"


def test_an_address_in_ascii_disguise_is_shown_as_it_is() -> None:
    orcpt = "utf-8;ren\\x{E9}@example.org"
    for utf8, shown in ((True, "utf-8; rené@example.org"), (False, orcpt.replace(";", "; "))):
        recipient = Recipient("rene@example.org", orcpt=orcpt)
        content = Content.from_bytes("Subject: été\r\n\r\nx\r\n".encode())
        sender = "änn@example.org" if utf8 else "ann@example.org"
        envelope = Envelope(sender, [recipient], smtputf8=utf8)
        message = Message("1F7A", 1.7e9, envelope, content.size, [recipient], content)
        made, envelope = build(
            Report(
                Kind.FAILURE, message, content, [(recipient, UNKNOWN)], sender,
                "mail.example.org", "1F7B", 1.7e9, 1.8e9, True,
            )
        )  # fmt: skip
        assert envelope.smtputf8 is utf8
        assert f"Original-Recipient: {shown}\r\n".encode() in read_all(made)


@pytest.mark.parametrize("utf8", [True, False])
@pytest.mark.parametrize("kind", [Kind.POSTMASTER, Kind.DELAY])
def test_what_goes_to_an_ascii_address_is_in_ascii(kind: Kind, utf8: bool) -> None:
    """It passes servers that have neither 8BITMIME nor SMTPUTF8."""
    header = "Subject: été\r\nFrom: rené@example.org\r\n".encode()
    recipient = Recipient("zoë+x@example.net", orcpt="utf-8;zo\\x{EB}+2Bx@example.net")
    content = Content.from_bytes(header + b"\r\nx\r\n")
    envelope = Envelope("rené@example.org", [recipient], "8BITMIME", utf8)
    message = Message("1F7A", 1.7e9, envelope, content.size, [recipient], content)
    refused = Bounced(Reply(550, "5.1.1", "no such été"), "mx.example.net")
    made, envelope = build(
        Report(
            kind, message, content, [(recipient, refused)], "postmaster@example.org",
            "mail.example.org", "1F7B", 1.7e9, 1.8e9, False,
        )
    )  # fmt: skip
    assert (envelope.body, envelope.smtputf8) == ("7BIT", False)
    data = read_all(made)
    assert data.isascii()
    assert b"\n" not in data.replace(b"\r\n", b"")
    mail = email.message_from_bytes(data)
    _, status, returned = parts_of(mail)
    assert "<zoë+x@example.net>: no such été" in text_of(mail)
    assert status.get_content_type() == "message/delivery-status"
    of_message, of_recipient = parts_of(status)
    if utf8:
        assert of_message["X-Sender"] == "utf-8; ren\\x{E9}@example.org"
        assert of_recipient["Final-Recipient"] == "utf-8; zo\\x{EB}\\x{2B}x@example.net"
    assert of_recipient["Original-Recipient"] == "utf-8; zo\\x{EB}+x@example.net"
    assert of_recipient["Diagnostic-Code"] == "smtp; 550 5.1.1 no such \\x{E9}t\\x{E9}"
    # Its own type says what it is; the encoding is one that both may have.
    of_headers = "message/global-headers" if utf8 else "text/rfc822-headers"
    assert returned.get_content_type() == of_headers
    assert returned["Content-Transfer-Encoding"] == "quoted-printable"
    encoded = data.rpartition(b"quoted-printable\r\n\r\n")[2].partition(b"\r\n--")[0]
    assert quopri.decodestring(encoded) == header


async def test_every_lasting_failure_comes_with_words_for_people(house: House) -> None:
    for code in ("5.1.1", "5.1.2", "5.2.2", "5.3.4", "5.4.4", "5.4.6", "5.6.7", "5.7.1"):
        outcome = type(UNKNOWN)(Reply(550, code, "refused"))
        fail_only(house, "broken.net", outcome)
        await house.enter("a@broken.net", sender=f"s{code}@example.org")
        await house.idle()
        await until(lambda: house.scheduler.active == 0)
        (bounce,) = await sent_to(house, f"s{code}@example.org")
        words = re.sub(r"\s+", " ", text_of(bounce).partition("refused")[2])
        assert len(words.partition("If you need help")[0]) > 30, code
