"""NOTIFY (RFC 5465), on both stores."""

from __future__ import annotations

import pytest
from imap_dialog import session_on
from test_imap_dialog import PLAIN, fill

from resel_lda.imap import notify
from resel_lda.mailbox import MailStore

MESSAGES = "(MessageNew MessageExpunge FlagChange)"
OK = "x OK NOTIFY completed."


async def change(store: MailStore, name: str, *flags: str) -> None:
    """Flags of its first message."""
    box = await store.open(name)
    await box.store([box.uids()[0]], flags, "add")
    box.release()


async def drop(store: MailStore, name: str) -> None:
    """Its first message."""
    box = await store.open(name)
    await box.expunge(box.uids()[:1])
    box.release()


async def deposit(store: MailStore, name: str) -> None:
    box = await store.open(name)
    await fill(store, PLAIN, folder=name)
    box.release()


async def test_notify_tells_of_the_selected_folder_between_commands(store: MailStore) -> None:
    await fill(store, PLAIN, PLAIN)
    async with session_on(store) as client:
        assert "NOTIFY" in (await client.command("CAPABILITY"))[0].split()
        await client.command("SELECT INBOX")
        items = "(MessageNew (FLAGS BODY[TEXT]<0.4>) MessageExpunge FlagChange)"
        assert await client.command(f"NOTIFY SET (selected {items})") == [OK]
        await fill(store, PLAIN)
        await client.script(r"""
            S: * 3 EXISTS
            S: * 3 RECENT
            S: * 3 FETCH (UID 3 FLAGS (\Recent) BODY[TEXT]<0> {4}
            S: Body)
        """)
        await change(store, "INBOX", "\\Seen")
        assert await client.line() == r"* 1 FETCH (UID 1 FLAGS (\Seen \Recent))"
        await drop(store, "INBOX")
        assert await client.line() == "* 1 EXPUNGE"


async def test_selected_delayed_keeps_expunges_for_a_command(store: MailStore) -> None:
    await fill(store, PLAIN, PLAIN)
    async with session_on(store) as client:
        await client.command("SELECT INBOX")
        await client.command(f"NOTIFY SET (selected-delayed {MESSAGES})")
        await drop(store, "INBOX")
        await fill(store, PLAIN)
        await client.script(r"""
            S: * 3 EXISTS
            S: * 3 RECENT
            C: a FETCH 2 UID
            S: * 2 FETCH (UID 2)
            S: a OK Fetch completed.
            C: b NOOP
            S: * 1 EXPUNGE
            S: * 2 RECENT
            S: b OK NOOP completed.
        """)


async def test_notify_tells_of_other_folders(store: MailStore) -> None:
    await store.create("Lists")
    await store.create("Quiet")
    async with session_on(store) as client:
        await client.command("SELECT INBOX")
        assert await client.command(
            f"NOTIFY SET STATUS (mailboxes Quiet NONE) (personal {MESSAGES})"
        ) == [await status(store, "Lists", 0, 1, 0), OK]
        await fill(store, PLAIN, folder="Quiet")
        await fill(store, PLAIN, folder="Lists")
        assert await client.line() == await status(store, "Lists", 1, 2, 1)
        await change(store, "Lists", "\\Seen")
        assert await client.line() == await status(store, "Lists", 1, 2, 0)
        client.send(b"i IDLE\r\n")
        assert (await client.line()).startswith("+ ")
        await drop(store, "Lists")
        assert await client.line() == await status(store, "Lists", 0, 2, 0)
        client.send(b"DONE\r\n")
        assert (await client.line()).startswith("i OK")
        assert await client.command("ENABLE CONDSTORE")
        await fill(store, PLAIN, folder="Lists")
        line = await client.line()
        assert line.startswith("* STATUS Lists (MESSAGES 1 UIDNEXT 3 UIDVALIDITY ")
        assert " HIGHESTMODSEQ " in line
        # NONE takes it all back, and INBOX with it.
        assert await client.command("NOTIFY NONE") == [OK]
        await fill(store, PLAIN, folder="Lists")
        await fill(store, PLAIN)
        assert await client.command("NOOP") == ["x OK NOOP completed."]


async def status(store: MailStore, name: str, messages: int, uidnext: int, unseen: int) -> str:
    validity = (await store.status(name)).uidvalidity
    counts = f"MESSAGES {messages} UIDNEXT {uidnext} UIDVALIDITY {validity} UNSEEN {unseen}"
    return f"* STATUS {name} ({counts})"


async def test_without_flag_change_flags_are_not_told(store: MailStore) -> None:
    await store.create("Lists")
    await fill(store, PLAIN, folder="Lists")
    await fill(store, PLAIN)
    async with session_on(store) as client:
        await client.command("SELECT INBOX")
        events = "(MessageNew MessageExpunge)"
        await client.command(f"NOTIFY SET (selected {events}) (subtree Lists {events})")
        await change(store, "Lists", "\\Seen")
        await change(store, "INBOX", "\\Seen")
        assert await client.command("NOOP") == ["x OK NOOP completed."]
        # What the client does itself is answered.
        assert await client.command(r"STORE 1 +FLAGS \Flagged") == [
            r"* 1 FETCH (UID 1 FLAGS (\Flagged \Seen \Recent))",
            "x OK Store completed.",
        ]


async def test_notify_tells_of_names_and_subscriptions(store: MailStore) -> None:
    async with session_on(store) as client, session_on(store) as other:
        await client.command(
            "NOTIFY SET (subscribed NONE) (personal (MailboxName SubscriptionChange))"
        )
        await other.command("CREATE Work")
        assert await client.line() == r'* LIST (\HasNoChildren) "/" Work'
        await other.command("RENAME Work Play")
        assert await client.line() == r'* LIST (\HasNoChildren) "/" Play ("OLDNAME" (Work))'
        await other.command("DELETE Play")
        assert await client.line() == r'* LIST (\NonExistent) "/" Play'
        await client.command("NOTIFY SET (personal (SubscriptionChange))")
        await other.command("CREATE B&-W")
        await other.command("SUBSCRIBE B&-W")
        assert await client.line() == r'* LIST (\HasNoChildren \Subscribed) "/" B&-W'
        await client.command("ENABLE UTF8=ACCEPT")
        await other.command("UNSUBSCRIBE B&-W")
        assert await client.line() == r'* LIST (\HasNoChildren) "/" B&W'


async def test_notify_tells_of_metadata(store: MailStore) -> None:
    async with session_on(store) as client, session_on(store) as other:
        await client.command("NOTIFY SET (personal (MailboxMetadataChange ServerMetadataChange))")
        await other.command('SETMETADATA INBOX (/private/comment "x")')
        assert await client.line() == "* METADATA INBOX /private/comment"
        await other.command('SETMETADATA "" (/private/vendor/x "y")')
        assert "/private/vendor/x" in await client.line()


async def test_a_folder_made_later_is_watched(store: MailStore) -> None:
    async with session_on(store) as client, session_on(store) as other:
        await client.command("NOTIFY SET (personal (MessageNew MessageExpunge MailboxName))")
        await other.command("CREATE Work")
        await client.line()
        await client.command("NOOP")
        await fill(store, PLAIN, folder="Work")
        assert (await client.line()).startswith("* STATUS Work (MESSAGES 1 UIDNEXT 2 ")
        await other.command("RENAME Work Play")
        await client.line()
        await client.command("NOOP")
        await fill(store, PLAIN, folder="Play")
        assert (await client.line()).startswith("* STATUS Play (MESSAGES 2 UIDNEXT 3 ")


async def test_notify_overflow(store: MailStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "_MAX_FOLDERS", 2)
    await store.create("a")
    async with session_on(store) as client:
        await client.command(f"NOTIFY SET (personal {MESSAGES})")
        await store.create("b")
        assert await client.line() == "* OK [NOTIFICATIONOVERFLOW] Too many notifications"
        await fill(store, PLAIN, folder="a")
        assert await client.command("NOOP") == ["x OK NOOP completed."]


async def test_notify_by_uid(store: MailStore) -> None:
    await fill(store, PLAIN, PLAIN)
    async with session_on(store) as client:
        await client.command("ENABLE UIDONLY QRESYNC")
        await client.command("SELECT INBOX")
        await client.command("NOTIFY SET (selected (MessageNew (UID) MessageExpunge FlagChange))")
        await client.command("UID SEARCH RETURN (SAVE) ALL")
        await drop(store, "INBOX")
        assert await client.line() == "* VANISHED 1"
        await client.line()
        await change(store, "INBOX", "\\Seen")
        assert (await client.line()).startswith("* 2 UIDFETCH (MODSEQ (")
        await fill(store, PLAIN)
        assert await client.line() == "* 2 EXISTS"
        await client.line()
        assert await client.line() == "* 3 UIDFETCH (UID 3)"
        assert await client.command("UID SEARCH $") == ["* SEARCH 2", "x OK Search completed."]


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("SET", "BAD"),
        ("SET (selected (MessageNew))", "BAD"),
        ("SET (selected (MessageExpunge))", "BAD"),
        ("SET (personal (FlagChange))", "BAD"),
        ("SET (selected (MailboxName))", "BAD"),
        (f"SET (selected {MESSAGES}) (selected-delayed {MESSAGES})", "BAD"),
        ("SET (personal (MessageNew (UID) MessageExpunge))", "BAD"),
        ("SET (everything NONE)", "BAD"),
        ("NONE now", "BAD"),
        (
            "SET (personal (MessageNew MessageExpunge AnnotationChange))",
            "NO [BADEVENT (MessageNew MessageExpunge FlagChange MailboxName SubscriptionChange "
            "MailboxMetadataChange ServerMetadataChange)]",
        ),
    ],
)
async def test_notify_refuses(store: MailStore, command: str, answer: str) -> None:
    async with session_on(store) as client:
        lines = await client.command(f"NOTIFY {command}")
        assert len(lines) == 1
        assert lines[0].startswith(f"x {answer} "), lines
