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
        ) == [await status(store, "Lists", 0, 1, 0, with_modseq=True), OK]
        await fill(store, PLAIN, folder="Quiet")
        await fill(store, PLAIN, folder="Lists")
        assert await client.line() == await status(store, "Lists", 1, 2, 1)
        await change(store, "Lists", "\\Seen")
        assert await client.line() == await status(store, "Lists", 1, 2, 0)
        # Without CONDSTORE nothing in STATUS would show this one.
        await change(store, "Lists", "\\Flagged")
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


async def status(
    store: MailStore,
    name: str,
    messages: int,
    uidnext: int,
    unseen: int,
    with_modseq: bool = False,
) -> str:
    now = await store.status(name)
    counts = f"MESSAGES {messages} UIDNEXT {uidnext} UIDVALIDITY {now.uidvalidity} UNSEEN {unseen}"
    modseq = f" HIGHESTMODSEQ {now.highestmodseq}" if with_modseq else ""
    return f"* STATUS {name} ({counts}{modseq})"


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
        await other.command('SETMETADATA INBOX (/private/comment "x" /private/a/b "y")')
        assert await client.line() == "* METADATA INBOX /private/a/b /private/comment"
        # Only what changed, and what was removed.
        await other.command("SETMETADATA INBOX (/private/comment NIL)")
        assert await client.line() == "* METADATA INBOX /private/comment"
        await other.command('SETMETADATA "" (/private/vendor/x "y")')
        assert await client.line() == '* METADATA "" /private/vendor/x'


async def test_groups_are_summed_up_to_none(store: MailStore) -> None:
    await store.create("Quiet")
    async with session_on(store) as client, session_on(store) as other:
        await client.command(
            "NOTIFY SET (mailboxes INBOX (MessageNew MessageExpunge)) (subtree Quiet NONE) "
            "(personal (SubscriptionChange))"
        )
        await other.command("SUBSCRIBE Quiet")
        await other.command("SUBSCRIBE INBOX")
        assert await client.line() == r'* LIST (\HasNoChildren \Subscribed) "/" INBOX'
        await fill(store, PLAIN)
        assert await client.line() == await status(store, "INBOX", 1, 2, 1)


async def test_parents_and_children_of_what_changes(store: MailStore) -> None:
    async with session_on(store) as client, session_on(store) as other:
        await other.command("CREATE A")
        await client.command("NOTIFY SET (personal (MailboxName))")
        await other.command("CREATE A/B")
        await client.script(r"""
            S: * LIST (\HasNoChildren) "/" A/B
            S: * LIST (\HasChildren) "/" A
        """)
        await other.command("RENAME A C")
        assert await client.line() == r'* LIST (\HasChildren) "/" C ("OLDNAME" (A))'
        await other.command("DELETE C/B")
        await client.script(r"""
            S: * LIST (\NonExistent) "/" C/B
            S: * LIST (\HasNoChildren) "/" C
        """)
        await other.command("RENAME INBOX Old")
        assert await client.line() == r'* LIST (\HasNoChildren) "/" Old ("OLDNAME" (INBOX))'
        assert await client.silent()


async def test_whoever_did_it_is_not_told(store: MailStore) -> None:
    await fill(store, PLAIN)
    await store.create("Lists")
    async with session_on(store) as client:
        await client.command("SELECT INBOX")
        await client.command(
            f"NOTIFY SET (selected (MessageNew (FLAGS) MessageExpunge FlagChange)) "
            f"(personal {MESSAGES[:-1]} MailboxName SubscriptionChange MailboxMetadataChange "
            "ServerMetadataChange))"
        )
        for command in (
            "CREATE Work",
            "RENAME Work Play",
            "SUBSCRIBE Play",
            "UNSUBSCRIBE Play",
            'SETMETADATA Play (/private/comment "x")',
            'SETMETADATA "" (/private/comment "x")',
            "DELETE Play",
            "COPY 1 Lists",
            "NOOP",
        ):
            lines = await client.command(command)
            assert len(lines) == 1, lines
        client.send(b"a APPEND Lists {%d+}\r\n%b\r\n" % (len(PLAIN), PLAIN))
        assert (await client.line()).startswith("a OK [APPENDUID ")
        # Not FETCH of what it brought into the selected folder, but that it is there.
        client.send(b"b APPEND INBOX {%d+}\r\n%b\r\n" % (len(PLAIN), PLAIN))
        await client.script("""
            S: * 2 EXISTS
            S: * 2 RECENT
            S: b OK [APPENDUID ...
        """)
        # What others bring meanwhile is told.
        await fill(store, PLAIN, folder="Lists")
        assert await client.line() == await status(store, "Lists", 3, 4, 3)
        await store.create("Late")
        assert await client.line() == r'* LIST (\HasNoChildren) "/" Late'


async def test_items_of_new_messages_in_a_result(store: MailStore) -> None:
    """RFC 5465 §7: UPDATE with items, which come with those of NOTIFY in one FETCH."""
    await fill(store, PLAIN)
    async with session_on(store) as client:
        await client.command("SELECT INBOX")
        await client.script(r"""
            C: a SEARCH RETURN (UPDATE (FLAGS RFC822.SIZE) COUNT) UNFLAGGED
            S: * ESEARCH (TAG "a") COUNT 1
            S: a OK Search completed.
            C: b UID SORT RETURN (UPDATE (FLAGS UID)) (ARRIVAL) UTF-8 FLAGGED
            S: * ESEARCH (TAG "b") UID
            S: b OK Sort completed.
            C: c SEARCH RETURN (UPDATE (NONSENSE)) ALL
            S: c BAD ...
        """)
        await fill(store, PLAIN)
        size = len(PLAIN)
        await client.script(rf"""
            C: d NOOP
            S: * 2 EXISTS
            S: * 2 RECENT
            S: * 2 FETCH (UID 2 FLAGS (\Recent) RFC822.SIZE {size})
            S: * ESEARCH (TAG "a") ADDTO (0 2)
            S: d OK NOOP completed.
        """)
        await client.command("NOTIFY SET (selected (MessageNew (MODSEQ UID) MessageExpunge))")
        await fill(store, PLAIN)
        await client.script(r"""
            S: * 3 EXISTS
            S: * 3 RECENT
            S: * OK [HIGHESTMODSEQ ...
        """)
        line = await client.line()
        assert line.startswith("* 3 FETCH (MODSEQ (")
        assert line.endswith(rf" UID 3 FLAGS (\Recent) RFC822.SIZE {size})")
        assert await client.line() == '* ESEARCH (TAG "a") ADDTO (0 3)'
        # No FETCH where flags are the reason.
        await change(store, "INBOX", "\\Flagged")
        assert await client.line() == '* ESEARCH (TAG "a") REMOVEFROM (0 1)'
        assert await client.line() == '* ESEARCH (TAG "b") UID ADDTO (1 1)'


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
        async with session_on(store) as other:
            await other.command("CREATE b")
        assert await client.line() == "* OK [NOTIFICATIONOVERFLOW] Too many notifications"
        await fill(store, PLAIN, folder="a")
        assert await client.command("NOOP") == ["x OK NOOP completed."]
        # What is too much from the first leaves all as it was.
        await client.command(f"NOTIFY SET (mailboxes a {MESSAGES})")
        (line,) = await client.command(f"NOTIFY SET (personal {MESSAGES})")
        assert line.startswith("x NO [NOTIFICATIONOVERFLOW] ")
        await fill(store, PLAIN, folder="a")
        assert (await client.line()).startswith("* STATUS a (MESSAGES 2 UIDNEXT 3 ")


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


async def test_notify_with_rev2(store: MailStore) -> None:
    """Names in UTF-8, OLDNAME once, no RECENT."""
    await store.create("été")
    async with session_on(store) as client, session_on(store) as other:
        await client.command("ENABLE IMAP4rev2")
        await client.command("SELECT INBOX")
        await client.command(
            f"NOTIFY SET (selected (MessageNew (FLAGS) MessageExpunge)) (personal {MESSAGES[:-1]} "
            "MailboxName SubscriptionChange))"
        )
        lines = await client.command('RENAME "été" "hiver é"')
        assert [line.encode("latin-1").decode() for line in lines] == [
            r'* LIST (\HasNoChildren) "/" "hiver é" ("OLDNAME" ("été"))',
            "x OK Rename completed.",
        ]
        await other.command('RENAME "hiver &AOk-" "&AOk-"')
        line = (await client.line()).encode("latin-1").decode()
        assert line == r'* LIST (\HasNoChildren) "/" "é" ("OLDNAME" ("hiver é"))'
        await client.command("NOOP")
        await fill(store, PLAIN, folder="é")
        line = (await client.line()).encode("latin-1").decode()
        assert line.startswith('* STATUS "é" (MESSAGES 1 UIDNEXT 2 ')
        await other.command('DELETE "&AOk-"')
        line = (await client.line()).encode("latin-1").decode()
        assert line == r'* LIST (\NonExistent) "/" "é"'
        await other.command("SUBSCRIBE Gone")
        assert await client.line() == r'* LIST (\NonExistent \Subscribed) "/" Gone'
        await fill(store, PLAIN)
        await client.script("""
            S: * 1 EXISTS
            S: * 1 FETCH (UID 1 FLAGS ())
        """)
        assert await client.silent()


async def test_notify_with_qresync(store: MailStore) -> None:
    """VANISHED, FETCH with MODSEQ, STATUS with HIGHESTMODSEQ."""
    await store.create("Lists")
    await fill(store, PLAIN, PLAIN)
    async with session_on(store) as client:
        await client.command("ENABLE QRESYNC")
        await client.command("SELECT INBOX")
        await client.command(
            f"NOTIFY SET (selected-delayed {MESSAGES}) (mailboxes Lists {MESSAGES})"
        )
        await change(store, "INBOX", "\\Seen")
        line = await client.line()
        assert line.startswith("* 1 FETCH (UID 1 MODSEQ ("), line
        await drop(store, "INBOX")
        assert await client.silent()
        assert "* VANISHED 1" in await client.command("NOOP")
        await fill(store, PLAIN, folder="Lists")
        assert await client.line() == await status(store, "Lists", 1, 2, 1, with_modseq=True)
        await change(store, "Lists", "\\Flagged")
        assert await client.line() == await status(store, "Lists", 1, 2, 1, with_modseq=True)
        await drop(store, "Lists")
        assert await client.line() == await status(store, "Lists", 0, 2, 0, with_modseq=True)


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
        # Names that no mailbox can have are ignored as those that none has.
        (f'SET (subtree "" {MESSAGES}) (mailboxes ("a//b" Gone) {MESSAGES})', "OK"),
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
