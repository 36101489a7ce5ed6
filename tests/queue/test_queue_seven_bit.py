"""What is returned of an 8-bit message to somebody whose server may have no 8BITMIME."""

from __future__ import annotations

import email
import email.policy
import time
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.message import Message as Mail

import pytest
from hypothesis import given
from hypothesis import strategies as st
from queue_fakes import read_all
from queue_house import UNKNOWN

from resel_mta.content import Content
from resel_mta.mail import Envelope, Message, Recipient
from resel_mta.queue.bounce import Kind, Report, build
from resel_mta.queue.seven_bit import quoted_printable, seven_bit


def crlf(text: str) -> bytes:
    return text.replace("\n", "\r\n").encode()


PLAIN = crlf("Subject: lunch\n\nÀ midi, été comme hiver.\n\x20\nEnd\n")
RAW_FIELDS = crlf("From: René Élan <r@x.org>\nSubject: déjà vu, à midi\n\nÀ bientôt\n")
MIXED = crlf("""\
Subject: two
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="a b"
Content-Transfer-Encoding: 8bit

é
--a b
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: 8bit

été
--a b
Content-Type: text/plain; name="reçu.txt"

seven
--a b
Content-Type: message/rfc822
Content-Transfer-Encoding: 8bit

Subject: inner

intérieur
--a b--
""")


def notice(data: bytes, *, utf8: bool = False) -> tuple[bytes, Envelope]:
    """A failure's, as it is sent to an address in ASCII."""
    content = Content.from_bytes(data)
    recipient = Recipient("bob@x.net")
    envelope = Envelope("ann@x.org", [recipient], "8BITMIME", utf8)
    message = Message("1F7A", 1.7e9, envelope, content.size, [recipient], content)
    made, made_envelope = build(
        Report(
            Kind.FAILURE, message, content, [(recipient, UNKNOWN)], "ann@x.org",
            "mail.x.org", "1F7B", 1.7e9, 1.8e9, True,
        )
    )  # fmt: skip
    return read_all(made), made_envelope


def returned(data: bytes) -> Mail:
    whole = email.message_from_bytes(data).get_payload(2)
    assert isinstance(whole, Mail)
    return whole


def text_of(part: Mail) -> str:
    raw = part.get_payload(decode=True)
    assert isinstance(raw, bytes)
    return raw.decode()


@pytest.mark.parametrize("data", [PLAIN, RAW_FIELDS, MIXED])
def test_a_bounce_of_an_8_bit_message_is_7_bit_and_has_all_of_it(data: bytes) -> None:
    made, envelope = notice(data)
    assert (envelope.body, envelope.smtputf8) == ("7BIT", False)
    assert made.isascii()
    assert b"\n" not in made.replace(b"\r\n", b"")
    whole = returned(made)
    assert whole.get_content_type() == "message/rfc822"
    assert whole["Content-Transfer-Encoding"] == "7bit"
    inner = whole.get_payload(0)
    assert isinstance(inner, Mail)
    assert inner["MIME-Version"] == "1.0"
    if inner.is_multipart():
        first, second, third = [each for each in inner.get_payload() if isinstance(each, Mail)]
        assert text_of(first) == "été"
        assert (second["Content-Transfer-Encoding"], text_of(second)) == (None, "seven")
        assert str(make_header(decode_header(str(second.get_param("name"))))) == "reçu.txt"
        deep = third.get_payload(0)
        assert isinstance(deep, Mail)
        assert text_of(deep) == "intérieur"
        return
    assert text_of(inner) == data.partition(b"\r\n\r\n")[2].decode()
    for name, value in email.message_from_string(data.decode()).items():
        assert str(make_header(decode_header(inner[name]))) == value


def test_a_bounce_of_an_smtputf8_message_to_ascii_has_it_encoded() -> None:
    made, envelope = notice(RAW_FIELDS, utf8=True)
    assert (envelope.body, envelope.smtputf8, made.isascii()) == ("7BIT", False, True)
    kinds = [part.get_content_type() for part in email.message_from_bytes(made).get_payload()]  # type: ignore[union-attr]
    assert kinds == ["text/plain", "message/delivery-status", "message/global"]
    assert b"Content-Type: message/global\r\nContent-Transfer-Encoding: quoted-printable" in made


def test_a_bounce_of_a_7_bit_message_has_it_as_it_was() -> None:
    made, _ = notice(crlf("Subject: lunch\n\nat noon = 12\n"))
    assert b"Subject: lunch\r\n\r\nat noon = 12\r\n" in made
    assert b"quoted-printable" not in made
    assert made.count(b"Content-Transfer-Encoding: 7bit\r\n") == 4


@pytest.mark.parametrize(
    "data",
    [
        b"Content-Type: multipart/mixed\r\n\r\n--x\r\n\r\n\xe9\r\n--x--\r\n",
        b"Content-Type: multipart/mixed; boundary=y\r\n\r\n--x\r\n\r\n\xe9\r\n--x--\r\n",
        b"Content-Transfer-Encoding: base64\r\n\r\n\xe9\r\n",
        b"Content-Type: message/rfc822\r\n\r\n" * 100 + b"Subject: x\r\n\r\n\xe9\r\n",
    ],
)
def test_of_what_cannot_be_told_apart_only_the_header_is_returned(data: bytes) -> None:
    assert seven_bit(data) is None
    made, envelope = notice(data)
    assert (envelope.body, made.isascii()) == ("7BIT", True)
    assert returned(made).get_content_type() == "text/rfc822-headers"


def test_a_digest_has_messages() -> None:
    digest = b"Content-Type: multipart/digest; boundary=x\r\n\r\n--x\r\n\r\nA: b\r\n\r\n\xe9\r\n--x--\r\n"
    converted = seven_bit(digest)
    assert converted is not None
    _, message, text = converted.split(b"\r\n\r\n")[:3]
    assert message == b"--x\r\nContent-Transfer-Encoding: 7bit"
    assert text.endswith(b"\r\nContent-Transfer-Encoding: quoted-printable")


@given(st.binary())
def test_quoted_printable_is_read_back(data: bytes) -> None:
    data = data.replace(b"\n", b"\r\n")
    encoded = quoted_printable(data)
    assert encoded.isascii()
    assert all(len(line) <= 76 for line in encoded.split(b"\r\n"))
    mail = email.message_from_bytes(
        b"Content-Transfer-Encoding: quoted-printable\r\n\r\n" + encoded, policy=email.policy.SMTP
    )
    assert isinstance(mail, EmailMessage)
    assert mail.get_payload(decode=True) == data


@given(st.lists(st.sampled_from([b"a", b":", b" ", b"\r\n", b"--x", b"--", b"\xe9", b"\xc3\xa9", *(
    b"Content-Type: multipart/mixed; boundary=x\r\n", b"Content-Type: message/rfc822\r\n"
)]), max_size=40))  # fmt: skip
def test_any_message_becomes_ascii_or_nothing(pieces: list[bytes]) -> None:
    converted = seven_bit(b"".join(pieces))
    assert converted is None or converted.isascii()


@pytest.mark.parametrize(
    "data",
    [
        b"a" * 500_000 + b": \xe9\r\n\r\n",
        b"A: " + b" " * 500_000 + b"\xe9\r\n\r\n",
        b"A: " + b"a" * 500_000 + b"\xe9\r\n\r\n",
        b"Content-Type: multipart/a" + b'; boundary="' * 40_000 + b"\r\n\r\n\xe9",
        b" " * 500_000 + b"\xe9",
    ],
)
def test_no_message_takes_long(data: bytes) -> None:
    began = time.process_time()
    seven_bit(data)
    assert time.process_time() - began < 2.0
