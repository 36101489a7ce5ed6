"""Single parts of a message, read without the rest of it."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from test_store_fulltext import MAILS
from test_store_mailbox import append, make_store

from resel_lda.imap.errors import Refused
from resel_lda.imap.fetch import parse_items
from resel_lda.imap.fetch_items import Need
from resel_lda.imap.fetch_load import load
from resel_lda.imap.parser import Parser
from resel_lda.imap.view import View
from resel_lda.maildir import reading
from resel_lda.maildir.files import with_crlf
from resel_lda.maildir.folder import MaildirFolder
from resel_lda.mime import places
from resel_lda.mime.places import noted_places, read_places
from resel_lda.mime.sections import parse, section

TEXT = b"a line of the text\r\n" * 100
LARGE = (
    b"Subject: large\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n"
    b"Content-Type: text/plain\r\n\r\n" + TEXT + b"\r\n--b\r\n"
    b"Content-Type: application/pdf\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    + base64.encodebytes(bytes(range(256)) * 400).replace(b"\n", b"\r\n")
    + b"--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: inner\r\n\r\ninner text\r\n--b--\r\n"
)
ITEMS = b"(BODY.PEEK[%b] BODY.PEEK[%b]<5.10> BODY.PEEK[%b.MIME] BINARY.PEEK[%b] BINARY.SIZE[%b])"


@pytest.fixture(autouse=True)
def no_filling_by_open_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_FILL_DELAY", 3600.0)


async def fetched(folder: MaildirFolder, uid: int, text: bytes) -> list[bytes | str]:
    view = View(folder, "INBOX", read_only=True)
    items = parse_items(Parser(text))
    needs = Need.NOTHING
    for item in items:
        needs |= item.needs
    [loaded] = await load(view, [(uid, uid)], needs, items)
    answers: list[bytes | str] = []
    for item in items:
        try:
            answers.append(item.render(loaded))
        except Refused as error:
            answers.append(str(error))
    return answers


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
async def test_a_part_is_read_alone(tmp_path: Path, line_end: bytes) -> None:
    store = make_store(tmp_path)
    folder = await store.open_folder("INBOX")
    path = tmp_path / "Maildir" / "cur" / "1700000000.M1P1.other:2,S"
    path.write_bytes(LARGE.replace(b"\r\n", line_end))
    folder._events_lost = True
    await folder.refresh()
    wanted = {
        number: await fetched(folder, 1, ITEMS % ((number,) * 5)) for number in (b"1", b"2", b"3.1")
    }
    assert b"a line of the text" in wanted[b"1"][0]
    folder.reader.fill([1])
    read, folder.reader.read, folder.reader.read_with = folder.reader.read, None, None
    for number, answers in wanted.items():
        assert await fetched(folder, 1, ITEMS % ((number,) * 5)) == answers
    assert wanted[b"2"][3].endswith(b"\r\n" + bytes(range(256)) * 400)
    assert b"inner text" in wanted[b"3.1"][0]
    # What is not one part, or none, is read as ever.
    for number in ((1, 1), (3,), (4,), (2, 1)):
        assert await folder.part(1, number) is None
    # Changed in place, with its length kept: it is noticed.
    with path.open("r+b") as file:
        file.seek(path.read_bytes().index(b"a line"))
        file.write(b"A")
    assert await folder.part(1, (1,)) is None
    assert await folder.part(1, (2,)) is not None
    path.write_bytes(path.read_bytes() + b"more")
    assert await folder.part(1, (2,)) is None
    folder.reader.read = read
    await store.close()


@pytest.mark.parametrize("mail", [mail for _, mail in MAILS])
def test_what_is_noted_is_what_a_section_is(mail: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "LARGE", 0)
    data = with_crlf(mail)
    root = parse(data)
    noted = noted_places(data, root)
    assert noted is not None
    found = read_places(noted)
    assert (found.size, found.lines) == (len(data), data.count(b"\n"))
    bare = data.replace(b"\r\n", b"\n")
    for path, place in found.parts.items():
        octets = data[place.start : place.start + place.length]
        assert places.digest_of(octets) == place.digest
        start = place.start - place.before
        if with_crlf(bare) == data:
            assert with_crlf(bare[start : start + place.length - place.lines]) == octets
        assert octets[place.body :].replace(b"\0", b"\x80") == section(data, root, path)
        mime = section(data, root, f"{path}.MIME")
        assert octets[: place.header].replace(b"\0", b"\x80") == mime


def test_small_mail_has_none() -> None:
    small = b"Subject: x\r\n\r\nsmall\r\n"
    assert noted_places(small, parse(small)) is None


async def test_nothing_is_known_before_it_was_made(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    folder = await store.open_folder("INBOX")
    await append(folder, LARGE)
    assert await folder.part(1, (1,)) is None
    folder.reader.fill([1])
    part = await folder.part(1, (1,))
    assert part is not None
    assert part.octets.endswith(TEXT)
    await store.close()
