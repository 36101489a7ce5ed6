"""What arrives is what was sent, with one Received field before it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resel_mta.content import split_header
from resel_mta.mail import Notify, Reply, TempFail
from resel_mta.receiver import HEADER_LIMIT, split_streamed_header
from resel_mta.wire.data import dot_stuff

Start = Callable[..., Any]


async def deliver(server: Any, data: bytes, *, chunks: int = 0) -> str:
    """Send `data` by DATA, or in BDAT chunks of that size; the last reply."""
    peer = await server.connect()
    if not chunks:
        await peer.open()
        await peer.send(dot_stuff(data) + b".\r\n")
        return str(await peer.reply())
    await peer.hello()
    await peer.ask("MAIL FROM:<a@b.example>", "RCPT TO:<lcarr@example.org>")
    answer = ""
    for start in range(0, len(data), chunks):
        chunk = data[start : start + chunks]
        last = b" LAST" if start + chunks >= len(data) else b""
        await peer.send(b"BDAT %d%s\r\n" % (len(chunk), last) + chunk)
        answer = await peer.reply()
    return answer


MESSAGES = {
    "plain": b"Subject: x\r\n\r\nbody\r\n",
    "empty body": b"Subject: x\r\n\r\n",
    "no header": b"\r\nbody\r\n",
    "dots": b"Subject: x\r\n\r\n.\r\n..\r\n.a\r\n\r\n.\r\n",
    "8-bit and NUL": b"Subject: \xc3\xa9t\xe9\r\n\r\n\x00\x01\xff\r\n",
    "long lines": b"Subject: x\r\n\r\n" + b"x" * 5000 + b"\r\n." + b"y" * 70000 + b"\r\n",
    "long header line": b"To: " + b"a@b.example, " * 30000 + b"c@d.example\r\n\r\nbody\r\n",
    "large": b"Subject: x\r\n\r\n" + (b"." + b"z" * 75 + b"\r\n") * 20000,
}


@pytest.mark.parametrize("name", MESSAGES)
@pytest.mark.parametrize("chunks", [0, 70001])
async def test_content_is_kept(start: Start, name: str, chunks: int) -> None:
    data = MESSAGES[name]
    server = await start()
    assert await deliver(server, data, chunks=chunks) == "250 2.0.0 Ok: queued as QID1"
    (taken,) = server.intake.taken
    assert taken.data == data
    assert taken.queue_id == "QID1"
    if len(data) > 1_000_000 or len(data) < 200_000:
        assert bool(server.intake.sinks) == (len(data) > 1_000_000)


async def test_empty_message(start: Start) -> None:
    server = await start()
    assert (await deliver(server, b"")).startswith("250")
    assert server.intake.taken[0].data == b"\r\n"


async def test_bare_lf_becomes_crlf(start: Start) -> None:
    server = await start()
    await deliver(server, b"Subject: x\n\r\nbody\n.\r\nend\r\n")
    assert server.intake.taken[0].data == b"Subject: x\r\n\r\nbody\r\n.\r\nend\r\n"


async def test_mbox_line_becomes_a_field(start: Start) -> None:
    server = await start()
    await deliver(server, b"From a@b.example Tue Nov 24\r\nSubject: x\r\n\r\nbody\r\n")
    expected = b"X-Mailbox-Line: From a@b.example Tue Nov 24\r\nSubject: x\r\n\r\nbody\r\n"
    assert server.intake.taken[0].data == expected


async def test_a_header_without_end_is_refused_not_cut(start: Start) -> None:
    server = await start(message_size_limit="0")
    peer = await server.connect()
    await peer.open()
    await peer.send(b"X: " + b"y" * (HEADER_LIMIT + 600_000) + b"\r\n\r\nbody\r\n.\r\n")
    assert await peer.reply() == "552 5.3.4 Error: message header too big"
    assert await peer.ask("NOOP") == "250 2.0.0 Ok"
    assert server.intake.taken == []


async def test_a_long_header_that_fits_is_kept(start: Start) -> None:
    server = await start(message_size_limit="0")
    data = b"X: " + b"y" * 1_500_000 + b"\r\n\r\n" + b"body\r\n" * 100_000
    assert (await deliver(server, data)).startswith("250")
    assert server.intake.taken[0].data == data


async def test_received_field(start: Start) -> None:
    server = await start()
    await deliver(server, b"Subject: x\r\n\r\nbody\r\n")
    origin = server.intake.taken[0].origin
    assert re.fullmatch(
        rb"Received: from client\.example \(unknown \[127\.0\.0\.1\]\)\r\n"
        rb"\tby mx\.example\.org \(resel-mta\) with ESMTP id QID1\r\n"
        rb"\tfor <lcarr@example\.org>; \w{3}, \d{1,2} \w{3} \d{4} \d\d:\d\d:\d\d [+-]\d{4} \(\w+\)\r\n",
        origin.received,
    )
    assert (origin.protocol, origin.client_address, origin.helo) == (
        "ESMTP",
        "127.0.0.1",
        "client.example",
    )
    assert origin.rewrite


async def test_envelope(start: Start) -> None:
    server = await start()
    peer = await server.connect()
    await peer.hello()
    answer = await peer.ask(
        "MAIL FROM:<sender> BODY=8BITMIME RET=full ENVID=a+2Bb SMTPUTF8",
        "RCPT TO:<LCarr@example.org> NOTIFY=success,FAILURE ORCPT=rfc822;x@y.example",
        "RCPT TO:<postmaster> NOTIFY=NEVER",
        "RCPT TO:<été@example.org> ORCPT=utf-8;été@example.org",
        "DATA",
    )
    assert answer.startswith("354")
    await peer.send(".\r\n")
    assert (await peer.reply()).startswith("250")
    (taken,) = server.intake.taken
    envelope = taken.envelope
    assert (envelope.reverse_path, envelope.body, envelope.ret, envelope.envid) == (
        "sender@example.org",
        "8BITMIME",
        "FULL",
        "a+2Bb",
    )
    assert envelope.smtputf8
    assert [(each.address, each.notify, each.orcpt) for each in envelope.recipients] == [
        ("LCarr@example.org", Notify.SUCCESS | Notify.FAILURE, "rfc822;x@y.example"),
        ("postmaster@example.org", Notify.NEVER, ""),
        ("été@example.org", Notify.UNSET, "utf-8;été@example.org"),
    ]
    assert taken.origin.protocol == "UTF8SMTP"
    assert b"for <" not in taken.origin.received


async def test_hop_limit_names_the_loop(start: Start) -> None:
    server = await start(hopcount_limit="6")
    loop = b"Received: from a (b [192.0.2.1])\r\n\tby one.example with SMTP; x\r\n"
    loop += b"Received: by two.example; x\r\n"
    answer = await deliver(server, loop * 3 + b"Subject: x\r\n\r\nbody\r\n")
    assert answer == (
        "554 5.4.6 Error: too many hops (6): mail loops through two.example, one.example"
    )
    assert (await deliver(server, loop * 2 + b"Subject: x\r\n\r\n" + loop * 9)).startswith("250")
    lines = await server.log()
    assert any("reject: END-OF-MESSAGE" in line and "5.4.6" in line for line in lines)


@pytest.mark.parametrize("size", [10, 600_000])
async def test_the_intake_says_later(start: Start, size: int) -> None:
    server = await start()
    server.intake.failure = TempFail(Reply(452, "4.3.1", "Insufficient system storage"))
    answer = await deliver(server, b"Subject: x\r\n\r\n" + b"x" * size + b"\r\n")
    assert answer == "452 4.3.1 Insufficient system storage"


async def test_what_there_is_no_room_for_is_refused_at_mail(start: Start) -> None:
    server = await start()
    server.intake.room = 1000
    peer = await server.connect()
    await peer.hello()
    no_room = "452 4.3.1 Insufficient system storage"
    assert await peer.ask("MAIL FROM:<a@b.example> SIZE=1001") == no_room
    assert await peer.ask('MAIL FROM:<"a b"@b.example> SIZE=1001') == no_room
    assert await peer.ask("RCPT TO:<lcarr@example.org>") == "503 5.5.1 Error: need MAIL command"
    assert await peer.ask("MAIL FROM:<a@b.example> SIZE=1000") == "250 2.1.0 Ok"
    server.intake.room = -1
    assert await peer.ask("RSET", "MAIL FROM:<a@b.example>") == no_room
    lines = [line for line in await server.log() if "NOQUEUE: reject: MAIL from" in line]
    assert len(lines) == 3
    assert f"{no_room}; from=<a@b.example> proto=ESMTP" in lines[0]


async def test_a_full_disk_while_content_comes(start: Start) -> None:
    server = await start()
    server.intake.write_failure = TempFail(Reply(452, "4.3.1", "Insufficient system storage"))
    peer = await server.connect()
    await peer.open()
    await peer.send(b"Subject: x\r\n\r\n" + b"QUIT\r\n" * 200_000 + b".\r\n")
    assert await peer.reply() == "452 4.3.1 Insufficient system storage"
    assert await peer.ask("NOOP") == "250 2.0.0 Ok"
    assert all(sink.discarded for sink in server.intake.sinks)


@pytest.mark.parametrize("where", ["submit", "write", "rcpt"])
async def test_a_bug_is_told_to_nobody_but_the_log(start: Start, where: str) -> None:
    server = await start()
    secret = RuntimeError("secret detail")
    size = 10
    if where == "submit":
        server.intake.failure = secret
    elif where == "write":
        server.intake.write_failure = secret
        size = 600_000
    else:
        server.router.failure = secret
    peer = await server.connect()
    await peer.hello()
    answer = await peer.ask("MAIL FROM:<a@b.example>", "RCPT TO:<lcarr@example.org>")
    if where != "rcpt":
        await peer.ask("DATA")
        await peer.send(b"Subject: x\r\n\r\n" + b"y" * size + b"\r\n.\r\n")
        answer = await peer.reply()
    match = re.fullmatch(
        r"451 4\.3\.0 Error: local error in processing \(reference ([0-9a-f]{8})\)", answer
    )
    assert match is not None
    assert await peer.ask("NOOP") == "250 2.0.0 Ok"
    await peer.close()
    lines = await server.log()
    assert any(match[1] in line and "secret detail" in line for line in lines)


async def test_a_map_that_fails_is_temporary(start: Start) -> None:
    server = await start()
    reply = Reply(451, "4.3.0", "Temporary lookup failure")
    server.router.failure = TempFail(reply, "alias_maps: hash:/etc/aliases lookup error")
    peer = await server.connect()
    await peer.hello()
    answer = await peer.ask("MAIL FROM:<a@b.example>", "RCPT TO:<lcarr@example.org>")
    assert answer == "451 4.3.0 Temporary lookup failure"
    warning = "warning: alias_maps: hash:/etc/aliases lookup error"
    assert any(line.endswith(warning) for line in await server.log())


@given(
    st.lists(
        st.sampled_from([b"A: b\r\n", b" c\r\n", b"\r\n", b"no field\r\n", b"x", b":\r\n", b"\t"]),
        max_size=12,
    ).map(b"".join),
    st.integers(0, 60),
)
def test_streamed_header_split_agrees_with_the_whole(data: bytes, cut: int) -> None:
    """Whatever a prefix says about the header's end holds for the whole message."""
    data += b"\r\n"
    prefix, rest = data[:cut], data[cut:]
    ended = split_streamed_header(prefix)
    if ended is not None:
        header, body = ended
        assert (header, body + rest) == split_header(data)
