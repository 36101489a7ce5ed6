"""What a hostile or broken client may send."""

from __future__ import annotations

import asyncio
import contextlib
import time
import zlib
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from imap_dialog import session_on
from imap_fake import FakeStore
from test_imap_dialog import PLAIN, fill

from resel_lda.imap import fetch
from resel_lda.mailbox import MailStore


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n",
        b" \r\n",
        b"a\r\n",
        b"a \r\n",
        b"+ NOOP\r\n",
        b"a FOO\r\n",
        b"a UID\r\n",
        b"a UID FOO\r\n",
        b"\xff\xfe\r\n",
        b"a NO\0OP\r\n",
        b"a STATUS INBOX (" + b"(" * 5000 + b"\r\n",
        b'a LIST "" "unterminated\r\n',
        b"a SELECT {3+}\r\nab\xff\r\n",
        b"a SELECT {0+}\r\n\r\n",
        b"a LIST {99999999999999999999+\r\n",
        b"a SELECT {-1}\r\n",
    ],
)
async def test_bad_commands_are_refused_and_the_session_goes_on(
    fake: FakeStore, data: bytes
) -> None:
    async with session_on(fake) as client:
        client.send(data)
        line = await client.line()
        assert line.split(" ")[1] in ("BAD", "NO"), line
        assert await client.command("NOOP") == ["x OK NOOP completed."]


async def test_a_flood_of_commands_leaves_others_their_turn(fake: FakeStore) -> None:
    sent: list[int] = []

    async with session_on(fake) as client:
        assert client.server is not None
        stream = client.server.session.stream

        async def other() -> None:
            while True:
                sent.append(stream.sent)
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        client.send(b"a NOOP\r\n" * 6_000 + b"b NOOP\r\n")
        while not (await client.line()).startswith("b OK"):
            pass
        task.cancel()
        most = max(after - before for before, after in pairwise(sent))
        assert most < stream.sent / 2


async def test_literal_that_is_too_large_is_not_asked_for(fake: FakeStore) -> None:
    async with session_on(fake) as client:
        await client.script("""
            C: a SELECT {500000}
            S: a BAD [TOOBIG] ...
            C: b NOOP
            S: b OK NOOP completed.
        """)


async def test_literal_sent_at_once_is_read_out(fake: FakeStore) -> None:
    async with session_on(fake) as client:
        client.send(b"a SELECT {500000+}\r\n" + b"x" * 500_000 + b"\r\nb NOOP\r\n")
        assert (await client.line()).startswith("a BAD [TOOBIG]")
        assert await client.line() == "b OK NOOP completed."


async def test_a_message_too_large_to_be_read_out_ends_with_bye(fake: FakeStore) -> None:
    """RFC 7888 §4."""
    async with session_on(fake) as client:
        client.send(b"a APPEND INBOX {99999999999+}\r\n")
        assert await client.line() == "* BYE [TOOBIG] Literal too large"
        assert client.result is not None
        async with asyncio.timeout(20):
            assert await client.result == "Connection closed"


async def test_literal_without_end_ends_the_session(fake: FakeStore) -> None:
    async with session_on(fake) as client:
        client.send(b"a SELECT {99999999999+}\r\n")
        assert client.result is not None
        async with asyncio.timeout(5):
            assert await client.result == "Connection closed"


async def test_line_too_long(fake: FakeStore) -> None:
    async with session_on(fake) as client:
        client.send(b"a NOOP " + b"x" * 200_000 + b"\r\nb NOOP\r\n")
        assert (await client.line()).endswith("BAD Command line too long")
        assert await client.line() == "b OK NOOP completed."


async def test_line_without_end(fake: FakeStore) -> None:
    async with session_on(fake) as client:
        client.send(b"x" * 2_000_000)
        assert client.result is not None
        async with asyncio.timeout(5):
            assert await client.result == "Connection closed"


async def test_too_many_bad_commands(fake: FakeStore) -> None:
    async with session_on(fake) as client:
        for _ in range(19):
            assert (await client.command("FOO"))[-1].startswith("x BAD")
        assert (await client.command("NOOP"))[-1].startswith("x OK")
        for _ in range(19):
            assert (await client.command("FOO"))[-1].startswith("x BAD")
        client.send(b"y FOO\r\n")
        assert (await client.line()).startswith("y BAD")
        assert await client.line() == "* BYE Too many invalid IMAP commands."


async def test_disconnect_in_a_message_keeps_nothing(fake: FakeStore) -> None:
    async with session_on(fake) as client:
        client.send(b"a APPEND INBOX {1000}\r\n")
        assert await client.line() == "+ OK"
        client.send(b"half")
        client.writer.close()
        assert client.result is not None
        async with asyncio.timeout(5):
            assert await client.result == "Connection closed"
    assert fake.boxes["INBOX"].infos == {}
    assert fake.boxes["INBOX"].held == 0


async def test_slow_reader_does_not_fill_the_memory(fake: FakeStore) -> None:
    box = fake.boxes["INBOX"]
    for _ in range(60):
        box.add(b"Subject: x\r\n\r\n" + b"y" * 1_000_000)
    async with session_on(fake) as client:
        await client.command("SELECT INBOX")
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.send(b"a FETCH 1:* BODY.PEEK[]\r\n")
        await asyncio.sleep(0.3)
        assert box.reads < 20
        client.writer.transport.abort()


async def test_tag_of_any_length_comes_back(fake: FakeStore) -> None:
    async with session_on(fake) as client:
        tag = "t" * 5_000
        assert await client.command("NOOP", tag) == [f"{tag} OK NOOP completed."]


@contextlib.asynccontextmanager
async def others_turns() -> AsyncIterator[list[None]]:
    """One more each time that another task has had a turn."""
    turns: list[None] = []

    async def count() -> None:
        while True:
            await asyncio.sleep(0)
            turns.append(None)

    counting = asyncio.create_task(count())
    try:
        yield turns
    finally:
        counting.cancel()


async def test_what_unpacks_to_much_leaves_others_their_turn(fake: FakeStore) -> None:
    """100 MB of nothing in 100 KB: a literal that is refused, and read out."""
    async with session_on(fake) as client:
        assert (await client.command("COMPRESS DEFLATE"))[-1] == "x OK Begin compression."
        packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        size = 100_000_000
        bomb = packer.compress(b"a SELECT {%d+}\r\n" % size) + packer.compress(bytes(size))
        bomb += packer.compress(b"\r\nb NOOP\r\n") + packer.flush(zlib.Z_SYNC_FLUSH)
        assert len(bomb) < 200_000
        unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
        text = b""
        async with others_turns() as turns, asyncio.timeout(60):
            client.send(bomb)
            while b"b OK" not in text:
                text += unpacker.decompress(await client.reader.read(1000))
        assert text.startswith(b"a BAD [TOOBIG]")
        assert len(turns) > 1_000


async def test_patterns_without_end_cost_little(fake: FakeStore) -> None:
    for number in range(300):
        await fake.create(f"{'ab' * 40}{number}")
    async with session_on(fake) as client:
        patterns = " ".join("%a" * 450 for _ in range(60))
        started = time.process_time()
        assert await client.command(f'LIST "" ({patterns})') == ["x OK List completed."]
        assert (await client.command(f'LIST "" {"*" * 20_000}'))[-1] == "x OK List completed."
        assert time.process_time() - started < 10


async def test_one_answer_is_not_too_large_for_memory(
    fake: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "_ANSWER_OCTETS", 1_000_000)
    box = fake.boxes["INBOX"]
    box.add(b"Subject: x\r\n\r\n" + b"y" * 200_000)
    box.add(b"Subject: y\r\n\r\n")
    async with session_on(fake) as client:
        await client.command("SELECT INBOX")
        items = " ".join(f"BODY.PEEK[]<{at}.300000>" for at in range(6))
        lines = await client.command(f"FETCH 1:2 ({items})")
        assert lines[-1] == "x NO [LIMIT] Too much of message 1 in one answer"
        assert lines[0].startswith("* 2 FETCH (BODY[]<0> {")
        assert (await client.command("NOOP"))[-1] == "x OK NOOP completed."


async def test_keywords_are_not_too_long(store: MailStore) -> None:
    await fill(store, PLAIN)
    async with session_on(store) as client:
        await client.command("SELECT INBOX")
        assert (await client.command(f"STORE 1 +FLAGS ({'k' * 50})"))[-1].startswith("x OK")
        long = await client.command(f"STORE 1 +FLAGS ({'k' * 51})")
        assert isinstance(store, FakeStore) or long == ["x NO [LIMIT] The keyword is too long"]


async def test_names_that_are_too_long(store: MailStore) -> None:
    async with session_on(store) as client:
        for name in ("a" * 250, "/".join(["q" * 150, "r" * 150]), "/".join(["a"] * 50)):
            for command in (f"CREATE {name}", f"RENAME INBOX {name}", f"SELECT {name}"):
                answer = (await client.command(command))[-1]
                assert isinstance(store, FakeStore) or answer.startswith("x NO [CANNOT] "), answer


async def test_many_keys_leave_others_their_turn(fake: FakeStore) -> None:
    box = fake.boxes["INBOX"]
    for _ in range(2_000):
        box.add(b"Subject: x\r\n\r\n", ["\\Seen"])
    async with session_on(fake) as client:
        await client.command("SELECT INBOX")
        async with others_turns() as turns:
            lines = await client.command("SEARCH " + " ".join(["NOT UNSEEN"] * 900))
        assert lines[0].startswith("* SEARCH 1 2 3 ")
        assert len(turns) > 20


words = st.sampled_from(
    [b"a", b"UID", b"FETCH", b"SEARCH", b"STORE", b"LIST", b"APPEND", b"STATUS", b"INBOX", b"1:*",
     b"(", b")", b" ", b" ", b" ", b"\\Seen", b"+FLAGS", b"BODY[", b"]", b'"', b"{3+}\r\n", b"{3}",
     b"OR", b"NOT", b"HEADER", b"RETURN", b"*", b"%", b"\xff", b"\0", b"FLAGS", b"COPY", b"IDLE"]
)  # fmt: skip


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.lists(words, max_size=12).map(b"".join), max_size=6))
def test_no_input_breaks_a_session(lines: list[bytes]) -> None:
    async def talk() -> None:
        fake = FakeStore()
        fake.boxes["INBOX"].add(b"Subject: x\r\n\r\ny\r\n")
        async with session_on(fake) as client:
            await client.command("SELECT INBOX")
            for line in lines:
                client.send(line + b"\r\n")
            client.send(b"xyz\r\nDONE\r\nend NOOP\r\n")
            async with asyncio.timeout(5):
                while line := await client.reader.readline():
                    if line.startswith(b"end "):
                        break
            assert client.reports == []

    asyncio.run(talk())
