"""Each command's answers, on both stores."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from imap_dialog import session_on
from imap_fake import FakeStore
from test_imap_dialog import PLAIN, fill

from resel_lda.imap.names import Names
from resel_lda.mailbox import MailStore

NESTED = (
    b"From: a@x.org\r\nSubject: outer\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
    b"--b\r\nContent-Type: text/plain\r\n\r\nfirst\r\n"
    b"--b\r\nContent-Type: message/rfc822\r\n\r\n"
    b"From: b@x.org\r\nSubject: inner\r\nContent-Type: multipart/alternative; boundary=c\r\n\r\n"
    b"--c\r\n\r\nplain\r\n--c\r\nContent-Type: text/html\r\n\r\n<p>html</p>\r\n--c--\r\n"
    b"--b--\r\n"
)


async def test_folders(store: MailStore) -> None:
    async with session_on(store, Names("", ".")) as client:
        await client.script(r"""
            C: a CREATE Lists.&AOk-t&AOk-
            S: a OK [MAILBOXID (...
            C: b CREATE Lists.&AOk-t&AOk-
            S: b NO [ALREADYEXISTS] ...
            C: c LIST "" Lists.%
            S: * LIST (\HasNoChildren) "." Lists.&AOk-t&AOk-
            S: c OK List completed.
            C: d LIST "" ""
            S: * LIST (\Noselect) "." ""
            S: d OK List completed.
            C: e SUBSCRIBE Lists.&AOk-t&AOk-
            S: e OK Subscribe completed.
            C: f LSUB "" %
            S: * LSUB (\Noselect) "." Lists
            S: f OK Lsub completed.
            C: g LSUB "" *
            S: * LSUB () "." Lists.&AOk-t&AOk-
            S: g OK Lsub completed.
            C: h RENAME Lists.&AOk-t&AOk- Other
            S: h OK Rename completed.
            C: i STATUS Other (MESSAGES UNSEEN SIZE)
            S: * STATUS Other (MESSAGES 0 UNSEEN 0 SIZE 0)
            S: i OK Status completed.
            C: j LIST (SUBSCRIBED) "" (INBOX *) RETURN (CHILDREN)
            S: * LIST (\NonExistent \Subscribed) "." Lists.&AOk-t&AOk-
            S: j OK List completed.
            C: k UNSUBSCRIBE Lists.&AOk-t&AOk-
            S: k OK Unsubscribe completed.
            C: l DELETE Other
            S: l OK Delete completed.
            C: m SELECT Other
            S: m NO [NONEXISTENT] ...
            C: n DELETE inbox
            S: n NO [CANNOT] ...
            C: o CREATE "a&b"
            S: o NO [CANNOT] ...
            C: p LIST "" iNbOx RETURN (STATUS (MESSAGES))
            S: * LIST (\HasNoChildren) "." INBOX
            S: * STATUS INBOX (MESSAGES 0)
            S: p OK List completed.
            C: q NAMESPACE
            S: * NAMESPACE (("" ".")) NIL NIL
            S: q OK Namespace completed.
        """)


async def test_namespace_prefix(store: MailStore) -> None:
    await store.create("Work")
    async with session_on(store, Names("INBOX.", ".")) as client:
        await client.script(r"""
            C: a LIST "" *
            S: * LIST (...
            S: * LIST (\HasNoChildren) "." INBOX.Work
            S: a OK List completed.
            C: b STATUS INBOX.Work (MESSAGES)
            S: * STATUS INBOX.Work (MESSAGES 0)
            S: b OK Status completed.
            C: c SELECT Work
            S: c NO [NONEXISTENT] ...
        """)


async def test_append_with_literals(store: MailStore) -> None:
    async with session_on(store) as client:
        await client.script(r"""
            C: a APPEND {5}
            S: + OK
            C: INBOX (\Seen) "17-Jul-1996 02:44:25 +0000" {14}
            S: + OK
            C: Subject: x
            C:
            C:
        """)
        assert (await client.line()).startswith("a OK [APPENDUID ")
        await client.script(r"""
            C: b APPEND INBOX {14+}
            C: Subject: y
            C:
            C:
        """)
        assert (await client.line()).endswith(" 2] Append completed.")
        await client.script(r"""
            C: c APPEND Nowhere {14}
            S: c NO [TRYCREATE] ...
            C: d APPEND Nowhere {14+}
            C: Subject: y
            C:
            C:
            S: d NO [TRYCREATE] ...
            C: e NOOP
            S: e OK NOOP completed.
            C: f APPEND INBOX
            S: f BAD ...
            C: g APPEND INBOX (\Bogus) {14}
            S: g BAD ...
            C: h APPEND INBOX {9999999999}
            S: h NO [TOOBIG] ...
            C: i APPEND INBOX {14}
            S: + OK
            C: Subject: z
            C:
            C: (\Seen) {3}
        """)
        assert (await client.line()).startswith("i BAD ")
        lines = await client.command("SELECT INBOX")
        assert "* 2 EXISTS" in lines
        lines = await client.command("FETCH 1 (FLAGS INTERNALDATE)")
        assert '"17-Jul-1996 ' in lines[0]
        assert lines[0].startswith(r"* 1 FETCH (FLAGS (\Seen \Recent)")


async def test_append_refused_by_the_store_reads_the_message_out(fake: FakeStore) -> None:
    fake.full = True
    async with session_on(fake) as client:
        await client.script(r"""
            C: a APPEND INBOX {14}
            S: + OK
            C: Subject: x
            C:
            C:
            S: a NO [OVERQUOTA] ...
            C: b NOOP
            S: b OK NOOP completed.
        """)


async def test_sections(store: MailStore) -> None:
    await fill(store, NESTED)
    async with session_on(store) as client:
        await client.command("SELECT INBOX")

        async def section(spec: str) -> str:
            client.send(f"a FETCH 1 BODY.PEEK[{spec}]\r\n".encode())
            first = await client.line()
            if first.endswith(" NIL)"):
                assert (await client.line()).startswith("a OK")
                return "NIL"
            size = int(first.rpartition("{")[2].rstrip("}"))
            octets = await client.reader.readexactly(size)
            assert await client.line() == ")"
            assert (await client.line()).startswith("a OK")
            return octets.decode()

        assert await section("") == NESTED.decode()
        assert await section("1") == "first"
        assert await section("1.MIME") == "Content-Type: text/plain\r\n\r\n"
        assert (await section("2.HEADER")).startswith("From: b@x.org\r\nSubject: inner\r\n")
        assert await section("2.HEADER.FIELDS (Subject)") == "Subject: inner\r\n\r\n"
        assert "From" not in await section("HEADER.FIELDS.NOT (From Subject)")
        assert await section("2.1") == "plain"
        assert await section("2.2") == "<p>html</p>"
        assert await section("2.2.MIME") == "Content-Type: text/html\r\n\r\n"
        assert (await section("2.TEXT")).startswith("--c\r\n")
        assert (await section("TEXT")).startswith("--b\r\n")
        assert await section("3") == "NIL"
        assert await section("1<2.2>".replace("<2.2>", "")) == "first"
        lines = await client.command("FETCH 1 BODY.PEEK[1]<3.100>")
        assert lines[0] == "* 1 FETCH (BODY[1]<3> {2}"
        assert lines[1] == "st)"
        for bad in ("MIME", "1.", ".1", "1.HEADER.FIELDS", "HEADER.FIELDS ()", "X", "0"):
            assert (await client.command(f"FETCH 1 BODY[{bad}]"))[-1].startswith("x BAD"), bad


async def test_envelope_and_macros(store: MailStore) -> None:
    await fill(store, PLAIN)
    async with session_on(store) as client:
        await client.command("EXAMINE INBOX")
        lines = await client.command("FETCH 1 ENVELOPE")
        assert lines[0] == (
            '* 1 FETCH (ENVELOPE ("Mon, 7 Feb 1994 21:52:25 -0800" "Hello" '
            '(("Ada" NIL "ada" "example.org")) (("Ada" NIL "ada" "example.org")) '
            '(("Ada" NIL "ada" "example.org")) ((NIL NIL "bob" "example.org")) NIL NIL NIL '
            '"<1@example.org>"))'
        )
        lines = await client.command("FETCH 1 FULL")
        for word in ("FLAGS (", "INTERNALDATE ", "RFC822.SIZE 146", "ENVELOPE (", "BODY ("):
            assert word in lines[0]
        lines = await client.command("FETCH 1 (RFC822.HEADER RFC822.TEXT RFC822)")
        assert sum(line.startswith("Subject: Hello") for line in lines) == 2
        # EXAMINE: nothing was marked as seen.
        assert (await client.command("FETCH 1 FLAGS"))[0] == r"* 1 FETCH (FLAGS (\Recent))"
        assert (await client.command("STORE 1 +FLAGS (\\Seen)"))[-1].startswith("x NO [READ-ONLY]")


SEARCHES = [
    ("ALL", "1 2 3"),
    ("2:*", "2 3"),
    ("UID 1,3", "1 3"),
    ("UNSEEN", "1 3"),
    ("SEEN", "2"),
    ("NOT SEEN", "1 3"),
    ("OR SEEN 3", "2 3"),
    ("(UNSEEN 3)", "3"),
    ("KEYWORD $Junk", "2"),
    ("UNKEYWORD $junk", "1 3"),
    ("SUBJECT hello", "1"),
    ('SUBJECT ""', "1 2 3"),
    ('HEADER Message-ID ""', "1"),
    ('NOT HEADER Message-ID ""', "2 3"),
    ("FROM ada@", "1"),
    ("TO bob", "1"),
    ("CHARSET UTF-8 SUBJECT {6+}\r\nCAF\u00c9S", "3"),
    ("BODY inner", "2"),
    ("BODY outer", ""),
    ("TEXT outer", "2"),
    ("BODY html", "2"),
    ('BODY "na\u00efve text"', "3"),
    ("SENTON 7-Feb-1994", "1"),
    ("SENTSINCE 8-Feb-1994", ""),
    ("SENTBEFORE 8-Feb-1994", "1"),
    ("ON 8-Feb-1994", "1 2 3"),
    ("BEFORE 8-Feb-1994", ""),
    ("SINCE 1-Jan-1990", "1 2 3"),
    ("LARGER 300", "2"),
    ("SMALLER 300", "1 3"),
    ("RECENT", "1 2 3"),
    ("NEW", "1 3"),
    ("OLD", ""),
    ("DELETED", ""),
    ("LARGER 300 TEXT outer", "2"),
    ("NOT TEXT outer NOT SUBJECT hello", "3"),
]

ENCODED = (
    b"Subject: =?iso-8859-1?q?Caf=E9s?=\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Transfer-Encoding: quoted-printable\r\n\r\nNa=C3=AFve te=\r\nxt\r\n"
)


async def test_search(store: MailStore) -> None:
    await fill(store, PLAIN, NESTED, ENCODED)
    async with session_on(store) as client:
        await client.command("SELECT INBOX")
        await client.command("STORE 2 +FLAGS.SILENT (\\Seen $Junk)")
        for query, expected in SEARCHES:
            lines = await client.command(f"SEARCH {query}")
            assert lines[-1] == "x OK Search completed.", (query, lines)
            assert lines[-2] == f"* SEARCH {expected}".rstrip(), query
        assert (await client.command("UID SEARCH RETURN (MIN MAX COUNT ALL) ALL"))[0] == (
            '* ESEARCH (TAG "x") UID MIN 1 MAX 3 ALL 1:3 COUNT 3'
        )
        assert (await client.command("SEARCH RETURN () SEEN"))[0] == '* ESEARCH (TAG "x") ALL 2'
        assert (await client.command("SEARCH RETURN (COUNT) DELETED"))[0] == (
            '* ESEARCH (TAG "x") COUNT 0'
        )
        assert (await client.command("SEARCH CHARSET KOI8-R ALL"))[0] == (
            "x NO [BADCHARSET (US-ASCII UTF-8)] Unknown charset"
        )
        deep = "(" * 200 + "ALL" + ")" * 200
        for bad in ("", "FOO", "OR ALL", "NOT", "9", "SUBJECT", deep, "ON 1-1-2000", "(ALL"):
            assert (await client.command(f"SEARCH {bad}"))[-1].startswith("x BAD"), bad


async def test_search_by_flags_knows_what_the_session_knows(store: MailStore) -> None:
    await fill(store, *[PLAIN] * 40)
    async with session_on(store) as one, session_on(store) as two:
        await one.command("SELECT INBOX")
        await one.command("STORE 1:39 +FLAGS.SILENT (\\Seen)")
        await one.command("STORE 5 +FLAGS.SILENT (\\Flagged \\Deleted)")
        await two.command("SELECT INBOX")
        await one.command("EXPUNGE")
        await fill(store, PLAIN)
        await one.command("NOOP")
        # The numbers of many, and of few, stay as they are; what is new is not known yet.
        seen = " ".join(str(number) for number in (*range(1, 5), *range(6, 40)))
        assert f"* SEARCH {seen}" in await two.command("SEARCH SEEN")
        assert "* SEARCH" in await two.command("SEARCH FLAGGED")
        lines = await two.command("SEARCH UNSEEN UNFLAGGED")
        assert "* SEARCH 40" in lines or "* SEARCH 40 41" in lines
        await two.command("NOOP")
        assert "* SEARCH 39 40" in await two.command("SEARCH UNSEEN")
        assert "* SEARCH 40 41" in await two.command("UID SEARCH UNSEEN")
        assert "* SEARCH" in await two.command("SEARCH FLAGGED")


async def test_copy_and_move(store: MailStore) -> None:
    await fill(store, PLAIN, NESTED, PLAIN)
    await store.create("Keep")
    validity = (await store.status("Keep")).uidvalidity
    async with session_on(store) as client:
        await client.command("SELECT INBOX")
        await client.script(rf"""
            C: a COPY 1,3 Keep
            S: a OK [COPYUID {validity} 1,3 1:2] Copy completed.
            C: b COPY 1 Nowhere
            S: b NO [TRYCREATE] ...
            C: c UID MOVE 2 Keep
            S: * OK [COPYUID {validity} 2 3] Moved UIDs.
            S: * 2 EXPUNGE
            S: * 2 RECENT
            S: c OK Move completed.
            C: d UID COPY 77 Keep
            S: d OK No messages found.
            C: e STORE 1:* +FLAGS.SILENT (\Deleted)
            S: e OK Store completed.
            C: f UID EXPUNGE 3:10
            S: * 2 EXPUNGE
            S: * 1 RECENT
            S: f OK Expunge completed.
            C: g CLOSE
            S: g OK Close completed.
            C: h STATUS INBOX (MESSAGES)
            S: * STATUS INBOX (MESSAGES 0)
            S: h OK Status completed.
        """)


async def test_two_sessions_keep_their_numbers(store: MailStore) -> None:
    await fill(store, PLAIN, PLAIN, PLAIN)
    async with session_on(store) as one, session_on(store) as two:
        await one.command("SELECT INBOX")
        await two.command("SELECT INBOX")
        await one.command("STORE 1 +FLAGS (\\Deleted)")
        await one.command("EXPUNGE")
        # Without an EXPUNGE number 3 is still UID 3.
        lines = await two.command("FETCH 3 UID")
        assert "* 3 FETCH (UID 3)" in lines
        assert not any("EXPUNGE" in line for line in lines)
        lines = await two.command("FETCH 1 FLAGS")
        assert lines[-1].startswith("x OK [EXPUNGEISSUED]")
        assert "* 1 EXPUNGE" in await two.command("NOOP")
        assert "* 2 FETCH (UID 3)" in await two.command("FETCH 2 UID")
        await one.command("STORE 1 +FLAGS.SILENT ($Label)")
        lines = await two.command("NOOP")
        assert lines[0].startswith("* FLAGS (")
        assert "$Label" in lines[0]
        assert any(line.startswith("* 1 FETCH (UID 2 FLAGS (") for line in lines)
        # The one that changed it silently is not told.
        assert await one.command("NOOP") == ["x OK NOOP completed."]


async def test_recent_is_claimed_once(store: MailStore) -> None:
    await fill(store, PLAIN)
    async with session_on(store) as one, session_on(store) as two:
        assert "* 1 RECENT" in await one.command("EXAMINE INBOX")
        assert "* 1 RECENT" in await one.command("SELECT INBOX")
        assert "* 0 RECENT" in await two.command("SELECT INBOX")
        assert (await two.command("FETCH 1 FLAGS"))[0] == "* 1 FETCH (FLAGS ())"
        await fill(store, PLAIN)
        assert "* 2 RECENT" in await one.command("NOOP")
        lines = await two.command("NOOP")
        assert "* 2 EXISTS" in lines
        assert "* 0 RECENT" in lines


async def test_idle(store: MailStore) -> None:
    await fill(store, PLAIN)
    async with session_on(store) as client, session_on(store) as other:
        await client.command("SELECT INBOX")
        await other.command("SELECT INBOX")
        client.send(b"i IDLE\r\n")
        assert await client.line() == "+ idling"
        await fill(store, PLAIN)
        assert await client.line() == "* 2 EXISTS"
        assert await client.line() == "* 2 RECENT"
        await other.command("STORE 1 FLAGS (\\Deleted)")
        assert await client.line() == r"* 1 FETCH (UID 1 FLAGS (\Deleted \Recent))"
        await other.command("EXPUNGE")
        assert await client.line() == "* 1 EXPUNGE"
        assert await client.line() == "* 1 RECENT"
        await client.script("""
            C: DONE
            S: i OK Idle completed.
            C: j IDLE
            S: + idling
            C: k NOOP
            S: j BAD Expected DONE.
            C: l NOOP
            S: l OK NOOP completed.
        """)


async def test_states_and_odd_commands(store: MailStore) -> None:
    async with session_on(store) as client:
        await client.script(r"""
            C: a FETCH 1 FLAGS
            S: a BAD [CLIENTBUG] No mailbox selected.
            C: b CLOSE
            S: b BAD [CLIENTBUG] No mailbox selected.
            C: c ID ("name" "test" "version" NIL)
            S: * ID ("name" "resel-mta")
            S: c OK ID completed.
            C: d ENABLE CONDSTORE X-FOO
            S: * ENABLED CONDSTORE
            S: d OK Enabled.
            C: e LOGIN a b
            S: e BAD ...
            C: f SELECT INBOX
            S: * FLAGS (...
            S: * OK [PERMANENTFLAGS ...
            S: * 0 EXISTS
            S: * 0 RECENT
            S: * OK [UIDVALIDITY ...
            S: * OK [UIDNEXT 1] Predicted next UID
            S: * OK [HIGHESTMODSEQ ...
            S: * OK [MAILBOXID (...
            S: f OK [READ-WRITE] Select completed.
            C: g FETCH 1 FLAGS
            S: g BAD Invalid messageset
            C: h UID FETCH 1:* FLAGS
            S: h OK Fetch completed.
            C: i SELECT Nowhere
            S: * OK [CLOSED] Previous mailbox closed.
            S: i NO [NONEXISTENT] ...
            C: j UNSELECT
            S: j BAD [CLIENTBUG] No mailbox selected.
            C: k CAPABILITY
            S: * CAPABILITY IMAP4rev1 ...
            S: k OK Capability completed.
            C: l LOGOUT
            S: * BYE Logging out
            S: l OK Logout completed.
        """)
        assert client.result is not None
        assert await client.result == "Logged out"


async def test_pipelined_commands_are_answered_in_order(store: MailStore) -> None:
    async with session_on(store) as client:
        client.send(
            b"a NOOP\r\nb STATUS INBOX (MESSAGES)\r\nc NOOP\r\nd APPEND INBOX {1+}\r\nx\r\ne NOOP\r\n"
        )
        got = [await client.line() for _ in range(6)]
        tags = [line.split()[0] for line in got]
        assert tags == ["a", "*", "b", "c", "d", "e"]


async def test_no_session_holds_a_folder_after_its_end(fake: FakeStore) -> None:
    await fake.create("Box")
    async with session_on(fake) as client:
        await client.command("SELECT INBOX")
        await client.command("SELECT Box")
        await client.command("APPEND Box {1+}\r\nx")
        await client.command("STATUS INBOX (MESSAGES)")
    assert all(box.held == 0 for box in fake.boxes.values())
    assert all(box.watchers == [] for box in fake.boxes.values())


@pytest.mark.parametrize("stop", ["idle", "waiting"])
async def test_stopping(fake: FakeStore, stop: str) -> None:
    async with session_on(fake) as client:
        if stop == "idle":
            client.send(b"i IDLE\r\n")
            assert await client.line() == "+ idling"
        else:
            await client.command("NOOP")
        assert client.server is not None
        client.server.stop()
        assert await client.line() == "* BYE Server shutting down."
        assert await client.line() == ""


async def test_inactivity(fake: FakeStore) -> None:
    async with session_on(fake, inactivity=0.05) as client:
        assert await client.line() == "* BYE Disconnected for inactivity."


async def test_inactivity_counts_from_the_last_command(fake: FakeStore) -> None:
    now = asyncio.get_running_loop().time
    async with session_on(fake, inactivity=2.0) as client:
        began = now()
        while now() - began < 0.2:
            assert await client.command("NOOP") == ["x OK NOOP completed."]
        assert await client.line() == "* BYE Disconnected for inactivity."
        assert now() - began > 2.15


async def test_a_bug_is_answered_and_logged(fake: FakeStore) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("secret")

    hook: Callable[..., None] = broken
    fake.folders = hook  # type: ignore[method-assign,assignment]
    async with session_on(fake) as client:
        lines = await client.command('LIST "" *')
        assert lines == ["x NO [SERVERBUG] Internal error occurred."]
        assert "LIST failed: ZeroDivisionError" in client.reports[0]
        assert await client.command("NOOP") == ["x OK NOOP completed."]


async def test_a_long_search_leaves_others_alone(fake: FakeStore) -> None:
    box = fake.boxes["INBOX"]
    text = b"Subject: x\r\n\r\n" + b"some words of text that are looked through\r\n" * 2000
    for _ in range(300):
        box.add(text)
    async with session_on(fake) as one, session_on(fake) as two:
        await one.command("SELECT INBOX")
        one.send(b"a SEARCH BODY nowhere\r\n")
        answered = asyncio.create_task(one.line())
        worst = 0.0
        rounds = 0
        loop = asyncio.get_running_loop()
        while not answered.done():
            began = loop.time()
            await two.command("NOOP")
            worst = max(worst, loop.time() - began)
            rounds += 1
        assert await answered == "* SEARCH"
        assert rounds > 5
        assert worst < 0.5


async def test_create_with_a_special_use(store: MailStore) -> None:
    async with session_on(store) as client:
        await client.script(r"""
            C: a CREATE Outgoing (USE (\sent))
            S: a OK [MAILBOXID (...
            C: b CREATE Some (USE (\All))
            S: b NO [USEATTR] ...
            C: c CREATE Some (USE (\Sent \Trash))
            S: c NO [USEATTR] ...
            C: d CREATE Some (FOO)
            S: d BAD ...
        """)
        if not isinstance(store, FakeStore):
            lines = await client.command('LIST (SPECIAL-USE) "" *')
            assert lines[0] == r'* LIST (\HasNoChildren \Sent) "/" Outgoing'


async def test_a_selected_folder_that_is_deleted_ends_the_session(
    store: MailStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resel_lda.imap.session._LOOK_INTERVAL", 0.0)
    await store.create("Box")
    async with session_on(store) as client, session_on(store) as other:
        await client.command("SELECT Box")
        await other.command("DELETE Box")
        client.send(b"a NOOP\r\n")
        if isinstance(store, FakeStore):
            # In memory the folder lives as long as somebody holds it.
            assert await client.line() == "a OK NOOP completed."
        else:
            assert await client.line() == (
                "* BYE Selected mailbox was deleted, have to disconnect."
            )
