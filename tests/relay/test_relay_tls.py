"""STARTTLS and AUTH with a real TLS server."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator

import pytest
import trustme
from relay_peers import HELLO
from test_relay_session import ONE

from resel_relay.sasl import Credentials, SaslClient, choose_mechanism

OFFER = "S: 220 mx.test\nC: EHLO\nS: 250-mx.test\nS: 250-PIPELINING\nS: 250 STARTTLS\nC: STARTTLS\n"


class TlsServer:
    """Greets, offers STARTTLS, takes one mail per transaction over TLS, and AUTH."""

    def __init__(self, context: ssl.SSLContext, injected: bytes = b"") -> None:
        self.context = context
        self.injected = injected
        self.commands: list[str] = []
        self.auth: list[bytes] = []
        self.mail = b""
        self.port = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._talk(reader, writer)
        except (ConnectionError, ssl.SSLError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 tls.test\r\n")
        secure = False
        while line := await reader.readline():
            self.commands.append(line.decode().strip())
            verb = line.split()[0].upper()
            if verb == b"EHLO":
                extra = b"250-AUTH PLAIN LOGIN\r\n" if secure else b"250-STARTTLS\r\n"
                writer.write(b"250-tls.test\r\n" + extra + b"250 PIPELINING\r\n")
            elif verb == b"STARTTLS":
                writer.write(b"220 go\r\n" + self.injected)
                await writer.start_tls(self.context)
                secure = True
            elif verb == b"AUTH":
                self.auth.append(line.split()[-1])
                writer.write(b"235 2.7.0 ok\r\n")
            elif verb == b"DATA":
                writer.write(b"354 go\r\n")
                while not self.mail.endswith(b"\r\n.\r\n"):
                    self.mail += await reader.readline()
                writer.write(b"250 2.0.0 taken\r\n")
            elif verb == b"QUIT":
                return
            else:
                writer.write(b"250 ok\r\n")


@pytest.fixture
def server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("tls.test").configure_cert(context)
    return context


@pytest.fixture
async def tls_server(server_context: ssl.SSLContext) -> AsyncIterator[TlsServer]:
    server = TlsServer(server_context)
    await server.start()
    yield server
    await server.stop()


@pytest.mark.parametrize("level", ["may", "encrypt"])
async def test_starttls_is_used_when_offered(tls_server, client, level):
    one = client(tls_security_level=level, tls_loglevel=1)
    (outcome,) = await one.send(f"[127.0.0.1]:{tls_server.port}")
    assert outcome.status == "sent"
    assert tls_server.commands[:3] == ["EHLO me.test", "STARTTLS", "EHLO me.test"]
    assert "Untrusted TLS connection established to 127.0.0.1[127.0.0.1]" in one.lines.text
    assert "TLSv1.3 with cipher" in one.lines.text


async def test_level_none_does_not_ask(tls_server, client):
    (outcome,) = await client().send(f"[127.0.0.1]:{tls_server.port}")
    assert outcome.status == "sent"
    assert "STARTTLS" not in tls_server.commands


async def test_plaintext_injected_after_starttls_is_refused(server_context, client):
    """The attack on clients that keep their buffer: a forged reply ahead of the handshake."""
    server = TlsServer(server_context, injected=b"250 2.0.0 Ok: forged\r\n")
    await server.start()
    (outcome,) = await client(tls_security_level="encrypt").send(f"[127.0.0.1]:{server.port}")
    assert outcome.status == "deferred"
    assert outcome.reply.enhanced == "4.7.5"
    await server.stop()


async def test_failed_handshake_falls_back_to_plaintext_under_may(peer, client):
    server = await peer(
        OFFER + "S: 220 go\nC: <anything>\nRAW not tls at all\\r\\n\nDROP", HELLO + ONE
    )
    one = client(tls_security_level="may")
    (outcome,) = await one.send(f"[127.0.0.1]:{server.port}")
    assert outcome.status == "sent"
    assert server.sessions == 2
    assert "trying without TLS" in one.lines.text


async def test_failed_handshake_defers_under_encrypt(peer, client):
    server = await peer(OFFER + "S: 220 go\nC: <anything>\nRAW not tls at all\\r\\n\nDROP")
    (outcome,) = await client(tls_security_level="encrypt").send(f"[127.0.0.1]:{server.port}")
    assert (outcome.status, outcome.reply.enhanced) == ("deferred", "4.7.5")
    assert server.sessions == 1


async def test_encrypt_needs_the_offer(peer, client):
    server = await peer(HELLO)
    (outcome,) = await client(tls_security_level="encrypt").send(f"[127.0.0.1]:{server.port}")
    assert (outcome.status, outcome.reply.enhanced) == ("deferred", "4.7.4")
    assert outcome.reply.text == (
        "TLS is required, but was not offered by host 127.0.0.1[127.0.0.1]"
    )


async def test_refused_starttls_goes_on_in_plaintext_under_may(peer, client):
    server = await peer(OFFER + "S: 454 4.7.0 not now\n" + ONE)
    (outcome,) = await client(tls_security_level="may").send(f"[127.0.0.1]:{server.port}")
    assert outcome.status == "sent"


class Passwords:
    def __init__(self, **entries: str) -> None:
        self.entries = entries
        self.asked: list[str] = []

    async def lookup(self, key: str) -> str | None:
        self.asked.append(key)
        return self.entries.get(key)


def sasl(**values: object) -> dict[str, object]:
    return {"sasl_auth_enable": True, "tls_security_level": "encrypt", **values}


async def test_auth_plain_over_tls(tls_server, client):
    hop = f"[127.0.0.1]:{tls_server.port}"
    maps = Passwords(**{hop: "joe:se:cret"})
    one = client(maps=maps, **sasl(sasl_tls_security_options=("noanonymous",)))
    (outcome,) = await one.send(hop)
    assert outcome.status == "sent"
    assert [base64.b64decode(a) for a in tls_server.auth] == [b"\0joe\0se:cret"]
    assert "se:cret" not in one.lines.text


async def test_default_security_options_forbid_plaintext(tls_server, client):
    hop = f"[127.0.0.1]:{tls_server.port}"
    one = client(maps=Passwords(**{hop: "joe:secret"}), **sasl())
    (outcome,) = await one.send(hop)
    assert outcome.status == "deferred"
    assert outcome.reply.text == (
        "SASL authentication failed; cannot authenticate to server 127.0.0.1[127.0.0.1]: "
        "no mechanism available"
    )
    assert tls_server.auth == []


async def test_without_credentials_no_auth(tls_server, client):
    one = client(maps=Passwords(), **sasl())
    (outcome,) = await one.send(f"[127.0.0.1]:{tls_server.port}")
    assert outcome.status == "sent"


async def test_password_never_goes_out_after_a_failed_handshake(peer, client):
    server = await peer(OFFER + "S: 220 go\nC: <anything>\nRAW not tls at all\\r\\n\nDROP")
    hop = f"[127.0.0.1]:{server.port}"
    one = client(maps=Passwords(**{hop: "joe:x"}), **sasl(tls_security_level="may"))
    (outcome,) = await one.send(hop)
    assert outcome.status == "deferred"
    assert server.sessions == 1


async def test_login_and_refused_password(peer, client):
    server = await peer(
        "S: 220 x\nC: EHLO\nS: 250-x\nS: 250 AUTH LOGIN\nC: AUTH LOGIN\nS: 334 VXNlcm5hbWU6\n"
        "C: am9l\nS: 334 UGFzc3dvcmQ6\nC: c2VjcmV0\nS: 535 5.7.8 bad"
    )
    hop = f"[127.0.0.1]:{server.port}"
    one = client(
        maps=Passwords(**{hop: "joe:secret"}),
        sasl_auth_enable=True,
        sasl_security_options=("noanonymous",),
    )
    (outcome,) = await one.send(hop)
    assert (outcome.status, outcome.reply.enhanced) == ("deferred", "4.7.8")
    assert "said: 535 5.7.8 bad" in outcome.reply.text


def test_cram_md5_example_of_rfc_2195():
    exchange = SaslClient("CRAM-MD5", Credentials("tim", "tanstaaftanstaaf"))
    assert exchange.start() == b"AUTH CRAM-MD5\r\n"
    challenge = base64.b64encode(b"<1896.697170952@postoffice.reston.mci.net>").decode()
    expected = b"tim b913a602c7eda7a495b4e6e7334d3890"
    assert base64.b64decode(exchange.step(challenge)) == expected
    assert exchange.step(challenge) == b"*\r\n"


def test_choice_of_mechanism():
    assert choose_mechanism(["LOGIN", "PLAIN", "CRAM-MD5"], ["noplaintext"]) == "CRAM-MD5"
    assert choose_mechanism(["LOGIN", "PLAIN"], []) == "PLAIN"
    assert choose_mechanism(["GSSAPI"], []) == ""
    assert "secret" not in repr(Credentials("joe", "secret"))
