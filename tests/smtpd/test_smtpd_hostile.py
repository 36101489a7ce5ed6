"""Hostile and broken clients: random octets and cuts, floods, clients that are gone already."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from smtpd_fakes import BASE, FakeIntake, FakeRouter, FakeUsers, Lines

from resel_mta.config import Settings
from resel_mta.content import Header
from resel_mta.mail import Reply
from resel_mta.maillog import MailLog
from resel_mta.receiver import HEADER_LINES, ContentReceiver
from resel_mta.smtpd import SmtpService
from resel_mta.smtpd.protocol import SmtpProtocol

Start = Callable[..., Any]

MESSAGE = b"MAIL FROM:<a@b.example>\r\nRCPT TO:<lcarr@example.org>\r\nDATA\r\nA: b\r\n\r\n"
#: Whole things to say. Each may come in any pieces, together with others.
SAID = [
    MESSAGE + b"body\r\n.\r\n",
    MESSAGE + b"body\n.\r\nMAIL FROM:<evil@b.example>\r\n..\n\r\n.\r\n",
    MESSAGE + b"\0\xff\r\n..\r\n.\r\n",
    MESSAGE + b"bare\rcr\r\n.\r\n",
    b"MAIL FROM:<a@b.example>\r\nRCPT TO:<lcarr@example.org>\r\nBDAT 4\r\nab\r\nBDAT 3 LAST\r\nc\r\n",
    b"BDAT 9\r\nRSET\r\nabcBDAT 0 LAST\r\n",
    b"RSET\r\n",
    b"NOOP\r\n",
    b"EHLO client.example\r\n",
    b"HELO client.example\r\n",
    b"MAIL FROM:<a@b.example> SIZE=1 BODY=8BITMIME\r\n",
    b"MAIL FROM:<> SIZE=99999999999\r\n",
    b"RCPT TO:<nobody@example.org>\r\n",
    b"RCPT TO:<x@other.example>\r\n",
    b"RCPT TO:<" + b"a" * 3000 + b"@example.org>\r\n",
    b"VRFY lcarr\r\n",
    b"AUTH PLAIN AGxjYXJyAHNlY3JldA==\r\n",
    b"AUTH LOGIN\r\n*\r\n",
    b"AUTH LOGIN\r\nbGNhcnI=\r\n!\r\n",
    b"STARTTLS\r\n",
    b"\0\0\0\0\r\n",
    b"\xff\xfe MAIL\r\n",
    b"\r\n",
    b"\n",
    b"mail from:<\xc3\xa9@b.example> smtputf8\r\n",
]
OPTIONS = {
    **BASE,
    "smtpd_sasl_auth_enable": "yes",
    "smtpd_hard_error_limit": "1000000",
    "smtpd_soft_error_limit": "1000000",
    "smtpd_junk_command_limit": "1000000",
}


class Wire:
    """A transport that keeps what is written."""

    def __init__(self, peername: object = ("127.0.0.1", 4)) -> None:
        self.peername = peername
        self.written = b""
        self.aborted = self.closing = False

    def get_extra_info(self, name: str, default: object = None) -> object:
        known = {"peername": self.peername, "sockname": ("127.0.0.1", 25)}
        return known.get(name, default)

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.aborted = self.closing = True

    def pause_reading(self) -> None:
        """Nothing comes that is not fed."""

    def resume_reading(self) -> None:
        """Nothing was paused."""


class Talk:
    """A session that is fed by hand."""

    def __init__(self) -> None:
        self.intake = FakeIntake()
        self.lines = Lines()
        self.service = SmtpService(
            "smtpd",
            Settings.build("server", **OPTIONS).service("smtpd"),
            self.intake,
            FakeRouter(),
            FakeUsers(),  # type: ignore[arg-type]
            MailLog(self.lines, stamped=False),
        )
        self.wire = Wire()
        self.session: SmtpProtocol = self.service.factory()
        self.session.connection_made(self.wire)  # type: ignore[arg-type]

    async def quiet(self) -> None:
        """Until nothing is under way."""
        for _ in range(1000):
            await asyncio.sleep(0)
            if not self.session.busy:
                return
        raise AssertionError("the session does not come to rest")

    async def end(self) -> tuple[bytes, list[bytes], list[str]]:
        """All that was written, all messages, the log."""
        await self.quiet()
        self.session.connection_lost(None)
        await self.quiet()
        self.service.log.flush()
        assert self.service.session_count == 0
        return self.wire.written, [taken.data for taken in self.intake.taken], self.lines.lines


async def talk(blocks: list[bytes], *, wait: bool) -> tuple[bytes, list[bytes], list[str]]:
    """Say these blocks; wait: for the answer to each."""
    session = Talk()
    await session.quiet()
    for block in blocks:
        if block:
            session.session.data_received(block)
        if wait:
            await session.quiet()
    return await session.end()


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@hypothesis_settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(SAID), min_size=1, max_size=8),
    st.lists(st.integers(0, 10_000), max_size=12),
    st.booleans(),
)
def test_the_answers_do_not_depend_on_the_cuts(
    said: list[bytes], places: list[int], wait: bool
) -> None:
    # The stranger's greeting is there so that refused content is not what the cuts decide.
    data = b"".join(b"RSET\r\n" + part for part in said)
    whole = asyncio.run(talk([b"RSET\r\n" + part for part in said], wait=True))
    cut_up = asyncio.run(talk(cut(data, places), wait=wait))
    assert cut_up[:2] == whole[:2]
    assert not any("internal error" in line for line in cut_up[2])


@hypothesis_settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(SAID),
            st.binary(max_size=40),
            st.sampled_from([b"DATA\r\n", b".\r\n", b"BDAT 7\r\n", b"BDAT 99 LAST\r\n", b"\r"]),
        ),
        max_size=12,
    ),
    st.lists(st.integers(0, 10_000), max_size=12),
)
def test_no_octets_upset_a_session(said: list[bytes], places: list[int]) -> None:
    written, _, lines = asyncio.run(talk(cut(b"".join(said), places), wait=False))
    assert not any("internal error" in line for line in lines)
    assert b"451 4.3.0" not in written
    assert all(line[:3].isdigit() for line in written.split(b"\r\n") if line)


async def test_a_client_that_is_gone_is_not_taken_for_this_host() -> None:
    """Its address cannot be asked for any more; what it sent must not be relayed as ours."""
    session = Talk()
    await session.end()
    gone = Wire(peername=None)
    late = session.service.factory()
    late.connection_made(gone)  # type: ignore[arg-type]
    assert gone.aborted
    late.data_received(b"HELO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<x@other.example>\r\n")
    assert not late.eof_received()
    late.connection_lost(None)
    await asyncio.sleep(0.01)
    assert gone.written == b""
    assert session.service.session_count == 0


async def test_a_long_pipeline_keeps_nobody_waiting() -> None:
    session = Talk()
    await session.quiet()
    began = time.perf_counter()
    session.session.data_received(b"HELO x\r\n" * 30_000)
    assert time.perf_counter() - began < 0.1
    for _ in range(10_000):
        await asyncio.sleep(0)
        if session.wire.written.count(b"250 mx.example.org\r\n") == 30_000:
            break
    await session.end()
    assert session.wire.written.count(b"250 mx.example.org\r\n") == 30_000


async def test_input_is_held_while_something_is_awaited(start: Start) -> None:
    """No more than a bounded amount, and in order."""
    server = await start(smtpd_junk_command_limit="100000000")
    server.intake.gate = asyncio.Event()
    peer = await server.connect()
    await peer.open()
    await peer.send(b"Subject: x\r\n\r\nbody\r\n.\r\n")
    await server.intake.entered.wait()

    async def flood() -> None:
        while True:
            await peer.send(b"RSET\r\n" * 50_000)

    flooding = asyncio.ensure_future(flood())
    await asyncio.sleep(0.3)
    (session,) = server.service._sessions
    assert session._held_size < 1_000_000
    flooding.cancel()
    server.intake.gate.set()
    assert await peer.reply() == "250 2.0.0 Ok: queued as QID1"
    assert await peer.reply() == "250 2.0.0 Ok"


async def test_octet_by_octet_content_costs_no_object_each() -> None:
    receiver = ContentReceiver(FakeIntake(), 0)
    for _ in range(50_000):
        assert not receiver.feed(b"xy")
    assert len(receiver._blocks) < 100
    content = await receiver.finish()
    assert content.body.size == 100_000


async def test_a_header_of_too_many_lines_is_refused(start: Start) -> None:
    server = await start(message_size_limit="0")
    peer = await server.connect()
    await peer.open()
    await peer.send(b"a:b\r\n" * (HEADER_LINES + 60_000) + b"\r\nbody\r\n.\r\n")
    assert await peer.reply() == "552 5.3.4 Error: message header too big"
    assert server.intake.taken == []


async def test_a_header_that_is_refused_leaves_nothing_on_disk() -> None:
    intake = FakeIntake()
    receiver = ContentReceiver(intake, 0)
    await receiver.add(b"Subject: x\r\n\r\n" + b"y" * 600_000)
    refusal = Reply(554, "5.4.6", "loop")

    def check(header: Header) -> Reply | None:
        return refusal

    with pytest.raises(Exception, match="loop"):
        await receiver.finish(check)
    await receiver.fail(refusal)
    assert [sink.discarded for sink in intake.sinks] == [True]


async def test_bdat_that_never_ends(start: Start) -> None:
    server = await start(message_size_limit="1000")
    peer = await server.connect()
    await peer.hello()
    await peer.ask("MAIL FROM:<a@b.example>", "RCPT TO:<lcarr@example.org>")
    await peer.send(b"BDAT 999999999999999999 LAST\r\n" + b"x" * 3_000_000)
    await peer.close()
    lines = await server.log()
    assert any(line.startswith("lost connection after BDAT (") for line in lines)
    assert server.intake.taken == []


async def test_auth_does_not_run_commands(start: Start) -> None:
    """What is said in an exchange is a response, whatever it looks like."""
    server = await start(smtpd_sasl_auth_enable="yes")
    peer = await server.connect()
    await peer.hello()
    assert await peer.ask("AUTH LOGIN") == "334 VXNlcm5hbWU6"
    assert await peer.ask("QUIT") == "334 UGFzc3dvcmQ6"
    assert await peer.ask("RSET") == "535 5.7.8 Error: authentication failed"
    assert await peer.ask("AUTH PLAIN") == "334 "
    await peer.send(b"A" * 20_000 + b"\r\n")
    assert await peer.reply() == "501 5.5.2 Error: malformed authentication response"
    assert await peer.ask("NOOP") == "250 2.0.0 Ok"


async def test_waiting_for_us_is_not_silence() -> None:
    """A message whose commit takes longer than smtpd_timeout costs the client no session."""
    session = Talk()
    session.intake.gate = asyncio.Event()
    await session.quiet()
    session.session.data_received(b"HELO x\r\n" + MESSAGE + b"body\r\n.\r\n")
    await session.intake.entered.wait()
    late = asyncio.get_running_loop().time() + session.session.options.timeout + 1
    session.session.check_time(late)
    session.session._active -= session.session.options.timeout + 1
    session.intake.gate.set()
    await session.quiet()
    session.session.check_time(asyncio.get_running_loop().time())
    session.session.data_received(b"NOOP\r\n")
    written, taken, _ = await session.end()
    assert written.endswith(b"250 2.0.0 Ok: queued as QID1\r\n250 2.0.0 Ok\r\n")
    assert len(taken) == 1
