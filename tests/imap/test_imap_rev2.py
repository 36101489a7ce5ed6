"""IMAP4rev2 (RFC 9051) beside IMAP4rev1, on both stores."""

from __future__ import annotations

from pathlib import Path

from imap_dialog import session_on
from test_imap_dialog import PLAIN, fill

from resel_lda.imap.names import Names
from resel_lda.mailbox import MailStore
from resel_lda.maildir.store import MaildirStore
from resel_mta.config import Settings
from resel_mta.disk import Disk
from resel_mta.maillog import MailLog, StreamSink
from resel_mta.users import User

ENABLE = """
    C: e ENABLE IMAP4rev2
    S: * ENABLED IMAP4rev2
    S: e OK Enabled.
"""


async def test_rev2_is_announced_and_rev1_stays_until_it_is_enabled(store: MailStore) -> None:
    await fill(store, PLAIN)
    async with session_on(store) as client:
        lines = await client.command("CAPABILITY")
        assert {"IMAP4rev1", "IMAP4rev2", "LITERAL+"} <= set(lines[0].split())
        lines = await client.command("SELECT INBOX")
        assert "* 1 RECENT" in lines
        assert "* OK [UNSEEN 1] First unseen." in lines
        assert not any(line.startswith("* LIST") for line in lines)
        await client.script("""
            C: a SEARCH ALL
            S: * SEARCH 1
            S: a OK Search completed.
        """)


async def test_rev2_select(store: MailStore) -> None:
    await fill(store, PLAIN, PLAIN)
    async with session_on(store) as client:
        await client.script(ENABLE)
        lines = await client.command("SELECT INBOX")
        assert r'* LIST (\HasNoChildren) "/" INBOX' in lines
        assert "* 2 EXISTS" in lines
        assert not any("RECENT" in line or "UNSEEN" in line for line in lines)
        lines = await client.command("EXAMINE inbox")
        assert lines[0] == "* OK [CLOSED] Previous mailbox closed."
        assert r'* LIST (\HasNoChildren) "/" INBOX ("OLDNAME" (inbox))' in lines
        assert lines[-1] == "x OK [READ-ONLY] Examine completed."


async def test_rev2_has_no_recent(store: MailStore) -> None:
    await fill(store, PLAIN)
    async with session_on(store) as client:
        await client.script(ENABLE)
        await client.command("SELECT INBOX")
        await fill(store, PLAIN)
        await client.script(r"""
            C: a NOOP
            S: * 2 EXISTS
            S: a OK NOOP completed.
            C: b FETCH 1:2 FLAGS
            S: * 1 FETCH (FLAGS ())
            S: * 2 FETCH (FLAGS ())
            S: b OK Fetch completed.
            C: c STORE 1 +FLAGS (\Deleted)
            S: * 1 FETCH (UID 1 FLAGS (\Deleted))
            S: c OK Store completed.
            C: d EXPUNGE
            S: * 1 EXPUNGE
            S: d OK Expunge completed.
        """)
    async with session_on(store) as client:
        # Nor is anything left to be recent for the next.
        assert "* 0 RECENT" in await client.command("SELECT INBOX")


async def test_rev2_enabled_in_a_selected_mailbox(store: MailStore) -> None:
    await fill(store, PLAIN)
    async with session_on(store) as client:
        await client.command("SELECT INBOX")
        # Pipelined: what follows ENABLE is already answered by the new rules.
        client.send(b"a FETCH 1 FLAGS\r\nb ENABLE IMAP4rev2\r\nc FETCH 1 FLAGS\r\nd SEARCH ALL\r\n")
        await client.script(r"""
            S: * 1 FETCH (FLAGS (\Recent))
            S: a OK Fetch completed.
            S: * ENABLED IMAP4rev2
            S: b OK Enabled.
            S: * 1 FETCH (FLAGS ())
            S: c OK Fetch completed.
            S: * ESEARCH (TAG "d") ALL 1
            S: d OK Search completed.
        """)


async def test_rev2_search(store: MailStore) -> None:
    await fill(store, PLAIN, PLAIN, PLAIN)
    async with session_on(store) as client:
        await client.script(ENABLE)
        await client.command("SELECT INBOX")
        await client.script(r"""
            C: a SEARCH UNSEEN
            S: * ESEARCH (TAG "a") ALL 1:3
            S: a OK Search completed.
            C: b UID SEARCH 2:3
            S: * ESEARCH (TAG "b") UID ALL 2:3
            S: b OK Search completed.
            C: c SEARCH SEEN
            S: * ESEARCH (TAG "c")
            S: c OK Search completed.
            C: d SEARCH RETURN (SAVE) 2
            S: d OK Search completed.
            C: e FETCH $ UID
            S: * 2 FETCH (UID 2)
            S: e OK Fetch completed.
            C: f SEARCH RETURN (MIN COUNT) ALL
            S: * ESEARCH (TAG "f") MIN 1 COUNT 3
            S: f OK Search completed.
        """)


async def test_rev2_names_are_utf8(store: MailStore) -> None:
    async with session_on(store, Names("", ".")) as client:
        await client.script("C: a CREATE &AOk-t&AOk-\nS: a OK ...")
        await client.script(ENABLE)
        lines = [
            line.encode("latin-1").decode()
            for line in await client.command('LIST "" ("é*" "x") RETURN (STATUS (MESSAGES))')
        ]
        assert lines[:-1] == [
            '* LIST (\\HasNoChildren) "." "été"',
            '* STATUS "été" (MESSAGES 0)',
        ]
        lines = await client.command('SELECT "été"')
        assert '* LIST (\\HasNoChildren) "." "été"' in [
            line.encode("latin-1").decode() for line in lines
        ]
        assert (await client.command('CREATE "été"'))[-1].encode("latin-1").decode() == (
            "x NO [ALREADYEXISTS] Mailbox already exists: été"
        )
        # The ampersand is a letter like others.
        await client.script("""
            C: b CREATE "Black & White"
            S: b OK ...
            C: c LIST "" B*
            S: * LIST (\\HasNoChildren) "." "Black & White"
            S: c OK List completed.
            C: d SELECT &AOk-t&AOk-
            S: * OK [CLOSED] Previous mailbox closed.
            S: d NO [NONEXISTENT] ...
        """)
        client.send(b'f CREATE "\xff\xfe"\r\n')
        assert await client.line() == "f NO [CANNOT] Mailbox name is not valid UTF-8"
        client.send("g CREATE {6+}\r\nñ/ñ/\r\n".encode())
        assert (await client.line()).startswith("g NO [CANNOT]")
    async with session_on(store, Names("", ".")) as client:
        # Who did not ask for UTF-8 gets none in texts either.
        await client.script("""
            C: a CREATE &AOk-t&AOk-
            S: a NO [ALREADYEXISTS] Mailbox already exists: &AOk-t&AOk-
            C: b SELECT x.&AOk-
            S: b NO [NONEXISTENT] Mailbox doesn't exist: x.&AOk-
            C: c RENAME INBOX &AOk-t&AOk-
            S: c NO [ALREADYEXISTS] Mailbox already exists: &AOk-t&AOk-
        """)
        lines = await client.command('LIST "" B*')
        assert lines[0] == '* LIST (\\HasNoChildren) "." "Black &- White"'


async def test_rev2_tells_a_name_that_is_another(store: MailStore) -> None:
    async with session_on(store) as client:
        await client.script(ENABLE)
        decomposed = "e\u0301te\u0301"
        lines = await client.command(f'CREATE "{decomposed}"')
        assert lines[0].encode("latin-1").decode() == (
            f'* LIST (\\HasNoChildren) "/" "été" ("OLDNAME" ("{decomposed}"))'
        )
        lines = await client.command(f'SELECT "{decomposed}"')
        assert f'* LIST (\\HasNoChildren) "/" "été" ("OLDNAME" ("{decomposed}"))' in [
            line.encode("latin-1").decode() for line in lines
        ]
        await client.script("""
            C: a CREATE Old
            S: a OK ...
            C: b RENAME Old New
            S: * LIST (\\HasNoChildren) "/" New ("OLDNAME" (Old))
            S: b OK Rename completed.
            C: c SUBSCRIBE Gone
            S: c OK Subscribe completed.
            C: d LIST (SUBSCRIBED) "" *
            S: * LIST (\\NonExistent \\Subscribed) "/" Gone
            S: d OK List completed.
        """)


async def test_rev2_status_and_namespace(store: MailStore) -> None:
    await fill(store, PLAIN)
    async with session_on(store, Names("é.", ".")) as client:
        await client.script(ENABLE)
        lines = await client.command("NAMESPACE")
        assert lines[0].encode("latin-1").decode() == '* NAMESPACE (("é." ".")) NIL NIL'
        lines = await client.command("STATUS INBOX (MESSAGES UNSEEN DELETED SIZE)")
        assert lines[0] == f"* STATUS INBOX (MESSAGES 1 UNSEEN 1 DELETED 0 SIZE {len(PLAIN)})"
        lines = await client.command("EXAMINE INBOX")
        lines = await client.command("FETCH 1 BODY.PEEK[TEXT]<0.9223372036854775807>")
        assert lines[0] == "* 1 FETCH (BODY[TEXT]<0> {11}"
        lines = await client.command("FETCH 1 BODY.PEEK[TEXT]<0.9223372036854775808>")
        assert lines[-1].startswith("x BAD")


GLOBAL = (
    b"From: a@x\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
    b"--b\r\nContent-Type: message/global\r\n\r\nSubject: in\r\n\r\nhello\r\n--b--\r\n"
)


async def test_rev2_message_global_is_a_message(store: MailStore) -> None:
    await fill(store, GLOBAL)
    async with session_on(store) as client:
        await client.command("EXAMINE INBOX")
        old = '* 1 FETCH (BODY (("message" "global" NIL NIL NIL "7bit" 20) "mixed"))'
        assert (await client.command("FETCH 1 BODY"))[0] == old
        await client.script(ENABLE)
        new = (
            '(("message" "global" NIL NIL NIL "7bit" 20 '
            '(NIL "in" NIL NIL NIL NIL NIL NIL NIL NIL) '
            '("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 5 0) 2) "mixed")'
        )
        assert (await client.command("FETCH 1 BODY"))[0] == f"* 1 FETCH (BODY {new})"
        lines = await client.command("FETCH 1 (BODY BODY.PEEK[1.1])")
        assert lines[0] == f"* 1 FETCH (BODY {new} BODY[1.1] {{5}}"
        lines = await client.command("FETCH 1 BODY.PEEK[1.HEADER]")
        assert lines[:2] == ["* 1 FETCH (BODY[1.HEADER] {15}", "Subject: in"]


async def test_list_of_folders_whose_parents_are_missing(tmp_path: Path) -> None:
    """RFC 5258 §4: a parent that matches is told for what is below it and is not told itself."""
    settings = Settings.build("server", mail_location=f"maildir:{tmp_path}/mail/%u")
    kept = MaildirStore(User("lcarr", home=str(tmp_path)), settings, Disk(), MailLog(StreamSink(2)))
    for name in ("A/B/C", "Lists/Sent", "Top"):
        await kept.create(name)
    await kept.create("Lists/Mine", "\\Drafts")
    for name in ("A/B/C", "Top"):
        await kept.subscribe(name)
    async with session_on(kept) as client:
        await client.script(r"""
            C: a LIST "" A%
            S: * LIST (\HasChildren \Noselect) "/" A
            S: a OK List completed.
            C: b LIST () "" A*
            S: * LIST (\HasChildren \NonExistent) "/" A
            S: * LIST (\HasChildren \NonExistent) "/" A/B
            S: * LIST (\HasNoChildren) "/" A/B/C
            S: b OK List completed.
            C: c LIST (SUBSCRIBED RECURSIVEMATCH) "" %
            S: * LIST (\HasChildren \NonExistent) "/" A ("CHILDINFO" ("SUBSCRIBED"))
            S: * LIST (\HasNoChildren \Subscribed) "/" Top
            S: c OK List completed.
            C: d LIST (SUBSCRIBED RECURSIVEMATCH) "" *
            S: * LIST (\HasNoChildren \Subscribed) "/" A/B/C
            S: * LIST (\HasNoChildren \Subscribed) "/" Top
            S: d OK List completed.
            C: e LIST (SPECIAL-USE RECURSIVEMATCH) "" L%
            S: * LIST (\HasChildren \NonExistent) "/" Lists ("CHILDINFO" ("SPECIAL-USE"))
            S: e OK List completed.
            C: f LIST "" ("" "Top")
            S: * LIST (\HasNoChildren) "/" Top
            S: f OK List completed.
            C: g LIST "" "&&&"
            S: g OK List completed.
            C: h LIST "&" *
            S: h OK List completed.
            C: i LSUB "" "&x"
            S: i OK Lsub completed.
            C: j ENABLE IMAP4rev2
            S: * ENABLED IMAP4rev2
            S: j OK Enabled.
            C: k LIST "" A%
            S: * LIST (\HasChildren \NonExistent) "/" A
            S: k OK List completed.
        """)
    await kept.close()


async def test_a_name_that_is_not_normal_is_taken_in_every_command(store: MailStore) -> None:
    """RFC 9051 §5.1: whoever made a folder with a name finds it with that name."""
    decomposed, normal = "e\u0301te\u0301", "été"
    await fill(store, PLAIN, PLAIN)
    async with session_on(store) as client:
        await client.command("ENABLE IMAP4rev2")
        await client.command(f'CREATE "{decomposed}"')
        await client.command("SELECT INBOX")

        async def said(command: str) -> list[str]:
            lines = await client.command(command)
            assert lines[-1].startswith("x OK"), lines
            return [line.encode("latin-1").decode() for line in lines[:-1]]

        assert await said(f'STATUS "{decomposed}" (MESSAGES)') == [
            f'* STATUS "{normal}" (MESSAGES 0)'
        ]
        await said(f'COPY 1 "{decomposed}"')
        await said(f'MOVE 2 "{decomposed}"')
        assert await said(f'STATUS "{decomposed}" (MESSAGES)') == [
            f'* STATUS "{normal}" (MESSAGES 2)'
        ]
        await said(f'SUBSCRIBE "{decomposed}"')
        listed = f'* LIST (\\HasNoChildren \\Subscribed) "/" "{normal}"'
        assert await said(f'LIST (SUBSCRIBED) "" "{decomposed}"') == [listed]
        await said(f'UNSUBSCRIBE "{decomposed}"')
        assert await said('LIST (SUBSCRIBED) "" *') == []
        await said(f'SETMETADATA "{decomposed}" (/private/comment "x")')
        assert await said(f'GETMETADATA "{normal}" /private/comment') == [
            f'* METADATA "{normal}" (/private/comment "x")'
        ]
        assert (await said(f'GETQUOTAROOT "{decomposed}"'))[0].startswith(f'* QUOTAROOT "{normal}"')
        await said(f'RENAME "{decomposed}" aside')
        await said(f'RENAME aside "{decomposed}"')
        assert await said(f'DELETE "{decomposed}"') == [
            f'* LIST (\\NonExistent) "/" "{normal}" ("OLDNAME" ("{decomposed}"))'
        ]
        assert await said(f'LIST "" "{normal}"') == []


async def test_permanentflags_say_when_there_can_be_no_more_keywords(store: MailStore) -> None:
    """RFC 9051 §7.1: a new one without \\*, at once and at each SELECT."""
    await fill(store, PLAIN)
    async with session_on(store) as client:
        await client.command("SELECT INBOX")
        words = " ".join(f"k{number:02}" for number in range(25))
        lines = await client.command(f"STORE 1 +FLAGS ({words})")
        assert lines[1].endswith(r"k24 \*)] Flags permitted.")
        lines = await client.command("STORE 1 +FLAGS (k25)")
        assert lines[1].endswith("k24 k25)] Flags permitted.")
        lines = await client.command("SELECT INBOX")
        assert lines[2].endswith("k24 k25)] Flags permitted.")
