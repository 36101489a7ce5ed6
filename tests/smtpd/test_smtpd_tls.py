"""STARTTLS, implicit TLS, AUTH over both, and certificates that change."""

from __future__ import annotations

import base64
import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from resel_mta.config import ConfigError, Settings
from resel_mta.tls import ServerTLS

Start = Callable[..., Any]
Certificate = tuple[trustme.CA, str]
PLAIN = base64.b64encode(b"\0lcarr\0secret").decode()


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def upgrade(peer: Any, authority: trustme.CA) -> None:
    """The client's half of STARTTLS, after 220."""
    await peer.writer.start_tls(trusting(authority), server_hostname="localhost")


async def test_starttls_forgets_what_was_said(start: Start, certificate: Certificate) -> None:
    authority, path = certificate
    server = await start(tls=path, smtpd_helo_required="yes", smtpd_tls_received_header="yes")
    peer = await server.connect()
    assert "\n250-STARTTLS\n" in await peer.hello()
    await peer.ask("MAIL FROM:<a@b.example>")
    assert await peer.ask("STARTTLS") == "503 5.5.1 Error: MAIL transaction in progress"
    await peer.ask("RSET")
    assert await peer.ask("STARTTLS x") == "501 5.5.4 Syntax: STARTTLS"
    assert await peer.ask("STARTTLS") == "220 2.0.0 Ready to start TLS"
    await upgrade(peer, authority)
    assert await peer.ask("MAIL FROM:<a@b.example>") == "503 5.5.1 Error: send HELO/EHLO first"
    assert "STARTTLS" not in await peer.ask("EHLO client.example")
    assert await peer.ask("STARTTLS") == "554 5.5.1 Error: TLS already active"
    await peer.ask("MAIL FROM:<a@b.example>", "RCPT TO:<lcarr@example.org>", "DATA")
    await peer.send("Subject: x\r\n\r\nbody\r\n.\r\n")
    assert await peer.reply() == "250 2.0.0 Ok: queued as QID1"
    origin = server.intake.taken[0].origin
    assert origin.protocol == "ESMTPS"
    assert b"\t(using TLSv1.3 with cipher TLS_" in origin.received
    assert await peer.ask("QUIT") == "221 2.0.0 Bye"
    lines = await server.log()
    assert lines[-1].startswith("disconnect from unknown[127.0.0.1] ehlo=2 starttls=1/4 mail=2/3")


async def test_commands_injected_before_the_handshake_are_dropped(
    start: Start, certificate: Certificate
) -> None:
    authority, path = certificate
    server = await start(tls=path)
    peer = await server.connect()
    await peer.hello()
    await peer.send("STARTTLS\r\nMAIL FROM:<evil@b.example>\r\nRCPT TO:<lcarr@example.org>\r\n")
    assert (await peer.reply()).startswith("220")
    await upgrade(peer, authority)
    assert (await peer.ask("EHLO client.example")).startswith("250-mx.example.org")
    assert await peer.ask("RCPT TO:<lcarr@example.org>") == "503 5.5.1 Error: need MAIL command"


async def test_a_failed_handshake_is_logged(start: Start, certificate: Certificate) -> None:
    _, path = certificate
    server = await start(tls=path)
    peer = await server.connect()
    await peer.hello()
    await peer.ask("STARTTLS")
    await peer.send(b"this is no TLS\r\n" * 10)
    await peer.reader.read()
    lines = await server.log()
    assert any(line.startswith("SSL_accept error from unknown[127.0.0.1]: ") for line in lines)
    assert "lost connection after STARTTLS from unknown[127.0.0.1]" in lines


async def test_tls_required(start: Start, certificate: Certificate) -> None:
    authority, path = certificate
    server = await start(tls=path, smtpd_tls_security_level="encrypt")
    peer = await server.connect()
    await peer.hello()
    for command in ("MAIL FROM:<a@b.example>", "HELO x", "RSET", "VRFY x"):
        assert await peer.ask(command) == "530 5.7.0 Must issue a STARTTLS command first"
    assert await peer.ask("NOOP") == "250 2.0.0 Ok"
    await peer.ask("STARTTLS")
    await upgrade(peer, authority)
    assert await peer.ask("MAIL FROM:<a@b.example>") == "250 2.1.0 Ok"


async def test_implicit_tls_and_login(start: Start, certificate: Certificate) -> None:
    authority, path = certificate
    server = await start("submissions", tls=path)
    peer = await server.connect(ssl=trusting(authority), server_hostname="localhost")
    assert "\n250-AUTH PLAIN LOGIN\n" in await peer.hello()
    answer = await peer.ask("MAIL FROM:<lcarr@example.org>", "RCPT TO:<x@other.example>")
    assert answer == "554 5.7.1 <x@other.example>: Recipient address rejected: Access denied"
    await peer.ask("RSET")
    assert await peer.ask(f"AUTH PLAIN {PLAIN}") == "235 2.7.0 Authentication successful"
    assert await peer.ask(f"AUTH PLAIN {PLAIN}") == "503 5.5.1 Error: already authenticated"
    await peer.ask("MAIL FROM:<lcarr@example.org> AUTH=<>", "RCPT TO:<x@other.example>", "DATA")
    await peer.send("Subject: x\r\n\r\nbody\r\n.\r\n")
    assert await peer.reply() == "250 2.0.0 Ok: queued as QID1"
    origin = server.intake.taken[0].origin
    assert (origin.protocol, origin.sasl_username, origin.sasl_method, origin.rewrite) == (
        "ESMTPSA",
        "lcarr",
        "PLAIN",
        True,
    )
    lines = await server.log()
    assert "QID1: client=unknown[127.0.0.1], sasl_method=PLAIN, sasl_username=lcarr" in lines


async def test_implicit_tls_needs_a_certificate(start: Start) -> None:
    with pytest.raises(ConfigError, match="submissions needs a certificate"):
        await start("submissions")


async def test_login_dialogs(start: Start) -> None:
    server = await start(
        smtpd_sasl_auth_enable="yes", smtpd_soft_error_limit="90", smtpd_hard_error_limit="99"
    )
    peer = await server.connect()
    assert await peer.reply()
    assert await peer.ask("AUTH PLAIN") == "503 5.5.1 Error: send HELO/EHLO first"
    assert "\n250-AUTH PLAIN LOGIN\n" in await peer.ask("EHLO client.example")
    for command, answer in (
        ("AUTH", "501 5.5.4 Syntax: AUTH mechanism"),
        ("AUTH PLAIN a b", "501 5.5.4 Syntax: AUTH mechanism"),
        ("AUTH CRAM-MD5", "504 5.5.4 Error: authentication mechanism not supported"),
        ("AUTH PLAIN !!!", "501 5.5.2 Error: malformed authentication response"),
        ("AUTH PLAIN =", "501 5.5.2 Error: malformed authentication response"),
    ):
        assert await peer.ask(command) == answer
    assert await peer.ask("AUTH PLAIN") == "334 "
    assert await peer.ask("*") == "501 5.7.0 Authentication aborted"
    assert await peer.ask("AUTH LOGIN") == "334 VXNlcm5hbWU6"
    assert await peer.ask(base64.b64encode(b"lcarr").decode()) == "334 UGFzc3dvcmQ6"
    wrong = base64.b64encode(b"wrong-password").decode()
    assert await peer.ask(wrong) == "535 5.7.8 Error: authentication failed"
    assert await peer.ask("AUTH login bGNhcnI=") == "334 UGFzc3dvcmQ6"
    secret = base64.b64encode(b"secret").decode()
    assert await peer.ask(secret) == "235 2.7.0 Authentication successful"
    answer = await peer.ask("MAIL FROM:<lcarr@example.org>", "RCPT TO:<x@other.example>")
    assert answer == "250 2.1.5 Ok"
    lines = await server.log()
    assert (
        "warning: unknown[127.0.0.1]: SASL LOGIN authentication failed: authentication failed, "
        "sasl_username=lcarr"
    ) in lines
    assert not any("wrong-password" in line or wrong in line for line in lines)


@pytest.mark.parametrize("why", ["configured", "not loopback"])
async def test_passwords_do_not_travel_in_the_clear(
    start: Start, certificate: Certificate, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    if why == "not loopback":
        monkeypatch.setattr("resel_mta.smtpd.client.is_loopback", lambda address: False)
    only = "yes" if why == "configured" else "no"
    server = await start(
        "submission", tls=certificate[1], **{"submission/smtpd_tls_auth_only": only}
    )
    peer = await server.connect()
    assert "AUTH" not in await peer.hello()
    assert await peer.ask(f"AUTH PLAIN {PLAIN}") == (
        "538 5.7.11 Encryption required for requested authentication mechanism"
    )


def issue(path: Path, name: str = "localhost") -> trustme.CA:
    authority = trustme.CA()
    authority.issue_cert(name).private_key_and_cert_chain_pem.write_to_path(str(path))
    return authority


async def test_a_renewed_certificate_is_picked_up(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resel_mta.tls._LOOK_EVERY", 0.0)
    path = tmp_path / "chain.pem"
    issue(path)
    server = await start("submissions", tls=str(path))
    path.write_text("no certificate at all")
    renewed = tmp_path / "new.pem"
    authority = issue(renewed)
    with pytest.raises(ssl.SSLError):
        await server.connect(ssl=trusting(authority), server_hostname="localhost")
    os.replace(renewed, path)
    peer = await server.connect(ssl=trusting(authority), server_hostname="localhost")
    assert (await peer.reply()).startswith("220")


@pytest.mark.parametrize("case", ["mismatch", "missing", "junk"])
def test_bad_certificates_are_named(tmp_path: Path, case: str) -> None:
    authority = trustme.CA()
    first, second = authority.issue_cert("a.example"), authority.issue_cert("b.example")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    first.cert_chain_pems[0].write_to_path(str(cert))
    second.private_key_pem.write_to_path(str(key))
    expected = "does not belong to the certificate"
    if case == "missing":
        key.unlink()
        expected = "cannot read .*key.pem: No such file"
    elif case == "junk":
        cert.write_text("x")
        expected = "no certificate or key in PEM"
    settings = Settings.build("server", smtpd_tls_cert_file=str(cert), smtpd_tls_key_file=str(key))
    with pytest.raises(ConfigError, match=expected) as caught:
        ServerTLS(settings)
    assert caught.value.problems[0].parameter == "smtpd_tls_cert_file"


def test_cert_and_key_files(tmp_path: Path) -> None:
    issued = trustme.CA().issue_cert("a.example")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    issued.cert_chain_pems[0].write_to_path(str(cert))
    issued.private_key_pem.write_to_path(str(key))
    settings = Settings.build("server", smtpd_tls_cert_file=str(cert), smtpd_tls_key_file=str(key))
    context = ServerTLS(settings).context()
    assert context is not None
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert ServerTLS(Settings.build("server")).context() is None
