"""UIDONLY (RFC 9586), on both stores."""

from __future__ import annotations

import re

from imap_dialog import session_on
from test_imap_dialog import PLAIN, fill

from resel_lda.mailbox import MailStore

ENABLE = """
    C: e ENABLE UIDONLY
    S: * ENABLED UIDONLY
    S: e OK Enabled.
"""


async def leave(store: MailStore, *uids: int) -> None:
    """INBOX of five messages, without these."""
    await fill(store, *[PLAIN] * 5)
    box = await store.open("INBOX")
    await box.expunge(uids)
    box.release()


async def test_uidonly_answers_with_uids(store: MailStore) -> None:
    await leave(store, 1, 3)
    async with session_on(store) as client:
        assert "UIDONLY" in (await client.command("CAPABILITY"))[0].split()
        await client.script(ENABLE)
        lines = await client.command("SELECT INBOX")
        assert "* 3 EXISTS" in lines
        assert not any("UNSEEN" in line for line in lines)
        await client.script(r"""
            C: a UID FETCH 1:* FLAGS
            S: * 2 UIDFETCH (FLAGS (\Recent))
            S: * 4 UIDFETCH (FLAGS (\Recent))
            S: * 5 UIDFETCH (FLAGS (\Recent))
            S: a OK Fetch completed.
            C: b UID FETCH 4 (UID RFC822.SIZE)
            S: * 4 UIDFETCH (UID 4 RFC822.SIZE 146)
            S: b OK Fetch completed.
            C: c UID FETCH 4 BODY[TEXT]<0.4>
            S: * 4 UIDFETCH (BODY[TEXT]<0> {4}
            S: Body FLAGS (\Seen \Recent))
            S: c OK Fetch completed.
            C: d UID STORE 4 +FLAGS (\Deleted)
            S: * 4 UIDFETCH (FLAGS (\Deleted \Seen \Recent))
            S: d OK Store completed.
            C: f UID SEARCH DELETED
            S: * SEARCH 4
            S: f OK Search completed.
            C: g UID SEARCH RETURN (UPDATE ALL) UNDELETED
            S: * ESEARCH (TAG "g") UID ALL 2,5
            S: g OK Search completed.
            C: h UID SORT (REVERSE ARRIVAL) UTF-8 UID 2:5
            S: * SORT 2 4 5
            S: h OK Sort completed.
            C: i UID EXPUNGE 4
            S: * VANISHED 4
            S: * 2 RECENT
            S: i OK Expunge completed.
            C: j UID THREAD REFS UTF-8 ALL
        """)
        assert (await client.line()).startswith("* THREAD (2")
        assert await client.line() == "j OK Thread completed."


async def test_uidonly_refuses_message_numbers(store: MailStore) -> None:
    await leave(store, 1)
    async with session_on(store) as client:
        # Pipelined: the rule is in force for what was sent with ENABLE.
        client.send(b"a SELECT INBOX\r\nb ENABLE UIDONLY\r\nc FETCH 1 FLAGS\r\n")
        while not (line := await client.line()).startswith("b "):
            continue
        line = await client.line()
        assert line.startswith("c BAD [UIDREQUIRED] "), line
        for command in (
            "FETCH 1 FLAGS",
            "FETCH $ FLAGS",
            r"STORE 1 +FLAGS (\Seen)",
            "COPY 1 INBOX",
            "MOVE 1 INBOX",
            "SEARCH ALL",
            "SORT (DATE) UTF-8 ALL",
            "THREAD REFS UTF-8 ALL",
            "UID SEARCH 1:*",
            "UID SEARCH NOT (OR 1 SEEN)",
            "UID SORT (DATE) UTF-8 1",
        ):
            lines = await client.command(command)
            assert lines[-1].startswith("x BAD [UIDREQUIRED] "), command
            assert len(lines) == 1
        lines = await client.command(f"REPLACE 1 INBOX {{{len(PLAIN)}+}}\r\n{PLAIN.decode()}")
        assert lines[-1].startswith("x BAD [UIDREQUIRED] ")
        # What has no number in it stays.
        await client.script("""
            C: d UID SEARCH RETURN (SAVE) UID 2:3
            S: d OK Search completed.
            C: e UID FETCH $ (UID)
            S: * 2 UIDFETCH (UID 2)
            S: * 3 UIDFETCH (UID 3)
            S: e OK Fetch completed.
            C: f UID SEARCH $
            S: * SEARCH 2 3
            S: f OK Search completed.
        """)


async def test_uidonly_tells_changes_by_uid(store: MailStore) -> None:
    await leave(store, 1)
    async with session_on(store) as client, session_on(store) as other:
        await client.script(ENABLE)
        await client.command("SELECT INBOX")
        await other.command("SELECT INBOX")
        await other.command(r"UID STORE 3 +FLAGS (\Deleted)")
        assert (await client.command("NOOP"))[0].startswith("* 3 UIDFETCH (FLAGS (\\Deleted")
        await other.command("EXPUNGE")
        await fill(store, PLAIN)
        assert (await client.command("NOOP"))[:2] == ["* VANISHED 3", "* 4 EXISTS"]


async def test_uidonly_with_qresync(store: MailStore) -> None:
    await leave(store, 1)
    async with session_on(store) as client:
        await client.script("""
            C: a ENABLE QRESYNC UIDONLY
            S: * ENABLED QRESYNC UIDONLY
            S: a OK Enabled.
        """)
        lines = await client.command("SELECT INBOX")
        validity = next(re.findall(r"UIDVALIDITY (\d+)", one)[0] for one in lines if "VALID" in one)
        lines = await client.command("UID STORE 2 +FLAGS.SILENT (\\Seen)")
        assert re.fullmatch(r"\* 2 UIDFETCH \(MODSEQ \(\d+\)\)", lines[0])
        lines = await client.command(f"SELECT INBOX (QRESYNC ({validity} 1 1:5 (1 2)))")
        assert lines[-1].startswith("x BAD [UIDREQUIRED] ")
        lines = await client.command(f"SELECT INBOX (QRESYNC ({validity} 1 1:5))")
        assert "* VANISHED (EARLIER) 1" in lines
        told = [line for line in lines if "FETCH" in line]
        assert len(told) == 4
        assert re.fullmatch(r"\* 2 UIDFETCH \(MODSEQ \(\d+\) FLAGS \(\\Seen.*\)\)", told[0])
        lines = await client.command("UID FETCH 1:* (FLAGS) (CHANGEDSINCE 1)")
        assert re.fullmatch(r"\* 2 UIDFETCH \(FLAGS \(.*\) MODSEQ \(\d+\)\)", lines[0])


async def test_uidonly_with_rev2(store: MailStore) -> None:
    await leave(store, 1)
    async with session_on(store) as client:
        await client.script("""
            C: a ENABLE IMAP4rev2 UIDONLY
            S: * ENABLED UIDONLY IMAP4rev2
            S: a OK Enabled.
        """)
        await client.command("SELECT INBOX")
        await client.script("""
            C: b UID SEARCH ALL
            S: * ESEARCH (TAG "b") UID ALL 2:5
            S: b OK Search completed.
            C: c UID FETCH 2:* UID (PARTIAL -1:-1)
            S: * 5 UIDFETCH (UID 5)
            S: c OK Fetch completed.
        """)
