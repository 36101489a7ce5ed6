"""The same words said to a private Postfix and to our service: the same replies."""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.servers import PostfixServer
from demo.machines import free_port

Start = Callable[..., Any]
Need = Callable[[str], str]

HELLO = b"EHLO client.example\r\n"
MAIL = b"MAIL FROM:<a@b.example>\r\n"
RCPT = b"RCPT TO:<x@other.example>\r\n"
END = b"Subject: x\r\n\r\nbody\r\n.\r\n"

SERVICES: dict[str, dict[str, str]] = {
    "default": {},
    "data": {"smtpd_data_restrictions": "reject_unauth_pipelining"},
    "recipient": {"smtpd_recipient_restrictions": "reject_unauth_pipelining"},
    "client": {"smtpd_client_restrictions": "reject_unauth_pipelining"},
    "forbid": {"smtpd_forbid_unauth_pipelining": "yes"},
    "normalize": {
        "smtpd_forbid_bare_newline": "normalize",
        "smtpd_forbid_bare_newline_exclusions": "",
    },
    "reject": {
        "smtpd_forbid_bare_newline": "reject",
        "smtpd_forbid_bare_newline_exclusions": "",
    },
}

# (service, what is said, each part after the answer to the one before)
DIALOGS: dict[str, tuple[str, tuple[bytes, ...]]] = {
    "proper": ("data", (HELLO, MAIL + RCPT + b"DATA\r\n", END, b"QUIT\r\n")),
    "after ehlo": ("data", (HELLO + MAIL + RCPT, b"DATA\r\n", b"QUIT\r\n")),
    "after helo": ("data", (b"HELO x.example\r\n", MAIL + RCPT, b"DATA\r\n", b"QUIT\r\n")),
    "after noop": ("data", (HELLO, b"NOOP\r\n" + MAIL + RCPT, b"DATA\r\n", b"QUIT\r\n")),
    "after vrfy": (
        "data",
        (HELLO, MAIL + RCPT + b"VRFY x@other.example\r\nDATA\r\n", b"QUIT\r\n"),
    ),
    "after rset": ("data", (HELLO, b"RSET\r\n" + MAIL + RCPT + b"DATA\r\n", END, b"QUIT\r\n")),
    "after an unknown one": ("data", (HELLO, b"FOO\r\n" + MAIL + RCPT, b"DATA\r\n", END)),
    "recipient": ("recipient", (HELLO + MAIL + RCPT, b"QUIT\r\n")),
    "recipient, proper": ("recipient", (HELLO, MAIL + RCPT, b"QUIT\r\n")),
    "client": ("client", (HELLO + MAIL + RCPT, b"QUIT\r\n")),
    "forbidden after ehlo": ("forbid", (HELLO + MAIL,)),
    "forbidden after helo": ("forbid", (b"HELO x.example\r\n", MAIL + RCPT)),
    "forbidden content": ("forbid", (HELLO, MAIL + RCPT + b"DATA\r\nx\r\n.\r\n")),
    "not forbidden": ("forbid", (HELLO, MAIL + RCPT + b"DATA\r\n", END, b"QUIT\r\n")),
    "not forbidden after quit": ("forbid", (HELLO, b"QUIT\r\nNOOP\r\n")),
    "content with DATA": ("default", (HELLO, MAIL + RCPT + b"DATA\r\n" + END, b"QUIT\r\n")),
    "bare LF commands": ("normalize", (b"EHLO x.example\n", b"NOOP\n", b"QUIT\n")),
    "bare LF command refused": ("reject", (b"EHLO x.example\n",)),
    "bare LF content refused": (
        "reject",
        (HELLO, MAIL + RCPT, b"DATA\r\n", b"Subject: x\n\nb\n.\r\nc\r\n.\r\n", b"NOOP\r\n"),
    ),
    "smuggling": (
        "normalize",
        (HELLO, MAIL + RCPT, b"DATA\r\n", b"a\n.\nMAIL FROM:<>\r\nb\n.\r\nc\r\n.\r\n", b"NOOP\r\n"),
    ),
}


@pytest.fixture(scope="module")
def postfix(need: Callable[[str], str]) -> Iterator[dict[str, int]]:
    """Ports of a private Postfix, by the name of a set of settings."""
    if os.geteuid() != 0:
        pytest.skip("a private Postfix needs root")
    need("postfix")
    ports = {name: free_port(["127.0.0.1"]) for name in SERVICES}
    lines = []
    for name, settings in SERVICES.items():
        lines.append(f"127.0.0.1:{ports[name]} inet n - n - - smtpd")
        lines += [f"  -o {{{option} = {value}}}" for option, value in settings.items()]

    class Private(PostfixServer):
        def _write(self, name: str, text: str) -> None:
            super()._write(name, text + ("\n".join(lines) + "\n" if name == "master.cf" else ""))

    # Not in pytest's folders: its processes are not root, and those are root's alone.
    with tempfile.TemporaryDirectory(prefix="resel-pf-") as directory:
        os.chmod(directory, 0o755)
        server = Private(Path(directory), 1)
        try:
            yield ports
        finally:
            server.stop()


async def replies(port: int, parts: tuple[bytes, ...]) -> list[str]:
    """Code and enhanced code of all replies; "closed" at the end if the server hung up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    seen: list[str] = []

    async def take() -> bool:
        # A reply to each part is certain; how many, is not.
        timeout = 10.0
        while True:
            try:
                line = await asyncio.wait_for(reader.readline(), timeout)
            except TimeoutError:
                return True
            except ConnectionError:
                line = b""
            if not line:
                seen.append("closed")
                return False
            if line[3:4] != b"-":
                match = re.match(r"(\d{3})(?: (\d\.\d+\.\d+))?", line.decode())
                assert match is not None
                seen.append(match[0])
                timeout = 0.3

    alive = await take()
    for part in parts:
        if not alive:
            break
        writer.write(part)
        alive = await take()
    writer.close()
    return seen


async def test_the_same_replies(start: Start, postfix: dict[str, int]) -> None:
    ours = {
        name: (await start(**settings, mynetworks="127.0.0.0/8")).port
        for name, settings in SERVICES.items()
    }

    async def both(service: str, parts: tuple[bytes, ...]) -> list[list[str]]:
        return list(
            await asyncio.gather(replies(ours[service], parts), replies(postfix[service], parts))
        )

    results = await asyncio.gather(*(both(*dialog) for dialog in DIALOGS.values()))
    differing = {
        name: result
        for name, result in zip(DIALOGS, results, strict=True)
        if result[0] != result[1]
    }
    assert differing == {}
    assert all("354" in result[0] for result in results[:1])
