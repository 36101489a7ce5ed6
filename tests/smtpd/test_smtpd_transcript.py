"""Transcripts for the postmaster: of which sessions, how many, and what is never in them."""

from __future__ import annotations

import base64
import email

import pytest
from smtpd_fakes import Server, Start, Taken

from resel_mta.mail import Notify, Reply, TempFail
from resel_mta.smtpd import replies, transcript
from resel_mta.smtpd.transcript import Transcript

ALL = "policy, protocol, resource, software, data"


async def transcripts(server: Server) -> list[Taken]:
    """What the postmaster has got once all sessions are over."""
    await server.log()
    await server.service.postmaster.finish()
    return [taken for taken in server.intake.taken if taken.origin.protocol == "internal"]


def body_of(taken: Taken) -> str:
    return str(email.message_from_bytes(taken.data).get_payload())


async def test_a_refusal_by_a_rule(start: Start) -> None:
    server = await start(notify_classes=ALL, error_notice_recipient="ops")
    peer = await server.connect()
    await peer.hello()
    answer = await peer.ask("MAIL FROM:<a@b.example>", "RCPT TO:<x@elsewhere.example>")
    assert answer.startswith(("454 4.7.1", "554 5.7.1"))
    await peer.ask("QUIT")
    [taken] = await transcripts(server)
    assert [(each.address, each.notify) for each in taken.envelope.recipients] == [
        ("ops@example.org", Notify.NEVER)
    ]
    assert taken.envelope.reverse_path == "double-bounce@example.org"
    assert taken.origin.service == "bounce"
    mail = email.message_from_bytes(taken.data)
    assert mail["Subject"] == "resel-mta SMTP server: errors from unknown[127.0.0.1]"
    assert mail["Auto-Submitted"] == "auto-generated"
    shown = body_of(taken).splitlines()
    assert " Out: 250-PIPELINING" in shown
    assert [line for line in shown if not line.startswith((" Out: 250-", " Out: 250 HELP"))] == [
        "Errors of these kinds happened in this session: policy",
        "",
        "Transcript of session follows.",
        "",
        f" Out: {server.service.greeting.decode().strip()}",
        " In:  EHLO client.example",
        " In:  MAIL FROM:<a@b.example>",
        " Out: 250 2.1.0 Ok",
        " In:  RCPT TO:<x@elsewhere.example>",
        f" Out: {answer}",
        " In:  QUIT",
        " Out: 221 2.0.0 Bye",
        "",
        "For other details, see the log of mail.",
    ]
    log = "\n".join(await server.log())
    assert f"postmaster notification of errors from unknown[127.0.0.1]: {taken.queue_id}" in log


async def test_nobody_asked(start: Start) -> None:
    server = await start(notify_classes="resource, bounce, delay")
    peer = await server.connect()
    await peer.hello()
    await peer.ask("WHAT", "MAIL FROM:<a@b.example>", "RCPT TO:<x@elsewhere.example>", "QUIT")
    assert await transcripts(server) == []
    server = await start(notify_classes="2bounce")
    assert server.service.postmaster.begin() is None


async def test_passwords_and_bodies_are_never_shown(start: Start) -> None:
    server = await start(
        "submission", notify_classes=ALL, smtpd_sasl_auth_enable="yes", smtpd_tls_auth_only="no"
    )
    peer = await server.connect()
    await peer.hello()
    secret = base64.b64encode(b"\0lcarr\0sesame-1").decode()
    assert (await peer.ask(f"AUTH PLAIN {secret}")).startswith("535")
    assert (await peer.ask("AUTH LOGIN")).startswith("334")
    for word in (b"lcarr", b"sesame-2"):
        answer = await peer.ask(base64.b64encode(word).decode())
    assert answer.startswith("535")
    # A client that takes no notice of a refusal.
    await peer.ask("sesame-3", "AUTH sesame-4", "HELP sesame-5", "EHLO a sesame-6", "DATA")
    await peer.ask("Subject: sesame-7", "Rcpt to the sesame-8", "MAIL sesame-9", "auth=sesame-10")
    await peer.ask("QUIT")
    [taken] = await transcripts(server)
    text = taken.data.decode()
    assert "sesame" not in text
    for number in range(1, 11):
        assert base64.b64encode(f"sesame-{number}".encode()).decode() not in text
    assert secret not in text
    lines = body_of(taken).splitlines()
    assert " In:  AUTH" in lines
    assert " Out: 334" in lines
    assert " In:  (not a command)" in lines
    assert " In:  EHLO client.example" in lines


async def test_content_is_not_shown(start: Start) -> None:
    server = await start(notify_classes=ALL)
    server.intake.failure = None
    peer = await server.connect()
    await peer.open()
    assert (await peer.ask("Subject: sesame\r\n\r\nsesame\r\n.")).startswith("250")
    await peer.ask("BOGUS")
    await peer.ask(
        "MAIL FROM:<a@b.example>", "RCPT TO:<lcarr@example.org>", "BDAT 8 LAST\r\nsesame"
    )
    await peer.ask("QUIT")
    [taken] = await transcripts(server)
    assert "sesame" not in taken.data.decode()


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ("452 4.3.1 Insufficient system storage", "resource"),
        ("451 4.3.0 Temporary lookup failure", "data"),
        ("450 4.7.1 <x>: Recipient address rejected: try later", "policy"),
        ("550 5.1.1 <x>: Recipient address rejected: User unknown", "policy"),
        ("552 5.3.4 Message size exceeds fixed limit", "policy"),
        ("535 5.7.8 Error: authentication failed", "policy"),
        ("452 4.5.3 Error: too many recipients", "policy"),
        ("500 5.5.2 Error: command not recognized", "protocol"),
        ("501 Syntax: HELO hostname", "protocol"),
        ("421 4.7.0 mx Error: too many errors", "protocol"),
        ("421 4.4.2 mx Error: timeout exceeded", ""),
        ("421 4.3.2 mx Service shutting down", ""),
        ("250 2.0.0 Ok", ""),
    ],
)
def test_kinds(reply: str, kind: str) -> None:
    made = Transcript()
    made.said(f"{reply}\r\n".encode())
    assert made.kinds == ({kind} if kind else set())


def test_what_is_not_smtp_is_an_error() -> None:
    made = Transcript()
    made.said(replies.NON_SMTP)
    assert made.kinds == {"protocol"}
    assert list(made.text()) == [" Out: 221 2.7.0 Error: I can break rules, too. Goodbye."]


def test_content_that_is_refused_is_a_bounce_too() -> None:
    made = Transcript()
    made.rejected("END-OF-MESSAGE")
    made.said(b"550 5.7.1 no\r\n")
    assert made.kinds == {"policy", "bounce"}
    made = Transcript()
    made.rejected("END-OF-MESSAGE")
    made.said(b"451 4.3.0 Error: queue file write error\r\n")
    assert made.kinds == {"resource"}


async def test_a_bug_of_ours_is_told(start: Start) -> None:
    server = await start()
    server.router.failure = RuntimeError("sesame")
    peer = await server.connect()
    await peer.hello()
    assert "reference" in await peer.ask("MAIL FROM:<a@b.example>", "RCPT TO:<lcarr@example.org>")
    [taken] = await transcripts(server)
    assert "kinds happened in this session: software\n" in body_of(taken).replace("\r", "")
    assert "sesame" not in taken.data.decode()


async def test_one_client_makes_no_storm(start: Start) -> None:
    server = await start(notify_classes=ALL)
    for _ in range(30):
        peer = await server.connect()
        await peer.hello()
        await peer.ask("BOGUS")
    assert len(await transcripts(server)) == 1


async def test_many_clients_make_no_storm(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    server = await start(notify_classes=ALL, smtpd_client_connection_count_limit="0")
    now = 1000.0
    monkeypatch.setattr(server.service.postmaster, "clock", lambda: now)

    async def errors_from(number: int) -> None:
        peer = await server.connect(local_addr=(f"127.0.1.{number}", 0))
        await peer.hello()
        await peer.ask("BOGUS")

    for number in range(1, 41):
        await errors_from(number)
    found = await transcripts(server)
    assert len(found) == transcript.MOST_AN_HOUR
    log = "\n".join(await server.log())
    assert log.count("20 transcripts in an hour: no more for now") == 1
    now += 3601
    await errors_from(1)
    *_, last = await transcripts(server)
    assert "20 more sessions with errors were left out" in body_of(last)


async def test_a_long_session_is_short_in_its_transcript() -> None:
    made = Transcript()
    for number in range(100_000):
        made.heard(b"RCPT", b"RCPT TO:<%d@example.org>" % number + b"x" * 10_000)
        made.said(b"550 5.1.1 " + b"y" * 10_000 + b"\r\n")
    lines = list(made.text())
    assert len(lines) <= 202
    assert max(map(len, lines)) < 320
    assert lines[0].startswith(" In:  RCPT TO:<0@")
    assert "commands and replies are left out" in lines[20]
    assert " In:  RCPT TO:<99999@" in lines[-2][:40]


async def test_without_room_for_it_there_is_a_log_line(start: Start) -> None:
    server = await start()
    server.intake.failure = TempFail(Reply(452, "4.3.1", "Insufficient system storage"))
    peer = await server.connect()
    await peer.open()
    assert (await peer.ask("x\r\n.")).startswith("452 4.3.1")
    await peer.ask("QUIT")
    assert await transcripts(server) == []
    log = "\n".join(await server.log())
    assert "warning: no transcript of errors from unknown[127.0.0.1]: 452 4.3.1" in log
