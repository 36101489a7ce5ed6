"""METADATA (RFC 5464), on the wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import pytest
from imap_dialog import Client, session_on
from imap_service import PASSWORD, imap_service

from resel_lda.maildir.store import MaildirStore
from resel_mta.config import Settings
from resel_mta.disk import Disk
from resel_mta.maillog import MailLog, StreamSink
from resel_mta.users import User


def open_store(root: Path) -> MaildirStore:
    settings = Settings.build(
        "server", mail_location=f"maildir:{root}/mail/%u", mydomain="resel.fr"
    )
    return MaildirStore(User("lcarr", home=str(root)), settings, Disk(), MailLog(StreamSink(2)))


@pytest.fixture
async def kept(tmp_path: Path) -> AsyncIterator[MaildirStore]:
    store = open_store(tmp_path)
    yield store
    await store.close()


async def test_entries_of_a_folder(kept: MaildirStore) -> None:
    async with session_on(kept) as client:
        await client.script(
            """
            C: a GETMETADATA INBOX /shared/comment
            S: * METADATA INBOX (/shared/comment NIL)
            S: a OK Getmetadata completed.
            C: b SETMETADATA INBOX (/shared/comment "My comment" /PRIVATE/Vendor/x/a {3+}
            C: a
            C:  /private/vendor/x/a/b two)
            S: b BAD ...
            C: c SETMETADATA INBOX (/shared/comment "My comment" /PRIVATE/Vendor/x/a {3+}
            C: a
            C+  /private/vendor/x/a/b/c "deep" /private/vendor/x/a/b "two")
        """
        )
        client.send(b"\r\n")
        await client.script(
            """
            S: c OK Setmetadata completed.
            C: d GETMETADATA (DEPTH 1) INBOX (/private/vendor/x/a)
            S: * METADATA INBOX (/private/vendor/x/a {3}
            S: a
            S:  /private/vendor/x/a/b "two")
            S: d OK Getmetadata completed.
            C: e GETMETADATA (DEPTH infinity MAXSIZE 3) INBOX (/shared /private/vendor/x/a/b)
            S: * METADATA INBOX (/private/vendor/x/a/b "two")
            S: e OK [METADATA LONGENTRIES 10] Getmetadata completed.
            C: f SETMETADATA INBOX (/private/vendor/x/a/b NIL)
            S: f OK Setmetadata completed.
            C: g GETMETADATA INBOX (/private/vendor/x/a/b /private/vendor/x/a/b/c)
            S: * METADATA INBOX (/private/vendor/x/a/b NIL /private/vendor/x/a/b/c "deep")
            S: g OK Getmetadata completed.
            C: h SETMETADATA INBOX (/private/bin ~{3+}
        """
        )
        client.send(b"a\0b)\r\n")
        await client.script("""
            S: h OK Setmetadata completed.
            C: i GETMETADATA INBOX /private/bin
        """)
        assert await client.line() == "* METADATA INBOX (/private/bin ~{3}"
        assert await client.line() == "a\0b)"


async def test_the_server_has_entries_too(kept: MaildirStore) -> None:
    async with session_on(kept) as client:
        await client.script("""
            C: a GETMETADATA "" (/shared/admin /shared/comment)
            S: * METADATA "" (/shared/admin "mailto:postmaster@resel.fr" /shared/comment NIL)
            S: a OK Getmetadata completed.
            C: b SETMETADATA "" (/shared/comment "mine now")
            S: b NO [NOPERM] This entry is the administrator's
            C: c SETMETADATA "" (/private/comment "home")
            S: c OK Setmetadata completed.
            C: d GETMETADATA (DEPTH infinity) "" (/private)
            S: * METADATA "" (/private/comment "home")
            S: d OK Getmetadata completed.
        """)


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("GETMETADATA INBOX /shared/*", "BAD"),
        ("GETMETADATA INBOX /shared/a//b", "BAD"),
        ("GETMETADATA INBOX /shared/a/", "BAD"),
        ("GETMETADATA INBOX /other/a", "BAD"),
        ("GETMETADATA INBOX ()", "BAD"),
        ("GETMETADATA (DEPTH 2) INBOX /shared/a", "BAD"),
        ("GETMETADATA (SIZE 2) INBOX /shared/a", "BAD"),
        ("GETMETADATA None /shared/a", "NO [NONEXISTENT]"),
        ("SETMETADATA None (/shared/a NIL)", "NO [NONEXISTENT]"),
        ("SETMETADATA INBOX (/shared NIL)", "BAD"),
        ("SETMETADATA INBOX (/shared/a)", "BAD"),
        ("SETMETADATA INBOX (/shared/admin NIL)", "NO [NOPERM]"),
        ('SETMETADATA INBOX (/private/specialuse "\\\\Sent")', "NO [USEATTR]"),
        ("SETMETADATA INBOX /shared/a NIL", "BAD"),
    ],
)
async def test_refused(kept: MaildirStore, command: str, answer: str) -> None:
    async with session_on(kept) as client:
        assert (await client.command(command))[-1].startswith(f"x {answer}")


async def test_limits(kept: MaildirStore) -> None:
    async with session_on(kept) as client:
        value = "x" * 65537
        (large,) = await client.command(f"SETMETADATA INBOX (/private/a {{65537+}}\r\n{value})")
        assert large == "x NO [METADATA MAXSIZE 65536] The value is too large"
        many = " ".join(f"/private/n/{number} x" for number in range(201))
        many = many.replace(" x", ' "x"')
        (refused,) = await client.command(f"SETMETADATA INBOX ({many})")
        assert refused == "x NO [METADATA TOOMANY] Too many annotations"
        # None of them was kept.
        answer = await client.command("GETMETADATA (DEPTH infinity) INBOX /private")
        assert answer == ["x OK Getmetadata completed."]


async def test_special_uses_are_entries(kept: MaildirStore) -> None:
    async with session_on(kept) as client:
        await client.command("CREATE Out")
        await client.script(r"""
            C: a SETMETADATA Out (/private/specialuse "\\SENT")
            S: a OK Setmetadata completed.
            C: b GETMETADATA Out /private/specialuse
            S: * METADATA Out (/private/specialuse "\\Sent")
            S: b OK Getmetadata completed.
            C: c LIST (SPECIAL-USE) "" *
            S: * LIST (\HasNoChildren \Sent) "/" Out
            S: c OK List completed.
        """)


async def test_renamed_deleted_and_reopened(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    async with session_on(store) as client:
        for command in (
            "CREATE A/B",
            'SETMETADATA A/B (/shared/comment "b")',
            "RENAME A C",
            "CREATE Gone",
            'SETMETADATA Gone (/shared/comment "gone")',
            "DELETE Gone",
            "CREATE Gone",
        ):
            assert (await client.command(command))[-1].startswith("x OK"), command
    await store.close()
    store = open_store(tmp_path)
    async with session_on(store) as client:
        answer = await client.command("GETMETADATA C/B /shared/comment")
        assert answer[0] == '* METADATA C/B (/shared/comment "b")'
        answer = await client.command("GETMETADATA Gone /shared/comment")
        assert answer[0] == "* METADATA Gone (/shared/comment NIL)"
    await store.close()


async def test_a_state_file_without_them(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    await (await store.open("INBOX")).refresh()
    await store.close()
    database = apsw.Connection(str(tmp_path / "mail" / "lcarr" / "state"))
    with database:
        database.execute("DROP TABLE metadata")
        database.execute("PRAGMA user_version = 3")
    database.close()
    store = open_store(tmp_path)
    async with session_on(store) as client:
        answer = await client.command('SETMETADATA INBOX (/shared/comment "x")')
        assert answer == ["x OK Setmetadata completed."]
    await store.close()


async def test_over_a_socket(tmp_path: Path) -> None:
    async with imap_service(tmp_path) as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        client = Client(reader, writer)
        await client.line()
        await client.command(f'LOGIN lcarr "{PASSWORD}"')
        assert "METADATA" in (await client.command("CAPABILITY"))[0].split()
        await client.command('SETMETADATA INBOX (/private/comment "kept")')
        answer = await client.command("GETMETADATA INBOX /private/comment")
        assert answer[0] == '* METADATA INBOX (/private/comment "kept")'
        writer.close()
