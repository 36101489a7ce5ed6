"""The mail of the mailbox benchmark: a Maildir that is the same in every run, and what it holds."""

from __future__ import annotations

import os
import random
import time
from dataclasses import dataclass
from pathlib import Path

NEEDLE = "facture"
"""A word in some of the subjects."""
_TEXT = (
    "le la les un une des serveur courriel association membre budget facture switch fibre"
    " bonjour merci cordialement planning salle projet code revue version release"
)


@dataclass(frozen=True)
class Corpus:
    """octets: of all messages, with CR LF line ends; found: numbers of those with `NEEDLE` in the
    subject. None has \\Flagged."""

    cur: Path
    count: int
    octets: int
    found: tuple[int, ...]


def corpus(directory: Path, count: int, octets: int) -> Corpus:
    """A Maildir of mail-like messages, in threads, some multipart."""
    rng = random.Random(5)
    for part in ("cur", "new", "tmp"):
        (directory / part).mkdir(parents=True)
    started = 1_700_000_000
    total = 0
    found = []
    for number in range(count):
        mail = message(rng, number, octets)
        name = f"{started + number * 60}.M{number}P1.bench,S={len(mail)}:2,"
        path = directory / "cur" / (name + rng.choice(("", "S", "S", "RS")))
        path.write_bytes(mail)
        os.utime(path, (started + number * 60, started + number * 60))
        total += len(mail) + mail.count(b"\n")
        subject = mail[mail.index(b"\nSubject:") + 1 :].partition(b"\n")[0]
        if NEEDLE.encode() in subject:
            found.append(number + 1)
    return Corpus(directory / "cur", count, total, tuple(found))


def message(rng: random.Random, number: int, octets: int) -> bytes:
    words = _TEXT.split()
    parent = rng.randrange(number) if number and rng.random() < 0.6 else number
    subject = f"{'Re: ' if parent != number else ''}[liste] {rng.choice(words)} {parent % 97}"
    when = time.strftime("%a, %d %b %Y %H:%M:%S +0100", time.gmtime(1_700_000_000 + number * 60))
    lines = [
        "Return-Path: <liste-bounces@example.org>",
        f"Received: from mx{number % 7}.example.org (mx.example.org [192.0.2.{number % 250}])",
        f"\tby toad.example.org (Postfix) with ESMTPS id {number:010X}; {when}",
        f"Date: {when}",
        f"From: Membre {number % 211} <membre{number % 211}@example.org>",
        "To: Liste <liste@example.org>",
        f"Cc: a{number % 13}@example.org, b{number % 17}@example.org",
        f"Subject: {subject}",
        f"Message-ID: <{number}.bench@example.org>",
        "MIME-Version: 1.0",
    ]
    if parent != number:
        lines += [f"In-Reply-To: <{parent}.bench@example.org>",
                  f"References: <{parent}.bench@example.org>"]  # fmt: skip
    text: list[str] = []
    size = 0
    while size < octets - 900:
        line = " ".join(rng.choices(words, k=10))
        text.append(line)
        size += len(line) + 1
    body = "\n".join(text)
    if number % 3:
        lines += ["Content-Type: text/plain; charset=utf-8", "Content-Transfer-Encoding: 8bit"]
        return ("\n".join(lines) + "\n\n" + body + "\n").encode()
    half = len(body) // 2
    lines.append('Content-Type: multipart/alternative; boundary="=_b"')
    parts = "".join(
        f"--=_b\nContent-Type: text/{kind}; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n{part}\n"
        for kind, part in (("plain", body[:half]), ("html", f"<p>{body[half:]}</p>"))
    )
    return ("\n".join(lines) + "\n\n" + parts + "--=_b--\n").encode()
