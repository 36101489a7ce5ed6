"""SAVEDATE (RFC 8514), OBJECTID (RFC 8474) and PREVIEW (RFC 8970), on the wire."""

from __future__ import annotations

import asyncio
import os
import re
import time
from pathlib import Path

import apsw
import pytest
from dovecot_pair import IMAP, pair
from imap_dialog import Client, session_on
from imap_service import PASSWORD, imap_service

from resel_lda.imap.text import date_time
from resel_lda.mailbox import AppendData
from resel_lda.maildir.store import MaildirStore
from resel_lda.mime.preview import preview_of
from resel_mta.config import Settings
from resel_mta.disk import Disk
from resel_mta.maillog import MailLog, StreamSink
from resel_mta.users import User

MAIL = b"From: ada@resel.fr\r\nSubject: one\r\nMessage-ID: <1@x>\r\n\r\nHello\r\n"
REPLY = b"From: bob@resel.fr\r\nSubject: Re: one\r\nMessage-ID: <2@x>\r\nReferences: <1@x>\r\n\r\nYes\r\n"
NEWER = 1_700_000_000


def real_store(root: Path) -> MaildirStore:
    settings = Settings.build("server", mail_location=f"maildir:{root}/mail/%u")
    return MaildirStore(User("lcarr", home=str(root)), settings, Disk(), MailLog(StreamSink(2)))


async def append(store: MaildirStore, folder: str, *mails: bytes, date: float = NEWER) -> None:
    mailbox = await store.open(folder)
    await mailbox.append([AppendData([mail], len(mail), (), date) for mail in mails])
    mailbox.release()


async def ids(client: Client, number: int) -> tuple[str, str]:
    answer = (await client.command(f"FETCH {number} (EMAILID THREADID)"))[0]
    found = re.fullmatch(
        rf"\* {number} FETCH \(EMAILID \((M[0-9a-f]+)\) THREADID \((T[0-9a-f]+)\)\)", answer
    )
    assert found is not None, answer
    return found[1], found[2]


async def mailbox_id(client: Client, folder: str) -> str:
    answer = (await client.command(f"STATUS {folder} (MAILBOXID)"))[0]
    found = re.fullmatch(rf"\* STATUS {folder} \(MAILBOXID \((F[0-9a-f]+)\)\)", answer)
    assert found is not None, answer
    return found[1]


async def test_identifiers_follow_copies_and_renames(tmp_path: Path) -> None:
    store = real_store(tmp_path)
    await append(store, "INBOX", MAIL, REPLY, MAIL)
    await append(store, "INBOX", MAIL, date=NEWER + 60)
    async with session_on(store) as client:
        created = (await client.command("CREATE Old"))[-1]
        folder = await mailbox_id(client, "Old")
        assert created == f"x OK [MAILBOXID ({folder})] Create completed."
        await client.command("SELECT INBOX")
        original = await ids(client, 1)
        reply = await ids(client, 2)
        assert reply[1] == original[1]
        assert reply[0] != original[0]
        assert await ids(client, 3) == original
        # INTERNALDATE never changes either, so with another one it is another message.
        assert (await ids(client, 4))[0] != original[0]
        await client.command("COPY 1 Old")
        await client.command("MOVE 2 Old")
        await client.command("RENAME Old New")
        assert await mailbox_id(client, "New") == folder
        await client.command("CREATE Old")
        assert await mailbox_id(client, "Old") != folder
        selected = await client.command("SELECT New")
        assert f"* OK [MAILBOXID ({folder})] Ok" in selected
        assert [await ids(client, 1), await ids(client, 2)] == [original, reply]
        assert (await client.command(f"SEARCH EMAILID {reply[0]}"))[0] == "* SEARCH 2"
        assert (await client.command(f"SEARCH THREADID {reply[1]}"))[0] == "* SEARCH 1 2"
        assert (await client.command(f"SEARCH NOT EMAILID {reply[0]}"))[0] == "* SEARCH 1"
        assert (await client.command("SEARCH EMAILID Mnone"))[0] == "* SEARCH"
    await store.close()
    for name in ("state", "cache"):
        for path in (tmp_path / "mail" / "lcarr").glob(f"{name}*"):
            path.unlink()
    store = real_store(tmp_path)
    async with session_on(store) as client:
        await client.command("SELECT New")
        assert [await ids(client, 1), await ids(client, 2)] == [original, reply]
        assert await mailbox_id(client, "New") == folder
    await store.close()


async def test_save_dates(tmp_path: Path) -> None:
    store = real_store(tmp_path)
    before = int(time.time())
    await append(store, "INBOX", MAIL)
    async with session_on(store) as client:
        await client.command("SELECT INBOX")
        shown = (await client.command("FETCH 1 (SAVEDATE INTERNALDATE)"))[0]
        after = int(time.time())
        internal = date_time(NEWER).decode()
        allowed = [
            f"* 1 FETCH (SAVEDATE {date_time(moment).decode()} INTERNALDATE {internal})"
            for moment in range(before, after + 1)
        ]
        assert shown in allowed
        # As it was noted, whatever becomes of the file: a new flag renames it.
        database = apsw.Connection(str(tmp_path / "mail" / "lcarr" / "state"))
        with database:
            database.execute("UPDATE message SET saved = saved - 1000000")
        database.close()
        await client.command("STORE 1 +FLAGS (\\Flagged)")
        days = [time.strftime("%d-%b-%Y", time.localtime(t)) for t in (before, before - 1000000)]
        for program, found in (
            ("SAVEDATESUPPORTED", " 1"),
            (f"SAVEDON {days[1]}", " 1"),
            (f"SAVEDON {days[0]}", ""),
            (f"SAVEDBEFORE {days[0]}", " 1"),
            (f"SAVEDBEFORE {days[1]}", ""),
            (f"SAVEDSINCE {days[1]}", " 1"),
            (f"OR SAVEDSINCE {days[0]} FLAGGED", " 1"),
            (f"NOT SAVEDSINCE {days[0]}", " 1"),
        ):
            assert (await client.command(f"SEARCH {program}"))[0] == f"* SEARCH{found}", program
        await client.command("COPY 1 INBOX")
        assert (await client.command(f"SEARCH SAVEDSINCE {days[0]}"))[0] == "* SEARCH 2"
    await store.close()


async def test_save_dates_of_a_state_file_without_them(tmp_path: Path) -> None:
    store = real_store(tmp_path)
    await append(store, "INBOX", MAIL)
    await store.close()
    database = apsw.Connection(str(tmp_path / "mail" / "lcarr" / "state"))
    highest = database.execute("SELECT modseq FROM message").fetchall()
    with database:
        database.execute("ALTER TABLE message DROP COLUMN saved")
        database.execute("PRAGMA user_version = 2")
    database.close()
    store = real_store(tmp_path)
    async with session_on(store) as client:
        await client.command("SELECT INBOX")
        first = await client.command("FETCH 1 (MODSEQ SAVEDATE)")
        assert f"MODSEQ ({highest[0][0]})" in first[1]
        (name,) = os.listdir(tmp_path / "mail" / "lcarr" / "cur")
        os.utime(tmp_path / "mail" / "lcarr" / "cur" / name)
        assert (await client.command("FETCH 1 (MODSEQ SAVEDATE)"))[0] == first[1]
    await store.close()


async def test_previews(tmp_path: Path) -> None:
    store = real_store(tmp_path)
    await append(store, "INBOX", MAIL, MAIL.replace(b"Hello", b"\xc3\xa9t\xc3\xa9"), MAIL[:-7])
    async with session_on(store) as client:
        await client.script("""
            C: a EXAMINE INBOX
        """)
        while not (await client.line()).startswith("a OK"):
            pass
        await client.script("""
            C: b FETCH 1:3 PREVIEW (LAZY)
            S: * 1 FETCH (PREVIEW NIL)
            S: * 2 FETCH (PREVIEW NIL)
            S: * 3 FETCH (PREVIEW NIL)
            S: b OK Fetch completed.
            C: c FETCH 1,3 (UID PREVIEW)
            S: * 1 FETCH (UID 1 PREVIEW "Hello")
            S: * 3 FETCH (UID 3 PREVIEW "")
            S: c OK Fetch completed.
            C: d FETCH 1:2 (PREVIEW (LAZY) BODY.PEEK[TEXT])
            S: * 1 FETCH (PREVIEW "Hello" BODY[TEXT] {7}
            S: Hello
            S: )
            S: * 2 FETCH (PREVIEW NIL BODY[TEXT] {7}
            S: \xc3\xa9t\xc3\xa9
            S: )
            S: d OK Fetch completed.
            C: e FETCH 2 (PREVIEW)
            S: * 2 FETCH (PREVIEW {5}
            S: \xc3\xa9t\xc3\xa9)
            S: e OK Fetch completed.
            C: f FETCH 1 (PREVIEW (EAGER))
            S: f BAD Unknown PREVIEW modifier.
            C: g FETCH 1 (PREVIEW ())
            S: g BAD ...
            C: h FETCH 1 (SAVEDATE (X))
            S: h BAD ...
            C: i SEARCH EMAILID
            S: i BAD ...
            C: j SEARCH SAVEDON 31-Feb-2024
            S: j BAD ...
        """)
        # Neither marks a message as read.
        assert (await client.command("SEARCH SEEN"))[0] == "* SEARCH"
    await store.close()


def _part(kind: str, body: str, more: str = "") -> str:
    return f"--b\r\nContent-Type: {kind}; charset=utf-8\r\n{more}\r\n{body}\r\n"


def _of(*parts: str, kind: str = "alternative") -> bytes:
    head = f"MIME-Version: 1.0\r\nContent-Type: multipart/{kind}; boundary=b\r\n\r\n"
    return (head + "".join(parts) + "--b--\r\n").encode()


@pytest.mark.parametrize(
    ("message", "preview"),
    [
        (b"A: b\r\n\r\n> they said\r\nI  say\r\n\r\nmore\r\n-- \r\nLouis\r\n", "I say more"),
        (b"A: b\r\n\r\n> only\r\n> quotes\r\n", "> only > quotes"),
        (_of(_part("text/plain", "plain"), _part("text/html", "<p>rich")), "plain"),
        (_of(_part("text/plain", " \r\n"), _part("text/html", "<b>ri</b>ch<p>x</p>")), "rich x"),
        (
            _of(
                _part("text/html", "<head><title>T</title></head><style>p {}</style>"
                "<!-- <p>no --><p>a &lt;b&gt; &eacute;<br>c<img alt='>'>&nbsp;d</p>"),
            ),
            "a <b> é c'> d",
        ),
        (
            _of(
                _part("text/plain", "attached", "Content-Disposition: attachment\r\n"),
                _part("text/plain", "shown"),
                kind="mixed",
            ),
            "shown",
        ),
        (_of(_part("message/rfc822", "Subject: in\r\n\r\ninner"), kind="mixed"), ""),
        (b"A: b\r\nContent-Type: image/png\r\n\r\n\x89PNG", ""),
        (b"A: b\r\n\r\nto\x00day\x1b[31m\r\n", "today[31m"),
        (b"A: b\r\nContent-Type: text/html\r\n\r\n<script>never closed", ""),
        (b"A: b\r\nContent-Type: text/html\r\n\r\n1 < 2 <unclosed", "1 < 2"),
        (b"", ""),
    ],
)  # fmt: skip
def test_what_a_preview_shows(message: bytes, preview: str) -> None:
    assert preview_of(message) == preview


def test_a_preview_is_short_and_cheap() -> None:
    assert len(preview_of(b"A: b\r\n\r\n" + "é".encode() * 5000)) == 200
    head = b"Content-Type: text/html\r\n\r\n"
    began = time.process_time()
    for evil in (b"<head>", b"<", b"<!--", b"<a ", b"&", b"<title>x", b"> ", b"=?", b"\r\n"):
        assert len(preview_of(head + evil * 200_000)) <= 200
    assert time.process_time() - began < 5


async def test_over_a_socket(tmp_path: Path) -> None:
    """From a delivery to the answers of a whole service."""
    inbox = tmp_path / "mail" / "lcarr"
    for part in ("cur", "new", "tmp"):
        (inbox / part).mkdir(parents=True)
    (inbox / "new" / "1700000000.M1P1.h").write_bytes(MAIL.replace(b"\r\n", b"\n"))
    async with imap_service(tmp_path) as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        client = Client(reader, writer)
        await client.line()
        await client.command(f'LOGIN lcarr "{PASSWORD}"')
        capable = (await client.command("CAPABILITY"))[0].split()
        assert {"SAVEDATE", "OBJECTID", "PREVIEW"} <= set(capable)
        await client.command("SELECT INBOX")
        (answer, _) = await client.command("UID FETCH 1 (PREVIEW EMAILID SAVEDATE)")
        assert re.fullmatch(
            r'\* 1 FETCH \(UID 1 PREVIEW "Hello" EMAILID \(M\w{32}\) SAVEDATE "[^"]{26}"\)', answer
        )
        writer.close()


@pytest.mark.skipif(not IMAP.exists(), reason="needs dovecot-imapd")
async def test_as_dovecot_has_it() -> None:
    mails = [
        MAIL,
        b"A: b\n\nplain text\nover two lines\n",
        b"A: b\n\n> quoted\nanswer\n",
        b"Content-Type: text/html\n\n<p>one<br>two &amp; three</p>\n",
        b"Content-Type: text/html\n\n<style>x</style><b>bold</b>\n",
        _of(_part("text/plain", "plain"), _part("text/html", "<p>rich")),
        b"A: b\n\n",
    ]
    async with pair(mails) as two:
        for command in (
            "FETCH 1:* (PREVIEW)",
            "SEARCH SAVEDATESUPPORTED",
            "SEARCH SAVEDON 1-Jan-2020",
            "SEARCH SAVEDSINCE 1-Jan-2020",
        ):
            theirs, ours = await two.both(command)
            assert ours == theirs, command
        theirs, ours = await two.both("FETCH 1:* (SAVEDATE)")
        assert len(theirs) == len(ours) == len(mails)
        for one, other in zip(theirs, ours, strict=True):
            # Both by the file's change time; the trees were made one after the other.
            assert one[:36] == other[:36]


async def test_a_preview_is_made_before_it_is_asked_for(tmp_path: Path) -> None:
    """Also of messages that an older cache has everything else of."""
    store = real_store(tmp_path)
    await append(store, "INBOX", MAIL)
    mailbox = await store.open_folder("INBOX")
    await asyncio.to_thread(mailbox.reader.fill, [1])
    assert await mailbox.previews([1], ready=True) == {1: "Hello"}
    assert mailbox.reader.unfilled([1]) == []
    mailbox.reader.cache.database.run(lambda db: db.execute("DELETE FROM content"))
    assert mailbox.reader.unfilled([1]) == [1]
    assert await mailbox.previews([1], ready=True) == {}
    mailbox.release()
    await store.close()
