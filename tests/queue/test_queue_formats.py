"""Numbers, listings and notifications as programs and people read them."""

from __future__ import annotations

import email
import json
from email.message import Message as Mail

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resel_mta.content import Content
from resel_mta.mail import Bounced, Envelope, Message, Outcome, Recipient, Reply
from resel_mta.queue.bounce import Kind, Report, build
from resel_mta.queue.door import Entry, RecipientEntry
from resel_mta.queue.journal import format_delay
from resel_mta.queue.listing import as_json, local_lines, mailq


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0"),
        (0.004, "0"),
        (0.005, "0.01"),
        (0.05, "0.05"),
        (0.5, "0.5"),
        (0.123, "0.12"),
        (0.996, "1"),
        (1.25, "1.3"),
        (1.04, "1"),
        (9.96, "10"),
        (12.3, "12"),
        (12.5, "13"),
        (123.4, "123"),
        (100000.0, "100000"),
    ],
)
def test_delays_as_postfix_writes_them(seconds: float, text: str) -> None:
    assert format_delay(seconds) == text


def entry(
    queue_id: str, queue: str, *recipients: tuple[str, str], sender: str = "a@x.org"
) -> Entry:
    listed = tuple(RecipientEntry(name, "", 0.0, 1, why, "none") for name, why in recipients)
    return Entry(queue_id, queue, 1_700_000_000.0, 2048, sender, listed, 0.0, 0.0)


def test_mailq_layout() -> None:
    why = "connect to mx.x.net[192.0.2.1]:25: Connection refused"
    text = "".join(
        mailq(
            [
                entry("1F7A3B2C0D4", "deferred", ("b@x.net", why), ("c@x.net", why)),
                entry("1F7A3B2C0D5", "active", ("d@x.net", ""), sender=""),
                entry("1F7A3B2C0D6", "hold", ("e@x.net", "")),
            ]
        )
    )
    lines = text.split("\n")
    assert lines[0] == "-Queue ID-  --Size-- ----Arrival Time---- -Sender/Recipient-------"
    assert lines[1].startswith("1F7A3B2C0D4    2048 ")
    assert lines[1].endswith("  a@x.org")
    assert lines[2] == f"{'(' + why + ')':>78}"
    assert lines[3] == " " * 41 + "b@x.net"
    assert lines[4] == " " * 41 + "c@x.net"
    assert lines[5] == ""
    assert lines[6].startswith("1F7A3B2C0D5* ")
    assert lines[6].endswith(" MAILER-DAEMON")
    assert lines[9].startswith("1F7A3B2C0D6! ")
    assert lines[-2] == "-- 6 Kbytes in 3 Requests."
    assert "".join(mailq([])) == "Mail queue is empty\n"
    assert "".join(mailq([entry("1F7", "active", ("d@x.net", ""))])).endswith(
        "\n\n-- 2 Kbytes in 1 Request.\n"
    )


def test_json_keys() -> None:
    record = json.loads(as_json(entry("1F7A", "deferred", ("b@x.net", "busy"), ("c@x.net", ""))))
    assert list(record) == [
        "queue_name",
        "queue_id",
        "arrival_time",
        "message_size",
        "forced_expire",
        "sender",
        "recipients",
    ]
    assert record["recipients"] == [
        {"address": "b@x.net", "delay_reason": "busy"},
        {"address": "c@x.net"},
    ]


@given(st.lists(st.text("ab\r\n", max_size=4)))
def test_local_lines_however_cut(pieces: list[str]) -> None:
    whole = "".join(pieces).encode()
    expected = whole.replace(b"\r\n", b"\n")
    got = b"".join(local_lines(piece.encode() for piece in pieces))
    assert got in (expected, expected + b"\n")
    assert not whole or got.endswith(b"\n")


def report(kind: Kind, outcome: Outcome, *, utf8: bool = False, full: bool = True) -> Mail:
    recipient = Recipient("bob@x.net", orig_to="list@x.net", orcpt="rfc822;li+2Bst@x.net")
    sender = "änn@x.org" if utf8 else "ann@x.org"
    envelope = Envelope(sender, [recipient], smtputf8=utf8, envid="E+2D1")
    content = Content.from_bytes(b"Subject: lunch\r\nTo: bob@x.net\r\n\r\nhello\r\n")
    message = Message("1F7A", 1_700_000_000.0, envelope, content.size, [recipient], content)
    made, _ = build(
        Report(
            kind=kind,
            message=message,
            content=content,
            recipients=[(recipient, outcome)],
            to=sender,
            host="mail.x.org",
            queue_id="1F7B",
            now=1_700_000_100.0,
            expires=1_700_400_000.0,
            full=full,
        )
    )
    data = made.header.raw + b"\r\n" + made.body.read(0, made.body.size)
    assert b"\n" not in data.replace(b"\r\n", b"")
    return email.message_from_bytes(data)


def parts(mail: Mail) -> list[Mail]:
    payload = mail.get_payload()
    assert isinstance(payload, list)
    return [part for part in payload if isinstance(part, Mail)]


def test_failure_report_is_what_rfc3464_wants() -> None:
    reply = Reply(550, "5.1.1", "host mx.x.net[192.0.2.1] said: 550 5.1.1 No such user")
    mail = report(Kind.FAILURE, Bounced(reply, "mx.x.net", diagnostic="550 5.1.1 No such user"))
    assert mail.get_content_type() == "multipart/report"
    assert mail.get_param("report-type") == "delivery-status"
    text, status, returned = parts(mail)
    raw = text.get_payload(decode=True)
    assert isinstance(raw, bytes)
    words = raw.decode()
    assert "There is no such address" in words
    assert "Subject: lunch" in words
    assert "bob@x.net" in words
    per_message, per_recipient = parts(status)
    assert per_message["Reporting-MTA"] == "dns; mail.x.org"
    assert per_message["Original-Envelope-Id"] == "E-1"
    assert per_recipient["Final-Recipient"] == "rfc822; bob@x.net"
    assert per_recipient["Original-Recipient"] == "rfc822; li+st@x.net"
    assert per_recipient["Action"] == "failed"
    assert per_recipient["Status"] == "5.1.1"
    assert per_recipient["Remote-MTA"] == "dns; mx.x.net"
    assert per_recipient["Diagnostic-Code"] == "smtp; 550 5.1.1 No such user"
    assert returned.get_content_type() == "message/rfc822"


def test_header_only_where_the_message_is_large_or_ret_is_hdrs() -> None:
    mail = report(Kind.FAILURE, Bounced(Reply(550, "5.1.1", "no")), full=False)
    assert parts(mail)[2].get_content_type() == "text/rfc822-headers"


def test_smtputf8_mail_gets_rfc6533_types() -> None:
    mail = report(Kind.FAILURE, Bounced(Reply(550, "5.1.1", "no")), utf8=True)
    kinds = [part.get_content_type() for part in parts(mail)]
    assert kinds == ["text/plain", "message/global-delivery-status", "message/global"]


def test_a_peer_cannot_forge_report_fields() -> None:
    reply = Reply(550, "5.1.1", "no\r\nAction: delivered")
    mail = report(Kind.FAILURE, Bounced(reply, "mx.x.net"))
    status = parts(parts(mail)[1])
    assert status[1].get_all("Action") == ["failed"]
