"""Search queries: read or refused, whatever is typed."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resel_lda.admin.query import (
    AllOf,
    AnyOf,
    Imap,
    InMailbox,
    Not,
    Numbers,
    QueryError,
    When,
    exact_mailboxes,
    names_a_mailbox,
    parse_query,
)
from resel_lda.imap.parser import Parser
from resel_lda.imap.search_program import parse_program
from resel_lda.imap.view import View

WORDS = [
    *("(", ")", "OR", "or", "NOT", "mailbox", "INBOX", "Work*", "uid", "1:*", "2,4", "seen"),
    *("from", "alice", "larger", "10M", "before", "2w", "2026-06-03", "since", "1780430000"),
    *(
        "header",
        "x-y",
        'quo"ted\\',
        "é",
        "",
        "body",
        "modseq",
        "12",
        "keyword",
        "$Label",
        "sentsince",
    ),
]


def test_query_tree() -> None:
    node = parse_query(["mailbox", "INBOX", "(", "seen", "OR", "1:3", ")", "not", "from", 'a"b'])
    assert node == AllOf(
        (
            InMailbox("INBOX"),
            AnyOf((Imap(b"SEEN"), Numbers(b"1:3"))),
            Not(Imap(b'FROM "a\\"b"')),
        )
    )


@pytest.mark.parametrize(
    ("line", "names", "safe"),
    [
        ("mailbox INBOX seen", ["INBOX"], True),
        ("mailbox INBOX or mailbox Sent", ["INBOX", "Sent"], True),
        ("( mailbox INBOX or mailbox W* ) seen", None, True),
        ("mailbox INBOX or seen", None, False),
        ("not mailbox INBOX", None, False),
        ("mailbox-guid 0123 all", None, True),
        ("guid 0123", None, False),
        ("seen", None, False),
    ],
)
def test_query_mailboxes(line: str, names: list[str] | None, safe: bool) -> None:
    node = parse_query(line.split())
    assert (exact_mailboxes(node), names_a_mailbox(node)) == (names, safe)


@pytest.mark.parametrize(
    ("value", "ago"),
    [
        ("90s", 90),
        ("2m", 120),
        ("90 mins", 5400),
        ("2h", 7200),
        ("7d", 604800),
        ("2weeks", 1209600),
    ],
)
def test_query_how_long_ago(value: str, ago: int) -> None:
    node = parse_query(["since", value])
    assert isinstance(node, When)
    assert abs(time.time() - ago - node.start) < 5
    assert node.end == float("inf")


def test_query_a_day_is_a_day() -> None:
    node = parse_query(["on", "2026-06-03"])
    assert isinstance(node, When)
    assert (node.end - node.start, time.localtime(node.start).tm_mday) == (86400, 3)
    exact = parse_query(["before", "2026-06-03 12:00:00"])
    assert isinstance(exact, When)
    assert exact.end == node.start + 12 * 3600


@pytest.mark.parametrize("value", ["", "x", "2x", "2026-13-01", "99-Jun-2026", "2026-06-32", "-1d"])
def test_query_bad_dates(value: str) -> None:
    with pytest.raises(QueryError, match="Invalid search date parameter"):
        parse_query(["since", value])


@given(st.lists(st.sampled_from(WORDS), max_size=12))
def test_query_is_read_or_refused(words: list[str]) -> None:
    try:
        node = parse_query(words)
    except QueryError:
        return
    names_a_mailbox(node)
    exact_mailboxes(node)


@given(st.text(max_size=40).filter(lambda text: "\0" not in text))
def test_query_any_text_reaches_imap_as_it_is(needle: str) -> None:
    """What is typed can neither break the program that IMAP's reader gets, nor add keys to it."""

    class Empty:
        uidvalidity = highestmodseq = 1
        name = "INBOX"

        def uids(self) -> list[int]:
            return []

        def messages(self) -> list[object]:
            return []

        def keywords(self) -> list[str]:
            return []

    node = parse_query(["subject", needle])
    assert isinstance(node, Imap)
    view = View(Empty(), "INBOX", read_only=True)  # type: ignore[arg-type]
    program = parse_program(Parser(node.program), view, "utf-8")
    assert len(program.fields) == 1


def test_query_too_deep() -> None:
    with pytest.raises(QueryError, match="too complex"):
        parse_query(["not"] * 100 + ["seen"])
    with pytest.raises(QueryError, match="too complex"):
        parse_query(["("] * 100 + ["seen"] + [")"] * 100)
