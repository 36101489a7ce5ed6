"""What `resel-queue why` says."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from resel_mta.queue.meanings import SUSPENDED, meaning
from resel_mta.queue.why import (
    Facts,
    HostState,
    RecipientFacts,
    facts_from_row,
    tell,
    waiting_key,
    with_others,
)

NOW = 1_800_000_000.0
REFUSED = "connect to mx.example.net[192.0.2.1]:25: Connection refused"


def bob(**changes: object) -> RecipientFacts:
    facts = RecipientFacts(
        "bob@example.net", "", 2, NOW + 480, REFUSED, "none", "smtp:example.net", "smtp",
        "example.net", HostState(limit=20),
    )  # fmt: skip
    return replace(facts, **changes)  # type: ignore[arg-type]


def facts(*recipients: RecipientFacts, **changes: object) -> Facts:
    made = Facts(
        "1F7A3B2C0D4", "deferred", NOW - 1500, 2150, "cron@vm1.example.org", "Cron", NOW,
        NOW + 86400, NOW + 480, 0.0, 0.0, 0.0, True, recipients or (bob(),),
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def told(some: Facts) -> str:
    lines = list(tell(some))
    head = lines[0]
    assert all(len(line) <= 78 or line is head or line.startswith("  resel-") for line in lines)
    return "\n".join(lines)


def one_line(some: Facts) -> str:
    return " ".join(told(some).split())


def test_a_deferred_message() -> None:
    text = one_line(facts(bob(others=("A", "B", "C", "D"))))
    assert text.startswith("1F7A3B2C0D4: 2.1 KB from <cron@vm1.example.org>, arrived ")
    assert ", 25 minutes ago." in text
    assert "Subject: Cron" in text
    assert f"Tried 2 times, at last without reaching a server: {REFUSED}" in text
    assert "no mail server listens on that port" in text
    assert "Next attempt: in 8 minutes, " in text
    assert "4 other messages wait for example.net: A, B, C and 1 more." in text
    assert "(in 1 day); <cron@vm1.example.org> is told then." in text
    for words in ("-i 1F7A3B2C0D4 try it now", "-s example.net try all mail", "-d 1F7A3B2C0D4"):
        assert f"resel-queue {words}" in text


def test_a_host_that_is_down() -> None:
    text = one_line(facts(bob(host=HostState(suspended_until=NOW + 60, limit=1))))
    assert "example.net counts as down; it is looked for again in 1 minute, " in text


@pytest.mark.parametrize(
    ("attempts", "words"),
    [
        (0, "Not tried yet, since other mail found the host down:"),
        (1, "Tried once, but not the last time, since other mail found the host down:"),
        (3, "Tried 3 times, but not the last time, since other mail found the host down:"),
    ],
)
def test_only_real_attempts_are_attempts(attempts: int, words: str) -> None:
    text = one_line(facts(bob(attempts=attempts, reason=f"{SUSPENDED}{REFUSED}")))
    assert f"{words} {SUSPENDED}{REFUSED} The machine is up" in text
    # What another server says is what it says.
    text = one_line(
        facts(bob(reason=f"{SUSPENDED}come back", relay="mx.example.net[192.0.2.1]:25"))
    )
    assert "Tried 2 times, at last with mx.example.net[192.0.2.1]:25:" in text


def test_no_mail_system_runs() -> None:
    text = one_line(facts(running=False))
    assert "The mail system is down: it is tried when that is started." in text
    assert "if the daemon runs then" in text
    assert "resel-queue -r 1F7A3B2C0D4 try it first thing" in text
    assert "resel-queue -i" not in text


def test_on_hold() -> None:
    text = one_line(facts(queue="hold"))
    assert "on hold: nothing is tried until somebody releases it" in text
    assert "resel-queue -H 1F7A3B2C0D4" in text
    assert "Next attempt" not in text


def test_active_and_no_free_place() -> None:
    busy = bob(attempts=0, reason="", waits_for="", host=HostState(0.0, 20, 20, 35))
    text = one_line(facts(busy, queue="active", active_since=NOW - 3))
    assert "It is in delivery for 3 seconds now" in text
    assert "Not tried yet. Mail for it goes to example.net." in text
    assert "20 deliveries to example.net run now, as many as there may be; 35 recipients" in text


def test_a_notification_that_ran_out_of_time() -> None:
    text = one_line(facts(sender="", expires=NOW - 1))
    assert "from <> (a notification)" in text
    assert "Its time is over: if the next attempt fails, it is given up, and nobody is told" in text


def test_damaged() -> None:
    text = one_line(facts(queue="corrupt"))
    assert "content is damaged" in text
    assert "resel-queue -i" not in text


def test_deleted() -> None:
    text = one_line(facts(queue="trash", deleted=NOW - 90, restorable=NOW + 86400))
    assert "It was deleted 1 minute 30 seconds ago, and can be brought back until" in text
    assert "resel-queue --undelete 1F7A3B2C0D4" in text
    assert "resel-queue -i" not in text
    assert "Given up" not in text


def test_recipients_with_the_same_fate_are_told_of_once() -> None:
    many = [bob(address=f"u{n}@example.net") for n in range(10)]
    other = bob(
        address="x@example.org", orig_to="root@example.net", reason="greylisted", waits_for="",
        relay="mx.example.org[192.0.2.9]:25",
    )  # fmt: skip
    text = one_line(facts(*many, other))
    assert "To <u0@example.net>, <u1@example.net>, <u2@example.net> and 7 others:" in text
    assert text.count("no mail server listens") == 1
    assert "To <x@example.org> (for <root@example.net>):" in text
    assert "Tried 2 times, at last with mx.example.org[192.0.2.9]:25: greylisted" in text


def test_a_mailbox_has_no_host() -> None:
    local = bob(
        waits_for="", relay="local", transport="local", nexthop="example.net", reason="disk full"
    )
    assert "resel-queue -s" not in told(facts(local))


def test_facts_survive_their_way_from_the_daemon() -> None:
    some = facts(bob(others=("A",)), bob(host=HostState(1.0, 2, 3, 4)))
    assert facts_from_row(json.loads(json.dumps(asdict(some)))) == some


def test_who_waits_for_the_same_host() -> None:
    assert waiting_key("a@X.org", "", "smtp:hub") == ("site", "smtp:hub")
    assert waiting_key("a@X.org", "mx[192.0.2.1]:25", "") == ("relay", "mx[192.0.2.1]:25")
    assert waiting_key("a@X.org", "none", "") == ("domain", "x.org")
    key = ("site", "smtp:example.net")
    found = with_others(facts(), {key: ["A", "1F7A3B2C0D4", "B"]})
    assert found.recipients[0].others == ("A", "B")


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("host mx[192.0.2.1] said: 450 4.7.1 Greylisted, try later", "does not know wait"),
        ("conversation with mx[192.0.2.1] timed out while sending message body", "in the middle"),
        ("mail for example.org loops back to myself", "this machine itself"),
        ("Host or domain name not found. Name service error for name=x type=MX: Host not found, "
         "try again", "dns_nameservers"),
        ("host mx[192.0.2.1] said: 452 4.2.2 Mailbox full", "mailbox is full"),
        ("Error: internal error (reference 12ab34cd)", "log has more"),
    ],
)  # fmt: skip
def test_meanings(reason: str, words: str) -> None:
    assert words in meaning(reason)


def test_nothing_is_made_up() -> None:
    assert meaning("host mx said: 450 4.0.0 come again") == ""
