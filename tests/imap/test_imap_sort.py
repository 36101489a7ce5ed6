"""SORT and THREAD: RFC 5256's own examples, and the same answers as a real Dovecot."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import pytest
from dovecot_pair import IMAP, pair
from imap_dialog import session_on
from test_imap_dialog import fill

from resel_lda.imap.thread_tree import Mail, by_references, by_subject, render
from resel_lda.mailbox import MailStore
from resel_lda.mime.subject import base_subject

sys.path.append(str(Path(__file__).parent.parent / "mime"))
from nasty_mails import MAILS

needs_dovecot = pytest.mark.needs(str(IMAP))

CRITERIA = (
    "ARRIVAL", "CC", "DATE", "FROM", "SIZE", "SUBJECT", "TO", "DISPLAYFROM", "DISPLAYTO",
    "REVERSE DATE", "REVERSE SUBJECT", "SUBJECT REVERSE DATE", "FROM SUBJECT SIZE",
    "REVERSE FROM REVERSE SUBJECT", "REVERSE SIZE TO",
)  # fmt: skip
ALGORITHMS = ("REFERENCES", "REFS", "ORDEREDSUBJECT")


def mail(number: int, subject: str, *, date: str = "", refs: str = "", own: str = "") -> bytes:
    lines = [
        f"From: Person {number % 3} <p{number % 3}@example.org>",
        f"To: list{number % 2}@example.org",
        f"Date: {date or f'Mon, 7 Feb 2000 10:{number:02d}:00 +0000'}",
        f"Subject: {subject}",
        f"Message-ID: <{own or number}@x>",
    ]
    if refs:
        lines.append("References: " + " ".join(f"<{one}@x>" for one in refs.split()))
    return ("\r\n".join(lines) + f"\r\n\r\n{'x' * number}\r\n").encode()


def list_like(count: int, seed: int) -> list[bytes]:
    """What a mailing list's archive looks like: replies, lost parents, changed subjects, tags,
    duplicates, odd dates."""
    rng = random.Random(seed)
    topics = ("Réunion de mardi", "[liste] switch en panne", "budget", "FWD: facture", "")
    mails = []
    for number in range(count):
        parent = rng.randrange(number) if number and rng.random() < 0.7 else -1
        topic = topics[parent % 5 if parent >= 0 else rng.randrange(5)]
        prefix = rng.choice(("", "Re: ", "RE: ", "Re: [liste] ", "Fwd: ", "re[2]: ", "AW: "))
        when = 1_600_000_000 + rng.randrange(10**6)
        lines = [
            f"From: {rng.choice(('Ada', 'élan', 'bob', 'Zoé'))} <{rng.choice('abcde')}@x.org>",
            f"To: {rng.choice(('liste', 'Bureau'))}@x.org",
            f"Subject: {prefix}{topic}{rng.choice(('', ' (fwd)', '  '))}",
            "Date: " + _date(when, rng.choice(("+0000", "-0800", "+0530", "GMT"))),
        ]
        if rng.random() < 0.97:
            lines.append(f"Message-ID: <{number if rng.random() < 0.97 else 1}@x>")
        if parent >= 0:
            # Parents that are not there (number + 100,000) and chains that skip some.
            chain = [parent + (100_000 if rng.random() < 0.1 else 0)]
            while chain[0] > 0 and rng.random() < 0.6:
                chain.insert(0, rng.randrange(chain[0]))
            ids = " ".join(f"<{one}@x>" for one in chain)
            kind = rng.choice(("References", "References", "References", "In-Reply-To"))
            lines.append(f"{kind}: {ids if kind == 'References' else ids.split()[-1]}")
        mails.append(("\n".join(lines) + f"\n\n{'x' * rng.randrange(500)}\n").encode())
    return mails


def _date(when: int, zone: str) -> str:
    import time

    return time.strftime("%a, %d %b %Y %H:%M:%S ", time.gmtime(when)) + zone


@pytest.mark.parametrize(
    ("subject", "base", "reply"),
    [
        ("", "", False),
        ("Hello", "HELLO", False),
        ("Re: Hello", "HELLO", True),
        ("re: [list] RE: hello (fwd) (FWD) ", "HELLO", True),
        ("[list] hello", "HELLO", False),
        ("[list]", "[LIST]", False),
        ("Re: [list]", "[LIST]", True),
        ("Re [1] : hello", "HELLO", True),
        ("[fwd: [fwd: hello]]", "HELLO", True),
        ("Fw: \t hello  there", "HELLO THERE", True),
        ("Regards", "REGARDS", False),
        ("été", "E\u0301TE\u0301", False),
    ],
)
def test_base_subject(subject: str, base: str, reply: bool) -> None:
    assert base_subject(subject) == (base, reply)


@pytest.mark.parametrize(
    "piece", ["re: ", "[a] ", "fwd:", "[fwd:", "(fwd)", "[", "] ", "re", "re[a]", " ", "x"]
)
def test_base_subject_of_any_length_is_found_in_a_moment(piece: str) -> None:
    """It is looked for at delivery: a stranger's Subject must not hold the worker."""
    many = 200_000
    started = time.process_time()
    base_subject(piece * many)
    base_subject(piece * many + "]" * many)
    assert time.process_time() - started < 10


async def test_sort(store: MailStore) -> None:
    await fill(
        store,
        mail(1, "b", date="Mon, 7 Feb 2000 10:00:00 +0000"),
        mail(2, "Re: a", date="Mon, 7 Feb 2000 09:30:00 -0100"),
        mail(3, "A", date="Mon, 7 Feb 2000 09:30:00 +0000"),
        mail(4, "c", date="no date"),
    )
    async with session_on(store) as client:
        await client.command("SELECT INBOX")
        await client.script("""
            C: a SORT (SUBJECT) UTF-8 ALL
            S: * SORT 2 3 1 4
            S: a OK Sort completed.
            C: b UID SORT (SUBJECT REVERSE DATE) US-ASCII NOT 4
            S: * SORT 2 3 1
            S: b OK Sort completed.
            C: c SORT (DATE) UTF-8 1:3
            S: * SORT 3 1 2
            S: c OK Sort completed.
            C: d SORT (REVERSE SIZE) UTF-8 DELETED
            S: * SORT
            S: d OK Sort completed.
            C: e SORT (REVERSE ARRIVAL) UTF-8 ALL
            S: * SORT 1 2 3 4
            S: e OK Sort completed.
            C: f SORT (COLOUR) UTF-8 ALL
            S: f BAD Unknown sort argument.
            C: g SORT (DATE) KOI8-R ALL
            S: g NO [BADCHARSET (US-ASCII UTF-8)] Unknown charset
            C: h SORT () UTF-8 ALL
            S: h BAD ...
            C: i THREAD DANCING UTF-8 ALL
            S: i BAD Unknown thread algorithm
        """)
        lines = await client.command("SORT (DATE) UTF-8 MODSEQ 1")
        assert "(MODSEQ " in lines[-2]
        # What is remembered of an order is void when a message comes or goes.
        await client.command("STORE 3 +FLAGS.SILENT (\\Deleted)")
        await client.command("EXPUNGE")
        await fill(store, mail(5, "AAA"))
        await client.command("NOOP")
        assert (await client.command("SORT (SUBJECT) UTF-8 ALL"))[0] == "* SORT 2 4 1 3"


async def test_thread(store: MailStore) -> None:
    await fill(
        store,
        mail(1, "one"),
        mail(2, "Re: one", refs="1"),
        mail(3, "Re: one", refs="1 2"),
        mail(4, "other"),
        mail(5, "Re: lost", refs="99"),
        mail(6, "Re: lost", refs="99"),
    )
    async with session_on(store) as client:
        await client.command("SELECT INBOX")
        await client.script("""
            C: a THREAD REFERENCES UTF-8 ALL
            S: * THREAD (1 2 3)(4)((5)(6))
            S: a OK Thread completed.
            C: b UID THREAD ORDEREDSUBJECT UTF-8 ALL
            S: * THREAD (1 (2)(3))(4)(5 6)
            S: b OK Thread completed.
            C: c THREAD REFS UTF-8 2:4
            S: * THREAD (2 3)(4)
            S: c OK Thread completed.
            C: d THREAD REFERENCES UTF-8 DELETED
            S: * THREAD
            S: d OK Thread completed.
        """)


def test_hostile_chains_are_threaded_in_bounded_time() -> None:
    """Each message names all before it, in loops, and itself."""
    mails = [
        Mail(n, n, "s", True, str(n), " ".join(str((n * 7 + k) % 3000) for k in range(150)))
        for n in range(3000)
    ]
    told = render(by_references(mails, with_subjects=True))
    assert sorted(map(int, told.replace(b"(", b" ").replace(b")", b" ").split())) == list(
        range(3000)
    )
    deep = [Mail(n, n, "", False, str(n), str(n - 1)) for n in range(20_000)]
    assert render(by_references(deep, with_subjects=True)).startswith(b"(0 1 2 ")
    assert render(by_subject(deep)).count(b"(") == 20_000


# A NUL after an address: Dovecot keeps it in the name that it sorts by.
ODD = b"%d" % ([name for name, _ in MAILS].index("from-70") + 1)


def without(lines: list[bytes], number: bytes) -> list[bytes]:
    return [b" ".join(word for word in line.split() if word != number) for line in lines]


@needs_dovecot
@pytest.mark.parametrize("corpus", ["nasty", "list", "list2"])
async def test_as_dovecot(corpus: str) -> None:
    seeds = {"list": 1, "list2": 2}
    mails = [one for _, one in MAILS] if corpus == "nasty" else list_like(400, seeds[corpus])
    async with pair(mails) as both:
        for criteria in CRITERIA:
            theirs, ours = await both.both(f"SORT ({criteria}) UTF-8 ALL")
            if "DISPLAY" in criteria and corpus == "nasty":
                theirs, ours = without(theirs, ODD), without(ours, ODD)
            assert ours == theirs, criteria
        for algorithm in ALGORITHMS:
            for keys in ("ALL", "2:150 LARGER 300"):
                theirs, ours = await both.both(f"UID THREAD {algorithm} UTF-8 {keys}")
                assert ours == theirs, algorithm
