"""The cache of mail that nobody has looked at yet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import apsw
import pytest
from test_store_cache import MAIL, kept, until
from test_store_delivery import Lines, job
from test_store_helper import House
from test_store_mailbox import make_store

from resel_lda import arrival_filler
from resel_lda.arrival_filler import ArrivalFiller
from resel_lda.delivery import WorkerDepositor
from resel_lda.mailbox import MailStore
from resel_lda.maildir import reading
from resel_lda.maildir.arrivals import prepare_closed
from resel_lda.maildir.background import Background
from resel_lda.maildir.cache import LAYERS
from resel_lda.maildir.claim import Claim
from resel_lda.maildir.folder import MaildirFolder
from resel_lda.maildir.layout import MailLocation
from resel_lda.maildir.store import MaildirStore
from resel_lda.worker_pool import WorkerPool
from resel_mta.config import Settings
from resel_mta.content import Content, Header, MemoryBody
from resel_mta.disk import Disk
from resel_mta.mail import Delivered
from resel_mta.maillog import MailLog
from resel_mta.users import User


def arrived(maildir: Path) -> int:
    """Messages in the cache that have no UID yet; another process may be writing it."""
    path = maildir / "cache"
    if not path.exists():
        return 0
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    connection.set_busy_timeout(5000)
    try:
        return int(next(connection.execute("SELECT count(*) FROM arrived"))[0])
    except apsw.SQLError:
        # The tables are being made.
        return 0
    finally:
        connection.close()


def put(maildir: Path, number: int) -> str:
    """A message in new/; its base."""
    for part in ("new", "cur", "tmp"):
        (maildir / part).mkdir(parents=True, exist_ok=True)
    base = f"{1_700_000_000 + number}.M{number}P1.host,S=1"
    (maildir / "new" / base).write_bytes((MAIL % (number, number)).replace(b"\r\n", b"\n"))
    return base


def location_of(maildir: Path) -> MailLocation:
    return MailLocation(*[str(maildir)] * 4)


@pytest.fixture(autouse=True)
def no_filling_by_open_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_FILL_DELAY", 3600.0)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[MaildirStore]:
    made = make_store(tmp_path)
    yield made
    await made.close()


def unreadable(monkeypatch: pytest.MonkeyPatch, folder: MaildirFolder) -> None:
    monkeypatch.setattr(folder.reader, "read", None)
    monkeypatch.setattr(folder.reader, "_read_headers", None)


async def test_a_delivery_fills_it_though_nobody_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings.build(
        myhostname="mx.example.org", mail_location=f"maildir:{tmp_path}/mail/%u"
    )
    pool = WorkerPool(settings, MailLog(Lines()))
    maildir = tmp_path / "mail" / "lcarr"
    try:
        depositor = WorkerDepositor(pool, str(tmp_path))
        for number in range(30):
            content = Content(Header(b"Subject: number %d\r\n" % number), MemoryBody(b"body\r\n"))
            [outcome] = await depositor.deposit(content, [job("lcarr")])
            assert isinstance(outcome, Delivered)
        await until(lambda: arrived(maildir) == 30)
        # For other programs they are as new as before.
        assert len(list((maildir / "new").iterdir())) == 30
    finally:
        await pool.stop(10)
    store = MaildirStore(User("lcarr"), settings, Disk(), MailLog(Lines()))
    folder = await store.open_folder("INBOX")
    unreadable(monkeypatch, folder)
    uids = folder.uids()
    assert b'"number 7"' in (await folder.envelopes(uids))[8]
    assert len(await folder.structures(uids)) == len(await folder.sort_keys(uids, ["base"])) == 30
    assert len(await folder.sizes(uids)) == len(await folder.previews(uids, ready=True)) == 30
    assert await folder.find("subject", "number 9") == {10}
    assert all(uids == set(range(1, 31)) for uids in kept(folder).values())
    await store.close()
    assert arrived(maildir) == 0


async def test_a_file_that_was_changed_is_looked_at_again(
    tmp_path: Path, store: MaildirStore
) -> None:
    maildir = tmp_path / "Maildir"
    bases = [put(maildir, number) for number in range(5)]
    assert prepare_closed(location_of(maildir), bases, Disk(), MailLog(Lines()))
    assert arrived(maildir) == 5
    new = maildir / "new"
    # In place, of the same length; another file under its name; gone; read by another program.
    (new / bases[0]).write_bytes((new / bases[0]).read_bytes().replace(b"number 0", b"changed!"))
    (new / "other").write_bytes((MAIL % (77, 77)).replace(b"\r\n", b"\n"))
    (new / "other").rename(new / bases[1])
    (new / bases[2]).unlink()
    (new / bases[3]).rename(maildir / "cur" / f"{bases[3]}:2,S")
    folder = await store.open_folder("INBOX")
    envelopes = await folder.envelopes(folder.uids())
    assert [envelopes[uid].split(b'"')[3] for uid in folder.uids()] == [
        b"changed!", b"number 77", b"number 3", b"number 4",
    ]  # fmt: skip
    assert kept(folder)["sort"] <= {3, 4}
    assert arrived(maildir) == 0


async def test_what_is_made_twice_is_there_once(tmp_path: Path, store: MaildirStore) -> None:
    maildir = tmp_path / "Maildir"
    base = put(maildir, 1)
    assert await store.folders()
    await store.prepare_arrivals([base, "not-there"])
    await store.prepare_arrivals([base])
    assert arrived(maildir) == 1
    folder = await store.open_folder("INBOX")
    # Now the folder does it itself.
    await store.prepare_arrivals([put(maildir, 2)])
    assert arrived(maildir) == 1
    assert b'"number 1"' in (await folder.envelopes([1]))[1]
    assert arrived(maildir) == 0


def test_while_another_process_works_on_it_nothing_is_touched(tmp_path: Path) -> None:
    base = put(tmp_path, 1)
    claim = Claim(str(tmp_path))
    claim.take()
    assert not prepare_closed(location_of(tmp_path), [base], Disk(), MailLog(Lines()))
    assert not (tmp_path / "cache").exists()
    claim.release()
    assert prepare_closed(location_of(tmp_path), [base], Disk(), MailLog(Lines()))
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [
        "cache", "state.owner",
    ]  # fmt: skip
    assert arrived(tmp_path) == 1


async def test_all_that_is_kept_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also sets of fields that a client asked for once."""
    maildir = tmp_path / "Maildir"
    store = make_store(tmp_path)
    folder = await store.open_folder("INBOX")
    await folder.selected_fields([], [b"SUBJECT"], False)
    await store.close()
    prepare_closed(location_of(maildir), [put(maildir, 1)], Disk(), MailLog(Lines()))
    store = make_store(tmp_path)
    folder = await store.open_folder("INBOX")
    unreadable(monkeypatch, folder)
    assert (await folder.selected_fields([1], [b"SUBJECT"], False))[1] == (
        b"Subject: number 1\r\n\r\n"
    )
    assert set(LAYERS) == {layer for layer, uids in kept(folder).items() if uids == {1}}
    await store.close()


@pytest.fixture
def held() -> Callable[[str], MailStore | None]:
    return lambda user: None


async def test_many_wait_in_little_memory_and_take_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: Callable[[str], MailStore | None]
) -> None:
    monkeypatch.setattr(arrival_filler, "_MOST", 50)
    monkeypatch.setattr(arrival_filler, "_QUIET", 0.01)
    turns: list[str] = []

    def look(user: str) -> MailStore | None:
        turns.append(user)
        return held(user)

    filler = ArrivalFiller(Background(pause=0.0), look, MailLog(Lines()))
    one, two = tmp_path / "one", tmp_path / "two"
    for number in range(60):
        filler.delivered("one", location_of(one), put(one, number))
        if number < 5:
            filler.delivered("two", location_of(two), put(two, number))
    await until(lambda: not filler._waiting)
    await filler.close()
    assert turns == ["one", "two", "one", "one"]
    assert (arrived(one), arrived(two)) == (45, 5)


async def test_an_end_does_not_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: Callable[[str], MailStore | None]
) -> None:
    monkeypatch.setattr(arrival_filler, "_QUIET", 3600.0)
    monkeypatch.setattr(arrival_filler, "_LATEST", 3600.0)
    filler = ArrivalFiller(Background(), held, MailLog(Lines()))
    filler.delivered("one", location_of(tmp_path), put(tmp_path, 1))
    async with asyncio.timeout(30):
        await filler.close()
    assert arrived(tmp_path) == 0
    filler.delivered("one", location_of(tmp_path), put(tmp_path, 2))
    await filler.close()


async def test_a_helper_fills_it_too(tmp_path: Path) -> None:
    """Of a user who has a uid of his own."""
    house = House(tmp_path, home_mailbox="Maildir/", mail_spool_directory="")
    for _ in range(3):
        assert isinstance(await house.deliver("bob@resel.fr"), Delivered)
    await until(lambda: arrived(house.home / "Maildir") == 3)
    await house.helpers.close()
