"""MULTIAPPEND, BINARY, APPENDLIMIT and COMPRESS, on both stores."""

from __future__ import annotations

import base64
import zlib

import pytest
from dovecot_pair import IMAP, pair
from hypothesis import given
from hypothesis import strategies as st
from imap_dialog import Client, session_on
from imap_fake import FakeStore
from test_imap_dialog import PLAIN, fill

from resel_lda.mailbox import MailStore
from resel_lda.mime import binary
from resel_lda.mime.sections import parse

needs_dovecot = pytest.mark.needs(str(IMAP))

MIXED = (
    b"From: a@b.c\r\nSubject: s\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\npreamble\r\n"
    b"--b\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Transfer-Encoding: quoted-printable\r\n\r\n=C3=A9t=C3=A9 =\r\nlong\r\n"
    b"--b\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    + base64.encodebytes(bytes(range(256))).replace(b"\n", b"\r\n")
    + b"\r\n--b\r\nContent-Type: text/plain\r\n\r\nplain\r\n"
    b"--b\r\nContent-Type: image/png\r\nContent-Transfer-Encoding: base64\r\n\r\n!!not base64!!\r\n"
    b"--b\r\nContent-Transfer-Encoding: x-uuencode\r\n\r\nx\r\n--b--\r\n"
)


async def raw(client: Client, data: bytes) -> list[str]:
    """Send as it is; the lines up to the one tagged x."""
    client.send(data)
    lines = []
    while True:
        lines.append(await client.line())
        if lines[-1].startswith("x "):
            return lines


async def test_several_messages_at_once(store: MailStore) -> None:
    async with session_on(store) as client:
        one = b"Subject: 1\r\n\r\n"
        lines = await raw(
            client,
            b'x APPEND INBOX (\\Seen) {14+}\r\n%b {14+}\r\n%b (Work) "17-Jul-1996 02:44:25 +0000"'
            b" {14+}\r\n%b\r\n" % (one, one, one),
        )
        assert lines[-1].endswith(" 1:3] Append completed.")
        await client.command("SELECT INBOX")
        lines = await client.command("FETCH 1:3 (FLAGS)")
        assert [line.split("(")[2].split(")")[0].split()[0] for line in lines[:3]] == [
            "\\Seen",
            "\\Recent",
            "\\Recent",
        ]
        assert "Work" in lines[2]
        # With synchronising literals each is asked for.
        await client.script("""
            C: a APPEND INBOX {14}
            S: + OK
            C: Subject: 4
            C:
            C:  {14}
            S: + OK
            C: Subject: 5
            C:
            C:
        """)
        assert await client.line() == "* 5 EXISTS"


async def test_all_or_none(store: MailStore) -> None:
    async with session_on(store) as client:
        one = b"Subject: 1\r\n\r\n"
        for rest in (
            b" {14+}\r\n%b (\\Bogus) {14+}\r\n%b" % (one, one),
            b" {14+}\r\n%b {0+}\r\n" % one,
            b" {14+}\r\n%b garbage" % one,
            b" {14+}\r\n%b {999999999999}" % one,
        ):
            lines = await raw(client, b"x APPEND INBOX {14+}\r\n%b%b\r\n" % (one, rest))
            assert lines[-1].startswith(("x BAD ", "x NO ")), rest
            assert (await client.command("STATUS INBOX (MESSAGES)"))[0].endswith("(MESSAGES 0)")


async def test_refused_by_the_store_reads_all_messages_out(fake: FakeStore) -> None:
    fake.full = True
    async with session_on(fake) as client:
        one = b"Subject: 1\r\n\r\n"
        lines = await raw(client, b"x APPEND INBOX {14+}\r\n%b {14+}\r\n%b\r\n" % (one, one))
        assert lines == ["x NO [OVERQUOTA] Quota exceeded (mailbox for user is full)"]
        assert await client.command("NOOP") == ["x OK NOOP completed."]


async def test_append_limit(store: MailStore) -> None:
    async with session_on(store) as client:
        capabilities = (await client.command("CAPABILITY"))[0].split()
        limit = next(one for one in capabilities if one.startswith("APPENDLIMIT=")).split("=")[1]
        assert (await client.command("STATUS INBOX (APPENDLIMIT)"))[0] == (
            f"* STATUS INBOX (APPENDLIMIT {limit})"
        )
        lines = await client.command(f"APPEND INBOX {{{int(limit) + 1}}}")
        assert lines == ["x NO [TOOBIG] Message size exceeds the limit"]


async def test_binary_parts_are_decoded(store: MailStore) -> None:
    await fill(store, MIXED)
    async with session_on(store) as client:
        await client.command("SELECT INBOX")
        client.send(b"x FETCH 1 (BINARY.PEEK[2] BINARY.SIZE[2] BINARY.SIZE[1])\r\n")
        assert await client.line() == "* 1 FETCH (BINARY[2] ~{256}"
        assert await client.reader.readexactly(256) == bytes(range(256))
        assert await client.line() == " BINARY.SIZE[2] 256 BINARY.SIZE[1] 10)"
        assert await client.line() == "x OK Fetch completed."
        await client.script("""
            C: a FETCH 1 BINARY.PEEK[1]<1.3>
            S: * 1 FETCH (BINARY[1]<1> {3}
        """)
        assert await client.reader.readexactly(3) == "été".encode()[1:4]
        await client.script("""
            S: )
            S: a OK Fetch completed.
            C: b FETCH 1 BINARY.PEEK[4]
            S: b NO [UNKNOWN-CTE] Message 1: invalid base64
            C: c FETCH 1 BINARY.PEEK[5]
            S: c NO [UNKNOWN-CTE] Message 1: unknown encoding x-uuencode
            C: d FETCH 1 (BINARY.SIZE[4])
            S: d NO [UNKNOWN-CTE] ...
            C: e FETCH 1 BINARY.PEEK[9]
            S: * 1 FETCH (BINARY[9] NIL)
            S: e OK Fetch completed.
            C: f FETCH 1 BINARY[TEXT]
            S: f BAD ...
            C: g FETCH 1 BINARY[3]
            S: * 1 FETCH (BINARY[3] {5}
            S: plain FLAGS (\\Seen \\Recent))
            S: g OK Fetch completed.
        """)


async def test_literal8(store: MailStore) -> None:
    head = b"Subject: b\r\nContent-Transfer-Encoding: binary\r\n\r\n"
    message = head + b"a\0b\r\nc"
    async with session_on(store) as client:
        lines = await raw(client, b"x APPEND INBOX ~{%d+}\r\n%b\r\n" % (len(message), message))
        assert lines[-1].endswith(" 1] Append completed.")
        await client.command("SELECT INBOX")
        client.send(b"x FETCH 1 (BINARY.PEEK[1] BODY.PEEK[1])\r\n")
        assert await client.line() == "* 1 FETCH (BINARY[1] ~{6}"
        assert await client.reader.readexactly(6) == b"a\0b\r\nc"
        assert await client.line() == " BODY[1] {10}"
        assert await client.line() == "YQBiDQpj"
        assert await client.line() == ")"
        assert await client.line() == "x OK Fetch completed."
        bad = b"Subject: b\r\n\r\na\0b"
        lines = await raw(client, b"x APPEND INBOX ~{%d+}\r\n%b\r\n" % (len(bad), bad))
        assert lines == ["x NO [UNKNOWN-CTE] Binary data outside of binary parts"]
        lines = await raw(client, b"x SEARCH SUBJECT ~{3+}\r\nabc\r\n")
        assert lines == ["x BAD Unexpected literal8"]


@needs_dovecot
async def test_binary_as_dovecot() -> None:
    readable = MIXED.replace(b"!!not base64!!", b"YWJj").replace(b"x-uuencode", b"8bit")
    async with pair([readable, PLAIN]) as both:
        for item in ("BINARY.PEEK[1]", "BINARY.SIZE[1]", "BINARY.SIZE[2]", "BINARY.PEEK[3]"):
            theirs, ours = await both.both(f"FETCH 1 ({item})")
            # Which kind of literal is of no meaning here: Dovecot sends both.
            plain = b"\r\n".join(theirs).replace(b"~{", b"{")
            assert b"\r\n".join(ours).replace(b"~{", b"{") == plain, item


async def test_one_bad_part_does_not_hide_the_other_messages(store: MailStore) -> None:
    await fill(store, PLAIN, MIXED, PLAIN)
    async with session_on(store) as client:
        await client.command("SELECT INBOX")
        await client.script("""
            C: a FETCH 1:3 (UID BINARY.SIZE[4] BINARY.SIZE[1])
            S: * 1 FETCH (UID 1 BINARY.SIZE[4] 0 BINARY.SIZE[1] 11)
            S: * 3 FETCH (UID 3 BINARY.SIZE[4] 0 BINARY.SIZE[1] 11)
            S: a NO [UNKNOWN-CTE] Message 2: invalid base64
        """)


@given(st.binary(max_size=300), st.sampled_from(["base64", "quoted-printable", "binary", "x"]))
def test_decoding_never_fails_otherwise(body: bytes, encoding: str) -> None:
    data = f"Content-Transfer-Encoding: {encoding}\r\n\r\n".encode() + body
    try:
        binary.decoded(data, parse(data))
        binary.decoded_message(data, parse(data))
    except binary.Undecodable:
        assert encoding in ("base64", "x")


@given(st.binary(max_size=300))
def test_binary_comes_back(body: bytes) -> None:
    data = b"Subject: s\r\nContent-Transfer-Encoding: binary\r\n\r\n" + body
    stored = binary.without_binary(data)
    assert stored is not None
    assert b"\0" not in stored
    assert binary.decoded(stored, parse(stored)) == body


async def test_compressed(store: MailStore) -> None:
    await fill(store, *[PLAIN] * 200)
    async with session_on(store) as client:
        await client.script("""
            C: a COMPRESS LZW
            S: a NO Unknown compression mechanism
            C: b COMPRESS DEFLATE
            S: b OK Begin compression.
        """)
        out = zlib.compressobj(9, zlib.DEFLATED, -15)
        back = zlib.decompressobj(-15)
        told = b""

        async def talk(command: bytes) -> bytes:
            nonlocal told
            client.send(out.compress(command) + out.flush(zlib.Z_SYNC_FLUSH))
            while True:
                lines, end, rest = told.rpartition(b"\r\nx ")
                if end and rest.endswith(b"\r\n"):
                    told = b""
                    return lines + end + rest
                told += back.decompress(await client.reader.read(65536))

        assert (await talk(b"x SELECT INBOX\r\n")).endswith(b"Select completed.\r\n")
        assert (await talk(b"x FETCH 1:* (BODY.PEEK[])\r\n")).count(b"Body text") == 200
        # A long command that packs to little, with another one behind it.
        message = b"Subject: zeros\r\n\r\n" + b"0" * 3_000_000
        answer = await talk(b"y APPEND INBOX {%d+}\r\n%b\r\nx NOOP\r\n" % (len(message), message))
        assert b"y OK [APPENDUID" in answer
        assert b"x NO [COMPRESSIONACTIVE]" in await talk(b"x COMPRESS DEFLATE\r\nx NOOP\r\n")
        client.send(b"this is no deflate stream at all")
        assert client.result is not None
        assert await client.result == "Connection closed"
