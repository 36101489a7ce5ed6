"""Real clients: swaks, Postfix's smtp-source, Python's smtplib."""

from __future__ import annotations

import asyncio
import smtplib
import ssl
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import trustme

Start = Callable[..., Any]
Need = Callable[[str], str]


async def run(*command: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, output.decode(errors="replace")


async def test_swaks_logs_in(start: Start, need: Need) -> None:
    swaks = need("swaks")
    server = await start("submission", **{"submission/smtpd_tls_auth_only": "no"})
    code, output = await run(
        swaks, "--server", f"127.0.0.1:{server.port}", "--auth", "LOGIN",
        "--auth-user", "lcarr", "--auth-password", "secret", "--from", "lcarr@example.org",
        "--to", "x@other.example", "--pipeline", "--helo", "client.example",
        "--body", ".dot\nline",
    )  # fmt: skip
    assert code == 0, output
    (taken,) = server.intake.taken
    assert taken.origin.protocol == "ESMTPA"
    assert b"\r\n.dot\r\nline\r\n" in taken.data


async def test_swaks_is_refused(start: Start, need: Need) -> None:
    swaks = need("swaks")
    server = await start()
    code, output = await run(
        swaks, "--server", f"127.0.0.1:{server.port}", "--from", "a@b.example",
        "--to", "nobody@example.org", "--helo", "client.example",
    )  # fmt: skip
    assert code == 24, output
    assert "550 5.1.1 <nobody@example.org>: Recipient address rejected" in output


async def test_smtp_source(start: Start, need: Need) -> None:
    source = need("smtp-source")
    server = await start()
    code, output = await run(
        source, "-s", "10", "-m", "200", "-l", "5000", "-r", "3", "-f", "a@b.example",
        "-t", "x@relay.example", f"inet:127.0.0.1:{server.port}",
    )  # fmt: skip
    assert code == 0, output
    assert len(server.intake.taken) == 200
    assert {len(taken.envelope.recipients) for taken in server.intake.taken} == {3}


async def test_smtp_source_sends_a_file_on_kept_connections(
    start: Start, need: Need, tmp_path: Path
) -> None:
    source = need("smtp-source")
    server = await start()
    message = tmp_path / "message"
    body = "".join(f".{n} {'x' * (n % 900)}\n" for n in range(2000))
    message.write_text(f"Subject: x\n\n{body}")
    code, output = await run(
        source, "-d", "-s", "2", "-m", "6", "-F", str(message), "-f", "a@b.example",
        "-t", "x@relay.example", f"inet:127.0.0.1:{server.port}",
    )  # fmt: skip
    assert code == 0, output
    wanted = message.read_bytes().replace(b"\n", b"\r\n")
    # It adds an empty line of its own at the end.
    assert [taken.data for taken in server.intake.taken] == [wanted + b"\r\n"] * 6


async def test_smtplib_sends_utf8(start: Start) -> None:
    server = await start()
    message = EmailMessage()
    message["Subject"] = "été"
    message["From"] = "été@b.example"
    message["To"] = "été@example.org"
    message.set_content("ça marche\n", cte="8bit")

    def send() -> None:
        with smtplib.SMTP("127.0.0.1", server.port) as client:
            client.send_message(message)

    await asyncio.to_thread(send)
    (taken,) = server.intake.taken
    assert taken.envelope.smtputf8
    assert taken.envelope.recipients[0].address == "été@example.org"
    assert "ça marche".encode() in taken.data


async def test_smtplib_with_starttls_and_login(
    start: Start, certificate: tuple[trustme.CA, str]
) -> None:
    authority, path = certificate
    server = await start("submission", tls=path)
    context = ssl.create_default_context()
    authority.configure_trust(context)

    def send() -> None:
        with smtplib.SMTP("localhost", server.port) as client:
            client.starttls(context=context)
            client.login("lcarr", "secret")
            client.sendmail(
                "lcarr@example.org", ["x@other.example"], b"Subject: x\n\n" + b"y" * 2**20
            )

    await asyncio.to_thread(send)
    (taken,) = server.intake.taken
    assert taken.origin.protocol == "ESMTPSA"
    assert len(taken.data) == 2**20 + 16
