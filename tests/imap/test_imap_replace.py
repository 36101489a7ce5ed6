"""CATENATE (RFC 4469) and REPLACE (RFC 8508), on the wire."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from dovecot_pair import IMAP, pair
from imap_dialog import Client, session_on
from imap_fake import FakeStore
from imap_service import PASSWORD, imap_service

from resel_lda.mailbox import AppendData, MailboxError, MailStore

MAIL = (
    b"From: ada@resel.fr\r\nSubject: one\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
    b"--b\r\nContent-Type: text/plain\r\n\r\nfirst\r\n"
    b"--b\r\nContent-Type: text/html\r\n\r\n<p>second\r\n--b--\r\n"
)
DRAFT = b"Subject: draft\r\n\r\nnot yet\r\n"


async def fill(store: MailStore, *mails: bytes) -> int:
    inbox = await store.open("INBOX")
    await inbox.append([AppendData([mail], len(mail), (), 1_700_000_000) for mail in mails])
    inbox.release()
    return inbox.uidvalidity


async def text_of(store: MailStore, folder: str, uid: int) -> bytes:
    mailbox = await store.open(folder)
    data = await mailbox.read(uid)
    mailbox.release()
    return data


async def select(client: Client, folder: str = "INBOX") -> None:
    assert (await client.command(f"SELECT {folder}"))[-1].startswith("x OK")


async def test_parts_of_messages_and_text(store: MailStore) -> None:
    validity = await fill(store, MAIL)
    async with session_on(store) as client:
        await select(client)
        base = f"/INBOX;UIDVALIDITY={validity}/;UID=1"
        await client.script(rf"""
            C: a APPEND INBOX (\Draft) "17-Jul-1996 02:44:25 -0700" CATENATE (TEXT {{14+}}
            C: Subject: new
            C+  URL "{base}/;section=1" TEXT {{4}}
        """)
        client.send(b"\r\n")
        await client.script(rf"""
            S: + OK
            C+ <br>
            C:  URL {base}/;SECTION=2/;PARTIAL=3.6)
            S: * 2 EXISTS
            S: * 2 RECENT
            S: a OK [APPENDUID {validity} 2] Append completed.
            C: b FETCH 2 (FLAGS INTERNALDATE)
            S: * 2 FETCH (FLAGS (\Draft \Recent) INTERNALDATE "17-Jul-1996 ...
            S: b OK Fetch completed.
            C: c FETCH 1 FLAGS
            S: * 1 FETCH (FLAGS (\Recent))
            S: c OK Fetch completed.
        """)
    assert await text_of(store, "INBOX", 2) == b"Subject: new\r\nfirst<br>second"


async def test_urls_alone_and_in_literals_and_several_messages(store: MailStore) -> None:
    validity = await fill(store, MAIL)
    async with session_on(store) as client:
        await select(client)
        await client.script(f"""
            C: a APPEND INBOX CATENATE (URL /INBOX/;UID=1)
            S: * 2 EXISTS
            S: * 2 RECENT
            S: a OK [APPENDUID {validity} 2] Append completed.
            C: b APPEND INBOX CATENATE (URL {{36+}}
            C: /inbox/;UID=1/;SECTION=HEADER.FIELDS)
            S: b NO [BADURL "/inbox/;UID=1/;SECTION=HEADER.FIELDS"] CATENATE: invalid section
            C: c APPEND INBOX {{6+}}
            C: A: b
            C:  (\\Seen) CATENATE (URL ";UID=1/;SECTION=HEADER.FIELDS%20(Subject)" TEXT {{3+}}
            C: x
            C: ) {{6+}}
            C: C: d
            C:
            S: * 5 EXISTS
            S: * 5 RECENT
            S: c OK [APPENDUID {validity} 3:5] Append completed.
        """)
    assert await text_of(store, "INBOX", 2) == MAIL
    assert await text_of(store, "INBOX", 4) == b"Subject: one\r\n\r\nx\r\n"


@pytest.mark.parametrize(
    "url",
    [
        "/INBOX;UIDVALIDITY=1/;UID=1",
        "/INBOX/;UID=99",
        "/INBOX/;UID=0",
        "/INBOX/;UID=99999999999",
        "/None/;UID=1",
        "/IN%FFBOX/;UID=1",
        "/../x/;UID=1",
        "/INBOX/;UID=1/;SECTION=7",
        "/INBOX/;UID=1/;SECTION=1%5D%5B",
        "/INBOX/;UID=1/;SECTION=%0D%0A",
        "/INBOX/;UID=1/;PARTIAL=0.0",
        "/INBOX/;UID=1;URLAUTH=anonymous",
        "/INBOX/;UID=1?x",
        "imap://other/INBOX/;UID=1",
        "/INBOX",
        "",
        ";UID=1",
    ],
)
async def test_bad_urls(store: MailStore, url: str) -> None:
    """Nothing is kept, and the session goes on behind the command."""
    await fill(store, MAIL)
    async with session_on(store) as client:
        client.send(f'a APPEND INBOX CATENATE (TEXT {{6+}}\r\nA: b\r\n URL "{url}" '.encode())
        client.send(b"TEXT {3+}\r\nxyz)\r\n")
        await client.script(f"""
            S: a NO [BADURL "{url}"] CATENATE: ...
            C: b STATUS INBOX (MESSAGES)
            S: * STATUS INBOX (MESSAGES 1)
            S: b OK Status completed.
        """)


async def test_what_is_no_catenate(store: MailStore) -> None:
    await fill(store, MAIL)
    async with session_on(store) as client:
        await client.script("""
            C: a APPEND INBOX CATENATE ()
            S: a BAD ...
            C: b APPEND INBOX CATENATE
            S: b BAD ...
            C: c APPEND INBOX CATENATE (FILE "/etc/passwd")
            S: c BAD ...
            C: d APPEND INBOX CATENATE (TEXT "quoted")
            S: d BAD ...
            C: e APPEND INBOX CATENATE (TEXT ~{3+}
            C: abc)
            S: e BAD ...
            C: f APPEND INBOX CATENATE (TEXT {0+}
            C: )
            S: f NO Can't save a zero byte message.
            C: g APPEND INBOX CATENATE (TEXT {999999999}
            S: g NO [TOOBIG] Message size exceeds the limit
            C: h APPEND INBOX CATENATE (URL {5000}
            S: h NO [TOOBIG] ...
            C: i APPEND None CATENATE (TEXT {3+}
            C: abc)
            S: i NO [TRYCREATE] ...
            C: j APPEND INBOX CATENATE (URL "/INBOX/;UID=1\\"]\\\\" TEXT {1}
            S: j NO [BADURL "/INBOX/;UID=1???"] ...
            C: k STATUS INBOX (MESSAGES)
            S: * STATUS INBOX (MESSAGES 1)
            S: k OK Status completed.
        """)


@pytest.mark.timeout(300)
async def test_too_large_together(store: MailStore) -> None:
    big = b"A: b\r\n\r\n" + b"x" * 10_000_000
    await fill(store, big)
    async with session_on(store) as client:
        urls = " ".join(["URL /INBOX/;UID=1"] * 30)
        answer = await asyncio.wait_for(
            client.command(f"APPEND INBOX CATENATE ({urls})"), timeout=200
        )
        assert answer == ["x NO [TOOBIG] Message size exceeds the limit"]
        status = await client.command("STATUS INBOX (MESSAGES)")
        assert status[0] == "* STATUS INBOX (MESSAGES 1)"


async def test_replace(store: MailStore) -> None:
    validity = await fill(store, MAIL, DRAFT)
    async with session_on(store) as client:
        await select(client)
        client.send(b"a REPLACE 2 INBOX (\\Draft \\Seen) {%d}\r\n" % len(DRAFT))
        assert await client.line() == "+ OK"
        client.send(DRAFT + b"\r\n")
        await client.script(rf"""
            S: * OK [APPENDUID {validity} 3] Replacement message ready
            S: * 3 EXISTS
            S: * 3 RECENT
            S: * 2 EXPUNGE
            S: * 2 RECENT
            S: a OK Replace completed.
            C: b FETCH 2 (UID FLAGS)
            S: * 2 FETCH (UID 3 FLAGS (\Seen \Draft \Recent))
            S: b OK Fetch completed.
            C: c UID REPLACE 3 INBOX CATENATE (URL ";UID=3/;SECTION=HEADER" TEXT {{3+}}
            C: now)
            S: * OK [APPENDUID {validity} 4] Replacement message ready
            S: * 3 EXISTS
            S: * 3 RECENT
            S: * 2 EXPUNGE
            S: * 2 RECENT
            S: c OK Replace completed.
        """)
    assert await text_of(store, "INBOX", 4) == b"Subject: draft\r\n\r\nnow"


async def test_replace_with_qresync_and_into_another_folder(store: MailStore) -> None:
    await fill(store, MAIL, DRAFT)
    async with session_on(store) as client:
        await client.command("CREATE Sent")
        await client.command("ENABLE QRESYNC")
        await select(client)
        lines = await client.command("UID REPLACE 2 Sent {5+}\r\nA: bc")
        assert lines[0].startswith("* OK [APPENDUID ")
        assert lines[1] == "* VANISHED 2"
        assert lines[2] == "* 1 RECENT"
        assert lines[3].startswith("x OK [HIGHESTMODSEQ ")
        assert len(lines) == 4
    assert await text_of(store, "Sent", 1) == b"A: bc"


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("REPLACE 9 INBOX", "BAD Invalid messageset"),
        ("REPLACE 1:2 INBOX", "BAD REPLACE takes one message."),
        ("REPLACE 1,2 INBOX", "BAD REPLACE takes one message."),
        ("REPLACE 0 INBOX", "BAD Invalid messageset."),
        ("REPLACE $ INBOX", "BAD "),
        ("UID REPLACE 9 INBOX", "NO [NONEXISTENT] There is no such message"),
        ("REPLACE 1 None", "NO [TRYCREATE] "),
        ("REPLACE 1 INBOX (\\Recent)", "BAD "),
    ],
)
async def test_replace_refused(store: MailStore, command: str, answer: str) -> None:
    await fill(store, MAIL, DRAFT)
    async with session_on(store) as client:
        assert (await client.command("REPLACE 1 INBOX {4+}\r\nA: b"))[-1].startswith(
            "x BAD [CLIENTBUG] No mailbox"
        )
        await select(client)
        assert (await client.command(f"{command} {{4+}}\r\nA: b"))[-1].startswith(f"x {answer}")
        assert (await client.command("REPLACE 1 INBOX"))[-1].startswith("x BAD")
        assert (await client.command("STATUS INBOX (MESSAGES)"))[0].endswith("(MESSAGES 2)")
        two = await client.command("REPLACE 1 INBOX {4+}\r\nA: b {4+}\r\nA: b")
        assert two == ["x BAD Only one message is allowed."]
        await client.command("EXAMINE INBOX")
        (refused,) = await client.command("REPLACE 1 INBOX {4+}\r\nA: b")
        assert refused.startswith("x NO [READ-ONLY]")
        assert (await client.command("STATUS INBOX (MESSAGES)"))[0].endswith("(MESSAGES 2)")


async def test_replace_of_what_another_session_removed(store: MailStore) -> None:
    await fill(store, MAIL, DRAFT)
    async with session_on(store) as client, session_on(store) as other:
        await select(client)
        await select(other)
        await other.command("STORE 2 +FLAGS.SILENT (\\Deleted)")
        await other.command("EXPUNGE")
        lines = await client.command("REPLACE 2 INBOX {4+}\r\nA: b")
        assert lines[-1].startswith("x NO [EXPUNGEISSUED]")
        assert (await client.command("STATUS INBOX (MESSAGES)"))[0].endswith("(MESSAGES 1)")


async def test_a_replacement_is_taken_back_when_the_old_one_cannot_go(
    fake: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(fake, DRAFT)
    box = fake.boxes["INBOX"]
    expunge = box.expunge

    async def failing(uids: list[int], keep: bool = True) -> object:
        if uids == [1]:
            raise MailboxError("Not enough disk space", "UNAVAILABLE")
        return await expunge(uids)

    monkeypatch.setattr(box, "expunge", failing)
    async with session_on(fake) as client:
        await select(client)
        lines = await client.command("REPLACE 1 INBOX {4+}\r\nA: b")
        assert lines[-1] == "x NO [UNAVAILABLE] Not enough disk space"
    assert list(box.data.values()) == [DRAFT]


async def test_a_replacement_over_quota_keeps_the_old_one(fake: FakeStore) -> None:
    await fill(fake, DRAFT)
    fake.full = True
    async with session_on(fake) as client:
        await select(client)
        lines = await client.command("REPLACE 1 INBOX {4+}\r\nA: b {4+}\r\nnext")
        assert lines == ["x NO [OVERQUOTA] Quota exceeded (mailbox for user is full)"]
    assert list(fake.boxes["INBOX"].data.values()) == [DRAFT]


async def test_cut_and_garbled_commands(store: MailStore) -> None:
    """Whatever comes, the session answers or ends, and only whole messages are kept."""
    validity = await fill(store, MAIL)
    whole = (
        b"a APPEND INBOX (\\Seen) CATENATE (URL /INBOX;UIDVALIDITY=%d/;UID=1 TEXT {5+}\r\nhello "
        b'URL ";UID=1/;SECTION=1") CATENATE (TEXT {2+}\r\nhi)\r\n' % validity
    )
    chance = random.Random(4469)
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(15, len(data))
            data[at : at + chance.randrange(3)] = chance.choice(
                [b"", b"(", b"{9+}\r\n", b"\0", b";"]
            )
        async with session_on(store) as client:
            await select(client)
            client.send(bytes(data) + b"\r\nz NOOP\r\n")
            client.writer.write_eof()
            rest = await asyncio.wait_for(client.reader.read(), timeout=10)
            assert b"SERVERBUG" not in rest
            assert client.reports == []


async def test_over_a_socket(tmp_path: Path) -> None:
    async with imap_service(tmp_path) as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        client = Client(reader, writer)
        await client.line()
        await client.command(f'LOGIN lcarr "{PASSWORD}"')
        capable = (await client.command("CAPABILITY"))[0].split()
        assert {"CATENATE", "REPLACE"} <= set(capable)
        assert "URLAUTH" not in capable
        await client.command("APPEND INBOX {4+}\r\nA: b")
        await client.command("SELECT INBOX")
        done = await client.command("REPLACE * INBOX CATENATE (URL ;UID=1 TEXT {1+}\r\nc)")
        assert done[0].endswith(" 2] Replacement message ready")
        assert done[1:] == [
            "* 2 EXISTS",
            "* 2 RECENT",
            "* 1 EXPUNGE",
            "* 1 RECENT",
            "x OK Replace completed.",
        ]
        assert (await client.command("FETCH 1 BODY.PEEK[]"))[:2] == [
            "* 1 FETCH (BODY[] {5}",
            "A: bc)",
        ]
        writer.close()


@pytest.mark.skipif(not IMAP.exists(), reason="needs dovecot-imapd")
async def test_as_dovecot_catenates() -> None:
    """The same octets from the same URLs."""
    async with pair([MAIL.replace(b"\r\n", b"\n")]) as two:
        for command in (
            "APPEND INBOX CATENATE (URL /INBOX/;UID=1)",
            "APPEND INBOX CATENATE (URL /INBOX/;UID=1/;SECTION=1 URL ;UID=1/;SECTION=2.MIME)",
            "APPEND INBOX CATENATE (URL /INBOX/;UID=1/;SECTION=HEADER URL ;UID=1/;SECTION=TEXT)",
            'APPEND INBOX CATENATE (URL "/INBOX/;UID=1/;SECTION=HEADER.FIELDS%20(from)")',
            "APPEND INBOX CATENATE (URL /INBOX/;UID=1/;PARTIAL=3.20)",
            "APPEND INBOX CATENATE (URL /INBOX/;UID=77)",
        ):
            await two.both(command)
        theirs, ours = await two.both("UID FETCH 2:* (UID RFC822.SIZE BODY.PEEK[])")
        assert b"\r\n".join(ours) == b"\r\n".join(theirs)
        assert len([line for line in ours if b"FETCH" in line]) == 5


async def test_replace_without_sequence_numbers(store: MailStore) -> None:
    validity = await fill(store, MAIL, DRAFT)
    async with session_on(store) as client:
        await client.command("ENABLE UIDONLY")
        await select(client)
        (refused,) = await client.command("REPLACE 2 INBOX {4+}\r\nA: b")
        assert refused.startswith("x BAD [UIDREQUIRED]")
        lines = await client.command("UID REPLACE 2 INBOX {4+}\r\nA: b")
        assert lines[0] == f"* OK [APPENDUID {validity} 3] Replacement message ready"
        assert "* VANISHED 2" in lines
        assert lines[-1].startswith("x OK ")
        fetched = await client.command("UID FETCH 3 (PREVIEW)")
        assert fetched[0].startswith("* 3 UIDFETCH (")
        assert 'PREVIEW ""' in fetched[0]


async def test_stored_values_and_saved_results(store: MailStore) -> None:
    await fill(store, MAIL, DRAFT)
    async with session_on(store) as client:
        await select(client)
        answer = (await client.command("FETCH 2 (EMAILID)"))[0]
        email = answer.partition("EMAILID (")[2].partition(")")[0]
        await client.command(f"SEARCH RETURN (SAVE) EMAILID {email}")
        assert (await client.command("FETCH $ (PREVIEW)"))[0] == '* 2 FETCH (PREVIEW "not yet")'
        await client.command("SEARCH RETURN (SAVE) SAVEDSINCE 1-Jan-2020")
        assert len(await client.command("FETCH $ (UID)")) == 3
        (refused,) = await client.command("REPLACE $ INBOX {4+}\r\nA: b")
        assert refused.startswith("x BAD ")


@pytest.mark.parametrize("mode", ["NOOP", "ENABLE UTF8=ACCEPT"])
async def test_urls_are_in_utf8_whatever_names_are(store: MailStore, mode: str) -> None:
    await store.create("été & co")
    folder = await store.open("été & co")
    await folder.append([AppendData([DRAFT], len(DRAFT))])
    folder.release()
    async with session_on(store) as client:
        await client.command(mode)
        url = "/%C3%A9t%c3%a9%20&%20co/;UID=1"
        answer = await client.command(f'APPEND INBOX CATENATE (URL "{url}")')
        assert answer[-1].startswith("x OK")
    assert await text_of(store, "INBOX", 1) == DRAFT
