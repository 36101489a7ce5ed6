"""The full-text index never hides a message that SEARCH finds by reading."""

from __future__ import annotations

import base64
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_store_cache import until
from test_store_mailbox import append, make_store

sys.path.append(str(Path(__file__).parent.parent / "mime"))
from nasty_mails import MAILS

from resel_lda.imap.names import Names
from resel_lda.imap.parser import Parser
from resel_lda.imap.search_program import parse_program
from resel_lda.imap.search_run import find
from resel_lda.imap.session import Session, Who
from resel_lda.imap.stream import Stream
from resel_lda.imap.view import View
from resel_lda.maildir import reading
from resel_lda.maildir.cache import CacheFile
from resel_lda.maildir.database import Database
from resel_lda.maildir.files import with_crlf
from resel_lda.maildir.folder import MaildirFolder
from resel_lda.maildir.fulltext import SCHEMA, SHARED, FullText
from resel_lda.maildir.header import header_of
from resel_lda.maildir.store import MaildirStore
from resel_lda.mime.fold import fold
from resel_lda.mime.rawsearch import may_contain
from resel_lda.mime.searchtext import body_text, whole_text
from resel_mta.disk import Disk
from resel_mta.maillog import MailLog, StreamSink

WORDS = [
    b"From: a@b.c\r\nSubject: =?utf-8?q?r=C3=A9union?=\r\n\r\nLe Serveur Courriel est tomb\xc3\xa9.\r\n",
    b"Subject: b64\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    + base64.encodebytes("caché dans du base64, straße".encode()),
    b"Subject: qp\r\nContent-Type: text/plain; charset=iso-8859-1\r\n"
    b"Content-Transfer-Encoding: quoted-printable\r\n\r\n=E9t=E9 et soft=\r\nbreak\r\n",
    b"Content-Type: text/plain; charset=csiso2022jp\r\n\r\n\x1b$B$3$s\x1b(B\r\n",
    b"Content-Type: text/plain; charset=cp037\r\n\r\n" + "ebcdic text".encode("cp037") + b"\r\n",
    b"Content-Type: text/plain; charset*0=utf; charset*1=-7\r\n\r\n+AOk-t+AOk-\r\n",
    b"Content-Type:\r\n\ttext/plain;\r\n\tcharset=\r\n\tutf-16le\r\n\r\n"
    + "wide\r\n".encode("utf-16le"),
    b"Content-Transfer-Encoding:\r\n base64\r\n\r\n"
    + base64.encodebytes(b"folded field")
    + b"\r\n",
    b"Subject: folded\r\n name here\r\n\r\nquote \" and ' and % and \\ in one\r\n",
]
KEYS = (
    "TEXT serveur", "BODY courriel", 'BODY "est tomb"', "TEXT reunion", 'TEXT "caché"',
    "BODY base64", "TEXT base64", 'BODY "été"', "BODY softbreak", 'TEXT "folded name"', "BODY ab",
    'BODY "quote \\" and"', "BODY x", "NOT BODY serveur", "OR BODY serveur TEXT softbreak",
    'BODY "STRASSE"', 'BODY "straße"', "BODY multipart", "TEXT subject", "BODY zzzzzz",
)  # fmt: skip


def open_index(path: Path) -> FullText:
    return FullText(Database(str(path), (SCHEMA, SHARED), Disk(), MailLog(StreamSink(2))))


async def searched(store: MaildirStore, folder: MaildirFolder, keys: str) -> list[int]:
    view = View(folder, "INBOX", read_only=True)
    session = Session(Stream(), store, Who("", ""), Names(), lambda _: None)
    program = parse_program(Parser(keys.encode()), view, "utf-8")
    return [uid for _, uid in await find(session, view, program)]


async def test_same_answers_with_and_without(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    folder = await store.open_folder("INBOX")
    await append(folder, *WORDS, *[with_crlf(mail) or b"\r\n" for _, mail in MAILS])
    before = {keys: await searched(store, folder, keys) for keys in KEYS}
    assert before["TEXT serveur"] == before["BODY courriel"] == [1]
    assert before['BODY "straße"'] == [2]
    assert 3 in before["BODY softbreak"]
    folder.reader.fill(folder.uids())
    for keys in KEYS:
        assert await searched(store, folder, keys) == before[keys], keys
    # It is the index that answers now: nothing is read for what is nowhere.
    folder.reader.read = None
    assert await searched(store, folder, "BODY zzzzzz") == []
    await store.close()


@settings(max_examples=60)
@given(st.data())
def test_what_is_there_is_possible(tmp_path_factory: pytest.TempPathFactory, data) -> None:
    texts = data.draw(st.lists(st.text(max_size=60), min_size=1, max_size=5))
    index = open_index(tmp_path_factory.mktemp("index") / "db")
    folded = [fold(text) for text in texts]
    index.add(enumerate(folded, 1))
    which = data.draw(st.integers(0, len(texts) - 1))
    text = folded[which]
    start = data.draw(st.integers(0, len(text)))
    needle = text[start : start + data.draw(st.integers(0, 20))]
    keys = list(range(1, len(texts) + 1))
    hits, unknown = index.possible(keys, needle)
    if "\0" not in needle:
        assert which + 1 in hits or which + 1 in unknown
    if len(needle) < 3:
        assert unknown == keys
    index._database.close()


@pytest.mark.parametrize("mail", [*WORDS, *(mail for _, mail in MAILS)])
def test_raw_look_excludes_nothing_that_is_there(mail: bytes) -> None:
    data = with_crlf(mail)
    text = whole_text(data, header_of(data))
    assert body_text(data) in text
    for line in text.split("\n"):
        for start in range(0, len(line), 7):
            needle = line[start : start + 9]
            if needle and "\r" not in needle and "\0" not in needle:
                assert may_contain(mail, needle), needle


def test_too_long_a_text_is_never_excluded(tmp_path: Path) -> None:
    index = open_index(tmp_path / "db")
    index.add([(1, "short"), (2, "x" * 600_000)])
    assert index.possible([1, 2, 3], "needle") == (set(), [2, 3])
    assert index.possible([1, 2, 3], "hor") == ({1}, [2, 3])
    index.add([(1, "another")])
    assert index.possible([1], "hort") == (set(), [])
    index._database.close()


async def test_copies_are_searched_without_being_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path)
    folder = await store.open_folder("INBOX")
    await store.create("Sub")
    target = await store.open_folder("Sub")
    # The background does not do it first.
    monkeypatch.setattr(reading, "_FILL_DELAY", 600.0)
    await append(folder, *WORDS)
    folder.reader.fill(folder.uids())
    every = folder.uids()
    await folder.copy(every, "Sub")
    await until(lambda: not target.reader.unfilled(target.uids()))
    await folder.expunge(every)
    await until(lambda: not folder.reader.cache.known(folder.reader.guid, "sort"))
    monkeypatch.setattr(target.reader, "open", None)
    assert await target.may_contain(target.uids(), "est tomb") == {target.uids()[0]}
    await store.close()


def test_a_text_stays_with_the_copy(tmp_path: Path) -> None:
    cache = CacheFile(str(tmp_path / "cache"), Disk(), MailLog(StreamSink(2)))
    index = cache.fulltext

    def count() -> int:
        sql = "SELECT count(*) FROM fulltext_docsize"
        return int(cache.database.read(lambda db: db.execute(sql).fetchall()[0][0]))

    index.add([(1, "quick fox"), (2, "lazy dog")])
    cache.database.run(lambda db: index.copy(db, [(1 << 32, 1), (1 + (1 << 32), 2)]))
    cache.database.run(lambda db: index.forget(db, 0, 99))
    # A folder with the number of a deleted one.
    index.add([(1, "quick hare")])
    high = [1 << 32, 1 + (1 << 32)]
    assert index.possible(high, "fox") == ({1 << 32}, [])
    assert index.possible(high, "hare") == (set(), [])
    assert index.possible([1], "hare") == ({1}, [])
    assert index.possible([1], "fox") == (set(), [])
    assert count() == 3
    index.add([(1 << 32, "another")])
    cache.database.run(lambda db: index.remove(db, [(1 + (1 << 32),)]))
    assert index.possible(high, "another") == ({1 << 32}, [1 + (1 << 32)])
    assert count() == 2
    cache.database.close()
