"""UTF8=ACCEPT (RFC 6855), on both stores."""

from __future__ import annotations

import asyncio
import imaplib
from pathlib import Path

from imap_dialog import session_on
from imap_fake import FakeStore
from imap_service import PASSWORD, imap_service
from test_imap_dialog import PLAIN, fill

from resel_lda.mailbox import MailStore

ENABLE = """
    C: e ENABLE UTF8=ACCEPT
    S: * ENABLED UTF8=ACCEPT
    S: e OK Enabled.
"""
MAIL = "From: Zoé <zoé@exemple.fr>\r\nSubject: été\r\n\r\ncorps é\r\n".encode()


async def test_utf8_names(store: MailStore) -> None:
    async with session_on(store) as client:
        assert "UTF8=ACCEPT" in (await client.command("CAPABILITY"))[0].split()
        # Before it is enabled, a name is modified UTF-7 and nothing else.
        client.send('a CREATE "été"\r\n'.encode())
        assert (await client.line()).startswith("a NO [CANNOT]")
        await client.script(ENABLE)
        client.send('b CREATE "été"\r\nc LIST "" "é%"\r\n'.encode())
        assert (await client.line()).startswith("b OK ")
        line = (await client.line()).encode("latin-1").decode()
        assert line == '* LIST (\\HasNoChildren) "/" "été"'
        assert await client.line() == "c OK List completed."
        # IMAP4rev1's answers are as before otherwise.
        await client.script("""
            C: d STATUS &AOk- (MESSAGES)
            S: d NO [NONEXISTENT] ...
        """)
        lines = await client.command("SELECT INBOX")
        assert "* 0 RECENT" in lines
        assert not any(line.startswith("* LIST") for line in lines)
    async with session_on(store) as client:
        assert (await client.command('LIST "" &AOk-*'))[0] == (
            '* LIST (\\HasNoChildren) "/" &AOk-t&AOk-'
        )


async def test_utf8_append_and_fetch(store: MailStore) -> None:
    async with session_on(store) as client:
        await client.script(ENABLE)
        client.send(b"a APPEND INBOX (\\Seen) utf8 (~{%d+}\r\n%b)\r\n" % (len(MAIL), MAIL))
        assert (await client.line()).startswith("a OK [APPENDUID ")
        client.send(b"b APPEND INBOX UTF8 (~{%d}\r\n" % len(MAIL))
        assert await client.line() == "+ OK"
        client.send(MAIL + b") UTF8 (~{%d+}\r\n%b)\r\n" % (len(MAIL), MAIL))
        assert (await client.line()).startswith("b OK [APPENDUID ")
        lines = await client.command("SELECT INBOX")
        assert "* 3 EXISTS" in lines
        client.send(b"c FETCH 1 BODY[]\r\n")
        assert await client.line() == f"* 1 FETCH (BODY[] {{{len(MAIL)}}}"
        assert await client.reader.readexactly(len(MAIL)) == MAIL
        assert await client.line() == ")"
        assert await client.line() == "c OK Fetch completed."
        client.send('d SEARCH SUBJECT "ÉTÉ" FROM "zoé"\r\n'.encode())
        assert await client.line() == "* SEARCH 1 2 3"
        assert await client.line() == "d OK Search completed."


async def test_utf8_append_refused(store: MailStore) -> None:
    size = len(MAIL)
    async with session_on(store) as client:
        client.send(b"a APPEND INBOX UTF8 (~{%d+}\r\n%b)\r\n" % (size, MAIL))
        assert (await client.line()) == "a BAD UTF8 data needs ENABLE UTF8=ACCEPT"
        await client.script(ENABLE)
        client.send(b"b APPEND INBOX UTF8 ({%d+}\r\n%b)\r\n" % (size, MAIL))
        assert (await client.line()).startswith("b BAD ")
        client.send(b"c APPEND INBOX UTF8 (~{%d+}\r\n%b\r\n" % (size, MAIL))
        assert (await client.line()).startswith("c BAD ")
        client.send(b"d APPEND INBOX UTF8 (~{0+}\r\n)\r\n")
        assert (await client.line()).startswith("d NO ")
        client.send(b"f APPEND INBOX UTF8 (~{9999999999}\r\n")
        assert (await client.line()).startswith("f NO [TOOBIG] ")
        client.send(b"g APPEND INBOX UTF8 x\r\n")
        assert (await client.line()).startswith("g BAD ")
        assert (await client.command("STATUS INBOX (MESSAGES)"))[0].endswith("(MESSAGES 0)")


async def test_utf8_catenate(store: MailStore) -> None:
    head, body = MAIL.split(b"\r\n\r\n")
    async with session_on(store) as client:
        await client.script(ENABLE)
        client.send(
            b"a APPEND INBOX CATENATE (UTF8 (~{%d+}\r\n%b) TEXT {%d+}\r\n%b)\r\n"
            % (len(head) + 4, head + b"\r\n\r\n", len(body), body)
        )
        assert (await client.line()).startswith("a OK [APPENDUID ")
        await client.command("SELECT INBOX")
        lines = await client.command("FETCH 1 RFC822.SIZE")
        assert lines[0] == f"* 1 FETCH (RFC822.SIZE {len(MAIL)})"


async def test_utf8_search_has_no_charset(fake: FakeStore) -> None:
    await fill(fake, PLAIN)
    async with session_on(fake) as client:
        await client.command("SELECT INBOX")
        assert (await client.command("SEARCH CHARSET UTF-8 ALL"))[0] == "* SEARCH 1"
        await client.script(ENABLE)
        lines = await client.command("SEARCH CHARSET UTF-8 ALL")
        assert lines == ["x BAD There is no charset but UTF-8 with UTF8=ACCEPT"]
        client.send(b'a SEARCH SUBJECT "\xff"\r\n')
        assert (await client.line()).startswith("a BAD ")
        # SORT has its place for one (RFC 5256 §3).
        assert (await client.command("SORT (DATE) UTF-8 ALL"))[0] == "* SORT 1"


async def test_utf8_with_rev2_and_uidonly(store: MailStore) -> None:
    await fill(store, PLAIN)
    async with session_on(store) as client:
        await client.script("""
            C: a ENABLE UTF8=ACCEPT IMAP4rev2 UIDONLY QRESYNC
            S: * ENABLED QRESYNC UIDONLY UTF8=ACCEPT IMAP4rev2
            S: a OK Enabled.
            C: b ENABLE UTF8=ONLY
            S: * ENABLED
            S: b OK Enabled.
        """)
        lines = await client.command("SELECT INBOX")
        assert r'* LIST (\HasNoChildren) "/" INBOX' in lines
        client.send(b'c UID SEARCH SUBJECT "hello"\r\n')
        assert await client.line() == '* ESEARCH (TAG "c") UID ALL 1'
        assert await client.line() == "c OK Search completed."


async def test_utf8_imaplib_against_the_whole_service(tmp_path: Path) -> None:
    def talk(port: int) -> None:
        with imaplib.IMAP4("127.0.0.1", port) as client:
            assert "IMAP4REV2" in client.capabilities
            client.login("lcarr", PASSWORD)
            assert client.enable("UTF8=ACCEPT")[0] == "OK"
            assert client.create('"été"')[0] == "OK"
            status, listed = client.list('""', '"é*"')
            assert status == "OK"
            assert listed == ['(\\HasNoChildren) "." "été"'.encode()]
            assert client.select('"été"') == ("OK", [b"0"])
            assert client.search(None, 'SUBJECT "é"') == ("OK", [b""])

    async with imap_service(tmp_path) as running:
        await asyncio.to_thread(talk, running.port)
