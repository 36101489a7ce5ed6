"""POP3 dialogues, through front and worker."""

from __future__ import annotations

import ast
import asyncio
import base64
import imaplib
import poplib
import re
import ssl
from pathlib import Path

import pytest
from pop3_service import PASSWORD, pop3_service

from resel_lda import pop3
from resel_lda.pop3.language import LANGUAGES

SMALL = b"Subject: small\n\nline 1\nline 2\nline 3\n"
DOTS = b"Subject: dots\n\n.\n..two\n.end\nlast without end"


class Talk:
    """A raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def say(self, line: str) -> str:
        self.writer.write(f"{line}\r\n".encode())
        return await self.line()

    async def line(self) -> str:
        async with asyncio.timeout(20):
            return (await self.reader.readline()).decode("latin-1").removesuffix("\r\n")

    async def lines(self) -> list[str]:
        """Up to the dot."""
        found: list[str] = []
        while (line := await self.line()) != ".":
            found.append(line)
        return found

    async def login(self) -> str:
        await self.say("USER lcarr")
        return await self.say(f"PASS {PASSWORD}")

    def close(self) -> None:
        self.writer.close()


async def connect(port: int, context: ssl.SSLContext | None = None) -> Talk:
    talk = Talk(*await asyncio.open_connection("127.0.0.1", port, ssl=context, limit=1 << 24))
    assert await talk.line() == "+OK resel-mta ready."
    return talk


async def test_without_a_certificate_stls_is_not_offered(tmp_path: Path) -> None:
    async with pop3_service(tmp_path) as running:
        talk = await connect(running.port)
        assert await talk.say("CAPA") == "+OK"
        assert "STLS" not in await talk.lines()
        assert await talk.say("STLS") == "-ERR TLS support isn't enabled."
        talk.close()


async def test_pop3_answers_as_dovecot(tmp_path: Path) -> None:
    """Worded as a real Dovecot 2.3 was seen to answer."""
    async with pop3_service(tmp_path) as running:
        running.deliver(SMALL, DOTS, SMALL)
        talk = await connect(running.port)
        for said, answer in (
            ("FOO", "-ERR Unknown command."),
            ("NOOP", "-ERR Unknown command."),
            ("PASS x", "-ERR No username given."),
            ("USER", "-ERR No username given."),
            ("USER lcarr", "+OK"),
            ("PASS wrong", "-ERR [AUTH] Authentication failed."),
            ("AUTH FOO", "-ERR [AUTH] Unsupported authentication mechanism."),
            ("STLS", "-ERR TLS support isn't enabled."),
            ("STAT", "-ERR Unknown command."),
        ):
            assert (said, await talk.say(said)) == (said, answer)
        assert await talk.login() == "+OK Logged in."
        for said, answer in (
            ("STAT", "+OK 3 133"),
            ("LIST 1", "+OK 1 42"),
            ("LIST 99", "-ERR There's no message 99."),
            ("LIST x", "-ERR Invalid message number: x"),
            ("RETR", "-ERR Invalid message number: "),
            ("RETR 0", "-ERR There's no message 0."),
            ("DELE 1", "+OK Marked to be deleted."),
            ("DELE 1", "-ERR Message is deleted."),
            ("RETR 1", "-ERR Message is deleted."),
            ("LIST 1", "-ERR Message is deleted."),
            ("UIDL 1", "-ERR Message is deleted."),
            ("TOP 1", "-ERR Noise after message number: "),
            ("TOP 2 x", "-ERR Invalid size: x"),
            ("LAST", "-ERR Unknown command: LAST"),
            ("STAT", "+OK 2 91"),
            ("RSET", "+OK"),
            ("STAT x", "+OK 3 133"),
            ("NOOP x", "+OK"),
            ("LIST 1 2", "-ERR Noise after message number: 2"),
            ("USER x", "-ERR Unknown command: USER"),
            ("QUIT x", "+OK Logging out."),
        ):
            assert (said, await talk.say(said)) == (said, answer)
        assert await talk.line() == ""
        talk.close()
        line = await running.log.wait_for("Disconnected: Logged out")
        assert "top=0/0, retr=0/0, del=0/3" in line


async def test_pop3_capabilities(
    tmp_path: Path, server_context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = {"TOP", "UIDL", "RESP-CODES", "PIPELINING", "AUTH-RESP-CODE", "EXPIRE NEVER"}
    common |= {"UTF8 USER", "LANG", "IMPLEMENTATION resel-mta"}
    async with pop3_service(tmp_path, server_context) as running:
        talk = await connect(running.port)
        assert await talk.say("CAPA") == "+OK"
        offered = await talk.lines()
        assert set(offered) == common | {"STLS", "USER", "SASL PLAIN LOGIN"}
        await talk.login()
        # What is announced before log-in is after it (RFC 2449 §5).
        assert await talk.say("CAPA") == "+OK"
        assert await talk.lines() == offered
        talk.close()
        monkeypatch.setattr("resel_lda.front.Client.from_here", False)
        talk = await connect(running.port)
        assert await talk.say("CAPA") == "+OK"
        assert set(await talk.lines()) == common | {"STLS"}
        for said in ("USER lcarr", "AUTH PLAIN"):
            assert "[AUTH] Plaintext authentication disallowed" in await talk.say(said)
        talk.close()


async def test_pop3_tls(
    tmp_path: Path, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    def implicit(port: int) -> None:
        client = poplib.POP3_SSL("127.0.0.1", port, context=client_context, timeout=20)
        client.user("lcarr")
        client.pass_(PASSWORD)
        assert client.stat() == (1, 42)
        assert client.retr(1)[1] == SMALL.splitlines()
        client.quit()

    def explicit(port: int) -> None:
        client = poplib.POP3("127.0.0.1", port, timeout=20)
        client.stls(client_context)
        assert "STLS" not in client.capa()
        client.user("lcarr")
        client.pass_(PASSWORD)
        assert client.stat() == (1, 42)
        client.quit()

    async with pop3_service(tmp_path, server_context) as running:
        running.deliver(SMALL)
        await asyncio.to_thread(implicit, running.tls_port)
        await asyncio.to_thread(explicit, running.port)
        assert ", TLS, session" in await running.log.wait_for("pop3-login: Login: user=<lcarr>")


async def test_pop3_nothing_said_before_tls_counts(
    tmp_path: Path, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async with pop3_service(tmp_path, server_context) as running:
        talk = await connect(running.port)
        await talk.say("USER ada")
        talk.writer.write(b"STLS\r\nNOOP\r\nNOOP\r\n")
        assert await talk.line() == "+OK Begin TLS negotiation now."
        await talk.writer.start_tls(client_context)
        assert await talk.say(f"PASS {PASSWORD}") == "-ERR No username given."
        assert await talk.login() == "+OK Logged in."
        talk.close()


@pytest.mark.parametrize("initial", [True, False])
async def test_pop3_auth(tmp_path: Path, initial: bool) -> None:
    coded = base64.b64encode(b"\0lcarr\0" + PASSWORD.encode()).decode()
    async with pop3_service(tmp_path) as running:
        talk = await connect(running.port)
        assert await talk.say("AUTH PLAIN !!") == "-ERR [AUTH] Invalid base64 data."
        assert await talk.say("AUTH LOGIN") == "+ VXNlcm5hbWU6"
        assert await talk.say("*") == "-ERR Authentication aborted by client."
        assert await talk.say("AUTH") == "+OK"
        offered = await talk.lines()
        assert offered[:2] == ["PLAIN", "LOGIN"]
        # Once it is known that all users have secrets for it.
        assert set(offered[2:]) <= {"SCRAM-SHA-256", "SCRAM-SHA-1"}
        if initial:
            assert await talk.say(f"AUTH plain {coded}") == "+OK Logged in."
        else:
            assert await talk.say("AUTH PLAIN") == "+ "
            assert await talk.say(coded) == "+OK Logged in."
        talk.close()


async def test_pop3_messages_as_they_are(tmp_path: Path) -> None:
    raw = "Subject: Été\n\nnoël\n".encode()
    async with pop3_service(tmp_path) as running:
        running.deliver(SMALL, DOTS, raw, b"\nno header\n", b"Subject: no body")
        talk = await connect(running.port)
        assert await talk.say("UTF8") == "+OK UTF8 enabled."
        await talk.login()
        for number, message in enumerate(
            (SMALL, DOTS, raw, b"\nno header\n", b"Subject: no body"), 1
        ):
            size = len(message) + message.count(b"\n")
            assert await talk.say(f"RETR {number}") == f"+OK {size} octets"
            lines = [line.removeprefix(".") for line in await talk.lines()]
            assert lines == message.decode("latin-1").removesuffix("\n").split("\n")
        for count, found in ((0, []), (2, ["line 1", "line 2"]), (99, None)):
            assert await talk.say(f"TOP 1 {count}") == "+OK"
            body = ["line 1", "line 2", "line 3"] if found is None else found
            assert await talk.lines() == ["Subject: small", "", *body]
        assert await talk.say("TOP 4 1") == "+OK"
        assert await talk.lines() == ["", "no header"]
        assert await talk.say("TOP 5 1") == "+OK"
        assert await talk.lines() == ["Subject: no body"]
        talk.close()


async def test_pop3_pipelining(tmp_path: Path) -> None:
    async with pop3_service(tmp_path) as running:
        running.deliver(*(b"Subject: %d\n\nbody\n" % number for number in range(40)))
        talk = await connect(running.port)
        commands = ["USER lcarr", f"PASS {PASSWORD}", "STAT"]
        commands += [f"RETR {number}" for number in range(1, 41)]
        commands += ["DELE 3", "QUIT"]
        talk.writer.write("".join(f"{one}\r\n" for one in commands).encode())
        assert [await talk.line() for _ in range(3)][1] == "+OK Logged in."
        for number in range(40):
            assert (await talk.line()).startswith("+OK ")
            assert await talk.lines() == [f"Subject: {number}", "", "body"]
        assert await talk.line() == "+OK Marked to be deleted."
        assert await talk.line() == "+OK Logging out, messages deleted."
        talk.close()
        cur = [path.name for path in (running.maildir / "cur").iterdir()]
        # All were read, so all are seen.
        assert (len(cur), {name.partition(":2,")[2] for name in cur}) == (39, {"S"})


async def test_pop3_removes_only_in_the_update_state(tmp_path: Path) -> None:
    async with pop3_service(tmp_path) as running:
        running.deliver(SMALL, SMALL)
        talk = await connect(running.port)
        await talk.login()
        await talk.say("DELE 1")
        talk.close()
        await running.log.wait_for("Disconnected: Connection closed")
        assert len(list((running.maildir / "cur").iterdir())) == 2
        talk = await connect(running.port)
        await talk.login()
        await talk.say("DELE 1")
        assert await talk.say("QUIT") == "+OK Logging out, messages deleted."
        talk.close()
        assert len(list((running.maildir / "cur").iterdir())) == 1


async def test_pop3_one_session_has_the_maildrop(tmp_path: Path) -> None:
    async with pop3_service(tmp_path) as running:
        running.deliver(SMALL)
        first, second = await connect(running.port), await connect(running.port)
        assert await first.login() == "+OK Logged in."
        assert await second.login() == "-ERR [IN-USE] Mailbox is locked by another POP3 session."
        second.close()
        other = await connect(running.port)
        await other.say("USER ada")
        assert await other.say(f"PASS {PASSWORD}") == "+OK Logged in."
        other.close()
        first.close()
        await running.log.wait_for("Disconnected: Connection closed")
        third = await connect(running.port)
        assert await third.login() == "+OK Logged in."
        third.close()


async def test_pop3_beside_imap(tmp_path: Path) -> None:
    """Numbers stay with their messages while IMAP changes the folder."""

    def expunge_first(port: int) -> None:
        client = imaplib.IMAP4("127.0.0.1", port)
        client.login("lcarr", PASSWORD)
        client.select("INBOX")
        client.store("1", "+FLAGS", "\\Deleted")
        client.expunge()
        client.logout()

    async with pop3_service(tmp_path) as running:
        running.deliver(b"Subject: 1\n\n", b"Subject: 2\n\n")
        talk = await connect(running.port)
        await talk.login()
        await asyncio.to_thread(expunge_first, running.imap_port)
        running.deliver(b"Subject: 3\n\n")
        assert (await talk.say("RETR 1")).startswith("-ERR Message is gone")
        assert await talk.say("RETR 2") == "+OK 14 octets"
        assert await talk.lines() == ["Subject: 2", ""]
        assert (await talk.say("RETR 3")) == "-ERR There's no message 3."
        await talk.say("DELE 1")
        await talk.say("DELE 2")
        assert await talk.say("QUIT") == "+OK Logging out, messages deleted."
        talk.close()
        left = [path for name in ("cur", "new") for path in (running.maildir / name).iterdir()]
        assert [path.read_bytes() for path in left] == [b"Subject: 3\n\n"]


async def test_pop3_bad_clients(tmp_path: Path) -> None:
    async with pop3_service(tmp_path) as running:
        talk = await connect(running.port)
        answers = [await talk.say("NONSENSE") for _ in range(10)]
        assert answers[-1] == "-ERR Too many bad commands."
        assert await talk.line() == ""
        talk.close()
        talk = await connect(running.port)
        for _ in range(5):
            await talk.say("USER lcarr")
            assert await talk.say("PASS no") == "-ERR [AUTH] Authentication failed."
        assert await talk.line() == "-ERR Too many authentication failures."
        talk.close()
        await running.log.wait_for("pop3-login: Disconnected", "auth failed, 5 attempts")
        talk = await connect(running.port)
        await talk.login()
        assert await talk.say("X" * 5000) == "-ERR Command line too long."
        answers = [await talk.say("NONSENSE") for _ in range(19)]
        assert answers[-1] == "-ERR Too many bad commands."
        talk.close()


async def test_pop3_stopping(tmp_path: Path) -> None:
    async with pop3_service(tmp_path) as running:
        running.deliver(SMALL)
        talk = await connect(running.port)
        await talk.login()
        await talk.say("DELE 1")
        await running.pool.stop(10)
        assert await talk.line() == "-ERR [SYS/TEMP] Server shutting down."
        assert await talk.line() == ""
        talk.close()
        assert len(list((running.maildir / "cur").iterdir())) == 1


async def test_pop3_uidl_kept_by_the_uidlist(tmp_path: Path) -> None:
    """Names that a migration wrote into dovecot-uidlist go on."""
    async with pop3_service(tmp_path) as running:
        running.deliver(SMALL, SMALL)
        new = sorted(path.name for path in (running.maildir / "new").iterdir())
        (running.maildir / "dovecot-uidlist").write_text(
            f"3 V1700000000 N6 G0123456789abcdef0123456789abcdef\n"
            f"4 Pold-server-name-1 :{new[0]}\n5 :{new[1]}\n"
        )
        talk = await connect(running.port)
        await talk.login()
        assert await talk.say("UIDL") == "+OK"
        assert await talk.lines() == ["1 old-server-name-1", "2 000000056553f100"]
        assert await talk.say("UIDL 1") == "+OK 1 old-server-name-1"
        talk.close()


async def test_pop3_without_utf8_headers_are_ascii(tmp_path: Path) -> None:
    """RFC 6856 §2.1; what is not UTF-8 is broken for everybody, and bodies were always 8-bit."""
    raw = "From: Zoé <zoe@b.c>\nSubject: Été\n\n.noël\nà\n".encode()
    broken = b"Subject: \xe9t\xe9\n\nx\n"
    plain = "Subject: x\n\nété\n".encode()
    async with pop3_service(tmp_path) as running:
        running.deliver(raw, broken, plain)
        talk = await connect(running.port)
        await talk.login()
        changed = ["From: =?utf-8?B?Wm/DqQ==?= <zoe@b.c>", "Subject: =?utf-8?B?w4l0w6k=?=", ""]
        body = [line.encode().decode("latin-1") for line in ("..noël", "à")]
        assert await talk.say("TOP 1 1") == "+OK"
        assert await talk.lines() == [*changed, body[0]]
        answer = await talk.say("RETR 1")
        lines = await talk.lines()
        assert lines == [*changed, *body]
        assert answer == f"+OK {sum(len(line) + 2 for line in lines) - 1} octets"
        for number, message in ((2, broken), (3, plain)):
            assert await talk.say(f"RETR {number}") == f"+OK {len(message) + 3} octets"
            assert await talk.lines() == message.decode("latin-1").removesuffix("\n").split("\n")
        # It has to be said before log-in.
        assert await talk.say("UTF8") == "-ERR Unknown command: UTF8"
        talk.close()


async def test_pop3_utf8_command(
    tmp_path: Path, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async with pop3_service(tmp_path, server_context) as running:
        talk = await connect(running.port)
        assert await talk.say("UTF8 now") == "-ERR UTF8 takes no argument."
        assert await talk.say("utf8") == "+OK UTF8 enabled."
        assert await talk.say("STLS") == "-ERR STLS is not possible after UTF8."
        talk.close()
        running.deliver("Subject: Été\n\n".encode())

        def under_tls(port: int) -> list[bytes]:
            client = poplib.POP3("127.0.0.1", port, timeout=20)
            client.stls(client_context)
            client.utf8()
            client.user("lcarr")
            client.pass_(PASSWORD)
            lines = client.retr(1)[1]
            client.quit()
            return lines

        assert await asyncio.to_thread(under_tls, running.port) == ["Subject: Été".encode(), b""]


async def test_pop3_names_and_passwords_in_utf8(tmp_path: Path) -> None:
    """RFC 6856 §2.2: an accent may be a character of its own, what SASLprep forbids is refused."""
    async with pop3_service(tmp_path, users="zoé:{PLAIN}été:::::\nmax:{PLAIN}µ²:::::\n") as running:
        for name, password in (("zoé", "été"), ("zoe\u0301", "e\u0301te\u0301"), ("max", "µ²")):
            talk = await connect(running.port)
            assert await talk.say(f"USER {name}") == "+OK"
            assert await talk.say(f"PASS {password}") == "+OK Logged in.", (name, password)
            assert await talk.say("QUIT") == "+OK Logging out."
            talk.close()
        talk = await connect(running.port)
        refused = "-ERR [AUTH] User name or password has characters that are not allowed."
        assert await talk.say("USER a\u200eb") == refused
        assert await talk.say("USER a\x07b") == refused
        talk.writer.write(b"USER \xff\r\n")
        assert await talk.line() == refused
        await talk.say("USER zoé")
        assert await talk.say("PASS \ue000") == refused
        talk.close()


async def test_pop3_languages(tmp_path: Path) -> None:
    """RFC 6856 §3."""

    def utf8(said: str) -> str:
        return said.encode("latin-1").decode()

    async with pop3_service(tmp_path) as running:
        running.deliver(SMALL)
        talk = await connect(running.port)
        assert await talk.say("LANG") == "+OK Language listing follows:"
        assert [utf8(line) for line in await talk.lines()] == ["en English", "fr Français"]
        assert await talk.say("LANG MUL") == "-ERR This language is unknown: MUL"
        assert utf8(await talk.say("LANG fr")) == "+OK fr Langue changée."
        assert utf8(await talk.say("LANG é")) == "-ERR Cette langue est inconnue : ??"
        assert await talk.say("FOO") == "-ERR Commande inconnue."
        await talk.say("USER lcarr")
        assert utf8(await talk.say("PASS x")) == "-ERR [AUTH] Échec de l'authentification."
        # It goes on after log-in.
        assert utf8(await talk.login()) == "+OK Connexion établie."
        assert await talk.say("RETR 7") == "-ERR Il n'y a pas de message 7."
        assert await talk.say("LIST") == "+OK 1 messages :"
        assert await talk.lines() == ["1 42"]
        assert utf8(await talk.say("X\x07é")) == "-ERR Commande inconnue : X???"
        assert utf8(await talk.say("LANG")) == "+OK Liste des langues :"
        assert len(await talk.lines()) == 2
        assert await talk.say("LANG en-GB") == "+OK en Language changed."
        assert await talk.say("NOPE") == "-ERR Unknown command: NOPE"
        assert utf8(await talk.say("LANG FR-ca")) == "+OK fr Langue changée."
        assert await talk.say("LANG *") == "+OK en Language changed."
        assert await talk.say("QUIT") == "+OK Logging out."
        talk.close()


def test_pop3_every_text_is_in_every_language() -> None:
    """What is said with `Failed`, `_ok`, `_Over` and `say` stands in the tables, and nothing else."""
    found: set[str] = set()
    for path in Path(pop3.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            called = node.func.id if isinstance(node.func, ast.Name) else called
            if called in {"Failed", "_Over", "say", "_ok", "_bad_command", "_bye"}:
                parts = [node.args[0]]
                if isinstance(parts[0], ast.IfExp):
                    parts = [parts[0].body, parts[0].orelse]
                found |= {part.value for part in parts if isinstance(part, ast.Constant)}
    found.add("UTF8 enabled.")
    for language in LANGUAGES[1:]:
        assert set(language.texts) == found
        for text, translated in language.texts.items():
            assert set(re.findall(r"{\w+}", text)) == set(re.findall(r"{\w+}", translated))


async def test_pop3_top_of_all_there_can_be(tmp_path: Path) -> None:
    async with pop3_service(tmp_path) as running:
        running.deliver(SMALL)
        talk = await connect(running.port)
        await talk.login()
        assert await talk.say("TOP 1 2147483647") == "+OK"
        assert len(await talk.lines()) == 5
        talk.close()


async def test_pop3_a_client_that_never_logs_in_is_cut_off(tmp_path: Path) -> None:
    async with pop3_service(tmp_path) as running:
        talk = await connect(running.port)
        talk.writer.write(b"CAPA\r\n" * 5_000)
        for _ in range(100):
            assert await talk.line() == "+OK"
            await talk.lines()
        assert await talk.line() == "-ERR Too many commands before log-in."
        talk.close()
