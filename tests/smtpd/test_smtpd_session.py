"""Time-outs, limits, lost clients, stop and reload."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import pytest
from aiosmtpd import __version__ as aiosmtpd_version
from aiosmtpd.smtp import SMTP

from resel_mta.config import Settings
from resel_mta.config.restrictions import VERBS
from resel_mta.smtpd import ConnectionCounter
from resel_mta.smtpd.access import RULES

Start = Callable[..., Any]


def test_the_base_class_is_the_one_we_know() -> None:
    """Private methods that we override or rely on have the signatures that we know."""
    assert aiosmtpd_version == "1.4.6"
    signatures = {
        name: list(inspect.signature(getattr(SMTP, name)).parameters)
        for name in (
            "connection_made",
            "connection_lost",
            "eof_received",
            "_cb_client_connected",
            "_create_session",
            "_handle_client",
            "_reset_timeout",
            "_set_post_data_state",
            "_set_rset_state",
            "_timeout_cb",
            "push",
        )
    }
    assert signatures == {
        "connection_made": ["self", "transport"],
        "connection_lost": ["self", "error"],
        "eof_received": ["self"],
        "_cb_client_connected": ["self", "reader", "writer"],
        "_create_session": ["self"],
        "_handle_client": ["self"],
        "_reset_timeout": ["self", "duration"],
        "_set_post_data_state": ["self"],
        "_set_rset_state": ["self"],
        "_timeout_cb": ["self"],
        "push": ["self", "status"],
    }
    source = inspect.getsource(SMTP.connection_made)
    for used in ("_original_transport", "_handler_coroutine", "_handle_client()", "_reset_timeout"):
        assert used in source


def test_every_rule_that_the_configuration_knows_exists() -> None:
    assert set(RULES) >= VERBS


async def test_a_silent_client_is_told_and_closed(start: Start) -> None:
    server = await start(smtpd_timeout="1")
    peer = await server.connect()
    await peer.hello()
    assert await peer.reply() == "421 4.4.2 mx.example.org Error: timeout exceeded"
    assert await peer.reply() == ""
    lines = await server.log()
    assert "timeout after EHLO from unknown[127.0.0.1]" in lines
    assert "disconnect from unknown[127.0.0.1] ehlo=1 commands=1" in lines


async def test_a_client_that_does_not_read_is_closed(start: Start) -> None:
    server = await start(smtpd_timeout="1", smtpd_junk_command_limit="100000000")
    peer = await server.connect(limit=1024)
    peer.writer.transport.pause_reading()

    async def flood() -> None:
        while True:
            await peer.send(b"NOOP\r\n" * 10_000)

    with pytest.raises(ConnectionError):
        await asyncio.wait_for(flood(), 20)
    for _ in range(200):
        if not server.service.session_count:
            break
        await asyncio.sleep(0.01)
    assert server.service.session_count == 0


async def test_lost_in_data(start: Start) -> None:
    server = await start()
    peer = await server.connect()
    await peer.open()
    await peer.send(b"Subject: x\r\n\r\nhalf a mess")
    await peer.close()
    lines = await server.log()
    assert "lost connection after DATA (25 bytes) from unknown[127.0.0.1]" in lines
    assert server.intake.taken == []


async def test_lost_with_content_on_disk(start: Start) -> None:
    server = await start()
    peer = await server.connect()
    await peer.open()
    await peer.send(b"Subject: x\r\n\r\n" + b"x" * 1_000_000)
    peer.writer.write_eof()
    assert await peer.reply() == ""
    await server.log()
    assert [sink.discarded for sink in server.intake.sinks] == [True]


async def test_half_closed_client_gets_its_replies(start: Start) -> None:
    server = await start()
    peer = await server.connect()
    await peer.send("HELO x.example\r\nNOOP\r\n")
    peer.writer.write_eof()
    assert [await peer.reply() for _ in range(4)] == [
        "220 mx.example.org ESMTP resel-mta",
        "250 mx.example.org",
        "250 2.0.0 Ok",
        "",
    ]
    assert "lost connection after NOOP from unknown[127.0.0.1]" in await server.log()


async def test_line_too_long(start: Start) -> None:
    server = await start()
    peer = await server.connect()
    await peer.hello()
    for size in (2100, 500_000):
        await peer.send(b"NOOP " + b"x" * size + b"\r\n")
        assert await peer.reply() == "500 5.5.2 Error: line too long"
    assert await peer.ask("NOOP " + "x" * 2000) == "250 2.0.0 Ok"


async def test_connection_count_limit_is_shared(start: Start) -> None:
    counter = ConnectionCounter()
    first = await start(counter=counter, smtpd_client_connection_count_limit="2")
    second = await start(counter=counter, smtpd_client_connection_count_limit="2")
    peers = [await first.connect(), await second.connect()]
    for peer in peers:
        assert (await peer.reply()).startswith("220")
    third = await second.connect()
    assert await third.reply() == (
        "421 4.7.0 mx.example.org Error: too many connections from 127.0.0.1"
    )
    assert await third.reply() == ""
    assert await peers[0].ask("QUIT") == "221 2.0.0 Bye"
    assert await peers[0].reply() == ""
    await first.log()
    fourth = await second.connect()
    assert (await fourth.reply()).startswith("220")
    second.service.log.flush()
    assert any(
        "warning: Connection concurrency limit exceeded: 3 from unknown[127.0.0.1] for service smtp"
        in line
        for line in second.lines.lines
    )


async def test_trusted_clients_have_no_connection_limit(start: Start) -> None:
    server = await start(smtpd_client_connection_count_limit="1", mynetworks="127.0.0.0/8")
    for _ in range(3):
        assert (await (await server.connect()).reply()).startswith("220")


async def test_junk_commands_become_errors(start: Start) -> None:
    server = await start(smtpd_junk_command_limit="3", smtpd_hard_error_limit="3")
    peer = await server.connect()
    await peer.hello()
    answers = []
    await peer.send(b"NOOP\r\n" * 10)
    while answer := await peer.reply():
        answers.append(answer)
    assert answers[-1] == "421 4.7.0 mx.example.org Error: too many errors"
    assert len(answers) == 8


async def test_trusted_clients_may_keep_a_connection_alive(start: Start) -> None:
    server = await start(smtpd_junk_command_limit="3", mynetworks="127.0.0.0/8")
    peer = await server.connect()
    await peer.hello()
    await peer.send(b"NOOP\r\n" * 50 + b"QUIT\r\n")
    assert [await peer.reply() for _ in range(50)] == ["250 2.0.0 Ok"] * 50
    assert (await peer.reply()).startswith("221")


async def test_stop_ends_idle_sessions_and_lets_a_transaction_finish(start: Start) -> None:
    server = await start()
    idle, busy = await server.connect(), await server.connect()
    await idle.hello()
    await busy.open()
    stopping = asyncio.ensure_future(server.service.stop(30))
    assert await idle.reply() == "421 4.3.2 mx.example.org Service shutting down"
    assert await idle.reply() == ""
    await busy.send("Subject: x\r\n\r\nbody\r\n.\r\n")
    assert await busy.reply() == "250 2.0.0 Ok: queued as QID1"
    assert await busy.reply() == "421 4.3.2 mx.example.org Service shutting down"
    await asyncio.wait_for(stopping, 10)
    assert len(server.intake.taken) == 1


async def test_stop_waits_no_longer_than_told(start: Start) -> None:
    server = await start()
    peer = await server.connect()
    await peer.open()
    await asyncio.wait_for(server.service.stop(0.1), 10)
    assert await peer.reply() == "421 4.3.2 mx.example.org Service shutting down"
    assert await peer.reply() == ""
    assert server.intake.taken == []


async def test_stop_waits_for_a_message_whose_client_is_gone(start: Start) -> None:
    server = await start()
    server.intake.gate = asyncio.Event()
    peer = await server.connect()
    await peer.open()
    await peer.send("Subject: x\r\n\r\nbody\r\n.\r\n")
    await server.intake.entered.wait()
    await peer.close()
    stopping = asyncio.ensure_future(server.service.stop(30))
    await asyncio.sleep(0.05)
    assert not stopping.done()
    server.intake.gate.set()
    await asyncio.wait_for(stopping, 10)
    assert len(server.intake.taken) == 1


async def test_reload_is_for_new_sessions(start: Start) -> None:
    server = await start()
    old = await server.connect()
    await old.reply()
    settings = Settings.build(
        "server",
        myhostname="new.example.org",
        mydestination="example.org",
        message_size_limit="77",
        smtpd_relay_restrictions="reject_unauth_destination",
    )
    server.service.reconfigure(settings.service("smtpd"))
    assert "SIZE 10240000" in await old.ask("EHLO x.example")
    new = await server.connect()
    assert (await new.reply()).startswith("220 new.example.org")
    assert "SIZE 77" in await new.ask("EHLO x.example")


@pytest.mark.parametrize(
    "junk",
    [
        b"\x00" * 5000 + b"\r\n",
        b"\xff\xfe\r\nMAIL FROM:\xff\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n",
        b"MAIL FROM:<" + b"@a," * 500 + b":x@y>\r\n",
        b'RCPT TO:<"' + b"\\" * 900 + b'"@x>\r\n',
        b"BDAT 99999999999999999999999\r\n",
        b"BDAT -1\r\n",
        b"AUTH PLAIN " + b"A" * 1900 + b"\r\n",
    ],
)
async def test_junk_harms_nobody(start: Start, junk: bytes) -> None:
    server = await start()
    peer = await server.connect()
    await peer.hello()
    await peer.send(junk + b"QUIT\r\n")
    while await peer.reply():
        continue
    assert not any("internal error" in line for line in await server.log())
