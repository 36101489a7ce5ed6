"""When replies leave: those to several sessions together, once all that came is read."""

from __future__ import annotations

import asyncio
from typing import Any

import trustme
from smtpd_fakes import Server, Start
from test_smtpd_tls import trusting

from resel_mta.smtpd.protocol import SmtpProtocol


class Wire:
    """A transport that notes in a list of all wires' what is written, and its end."""

    def __init__(self, name: str, written: list[str]) -> None:
        self.name = name
        self.written = written
        self.closing = False

    def get_extra_info(self, name: str, default: object = None) -> object:
        known = {"peername": ("127.0.0.1", 4), "sockname": ("127.0.0.1", 25)}
        return known.get(name, default)

    def write(self, data: bytes) -> None:
        self.written += [f"{self.name} {line[:3]}" for line in data.decode().splitlines()]

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True
        self.written.append(f"{self.name} end")


async def begin(server: Server, wire: Wire) -> SmtpProtocol:
    """A session that has been greeted; of that nothing is noted."""
    session = server.service.factory()
    session.connection_made(wire)  # type: ignore[arg-type]
    for _ in range(10):
        await asyncio.sleep(0)
    assert wire.written == [f"{wire.name} 220"]
    wire.written.clear()
    return session


async def begin_two(server: Server, written: list[str]) -> tuple[SmtpProtocol, SmtpProtocol]:
    """Sessions called one and other."""
    return await begin(server, Wire("one", written)), await begin(server, Wire("other", written))


def end(*sessions: SmtpProtocol) -> None:
    for session in sessions:
        session.connection_lost(None)


async def test_replies_to_several_sessions_leave_together(start: Start) -> None:
    written: list[str] = []
    server = await start()
    one, other = await begin_two(server, written)
    one.data_received(b"NOOP\r\n")
    other.data_received(b"NOOP\r\n")
    one.data_received(b"BAD\r\n")
    assert written == []
    await asyncio.sleep(0)
    assert written == ["one 250", "one 500", "other 250"]
    end(one, other)


async def test_a_lone_session_need_not_wait(start: Start) -> None:
    written: list[str] = []
    server = await start()
    lone = await begin(server, Wire("lone", written))
    for _ in range(2):
        lone.data_received(b"NOOP\r\n")
    assert written == ["lone 250"] * 2
    end(lone)


async def test_the_last_reply_leaves_before_the_end(start: Start) -> None:
    written: list[str] = []
    server = await start()
    one, other = await begin_two(server, written)
    one.data_received(b"NOOP\r\n")
    one.data_received(b"QUIT\r\n")
    assert written == ["one 250", "one 221", "one end"]
    other.begin_stop()
    assert written[3:] == ["other 421", "other end"]
    end(one, other)


async def test_a_reply_that_slows_down_does_not_leave_with_the_others(start: Start) -> None:
    written: list[str] = []
    server = await start(smtpd_soft_error_limit="1", smtpd_error_sleep_time="60s")
    one, other = await begin_two(server, written)
    one.data_received(b"NOOP\r\n")
    one.data_received(b"BAD\r\n")
    other.data_received(b"NOOP\r\n")
    await asyncio.sleep(0)
    assert written == ["other 250"]
    end(one, other)
    await server.service.stop(0)


async def test_starttls_is_answered_in_the_clear_beside_other_sessions(
    start: Start, certificate: tuple[trustme.CA, str]
) -> None:
    authority, path = certificate
    server = await start(tls=path)
    other: Any = await server.connect()
    await other.hello()
    peer: Any = await server.connect()
    await peer.hello()
    assert await peer.ask("STARTTLS") == "220 2.0.0 Ready to start TLS"
    await peer.writer.start_tls(trusting(authority), server_hostname="localhost")
    assert (await peer.ask("EHLO client.example")).startswith("250-")
    assert await other.ask("NOOP") == "250 2.0.0 Ok"
    assert await peer.ask("QUIT") == "221 2.0.0 Bye"


class Broken(Wire):
    """A transport whose write fails, after the greeting, in a way that nobody thought of."""

    greeted = False

    def write(self, data: bytes) -> None:
        if self.greeted:
            raise RuntimeError("no such thing")
        self.greeted = True
        super().write(data)

    def abort(self) -> None:
        self.written.append(f"{self.name} abort")


async def test_one_broken_connection_keeps_no_other_waiting(start: Start) -> None:
    written: list[str] = []
    server = await start()
    broken = await begin(server, Broken("broken", written))
    other = await begin(server, Wire("other", written))
    broken.data_received(b"NOOP\r\n")
    other.data_received(b"NOOP\r\n")
    await asyncio.sleep(0)
    assert written == ["broken abort", "other 250"]
    other.data_received(b"NOOP\r\n")
    await asyncio.sleep(0)
    assert written == ["broken abort", "other 250", "other 250"]
    end(broken, other)
