"""Dialogs with a session on both stores."""

from __future__ import annotations

from imap_dialog import session_on

from resel_lda.mailbox import AppendData, MailStore

PLAIN = (
    b"From: Ada <ada@example.org>\r\nTo: bob@example.org\r\nSubject: Hello\r\n"
    b"Date: Mon, 7 Feb 1994 21:52:25 -0800\r\nMessage-ID: <1@example.org>\r\n\r\nBody text\r\n"
)
DATE = 760686745.0


async def fill(store: MailStore, *messages: bytes, folder: str = "INBOX") -> None:
    box = await store.open(folder)
    for message in messages:
        await box.append([AppendData([message], len(message), (), DATE)])
    box.release()


async def test_select_fetch_store_expunge(store: MailStore) -> None:
    await fill(store, PLAIN, PLAIN, PLAIN)
    async with session_on(store) as client:
        lines = await client.command("SELECT INBOX")
        assert r"* FLAGS (\Answered \Flagged \Deleted \Seen \Draft)" in lines
        assert "* 3 EXISTS" in lines
        assert "* 3 RECENT" in lines
        assert "* OK [UNSEEN 1] First unseen." in lines
        assert "* OK [UIDNEXT 4] Predicted next UID" in lines
        assert lines[-1] == "x OK [READ-WRITE] Select completed."
        await client.script(r"""
            C: a FETCH 1 (FLAGS UID RFC822.SIZE BODY.PEEK[HEADER.FIELDS (subject)])
            S: * 1 FETCH (FLAGS (\Recent) UID 1 RFC822.SIZE 146 BODY[HEADER.FIELDS (SUBJECT)] {18}
            S: Subject: Hello
            S:
            S: )
            S: a OK Fetch completed.
            C: b UID FETCH 2:* FLAGS
            S: * 2 FETCH (UID 2 FLAGS (\Recent))
            S: * 3 FETCH (UID 3 FLAGS (\Recent))
            S: b OK Fetch completed.
            C: c FETCH 2 BODY[TEXT]<0.4>
            S: * 2 FETCH (BODY[TEXT]<0> {4}
            S: Body FLAGS (\Seen \Recent))
            S: c OK Fetch completed.
            C: d STORE 1,3 +FLAGS (\Deleted $Junk)
            S: * FLAGS (\Answered \Flagged \Deleted \Seen \Draft $Junk)
            S: * OK [PERMANENTFLAGS (\Answered \Flagged \Deleted \Seen \Draft $Junk \*)] Flags permitted.
            S: * 1 FETCH (UID 1 FLAGS (\Deleted \Recent $Junk))
            S: * 3 FETCH (UID 3 FLAGS (\Deleted \Recent $Junk))
            S: d OK Store completed.
            C: e EXPUNGE
            S: * 3 EXPUNGE
            S: * 1 EXPUNGE
            S: * 1 RECENT
            S: e OK Expunge completed.
            C: f NOOP
            S: f OK NOOP completed.
        """)
