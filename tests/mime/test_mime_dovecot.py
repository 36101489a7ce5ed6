"""Our wire strings and sections against a real Dovecot's, mail by mail."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from dovecot_imap import IMAP, DovecotImap
from nasty_mails import MAILS

from resel_lda.maildir.files import with_crlf
from resel_lda.mime.sections import (
    parse,
    render_body,
    render_bodystructure,
    render_envelope,
    section,
)

pytestmark = pytest.mark.needs(str(IMAP))

SECTIONS = (
    "HEADER", "TEXT", "HEADER.FIELDS (subject from)", "HEADER.FIELDS.NOT (subject content-type)",
    "1", "2", "3", "1.1", "1.2", "2.1", "2.2", "1.1.1", "2.1.1", "1.1.2", "1.1.1.1", "1.MIME",
    "2.MIME", "1.1.MIME", "2.1.MIME", "1.HEADER", "2.HEADER", "1.1.HEADER", "1.TEXT", "2.TEXT",
    "1.1.TEXT", "1.HEADER.FIELDS (from)", "2.HEADER.FIELDS (from)",
)  # fmt: skip
# A message/rfc822 with nothing in it: Dovecot gives an empty line for its header fields, but
# nothing for its header.
KNOWN = {("rfc822-empty", "1.HEADER.FIELDS (from)")}


@pytest.fixture(scope="module")
def dovecot() -> Iterator[DovecotImap]:
    # Not tmp_path: the user nobody must be able to reach it.
    root = Path(tempfile.mkdtemp(prefix="resel-mime-"))
    try:
        for name in ("cur", "new", "tmp"):
            (root / "Maildir" / name).mkdir(parents=True)
        for number, (_, mail) in enumerate(MAILS):
            name = f"{1700000000 + number}.M{number}.h:2,"
            (root / "Maildir" / "cur" / name).write_bytes(mail)
        os.chmod(root, 0o755)
        with DovecotImap(root) as session:
            session.command("examine inbox")
            yield session
    finally:
        shutil.rmtree(root, ignore_errors=True)


def fetched(session: DovecotImap, number: int, item: str, after: bytes) -> bytes:
    for response in session.command(f"fetch {number} ({item})"):
        if b"FETCH (" in response:
            return response.partition(after)[2].rstrip(b"\r\n")[:-1]
    raise AssertionError(f"no {item}")


def value(raw: bytes) -> bytes:
    if raw.startswith(b"{"):
        return raw.partition(b"\r\n")[2]
    return raw[1:-1].replace(b'\\"', b'"').replace(b"\\\\", b"\\") if raw[:1] == b'"' else b""


@pytest.mark.parametrize("number", range(len(MAILS)), ids=[name for name, _ in MAILS])
def test_as_dovecot(dovecot: DovecotImap, number: int) -> None:
    name, mail = MAILS[number]
    data = with_crlf(mail)
    root = parse(data)
    for item, render in (
        ("ENVELOPE", render_envelope),
        ("BODY", render_body),
        ("BODYSTRUCTURE", render_bodystructure),
    ):
        assert render(root) == fetched(dovecot, number + 1, item, f"({item} ".encode()), item
    for text in SECTIONS:
        if (name, text) not in KNOWN:
            expected = value(fetched(dovecot, number + 1, f"BODY.PEEK[{text}]", b"] "))
            assert (section(data, root, text) or b"") == expected, text
