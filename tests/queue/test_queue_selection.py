"""Which messages a selection means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resel_mta.queue.door import Entry, RecipientEntry
from resel_mta.queue.selection import (
    Selection,
    contains,
    matches_address,
    names_host,
    parse_age,
    parse_size,
    subject_of,
)

NOW = 1_800_000_000.0


def recipient(
    address: str = "bob@example.net", reason: str = "", relay: str = "none", **more: str
) -> RecipientEntry:
    return RecipientEntry(
        address, more.get("orig_to", ""), NOW, 1, reason, relay, more.get("w", "")
    )


def entry(*recipients: RecipientEntry, sender: str = "cron@vm1.example.org") -> Entry:
    return Entry(
        "1F7A3B2C0D4", "deferred", NOW - 7200, 5000, sender, recipients, NOW + 60, NOW + 9999
    )


@pytest.mark.parametrize(
    ("wanted", "address", "fits"),
    [
        ("bob@example.net", "bob@example.net", True),
        ("BOB@Example.NET", "bob@example.net", True),
        ("<bob@example.net>", "bob@example.net", True),
        ("bob@example.net", "bob@example.network", False),
        ("ob@example.net", "bob@example.net", False),
        ("@example.net", "bob@example.net", True),
        ("@example.net", "bob@mail.example.net", False),
        ("bob@", "bob@example.net", True),
        ("bob@", "bobby@example.net", False),
        ("bob", "bob@example.net", True),
        ("example.net", "bob@example.net", True),
        ("bob", "alice@bob.example", False),
        ("*@*.example.net", "bob@mail.example.net", True),
        ("*@*.example.net", "bob@example.net", False),
        ("b?b@example.net", "bob@example.net", True),
        ("*@[192.0.2.1]", "bob@[192.0.2.1]", True),
        ("*@[192.0.2.1]", "bob@1", False),
        ("<>", "", True),
        ("", "", True),
        ("MAILER-DAEMON", "", True),
        ("<>", "bob@example.net", False),
        ("bob", "", False),
        ("*", "", True),
        ("root", "root", True),
    ],
)
def test_addresses(wanted: str, address: str, fits: bool) -> None:
    assert matches_address(wanted, address) is fits


def test_texts_are_found_anywhere_and_patterns_fit_whole() -> None:
    assert contains("connection  REFUSED", "connect to mx[192.0.2.1]:25: Connection refused")
    assert not contains("refused", "timed out")
    assert contains("connect to *: connection refused", "connect to mx: Connection refused")
    assert not contains("refused*", "Connection refused")
    assert contains("mx[192.0.2.1]*", "mx[192.0.2.1]:25: no")


@pytest.mark.parametrize(
    ("header", "subject"),
    [
        (b"Subject: plain\r\n", "plain"),
        (b"From: x\r\nSUBJECT :  two\r\n words\r\nTo: y\r\n", "two words"),
        (b"Subject: =?utf-8?q?caf=C3=A9?=\r\n", "café"),
        ("Subject: café\r\n".encode(), "café"),
        (b"Subject: =?nonsense?q?caf=C3=A9?=\r\n", "=?nonsense?q?caf=C3=A9?="),
        (b"X-Subject: no\r\n", ""),
        (b"Subject:\r\n", ""),
        (b"", ""),
    ],
)
def test_subjects(header: bytes, subject: str) -> None:
    assert subject_of(header) == subject


@given(st.binary(max_size=200))
def test_any_header_has_some_subject(header: bytes) -> None:
    assert isinstance(subject_of(b"Subject: " + header), str)


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        ("mx.example.net", True),
        ("MX.example.net", True),
        ("[mx.example.net]", True),
        ("192.0.2.1", True),
        ("*.example.net", True),
        ("example.com", True),
        ("hub.example.org", True),
        ("old.example.net", True),
        ("example.net", False),
        ("192.0.2.2", False),
    ],
)
def test_hosts(wanted: str, fits: bool) -> None:
    waiting = recipient(
        "bob@example.com",
        "connect to old.example.net[192.0.2.7]:25: Connection refused",
        "mx.example.net[192.0.2.1]:25",
        w="smtp:[hub.example.org]:587",
    )
    assert names_host(wanted, waiting) is fits


def test_conditions_hold_together() -> None:
    one = entry(recipient())
    assert Selection(sender="cron@", older=7200, smallest=5000, largest=5000).matches(one, NOW)
    assert not Selection(sender="root@").matches(one, NOW)
    assert not Selection(older=7201).matches(one, NOW)
    assert not Selection(smallest=5001).matches(one, NOW)
    assert not Selection(largest=4999).matches(one, NOW)


def test_recipients_fit_by_the_address_before_aliases_too() -> None:
    aliased = recipient("bob@example.net", orig_to="root@example.net")
    assert Selection(recipient="root@").matches_recipient(aliased)
    assert Selection(recipient="bob@").matches_recipient(aliased)
    assert not Selection(recipient="alice@").matches_recipient(aliased)
    assert not Selection(recipient="<>").matches_recipient(recipient())


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("2H", 7200), ("1d12h", 129600), ("1w", 604800), ("0s", 0)],
)
def test_ages(text: str, seconds: float) -> None:
    assert parse_age(text) == seconds


@pytest.mark.parametrize("text", ["", "3", "x", "3d ", "-1h", "1.5h", "h", "1h30", "1y"])
def test_bad_ages(text: str) -> None:
    with pytest.raises(ValueError, match="is not an age"):
        parse_age(text)


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("0", (0, None)),
        ("100", (100, None)),
        ("100k", (102400, None)),
        ("1MB", (1048576, None)),
        ("1G", (1 << 30, None)),
        ("10k-", (10240, None)),
        ("-10k", (None, 10240)),
        ("10k-1m", (10240, 1048576)),
        ("5-5", (5, 5)),
    ],
)
def test_sizes(text: str, limits: tuple[int | None, int | None]) -> None:
    assert parse_size(text) == limits


@pytest.mark.parametrize("text", ["", "-", "k", "-k", "10 k", "1k2k", "2k-1k", "1.5M", "--1"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


@given(
    st.builds(
        Selection,
        sender=st.none() | st.text(),
        error=st.none() | st.text(),
        older=st.none() | st.floats(0, 1e9),
        largest=st.none() | st.integers(0),
    )
)
def test_a_selection_survives_its_way_to_the_daemon(selection: Selection) -> None:
    assert Selection.from_row(selection.as_row()) == selection
    assert selection.is_everything is (selection == Selection())
