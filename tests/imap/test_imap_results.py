"""ESORT, CONTEXT=SEARCH, CONTEXT=SORT (RFC 5267) and PARTIAL (RFC 9394)."""

from __future__ import annotations

import re

import pytest
from dovecot_pair import IMAP, pair
from imap_dialog import Client, session_on
from test_imap_dialog import PLAIN, fill

from resel_lda.mailbox import MailStore


def subject(text: str) -> bytes:
    return PLAIN.replace(b"Hello", text.encode())


async def select(client: Client) -> None:
    assert (await client.command("SELECT INBOX"))[-1].startswith("x OK")


async def test_results_are_announced(store: MailStore) -> None:
    async with session_on(store) as client:
        words = (await client.command("CAPABILITY"))[0].split()
        assert {"ESORT", "CONTEXT=SEARCH", "CONTEXT=SORT", "PARTIAL"} <= set(words)


async def test_esort(store: MailStore) -> None:
    await fill(store, subject("c"), subject("a"), subject("b"), subject("d"))
    async with session_on(store) as client:
        await select(client)
        await client.script("""
            C: a UID SORT RETURN () (SUBJECT) UTF-8 ALL
            S: * ESEARCH (TAG "a") UID ALL 2:3,1,4
            S: a OK Sort completed.
            C: b SORT RETURN (MIN MAX COUNT) (REVERSE SUBJECT) UTF-8 ALL
            S: * ESEARCH (TAG "b") MIN 4 MAX 2 COUNT 4
            S: b OK Sort completed.
            C: c SORT RETURN (ALL) (SUBJECT) UTF-8 SEEN
            S: * ESEARCH (TAG "c")
            S: c OK Sort completed.
            C: d SORT RETURN (SAVE) (SUBJECT) UTF-8 1:2
            S: d OK Sort completed.
            C: e UID SEARCH $
            S: * SEARCH 1 2
            S: e OK Search completed.
            C: f SORT RETURN (BOGUS) (SUBJECT) UTF-8 ALL
            S: f BAD Unknown search return option.
            C: g SORT RETURN (PARTIAL -1:-2) (SUBJECT) UTF-8 ALL
            S: * ESEARCH (TAG "g") PARTIAL (-1:-2 1,4)
            S: g OK Sort completed.
            C: h SORT RETURN (SAVE) (BOGUS) UTF-8 ALL
            S: h BAD ...
            C: i UID SEARCH $
            S: * SEARCH 1 2
            S: i OK Search completed.
            C: j SORT RETURN (SAVE) (SUBJECT) KOI8-R ALL
            S: j NO [BADCHARSET ...
            C: k UID SEARCH $
            S: * SEARCH
            S: k OK Search completed.
        """)


async def test_partial_search(store: MailStore) -> None:
    await fill(store, *[PLAIN] * 5)
    async with session_on(store) as client:
        await select(client)
        await client.script("""
            C: a UID SEARCH RETURN (PARTIAL 1:2) ALL
            S: * ESEARCH (TAG "a") UID PARTIAL (1:2 1:2)
            S: a OK Search completed.
            C: b UID SEARCH RETURN (PARTIAL -1:-2 COUNT) ALL
            S: * ESEARCH (TAG "b") UID PARTIAL (-1:-2 4:5) COUNT 5
            S: b OK Search completed.
            C: c SEARCH RETURN (PARTIAL 4:9) ALL
            S: * ESEARCH (TAG "c") PARTIAL (4:9 4:5)
            S: c OK Search completed.
            C: d SEARCH RETURN (PARTIAL -5:-4) ALL
            S: * ESEARCH (TAG "d") PARTIAL (-4:-5 1:2)
            S: d OK Search completed.
            C: e SEARCH RETURN (PARTIAL 6:9) ALL
            S: * ESEARCH (TAG "e") PARTIAL (6:9 NIL)
            S: e OK Search completed.
            C: f SEARCH RETURN (PARTIAL -6:-9) ALL
            S: * ESEARCH (TAG "f") PARTIAL (-6:-9 NIL)
            S: f OK Search completed.
            C: g SEARCH RETURN (PARTIAL 1:2) SEEN
            S: * ESEARCH (TAG "g") PARTIAL (1:2 NIL)
            S: g OK Search completed.
        """)
        for bad in ("1", "0:1", "1:-1", "-1:1", "1:*", "*", "", "1:99999999999", "1:2 PARTIAL 1:2"):
            lines = await client.command(f"SEARCH RETURN (PARTIAL {bad}) ALL")
            assert len(lines) == 1, bad
            assert lines[0].startswith("x BAD"), bad
        lines = await client.command("SEARCH RETURN (ALL PARTIAL 1:2) ALL")
        assert lines == ["x BAD PARTIAL and ALL can't be used together."]


@pytest.mark.parametrize(
    ("options", "saved"),
    [
        ("PARTIAL 2:3", "2 3"),
        ("PARTIAL 2:3 MIN", "1 2 3"),
        ("PARTIAL 2:3 MIN MAX", "1 2 3 5"),
        ("PARTIAL 2:3 COUNT", "1 2 3 4 5"),
    ],
)
async def test_partial_saves_what_it_tells(store: MailStore, options: str, saved: str) -> None:
    await fill(store, *[PLAIN] * 5)
    async with session_on(store) as client:
        await select(client)
        await client.command(f"SEARCH RETURN (SAVE {options}) ALL")
        assert (await client.command("UID SEARCH $"))[0] == f"* SEARCH {saved}"


async def test_partial_fetch(store: MailStore) -> None:
    await fill(store, *[PLAIN] * 5)
    async with session_on(store) as client:
        await select(client)
        await client.script("""
            C: a UID FETCH 1:* UID (PARTIAL -1:-2)
            S: * 4 FETCH (UID 4)
            S: * 5 FETCH (UID 5)
            S: a OK Fetch completed.
            C: b UID FETCH 2:5 UID (PARTIAL 1:1)
            S: * 2 FETCH (UID 2)
            S: b OK Fetch completed.
            C: c UID FETCH 1:* UID (PARTIAL 6:9)
            S: c OK Fetch completed.
            C: d FETCH 1:* UID (PARTIAL 1:2)
            S: d BAD PARTIAL needs UID FETCH
            C: e UID FETCH 1:* UID (PARTIAL 1:0)
            S: e BAD Invalid PARTIAL range.
        """)
        since = number_after(await client.command("STATUS INBOX (HIGHESTMODSEQ)"), "HIGHESTMODSEQ")
        await client.command(r"STORE 2,4 +FLAGS.SILENT (\Seen)")
        for modifiers in (
            f"CHANGEDSINCE {since} PARTIAL -1:-1",
            f"PARTIAL 2:2 CHANGEDSINCE {since}",
        ):
            lines = await client.command(f"UID FETCH 1:* UID ({modifiers})")
            assert [line.split()[1] for line in lines[:-1]] == ["4"], modifiers


def number_after(lines: list[str], word: str) -> int:
    found = re.search(rf"{word} (\d+)", "\n".join(lines))
    assert found is not None, lines
    return int(found[1])


async def test_context_search(store: MailStore) -> None:
    await fill(store, *[PLAIN] * 3)
    async with session_on(store) as client, session_on(store) as other:
        await select(client)
        await select(other)
        await client.script(r"""
            C: a UID SEARCH RETURN (UPDATE COUNT CONTEXT) UNSEEN
            S: * ESEARCH (TAG "a") UID COUNT 3
            S: a OK Search completed.
            C: b SEARCH RETURN (UPDATE) DELETED
            S: * ESEARCH (TAG "b")
            S: b OK Search completed.
            C: a SEARCH RETURN (UPDATE) DELETED
            S: a BAD Tag reuse
        """)
        await other.command(r"STORE 2 FLAGS (\Seen \Deleted)")
        await client.script(r"""
            C: c NOOP
            S: * 2 FETCH (UID 2 FLAGS (\Deleted \Seen \Recent))
            S: * ESEARCH (TAG "a") UID REMOVEFROM (0 2)
            S: * ESEARCH (TAG "b") ADDTO (0 2)
            S: c OK NOOP completed.
        """)
        await other.command("EXPUNGE")
        await fill(store, PLAIN)
        # A number is taken out before it becomes another message's, and given once it is known.
        await client.script(r"""
            C: d NOOP
            S: * ESEARCH (TAG "b") REMOVEFROM (0 2)
            S: * 2 EXPUNGE
            S: * 3 EXISTS
            S: * 3 RECENT
            S: * ESEARCH (TAG "a") UID ADDTO (0 4)
            S: d OK NOOP completed.
            C: e CANCELUPDATE "a" "b"
            S: e OK Updates cancelled.
            C: f CANCELUPDATE "a"
            S: f BAD Unknown tag
            C: g CANCELUPDATE
            S: g BAD Missing argument.
            C: h STORE 1 +FLAGS.SILENT (\Seen)
            S: h OK Store completed.
        """)


async def test_context_ends_with_the_mailbox(store: MailStore) -> None:
    await fill(store, PLAIN)
    async with session_on(store) as client:
        await select(client)
        await client.command("SEARCH RETURN (UPDATE) ALL", tag="u")
        await client.command("UNSELECT")
        await select(client)
        lines = await client.command(r"STORE 1 +FLAGS.SILENT (\Deleted)")
        assert lines == ["x OK Store completed."]
        lines = await client.command("EXPUNGE")
        assert not any("ESEARCH" in line for line in lines)
        assert (await client.command("UNSELECT"))[-1].startswith("x OK")
        assert (await client.command('CANCELUPDATE "u"'))[-1].startswith("x BAD")


async def test_context_in_idle(store: MailStore) -> None:
    await fill(store, PLAIN)
    async with session_on(store) as client:
        await select(client)
        await client.command("UID SEARCH RETURN (UPDATE COUNT) ALL", tag="u")
        client.send(b"i IDLE\r\n")
        assert await client.line() == "+ idling"
        await fill(store, PLAIN)
        lines = [await client.line() for _ in range(3)]
        assert lines[0] == "* 2 EXISTS"
        assert lines[2] == '* ESEARCH (TAG "u") UID ADDTO (0 2)'
        client.send(b"DONE\r\n")
        assert await client.line() == "i OK Idle completed."


async def test_context_sort(store: MailStore) -> None:
    await fill(store, subject("b"), subject("d"))
    async with session_on(store) as client:
        await select(client)
        await client.script("""
            C: a UID SORT RETURN (UPDATE ALL) (SUBJECT) UTF-8 UNDELETED
            S: * ESEARCH (TAG "a") UID ALL 1:2
            S: a OK Sort completed.
        """)
        await fill(store, subject("c"), subject("a"))
        await client.script(r"""
            C: b NOOP
            S: * 4 EXISTS
            S: * 4 RECENT
            S: * ESEARCH (TAG "a") UID ADDTO (1 4 3 3)
            S: b OK NOOP completed.
            C: c STORE 1:2 +FLAGS.SILENT (\Deleted)
            S: * ESEARCH (TAG "a") UID REMOVEFROM (4 2 2 1)
            S: c OK Store completed.
            C: d STORE 1 -FLAGS.SILENT (\Deleted)
            S: * ESEARCH (TAG "a") UID ADDTO (2 1)
            S: d OK Store completed.
            C: e STORE 4 +FLAGS.SILENT (\Deleted)
            S: * ESEARCH (TAG "a") UID REMOVEFROM (1 4)
            S: e OK Store completed.
        """)


async def test_context_with_qresync_and_uidonly(store: MailStore) -> None:
    await fill(store, *[PLAIN] * 3)
    async with session_on(store) as client:
        await client.command("ENABLE QRESYNC UIDONLY")
        await select(client)
        await client.command("UID SEARCH RETURN (UPDATE COUNT) ALL", tag="u")
        await client.command(r"UID STORE 1,3 +FLAGS.SILENT (\Deleted)")
        lines = await client.command("EXPUNGE")
        assert lines[:2] == ['* ESEARCH (TAG "u") UID REMOVEFROM (0 1,3)', "* VANISHED 1,3"]
        for command in ("SORT RETURN () (DATE) UTF-8 ALL", "SEARCH RETURN (PARTIAL 1:2) ALL"):
            assert (await client.command(command))[-1].startswith("x BAD [UIDREQUIRED] ")


async def test_esort_saves_by_the_sort_order(store: MailStore) -> None:
    await fill(store, subject("c"), subject("a"), subject("b"))
    async with session_on(store) as client:
        await select(client)
        await client.script("""
            C: a UID SORT RETURN (SAVE MIN MAX) (SUBJECT) UTF-8 ALL
            S: * ESEARCH (TAG "a") UID MIN 2 MAX 1
            S: a OK Sort completed.
            C: b UID FETCH $ UID
            S: * 1 FETCH (UID 1)
            S: * 2 FETCH (UID 2)
            S: b OK Fetch completed.
        """)


async def test_context_refused(store: MailStore) -> None:
    await fill(store, PLAIN)
    async with session_on(store) as client:
        await select(client)
        for number, keys in enumerate(("1:*", "YOUNGER 60", "NOT $")):
            lines = await client.command(f"SEARCH RETURN (UPDATE COUNT) {keys}", tag=f"r{number}")
            assert lines[0].startswith(f'* NO [NOUPDATE "r{number}"] ')
            assert lines[1].startswith(f'* ESEARCH (TAG "r{number}") COUNT ')
            assert lines[2].startswith(f"r{number} OK")
        for number in range(17):
            lines = await client.command("SEARCH RETURN (UPDATE COUNT) ALL", tag=f"t{number}")
        assert lines[0] == '* NO [NOUPDATE "t16"] Too many contexts'


COMMANDS = (
    "UID SORT RETURN () (REVERSE ARRIVAL) UTF-8 ALL",
    "SORT RETURN (MIN MAX COUNT) (REVERSE ARRIVAL) UTF-8 ALL",
    "SORT RETURN () (ARRIVAL) UTF-8 ANSWERED",
    "SEARCH RETURN (PARTIAL 1:2) ALL",
    "SEARCH RETURN (PARTIAL 9:5) ALL",
    "SEARCH RETURN (PARTIAL 1:2 ALL) ALL",
    "SEARCH RETURN (CONTEXT) UNSEEN",
    "UID SEARCH RETURN (UPDATE COUNT) UNSEEN",
    r"STORE 2 +FLAGS.SILENT (\Seen)",
    r"STORE 2 -FLAGS.SILENT (\Seen)",
    r"STORE 1,3 +FLAGS.SILENT (\Deleted)",
    "EXPUNGE",
)


@pytest.mark.needs(str(IMAP))
async def test_results_are_dovecots() -> None:
    async with pair([subject(name).replace(b"\r\n", b"\n") for name in "abcd"]) as found:
        for number, command in enumerate(COMMANDS):
            theirs, ours = await found.both(command)
            shown = [line.replace(b'"x"', b'"%b"' % _tag(theirs, number)) for line in ours]
            assert shown == theirs, command


def _tag(lines: list[bytes], number: int) -> bytes:
    """Dovecot's tag in these lines."""
    for line in lines:
        if b'(TAG "' in line:
            return line.split(b'"')[1]
    return b"t%d" % number
