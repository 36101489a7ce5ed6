"""Messages in UTF-8 for clients that read ASCII."""

from __future__ import annotations

import email
import email.policy
import email.utils
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parent.parent / "mime"))
from nasty_mails import MAILS

from resel_lda.pop3.surrogate import needs_utf8, surrogate


def made(text: str) -> bytes:
    return text.replace("\n", "\r\n").encode()


@pytest.mark.parametrize(
    ("field", "shown"),
    [
        ("Subject: Été", "Été"),
        ("Subject: un été plus très  long", "un été plus très long"),
        ("Subject: " + "très " * 60, ("très " * 60).strip()),
        ("Subject: ☃" + "☃" * 200, "☃" * 201),
        ("X-Note: a\n é b\n\tc", "a é b c"),
        ('From: "Zoé, Q" <zoe@b.c>', '"Zoé, Q" <zoe@b.c>'),
        ("To: Zoé <a@b.c>, Bob (x) <b@c.d>", "Zoé <a@b.c>, Bob <b@c.d>"),
        ("Cc: Équipe: a@b.c, B <b@c.d>;, c@d.e", "Équipe: a@b.c, B <b@c.d>;, c@d.e"),
        ("Bcc: é@b.c", '"é@b.c" <invalid@internationalized-address.invalid>'),
        (
            "Reply-To: Zoé <z@exämple.org>",
            '"Zoé z@exämple.org" <invalid@internationalized-address.invalid>',
        ),
        ('Sender: Zoé <"a b"@b.c>', 'Zoé <"a b"@b.c>'),
        ("Message-ID: <é@b.c>", None),
        ("Références: x", None),
    ],
)
def test_surrogate_of_a_field(field: str, shown: str | None) -> None:
    message = made(f"Date: x\n{field}\nMIME-Version: 1.0\n\nété\n")
    assert needs_utf8(message)
    made_of = surrogate(message)
    header, _, body = made_of.partition(b"\r\n\r\n")
    assert header.isascii()
    assert header.startswith(b"Date: x\r\n")
    assert header.endswith(b"MIME-Version: 1.0")
    assert body == "été\r\n".encode()
    assert all(len(line) <= 76 for line in header.split(b"\r\n"))
    parsed = email.message_from_bytes(made_of, policy=email.policy.default)
    assert parsed[field.partition(":")[0]] == shown


def test_surrogate_of_parts() -> None:
    name = "très long nom de fichier " * 5 + ".txt"
    message = made(
        "Content-Type: multipart/mixed; boundary=b\n\n--b\n"
        f'Content-Type: text/plain; charset=utf-8; name="{name}"\n'
        "Content-Disposition: attachment; filename=été.pdf; size=3\n\ncorps é\n"
        "--b\nContent-Type: message/rfc822\n\nSubject: intérieur\n\nx\n--b--\n"
    )
    made_of = surrogate(message)
    assert made_of.replace("corps é".encode(), b"").isascii()
    parsed = email.message_from_bytes(made_of, policy=email.policy.default)
    parts = list(parsed.walk())
    assert parts[1].get_filename() == "été.pdf"
    assert email.utils.collapse_rfc2231_value(parts[1].get_param("name", "")) == name
    assert parts[1].get_content() == "corps é"
    assert parts[3]["Subject"] == "intérieur"


@pytest.mark.parametrize("number", range(len(MAILS)), ids=[name for name, _ in MAILS])
def test_surrogate_of_hard_mail(number: int) -> None:
    """What is ASCII, or no UTF-8 either, stays; no message loses its body."""
    message = MAILS[number][1].replace(b"\n", b"\r\n")
    made_of = surrogate(message)
    if made_of == message:
        return
    header, _, body = message.partition(b"\r\n\r\n")
    assert not header.isascii()
    assert made_of.partition(b"\r\n\r\n")[0].isascii()
    assert made_of.endswith(b"\r\n\r\n" + body)


@given(
    st.text(st.characters(exclude_characters="\r", exclude_categories=["Cs"]), max_size=200),
    st.sampled_from(["Subject", "From", "To", "Content-Type", "Content-Disposition", "X-A", "é"]),
)
def test_surrogate_is_ascii_whatever_stands_there(text: str, name: str) -> None:
    message = made(f"{name}: {text}\n\n")
    header = surrogate(message).partition(b"\r\n\r\n")[0]
    assert header.isascii()
    assert surrogate(header + b"\r\n\r\n") == header + b"\r\n\r\n"


@pytest.mark.parametrize(
    "piece",
    ["a", "a=", 'a="', 'a="b";', "a ", "\\", '"', "é", "é;a=é;", "é ", "<é@b>,", "a\n b=é;"],
)
@pytest.mark.parametrize("name", ["Content-Type", "From", "Subject"])
def test_surrogate_of_a_huge_field_is_made_in_a_moment(name: str, piece: str) -> None:
    message = made(f"{name}: {piece * (300_000 // len(piece))} é\n\n")
    started = time.process_time()
    assert surrogate(message).isascii()
    assert time.process_time() - started < 20
