"""The dialog before log-in."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator

import pytest
import trustme
from imap_dialog import Client

from resel_lda.imap.login import Dialog, LoggedIn, Rejected
from resel_lda.imap.stream import Stream
from resel_mta.users import User
from resel_mta.users.penalties import Penalties
from resel_mta.users.sasl import SaslServer
from resel_mta.users.username import UsernameFormat


class OneUser:
    """Stands for `Users`: lcarr with the password "pass"."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bytes]] = []
        self.penalties = Penalties(0.0)
        self.known_as = UsernameFormat("")

    def mechanisms(self) -> tuple[str, ...]:
        return ("PLAIN", "LOGIN")

    async def authenticate(self, name: str, password: bytes) -> User | None:
        self.asked.append((name, password))
        return User("lcarr") if (name, password) == ("lcarr", b"pass") else None


class Talk(Client):
    dialog: Dialog
    outcome: asyncio.Task[LoggedIn]
    stream: Stream
    users: OneUser


class Certificate:
    def __init__(self) -> None:
        self.authority = trustme.CA()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert("localhost").configure_cert(self._context)

    def context(self) -> ssl.SSLContext:
        return self._context


@contextlib.asynccontextmanager
async def dialog(
    trusted: bool = True, tls: Certificate | None = None, refusal: str = ""
) -> AsyncIterator[Talk]:
    loop = asyncio.get_running_loop()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    ours = socket.create_connection(listener.getsockname())
    theirs, _ = await loop.sock_accept(listener)
    listener.close()
    stream = Stream()
    await loop.connect_accepted_socket(lambda: stream, theirs)
    reader, writer = await asyncio.open_connection(sock=ours)
    talk = Talk(reader, writer)
    talk.users = OneUser()
    talk.stream = stream
    sasl = SaslServer(talk.users)  # type: ignore[arg-type]
    talk.dialog = Dialog(stream, sasl, tls, trusted, lambda user: refusal)
    talk.outcome = asyncio.create_task(talk.dialog.run())
    try:
        yield talk
    finally:
        talk.outcome.cancel()
        await asyncio.wait((talk.outcome,))
        if not talk.outcome.cancelled():
            talk.outcome.exception()
        stream.abort()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def coded(text: bytes) -> str:
    return base64.b64encode(text).decode()


async def test_greeting_says_what_may_be_used() -> None:
    async with dialog(trusted=True) as talk:
        line = await talk.line()
        assert line.startswith(
            "* OK [CAPABILITY IMAP4rev1 IMAP4rev2 SASL-IR LITERAL+ ID ENABLE IDLE"
        )
        assert "AUTH=PLAIN AUTH=LOGIN" in line
        assert "LOGINDISABLED" not in line
        assert "STARTTLS" not in line


async def test_no_password_in_the_clear() -> None:
    async with dialog(trusted=False, tls=Certificate()) as talk:
        line = await talk.line()
        assert "STARTTLS LOGINDISABLED" in line
        assert "AUTH=" not in line
        await talk.script(f"""
            C: a LOGIN lcarr pass
            S: a NO [PRIVACYREQUIRED] ...
            C: b AUTHENTICATE PLAIN {coded(b"")}
            S: b NO [PRIVACYREQUIRED] ...
            C: c SELECT INBOX
            S: c BAD ...
        """)
        assert talk.users.asked == []


@pytest.mark.parametrize(
    "commands",
    [
        "C: a LOGIN lcarr pass",
        'C: a login "lcarr" "pass"',
        "C: a LOGIN {5}\nS: + OK\nC: lcarr {4}\nS: + OK\nC: pass",
        "C: a LOGIN {5+}\nC: lcarr {4+}\nC: pass",
        f"C: a AUTHENTICATE PLAIN {coded(bytes(1) + b'lcarr' + bytes(1) + b'pass')}",
        f"C: a AUTHENTICATE plain\nS: + \nC: {coded(bytes(1) + b'lcarr' + bytes(1) + b'pass')}",
        f"C: a AUTHENTICATE LOGIN\nS: + VXNlcm5hbWU6\nC: {coded(b'lcarr')}\n"
        f"S: + UGFzc3dvcmQ6\nC: {coded(b'pass')}",
    ],
)
async def test_ways_in(commands: str) -> None:
    async with dialog() as talk:
        await talk.line()
        await talk.script(commands)
        async with asyncio.timeout(5):
            found = await talk.outcome
        assert found.user.name == "lcarr"
        assert found.tag == b"a"
        assert found.method in ("PLAIN", "LOGIN")


async def test_what_follows_the_login_is_kept() -> None:
    async with dialog() as talk:
        talk.send(b"a LOGIN lcarr pass\r\nb SELECT INBOX\r\n")
        await talk.outcome
        assert talk.stream.take_unread() == b"b SELECT INBOX\r\n"


async def test_failures() -> None:
    async with dialog() as talk:
        await talk.line()
        await talk.script(
            """
            C: a LOGIN lcarr wrong
            S: a NO [AUTHENTICATIONFAILED] Authentication failed.
            C: b AUTHENTICATE PLAIN
            S: +
            C: *
            S: b BAD Authentication aborted by client.
            C: c AUTHENTICATE PLAIN ????
            S: c BAD Invalid base64 data.
            C: d AUTHENTICATE GSSAPI
            S: d NO Unsupported authentication mechanism.
            C: e LOGIN lcarr
            S: e BAD Missing argument.
            C: f LOGIN {9000}
            S: f BAD [TOOBIG] ...
        """.replace("S: +\n", "S: + \n")
        )
        assert talk.dialog.attempts.failed == 1
        assert talk.dialog.attempts.user == "lcarr"


async def test_large_literal_sent_at_once_ends_it() -> None:
    async with dialog() as talk:
        await talk.line()
        talk.send(b"a LOGIN {9000+}\r\n")
        async with asyncio.timeout(5):
            await asyncio.wait((talk.outcome,))
        assert talk.outcome.exception() is not None


async def test_five_wrong_passwords() -> None:
    async with dialog() as talk:
        await talk.line()
        for _ in range(5):
            await talk.command("LOGIN lcarr wrong")
        assert await talk.line() == "* BYE Too many authentication failures."
        with pytest.raises(Rejected):
            await talk.outcome


async def test_refused_although_the_password_is_right() -> None:
    async with dialog(refusal="Too many of you") as talk:
        await talk.line()
        assert await talk.command("LOGIN lcarr pass") == ["x NO [LIMIT] Too many of you"]


async def test_logout_and_bad_commands() -> None:
    async with dialog() as talk:
        await talk.line()
        await talk.script("""
            C: a CAPABILITY
            S: * CAPABILITY IMAP4rev1 ...
            S: a OK ...
            C: b STARTTLS
            S: b BAD TLS support isn't enabled.
            C: c LOGOUT
            S: * BYE Logging out
            S: c OK Logout completed.
        """)
    async with dialog() as talk:
        await talk.line()
        for _ in range(10):
            assert (await talk.command("FOO"))[-1].startswith("x BAD")
        assert await talk.line() == "* BYE Too many invalid IMAP commands."


async def test_a_client_that_never_logs_in_is_cut_off() -> None:
    """However well it speaks: a stranger must not keep the process, that serves all, at work."""
    async with dialog() as talk:
        await talk.line()
        talk.send(b"a NOOP\r\n" * 5_000)
        for _ in range(100):
            assert await talk.line() == "a OK NOOP completed."
        assert await talk.line() == "* BYE Too many commands before log-in."
        with pytest.raises(Rejected):
            await talk.outcome


async def test_starttls_forgets_what_came_before() -> None:
    certificate = Certificate()
    trust = ssl.create_default_context()
    certificate.authority.configure_trust(trust)
    async with dialog(trusted=False, tls=certificate) as talk:
        await talk.line()
        # The LOGIN behind STARTTLS is in the clear: somebody in the middle may have put it there.
        talk.send(b"a STARTTLS\r\nb LOGIN lcarr pass\r\n")
        assert await talk.line() == "a OK Begin TLS negotiation now."
        async with asyncio.timeout(5):
            await talk.writer.start_tls(trust, server_hostname="localhost")
        lines = await talk.command("CAPABILITY")
        assert "STARTTLS" not in lines[0]
        assert "AUTH=PLAIN" in lines[0]
        assert talk.users.asked == []
        assert await talk.command("STARTTLS") == ["x BAD TLS is already active."]
        talk.send(b"c LOGIN lcarr pass\r\n")
        assert (await talk.outcome).tag == b"c"
