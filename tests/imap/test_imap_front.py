"""The front's connections on the event loop that the daemon uses, and what it logs of them."""

from __future__ import annotations

import asyncio
import imaplib
import socket
import ssl
import struct
from pathlib import Path

import uvloop
from imap_service import PASSWORD, Running, imap_service


def client_hello(context: ssl.SSLContext) -> bytes:
    outgoing = ssl.MemoryBIO()
    try:
        context.wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a client does not begin with waiting")


def test_imap_front_reads_a_handshake_that_is_there_at_once(
    tmp_path: Path, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    """The client's first octets wait in the socket before the server has accepted it."""

    async def main() -> bytes:
        async with imap_service(tmp_path, server_context) as running:
            with socket.create_connection(("127.0.0.1", running.tls_port), timeout=5) as client:
                client.sendall(client_hello(client_context))
                # Nothing has run since: the loop sees the connection and the octets together.
                return await asyncio.to_thread(client.recv, 5)

    assert uvloop.run(main())[:1] == b"\x16", "no answer to the handshake"


def test_imap_front_on_uvloop(
    tmp_path: Path, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    def talk(running: Running) -> None:
        for _ in range(5):
            with imaplib.IMAP4_SSL("127.0.0.1", running.tls_port, ssl_context=client_context) as c:
                c.login("lcarr", PASSWORD)
                assert c.select()[0] == "OK"

    async def main() -> None:
        async with imap_service(tmp_path, server_context) as running:
            await asyncio.to_thread(talk, running)

    uvloop.run(main())


async def test_imap_front_logs_as_dovecot(
    tmp_path: Path, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    """Beside each: what Dovecot 2.3.19 logged of the same clients, but for pids and sessions."""

    def talk(running: Running) -> None:
        plain = imaplib.IMAP4("127.0.0.1", running.port)
        plain.login("lcarr", PASSWORD)
        plain.logout()
        for user in ("lcarr", "x>, rip=192.0.2.1, <y"):
            guess = imaplib.IMAP4("127.0.0.1", running.port)
            for _ in range(2):
                try:
                    guess.login(f'"{user}"', "wrong")
                except imaplib.IMAP4.error:
                    continue
            guess.shutdown()
        with imaplib.IMAP4("127.0.0.1", running.port):
            """Nothing but LOGOUT."""
        with socket.create_connection(("127.0.0.1", running.tls_port)) as wrong:
            wrong.sendall(b"a LOGIN lcarr secret\r\n")
            wrong.recv(100)
        with imaplib.IMAP4_SSL(
            "127.0.0.1", running.tls_port, ssl_context=client_context
        ) as secured:
            secured.login("lcarr", PASSWORD)

    async with imap_service(tmp_path, server_context) as running:
        await asyncio.to_thread(talk, running)
        find = running.log.wait_for
        rest = "method=PLAIN, rip=127.0.0.1, lip=127.0.0.1"
        await find(
            f"dovecot: imap-login: Login: user=<lcarr>, {rest}, mpid=", ", secured, session=<"
        )
        await find("dovecot: imap(lcarr)<", "Disconnected: Logged out")
        await find(
            "dovecot: imap-login: Disconnected: Connection closed (auth failed, 2 attempts in 0 secs): "
            f"user=<lcarr>, {rest}, secured, session=<"
        )
        await find(f"2 attempts in 0 secs): user=<x?, rip=192.0.2.1, ?y>, {rest}, secured")
        await find(
            "dovecot: imap-login: Disconnected: Aborted login by logging out (no auth attempts in 0 "
            "secs): user=<>, rip=127.0.0.1, lip=127.0.0.1, secured, session=<"
        )
        await find(
            "dovecot: imap-login: Disconnected: Connection closed: SSL_accept() failed: "
            "wrong version number (no auth attempts in 0 secs): user=<>, rip=127.0.0.1, "
            "lip=127.0.0.1, TLS handshaking: SSL_accept() failed: wrong version number"
        )
        await find(f"Login: user=<lcarr>, {rest}, mpid=", ", TLS, session=<")


def test_imap_front_trusts_no_connection_whose_address_is_gone(tmp_path: Path) -> None:
    """Reset before it was accepted: it has no peer any more, as a unix socket has none."""

    def log_in_and_out(port: int) -> None:
        with imaplib.IMAP4("127.0.0.1", port) as client:
            client.login("lcarr", PASSWORD)

    async def main() -> list[str]:
        async with imap_service(tmp_path) as running:
            gone = socket.create_connection(("127.0.0.1", running.port), timeout=5)
            gone.sendall(b"a LOGIN ada wrong\r\n")
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            gone.close()
            # Accepted in their order, so that the first has been looked at by now.
            await asyncio.to_thread(log_in_and_out, running.port)
            await running.log.wait_for("Disconnected: Logged out")
            return running.log.lines

    lines = uvloop.run(main())
    assert [line for line in lines if "rip=," in line or "ada" in line] == []
