"""Two hundred mails that differ in all that has ever gone wrong on the way."""

from __future__ import annotations

import random
from collections.abc import Callable


def body_of(number: int) -> bytes:
    """Varied bodies, each ending with CR LF as DATA has it; the same number gives the same."""
    source = random.Random(number)
    kinds: list[Callable[[], bytes]] = [
        lambda: f"Bonjour, été n° {number} : ça va ?\r\n".encode(),
        lambda: bytes(source.choice(range(0xA1, 0x100)) for _ in range(500)) + b"\r\n",
        lambda: b".\r\n..\r\n...\r\n.leading\r\n" * 20,
        lambda: (b"x" * 900 + b"\r\n") * 5,
        lambda: b"\r\n" * 30,
        lambda: b"From the start of a line\r\n>From\r\n\t tabs \r\ntrailing  \r\n",
        lambda: b"." * 900 + b"\r\n.\r\n",
    ]
    if number % 20 == 0:
        line = bytes(source.choice(b"ABCDEFGHabcdefgh0123456789+/") for _ in range(76)) + b"\r\n"
        return line * (1_000_000 // len(line))
    return kinds[number % len(kinds)]()


def header_of(number: int) -> bytes:
    subject = "=?utf-8?q?=C3=89t=C3=A9?=" if number % 3 else f"Été brut n° {number}"
    return (
        f"From: Élise <cron@vm1.adm.resel.fr>\r\nTo: root@resel.fr\r\nSubject: {subject}\r\n"
        f"X-Number: {number}\r\n\r\n"
    ).encode()
