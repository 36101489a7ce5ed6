"""`log_format = json`: all that a whole chain logs, held against the reference of ECS."""

from __future__ import annotations

import imaplib
import ipaddress
import json
import re
import smtplib
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest
from ecs_reference import ALLOWED, FIELDS, OWN, REQUIRED, TYPES_OF

from demo.network import Network
from resel_mta.maillog.ecs import fields_of

Record = dict[str, Any]
PYTHON_TYPES: dict[str, Callable[[object], bool]] = {
    "keyword": lambda value: isinstance(value, str) and len(value) < 1025,
    "wildcard": lambda value: isinstance(value, str),
    "match_only_text": lambda value: isinstance(value, str),
    "long": lambda value: type(value) is int,
    "ip": lambda value: isinstance(value, str) and bool(ipaddress.ip_address(value)),
    "date": lambda value: isinstance(value, str) and datetime.fromisoformat(value) is not None,
}


@pytest.fixture(scope="module")
def records() -> Iterator[dict[str, list[Record]]]:
    """What the three machines log of mail that arrives, is refused, is deferred, and of log-ins."""
    extra = {name: {"log_format": "json"} for name in ("vm", "pegase", "toad")}
    with Network(extra=extra) as network:
        network.start()
        done = network.vm.sendmail(["root"], "Subject: Été\n\nx\n")
        assert done.returncode == 0
        network.toad.await_log('"message-removed"')
        with network.smtp(network.pegase) as client:
            client.sendmail(
                "a@vm1.adm.resel.fr", ["nosuchuser@resel.fr"], "Subject: x\r\n\r\nx\r\n"
            )
        network.toad.await_log('"command-rejected"')
        with network.smtp(network.toad) as client, pytest.raises(smtplib.SMTPRecipientsRefused):
            client.sendmail("a@example.org", ["nosuchuser@resel.fr"], "x")
        network.imap().logout()
        network.password = "wrong"
        with pytest.raises(imaplib.IMAP4.error):
            network.imap()
        network.toad.stop()
        with network.smtp(network.pegase) as client:
            client.sendmail("a@vm1.adm.resel.fr", ["root@resel.fr"], "Subject: x\r\n\r\nx\r\n")
        network.pegase.await_log('"message-deferred"')
        network.pegase.stop()
        network.vm.stop()
        yield {
            machine.name: [json.loads(line) for line in machine.log()]
            for machine in network.machines
        }


def all_of(records: dict[str, list[Record]]) -> list[Record]:
    return [record for each in records.values() for record in each]


def test_maillog_ecs_fields_and_types_are_those_of_the_reference(
    records: dict[str, list[Record]],
) -> None:
    assert len(all_of(records)) > 40
    for record in all_of(records):
        assert record.keys() >= REQUIRED
        for name, value in record.items():
            check(record["event.module"], name, value)


def check(module: str, name: str, value: object) -> None:
    if name.startswith(f"{module}."):
        kind, is_array = OWN[name.removeprefix(f"{module}.")], False
    else:
        kind, is_array = FIELDS[name]
    assert isinstance(value, list) == is_array, (name, value)
    for each in value if isinstance(value, list) else [value]:
        assert PYTHON_TYPES[kind](each), (name, each)
        assert each in ALLOWED.get(name, {each}), (name, each)


def test_maillog_ecs_types_fit_their_categories(records: dict[str, list[Record]]) -> None:
    for record in all_of(records):
        expected: set[str] = set()
        for category in record.get("event.category", []):
            expected |= TYPES_OF[category]
        assert set(record.get("event.type", [])) <= expected, record


def test_maillog_ecs_every_event_of_a_message_has_its_queue_id(
    records: dict[str, list[Record]],
) -> None:
    for record in all_of(records):
        queue_id = re.match(r"(?=[A-Z]*\d)([0-9A-Za-z]{8,}): ", record["message"])
        assert record.get("email.local_id") == (queue_id[1] if queue_id else None)
        if "email" in record.get("event.category", []):
            assert queue_id is not None, record


def test_maillog_ecs_one_message_from_hop_to_hop(records: dict[str, list[Record]]) -> None:
    """By its Message-ID and queue ids, as one would in Kibana."""
    (first,) = [each for each in records["vm"] if "email.message_id" in each]
    for name, end in (("vm", "pegase.adm.resel.fr"), ("pegase", "toad.resel.fr"), ("toad", "")):
        ids = [
            each["email.local_id"]
            for each in records[name]
            if each.get("email.message_id") == first["email.message_id"]
        ]
        assert len(ids) == 1
        story = [each for each in records[name] if each.get("email.local_id") == ids[0]]
        actions = [each["event.action"] for each in story]
        assert actions == [
            "message-received", "message-identified", "message-queued", "message-sent",
            "message-removed",
        ]  # fmt: skip
        sent = story[3]
        assert sent["event.outcome"] == "success"
        assert sent.get("destination.domain", "") == end
        assert sent["postfix.dsn"] == "2.0.0"


def test_maillog_ecs_failures(records: dict[str, list[Record]]) -> None:
    deferred = next(each for each in records["pegase"] if each.get("postfix.status") == "deferred")
    assert deferred["event.outcome"] == "failure"
    assert deferred["email.to.address"] == ["root@resel.fr"]
    assert "Connection refused" in deferred["event.reason"]
    rejected = [each for each in records["toad"] if each.get("event.action") == "command-rejected"]
    assert {each["postfix.dsn"] for each in rejected} >= {"5.1.1"}
    assert rejected[0]["client.ip"] == "127.0.0.12"
    logins = [
        (each["event.outcome"], each["user.name"])
        for each in records["toad"]
        if each.get("event.category") == ["authentication"]
    ]
    assert logins == [("success", "lcarr"), ("failure", "lcarr")]


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        (
            "to=<a@b.fr>, relay=h[192.0.2.1]:25, delay=1.5, delays=0/0/1/0.5, dsn=5.0.0, "
            "status=bounced (host h[192.0.2.1] said: 550 5.0.0 to=<x@y.z>, relay=evil, dsn=2.0.0)",
            "email.to.address",
            ["a@b.fr"],
        ),
        (
            "to=<a@b.fr>, relay=h[192.0.2.1]:25, delay=1.5, delays=0/0/1/0.5, dsn=5.0.0, "
            "status=bounced (host h[192.0.2.1] said: 550 5.0.0 to=<x@y.z>, relay=evil, dsn=2.0.0)",
            "event.duration",
            1_500_000_000,
        ),
        (
            "reject: RCPT from h.example[2001:db8::1]: 554 5.7.1 <x@y.z>: Relay access denied; "
            "from=<a@b.fr> to=<x@y.z> proto=ESMTP helo=<from=<z@z.z>>",
            "email.sender.address",
            "a@b.fr",
        ),
        ("client=h.example[192.0.2.7], sasl_method=PLAIN, sasl_username=u", "user.name", "u"),
        (
            "imap(lcarr)<123><abc>: Disconnected: Logged out, user=<x>, session=<y>",
            "user.name",
            "lcarr",
        ),
        (
            'to=<"x, relay=evil[192.0.2.9], "@b.fr>, relay=h[192.0.2.1]:25, delay=1, dsn=2.0.0, '
            "status=sent (250 2.0.0 Ok)",
            "destination.ip",
            "192.0.2.1",
        ),
        ("connect from h.example[2001:db8::1]", "client.domain", "h.example"),
    ],
)
def test_maillog_ecs_a_peer_cannot_forge_fields(text: str, name: str, value: object) -> None:
    assert fields_of("postfix", "smtpd", text)[name] == value
