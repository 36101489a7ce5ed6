"""What sendmail -bs makes of a program's lines, however they come."""

from __future__ import annotations

import pytest

from resel_mta.commands.sendmail_smtp import Dialog

MAIL = b"Subject: x\n\nhi\rho\n.. BDAT 4\n.\n"


def converse(octets: bytes, size: int, answers: dict[bytes, bytes]) -> tuple[bytes, Dialog]:
    """All that a server gets, which answers each command by its first word, else with 250."""
    dialog = Dialog()
    sent = dialog.replied(b"220-two\r\n220 lines\r\n")
    for start in range(0, len(octets), size):
        sent += dialog.feed(octets[start : start + size])
        while dialog.waits:
            word = sent.split(b"\r\n")[-2].split()[0].upper()
            sent += dialog.replied(answers.get(word, b"250 Ok\r\n")[:3])
            sent += dialog.replied(answers.get(word, b"250 Ok\r\n")[3:])
    return sent, dialog


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_sendmail_smtp_lines_end_in_cr_lf(size: int) -> None:
    # Each command but DATA is answered before: only the last one is waited for.
    sent, dialog = converse(b"data\n" + MAIL + b"QUIT\r\n", size, {b"DATA": b"354 go\r\n"})
    assert sent == b"data\r\n" + MAIL.replace(b"\n", b"\r\n") + b"QUIT\r\n"
    assert not dialog.inside_message


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_sendmail_smtp_octets_of_chunks_and_tls_stay(size: int) -> None:
    chunk = b"a\nb\r\nDATA\n"
    sent, dialog = converse(b"BDAT %d\n%sbdat 2 last\n\n\nNOOP\n" % (len(chunk), chunk), size, {})
    assert sent == b"BDAT %d\r\n%sbdat 2 last\r\n\n\nNOOP\r\n" % (len(chunk), chunk)
    assert not dialog.inside_message
    sent, _ = converse(b"STARTTLS\n\x16\n\x03\n", size, {b"STARTTLS": b"220 go\r\n"})
    assert sent == b"STARTTLS\r\n\x16\n\x03\n"
    sent, _ = converse(b"STARTTLS\nQUIT\n", size, {b"STARTTLS": b"454 no\r\n"})
    assert sent == b"STARTTLS\r\nQUIT\r\n"


def test_sendmail_smtp_data_that_was_refused_is_followed_by_commands() -> None:
    sent, dialog = converse(b"DATA\nBDAT 3\n\n\n\n", 4, {b"DATA": b"503 no\r\n"})
    assert sent == b"DATA\r\nBDAT 3\r\n\n\n\n"
    assert not dialog.inside_message


def test_sendmail_smtp_knows_when_a_message_is_not_complete() -> None:
    for octets in (b"DATA\nx\n", b"DATA\nx\n.", b"BDAT 3\nab"):
        assert converse(octets, 5, {b"DATA": b"354 go\r\n"})[1].inside_message
