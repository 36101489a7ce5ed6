"""Cells of the table of extensions and modes in docs/rfc.md that no other file looks at."""

from __future__ import annotations

import pytest
from imap_dialog import Client, session_on
from test_imap_dialog import PLAIN, fill

from resel_lda.mailbox import MailStore

ACCENTED = "Subject: s\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nété\r\n".encode()


async def answer(client: Client, command: str) -> str:
    """The one untagged response."""
    lines = await client.command(command)
    assert len(lines) == 2, lines
    assert lines[1].startswith("x OK")
    return lines[0]


async def test_stored_items_with_uidonly(store: MailStore) -> None:
    """OBJECTID, SAVEDATE and PREVIEW come in UIDFETCH, and are searched for by UID only."""
    await fill(store, PLAIN, PLAIN)
    async with session_on(store) as client:
        await client.command("SELECT INBOX")
        await client.command(r"STORE 1 +FLAGS (\Deleted)")
        await client.command("EXPUNGE")
        await client.command("ENABLE UIDONLY")
        line = await answer(client, "UID FETCH 2 (EMAILID THREADID SAVEDATE PREVIEW)")
        assert line.startswith("* 2 UIDFETCH (EMAILID (")
        assert line.endswith(' PREVIEW "Body text")')
        email = line.partition("EMAILID (")[2].partition(")")[0]
        thread = line.partition("THREADID (")[2].partition(")")[0]
        for key in (f"EMAILID {email}", f"THREADID {thread}", "SAVEDSINCE 1-Jan-2020"):
            assert await answer(client, f"UID SEARCH {key}") == "* SEARCH 2"
            (line,) = await client.command(f"SEARCH {key}")
            assert line.startswith("x BAD [UIDREQUIRED] ")


@pytest.mark.parametrize("mode", ["UTF8=ACCEPT", "IMAP4rev2"])
async def test_a_preview_beyond_ascii_is_a_literal(store: MailStore, mode: str) -> None:
    await fill(store, ACCENTED)
    async with session_on(store) as client:
        await client.command(f"ENABLE {mode}")
        await client.command("SELECT INBOX")
        client.send(b"a FETCH 1 PREVIEW\r\n")
        assert await client.line() == "* 1 FETCH (PREVIEW {5}"
        assert (await client.line()).encode("latin-1").decode() == "été)"
        assert (await client.line()).startswith("a OK")


async def test_metadata_with_utf8(store: MailStore) -> None:
    """Entries are ASCII in every mode; values are octets, which are quoted only in ASCII."""
    async with session_on(store) as client:
        await client.command("ENABLE UTF8=ACCEPT")
        await client.command('CREATE "été"')
        client.send('a SETMETADATA "été" (/private/comment {5+}\r\nété)\r\n'.encode())
        assert (await client.line()).startswith("a OK")
        client.send('b GETMETADATA "été" (/private/comment)\r\n'.encode())
        line = (await client.line()).encode("latin-1").decode()
        assert line == '* METADATA "été" (/private/comment {5}'
        assert (await client.line()).encode("latin-1").decode() == "été)"
        assert (await client.line()).startswith("b OK")
        client.send('c SETMETADATA "été" (/private/é "x")\r\n'.encode())
        assert (await client.line()).startswith("c BAD")


async def test_replace_takes_no_saved_result(store: MailStore) -> None:
    await fill(store, PLAIN)
    async with session_on(store) as client:
        await client.command("SELECT INBOX")
        await client.command("SEARCH RETURN (SAVE) ALL")
        for command in ("REPLACE", "UID REPLACE"):
            lines = await client.command(f"{command} $ INBOX {{{len(PLAIN)}+}}\r\n{PLAIN.decode()}")
            assert [line.startswith("x BAD") for line in lines] == [True], lines
        assert await answer(client, "FETCH 1:* UID") == "* 1 FETCH (UID 1)"
