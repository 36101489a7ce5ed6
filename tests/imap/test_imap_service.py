"""Front and worker together, with clients that other people wrote."""

from __future__ import annotations

import asyncio
import imaplib
import os
import signal
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from imap_service import PASSWORD, Running, imap_service

MESSAGE = b"From: ada@example.org\r\nSubject: =?utf-8?q?caf=C3=A9?=\r\n\r\nBonjour\r\n"


async def in_thread(work: Callable[..., object], *arguments: object) -> object:
    return await asyncio.to_thread(work, *arguments)


def use_mailbox(client: imaplib.IMAP4) -> None:
    """The usual round, by imaplib."""
    assert client.login("lcarr", PASSWORD)[0] == "OK"
    assert client.append("INBOX", r"(\Seen)", None, MESSAGE)[0] == "OK"
    assert client.select("INBOX") == ("OK", [b"1"])
    status, found = client.uid("SEARCH", "CHARSET", "UTF-8", "SUBJECT", '"CAF\u00c9"'.encode())
    assert (status, found) == ("OK", [b"1"])
    status, data = client.fetch("1", "(FLAGS BODY[])")
    assert status == "OK"
    assert data[0][1] == MESSAGE
    assert client.create("Archives")[0] == "OK"
    assert client.copy("1", "Archives")[0] == "OK"
    assert client.store("1", "+FLAGS", r"(\Deleted)")[0] == "OK"
    assert client.expunge() == ("OK", [b"1"])
    assert client.status("Archives", "(MESSAGES)") == ("OK", [b"Archives (MESSAGES 1)"])
    assert client.logout()[0] == "BYE"


async def test_imaplib_in_the_clear_from_loopback(tmp_path: Path) -> None:
    async with imap_service(tmp_path) as running:
        client = await asyncio.to_thread(imaplib.IMAP4, "127.0.0.1", running.port)
        await in_thread(use_mailbox, client)
        line = await running.log.wait_for("Login: user=<lcarr>")
        assert "dovecot: imap-login: Login: " in line
        assert "method=PLAIN, rip=127.0.0.1, lip=127.0.0.1, mpid=" in line
        assert ", secured, session=<" in line
        await running.log.wait_for("imap(lcarr)<", "Disconnected: Logged out")
        assert running.service.active() == []


async def test_imaplib_over_tls(
    tmp_path: Path, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async with imap_service(tmp_path, server_context) as running:
        client = await asyncio.to_thread(
            lambda: imaplib.IMAP4_SSL("127.0.0.1", running.tls_port, ssl_context=client_context)
        )
        await in_thread(use_mailbox, client)
        assert ", TLS, session=<" in await running.log.wait_for("Login: user=<lcarr>")


async def test_imaplib_starttls(
    tmp_path: Path, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    def talk(port: int) -> None:
        client = imaplib.IMAP4("127.0.0.1", port)
        assert "STARTTLS" in client.capabilities
        client.starttls(client_context)
        assert "STARTTLS" not in client.capabilities
        use_mailbox(client)

    async with imap_service(tmp_path, server_context) as running:
        await in_thread(talk, running.port)


async def test_without_a_certificate_starttls_is_not_offered(tmp_path: Path) -> None:
    """A client that takes TLS where it is offered could not log in."""

    def run(port: int) -> None:
        client = imaplib.IMAP4("127.0.0.1", port)
        assert "STARTTLS" not in client.capabilities
        with pytest.raises(imaplib.IMAP4.error, match="TLS support isn't enabled"):
            client.xatom("STARTTLS")
        client.logout()

    async with imap_service(tmp_path) as running:
        await in_thread(run, running.port)


async def test_wrong_password(tmp_path: Path) -> None:
    def talk(port: int) -> None:
        client = imaplib.IMAP4("127.0.0.1", port)
        with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
            client.login("lcarr", "wrong")
        client.shutdown()

    async with imap_service(tmp_path) as running:
        await in_thread(talk, running.port)
        line = await running.log.wait_for("auth failed, 1 attempts in")
        assert "user=<lcarr>, method=PLAIN, rip=127.0.0.1" in line
        assert "wrong" not in "".join(running.log.lines)


async def test_too_many_sessions(tmp_path: Path) -> None:
    def talk(port: int) -> None:
        first = imaplib.IMAP4("127.0.0.1", port)
        first.login("lcarr", PASSWORD)
        second = imaplib.IMAP4("127.0.0.1", port)
        with pytest.raises(imaplib.IMAP4.error, match="mail_max_userip_connections=1"):
            second.login("lcarr", PASSWORD)
        other = imaplib.IMAP4("127.0.0.1", port)
        other.login("ada", PASSWORD)
        other.logout()
        first.logout()
        second.shutdown()

    async with imap_service(tmp_path, mail_max_userip_connections="1") as running:
        await in_thread(talk, running.port)


async def test_too_many_connections_before_log_in(tmp_path: Path) -> None:
    """One more ends the oldest, of the address that has the most: others get in meanwhile."""

    def connect(port: int, address: str) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", port), 10, source_address=(address, 0))
        assert client.recv(4096).startswith(b"* OK ")
        return client

    def talk(port: int) -> None:
        other = connect(port, "127.0.0.2")
        flood = [connect(port, "127.0.0.1") for _ in range(6)]
        for client in flood[:3]:
            assert client.recv(4096) == b"* BYE Too many connections wait for a log-in.\r\n"
            assert client.recv(4096) == b""
        other.sendall(f'a LOGIN lcarr "{PASSWORD}"\r\n'.encode())
        assert other.recv(4096).startswith(b"a OK ")
        flood[5].sendall(b"a NOOP\r\n")
        assert flood[5].recv(4096) == b"a OK NOOP completed.\r\n"
        for client in (other, *flood):
            client.close()

    async with imap_service(tmp_path, mail_max_login_connections="4") as running:
        await in_thread(talk, running.port)
        await running.log.wait_for("warning", "4 connections wait for a log-in")
        await running.log.wait_for("Disconnected: Connection queue full: user=<>, rip=127.0.0.1")


async def test_a_dead_worker_is_replaced(tmp_path: Path) -> None:
    def log_in(port: int) -> imaplib.IMAP4:
        client = imaplib.IMAP4("127.0.0.1", port)
        client.login("lcarr", PASSWORD)
        return client

    async def killed(running: Running) -> None:
        await running.log.wait_for("Login:")
        os.kill(running.service.active()[0].pid, signal.SIGKILL)
        await running.log.wait_for("ended with status -9")

    async with imap_service(tmp_path) as running:
        first = await asyncio.to_thread(log_in, running.port)
        await killed(running)
        with pytest.raises((imaplib.IMAP4.abort, OSError)):
            await asyncio.to_thread(first.noop)
        first.shutdown()
        second = await asyncio.to_thread(log_in, running.port)
        assert (await asyncio.to_thread(second.select))[0] == "OK"
        assert len(running.service.active()) == 1
        await asyncio.to_thread(second.logout)


async def test_stopping_says_bye(tmp_path: Path) -> None:
    def log_in(port: int) -> imaplib.IMAP4:
        client = imaplib.IMAP4("127.0.0.1", port)
        client.login("lcarr", PASSWORD)
        return client

    async with imap_service(tmp_path) as running:
        client = await asyncio.to_thread(log_in, running.port)
        await running.pool.stop(10)
        assert await asyncio.to_thread(client.readline) == b"* BYE Server shutting down.\r\n"
        client.shutdown()


@pytest.mark.parametrize("under_tls", [False, True])
async def test_much_that_is_sent_behind_the_login(
    tmp_path: Path,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    under_tls: bool,
) -> None:
    """More than a packet of the hand-over holds, and more than any buffer on the way."""
    body = b"Subject: large\r\n\r\n" + b"0123456789abcdef\r\n" * 200_000
    async with imap_service(tmp_path, server_context) as running:
        port = running.tls_port if under_tls else running.port
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=client_context if under_tls else None, limit=1 << 24
        )
        async with asyncio.timeout(20):
            await reader.readline()
            writer.write(
                b'a LOGIN lcarr "%b"\r\nb APPEND INBOX {%d+}\r\n%b\r\n'
                b"c SELECT INBOX\r\nd FETCH 1 BODY.PEEK[]\r\ne LOGOUT\r\n"
                % (PASSWORD.encode(), len(body), body)
            )
            answer = await reader.read()
        writer.close()
        assert b"* 1 FETCH (BODY[] {%d}\r\n%b)\r\n" % (len(body), body) in answer
        assert answer.endswith(b"e OK Logout completed.\r\n")
