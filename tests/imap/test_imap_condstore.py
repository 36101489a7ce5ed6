"""CONDSTORE and QRESYNC (RFC 7162), on both stores."""

from __future__ import annotations

import re
from pathlib import Path

from imap_dialog import Client, session_on
from test_imap_dialog import PLAIN, fill

from resel_lda.mailbox import MailStore
from resel_lda.maildir.names import arrival_key
from resel_lda.maildir.store import MaildirStore
from resel_mta.config import Settings
from resel_mta.disk import Disk
from resel_mta.maillog import MailLog, StreamSink
from resel_mta.users import User


def number(lines: list[str], word: str) -> int:
    """The number after a word in the lines."""
    found = re.search(rf"{word} \(?(\d+)", "\n".join(lines))
    assert found is not None, lines
    return int(found[1])


async def select(client: Client, parameters: str = "") -> tuple[int, int, list[str]]:
    """(UIDVALIDITY, HIGHESTMODSEQ, all lines)."""
    lines = await client.command(f"SELECT INBOX{parameters}")
    assert lines[-1] == "x OK [READ-WRITE] Select completed.", lines
    return number(lines, "UIDVALIDITY"), number(lines, "HIGHESTMODSEQ"), lines


async def test_announced_and_enabled(store: MailStore) -> None:
    async with session_on(store) as client:
        lines = await client.command("CAPABILITY")
        assert {"CONDSTORE", "QRESYNC", "ENABLE"} <= set(lines[0].split())
        await client.script("""
            C: a ENABLE qresync X-UNKNOWN
            S: * ENABLED QRESYNC
            S: a OK Enabled.
            C: b ENABLE CONDSTORE
            S: * ENABLED CONDSTORE
            S: b OK Enabled.
        """)


async def test_modseq_is_told_once_it_was_asked_for(store: MailStore) -> None:
    await fill(store, PLAIN, PLAIN)
    async with session_on(store) as client:
        _, highest, _ = await select(client)
        lines = await client.command("STORE 1 +FLAGS (\\Seen)")
        assert "MODSEQ" not in lines[0]
        lines = await client.command("FETCH 1:2 (MODSEQ)")
        assert lines[0].startswith("* OK [HIGHESTMODSEQ ")
        assert re.fullmatch(r"\* 1 FETCH \(MODSEQ \(\d+\)\)", lines[1])
        first = number(lines[1:2], "MODSEQ")
        assert first > highest
        assert number(lines[2:3], "MODSEQ") <= highest
        lines = await client.command("STORE 2 +FLAGS (\\Seen)")
        assert re.fullmatch(
            r"\* 2 FETCH \(UID 2 MODSEQ \(\d+\) FLAGS \(\\Seen \\Recent\)\)", lines[0]
        )
        lines = await client.command("STORE 2 +FLAGS.SILENT (\\Flagged)")
        assert re.fullmatch(r"\* 2 FETCH \(UID 2 MODSEQ \(\d+\)\)", lines[0])
        now = number(lines, "MODSEQ")
        assert await client.command(f"FETCH 1:* (UID) (CHANGEDSINCE {first})") == [
            f"* 2 FETCH (UID 2 MODSEQ ({now}))",
            "x OK Fetch completed.",
        ]
        assert await client.command(f"UID FETCH 1:* (FLAGS) (CHANGEDSINCE {now})") == [
            "x OK Fetch completed."
        ]
        lines = await client.command("STATUS INBOX (HIGHESTMODSEQ)")
        assert number(lines, "HIGHESTMODSEQ") >= now


async def test_store_tells_each_message_its_own_modseq(store: MailStore) -> None:
    """Also where nothing changed; another session is told of a change once, and what the STORE told
    is not told again."""
    await fill(store, PLAIN, PLAIN, PLAIN)
    async with session_on(store) as other, session_on(store) as client:
        await select(other)
        await select(client, " (CONDSTORE)")
        first = await client.command(r"STORE 2 +FLAGS (\Seen)")
        second = await client.command(r"UID STORE 1,3 +FLAGS (\Seen)")
        older, newer = number(first, "MODSEQ"), number(second, "MODSEQ")
        assert older < newer
        for command in ("STORE 1:*", "UID STORE 1:*"):
            lines = await client.command(rf"{command} +FLAGS (\Seen)")
            assert lines == [
                *sorted([*first[:-1], *second[:-1]]),
                "x OK Store completed.",
            ]
        assert await client.command("NOOP") == ["x OK NOOP completed."]
        lines = await other.command(r"STORE 1 +FLAGS (\Seen)")
        assert len([line for line in lines if line.startswith("* 1 FETCH")]) == 1
        assert {line[:9] for line in lines} == {"* 1 FETCH", "* 2 FETCH", "* 3 FETCH", "x OK Stor"}
        assert await other.command("NOOP") == ["x OK NOOP completed."]


async def test_store_unless_changed(store: MailStore) -> None:
    await fill(store, PLAIN, PLAIN, PLAIN)
    async with session_on(store) as client, session_on(store) as other:
        _, highest, _ = await select(client, " (CONDSTORE)")
        await select(other)
        await other.command("STORE 2 +FLAGS (\\Flagged)")
        lines = await client.command(
            f"STORE 1:3 (UNCHANGEDSINCE {highest}) +FLAGS.SILENT (\\Deleted)"
        )
        assert lines[-1] == "x OK [MODIFIED 2] Conditional store failed."
        told = [line for line in lines if "MODSEQ" in line]
        assert [line.split()[1] for line in told] == ["1", "3", "2"]
        # What the other session did is told, since this one does not know it yet.
        assert "FLAGS (\\Flagged" in told[2]
        lines = await client.command("UID STORE 2 (UNCHANGEDSINCE 0) FLAGS ()")
        assert lines[-1] == "x OK [MODIFIED 2] Conditional store failed."
        highest = number(await client.command("STATUS INBOX (HIGHESTMODSEQ)"), "HIGHESTMODSEQ")
        lines = await client.command(f"UID STORE 2 (UNCHANGEDSINCE {highest}) FLAGS (\\Seen)")
        assert lines[-1] == "x OK Store completed."
        await client.script("""
            C: a STORE 1 (CHANGEDSINCE 4) FLAGS ()
            S: a BAD Unknown STORE modifier.
            C: b FETCH 1 (FLAGS) (VANISHED)
            S: b BAD VANISHED needs CHANGEDSINCE.
            C: c UID FETCH 1 (FLAGS) (CHANGEDSINCE 1 VANISHED)
            S: c BAD VANISHED needs UID FETCH and QRESYNC enabled
            C: d SELECT INBOX (QRESYNC (1 1))
            S: d BAD QRESYNC not enabled
            C: e FETCH 1 (UID)
            S: * 1 FETCH (UID 1)
            S: e OK Fetch completed.
        """)


async def test_search_by_modseq(store: MailStore) -> None:
    await fill(store, PLAIN, PLAIN, PLAIN)
    async with session_on(store) as client:
        await select(client, " (CONDSTORE)")
        now = number(await client.command("STORE 2 +FLAGS (\\Seen)"), "MODSEQ")
        assert await client.command(f"SEARCH MODSEQ {now}") == [
            f"* SEARCH 2 (MODSEQ {now})",
            "x OK Search completed.",
        ]
        assert await client.command(f'SEARCH MODSEQ "/flags/\\\\seen" all {now}') == [
            f"* SEARCH 2 (MODSEQ {now})",
            "x OK Search completed.",
        ]
        assert (await client.command(f"SEARCH MODSEQ {now + 1}"))[0] == "* SEARCH"
        lines = await client.command("SEARCH RETURN (MIN MAX) MODSEQ 1")
        top = number(lines, "MODSEQ")
        assert lines[0] == f'* ESEARCH (TAG "x") MIN 1 MAX 3 MODSEQ {top}'
        assert top < now
        assert (await client.command("SEARCH RETURN (COUNT) MODSEQ 1"))[0].endswith(
            f"COUNT 3 MODSEQ {now}"
        )


async def test_vanished(store: MailStore) -> None:
    await fill(store, *[PLAIN] * 6)
    async with session_on(store) as client, session_on(store) as other:
        await client.command("ENABLE QRESYNC")
        await select(client)
        await select(other)
        await client.command("STORE 2:3,5 +FLAGS.SILENT (\\Deleted)")
        lines = await client.command("UID EXPUNGE 3")
        assert lines[0] == "* VANISHED 3"
        assert re.fullmatch(r"x OK \[HIGHESTMODSEQ \d+\] Expunge completed.", lines[-1])
        lines = await client.command("EXPUNGE")
        assert "* VANISHED 2,5" in lines
        assert (await other.command("NOOP"))[:3] == ["* 5 EXPUNGE", "* 3 EXPUNGE", "* 2 EXPUNGE"]
        await client.command("STORE 1 +FLAGS.SILENT (\\Deleted)")
        lines = await client.command("CLOSE")
        assert re.fullmatch(r"x OK \[HIGHESTMODSEQ \d+\] Close completed.", lines[-1])


async def test_resynchronised_at_select(store: MailStore) -> None:
    await fill(store, *[PLAIN] * 8)
    async with session_on(store) as other:
        validity, highest, _ = await select(other)
        await other.command("STORE 2,4:5 +FLAGS (\\Deleted)")
        await other.command("EXPUNGE")
        await other.command("UID STORE 3,7 +FLAGS (\\Flagged)")
        await fill(store, PLAIN)
    async with session_on(store) as client:
        await client.command("ENABLE QRESYNC")
        _, _, lines = await select(client, f" (QRESYNC ({validity} {highest}))")
        assert [re.sub(r"MODSEQ \(\d+\)", "M", one) for one in lines if re.search("UID|VAN", one)][
            -4:
        ] == [
            "* VANISHED (EARLIER) 2,4:5",
            "* 2 FETCH (UID 3 M FLAGS (\\Flagged))",
            "* 4 FETCH (UID 7 M FLAGS (\\Flagged))",
            "* 6 FETCH (UID 9 M FLAGS (\\Recent))",
        ]
        _, _, lines = await select(client, f" (QRESYNC ({validity} {highest} 1:4,6:7))")
        assert lines[0] == "* OK [CLOSED] Previous mailbox closed."
        told = [one for one in lines if "VANISHED" in one or "FETCH" in one]
        assert told[0] == "* VANISHED (EARLIER) 2,4"
        assert [one.split()[1] for one in told[1:]] == ["2", "4"]
        # Another UIDVALIDITY: nothing of what the client knows counts.
        _, _, lines = await select(client, f" (QRESYNC ({validity + 1} {highest}))")
        assert not [one for one in lines if "VANISHED" in one or "FETCH" in one]
        lines = await client.command(f"UID FETCH 1:4 (FLAGS) (CHANGEDSINCE {highest} VANISHED)")
        assert lines[0] == "* VANISHED (EARLIER) 2,4"
        assert lines[1].startswith("* 2 FETCH (UID 3 FLAGS (\\Flagged) MODSEQ (")
        await client.script("""
            C: a SELECT INBOX (QRESYNC (1 1 1:* ))
            S: a BAD Invalid QRESYNC parameters.
            C: b NOOP
            S: b OK NOOP completed.
        """)


async def test_pairs_that_match_shorten_what_vanished(tmp_path: Path) -> None:
    """Without a record of what was expunged, all gaps count, but not before a matching pair."""
    store = on_disk(tmp_path)
    await fill(store, *[PLAIN] * 6)
    async with session_on(store) as client:
        validity, _, _ = await select(client)
        await client.command("STORE 2,5 +FLAGS (\\Deleted)")
        await client.command("EXPUNGE")
        await client.command("ENABLE QRESYNC")
        _, _, lines = await select(client, f" (QRESYNC ({validity} 1))")
        assert "* VANISHED (EARLIER) 2,5" in lines
        _, _, lines = await select(client, f" (QRESYNC ({validity} 1 (1:3 1,3:4)))")
        assert "* VANISHED (EARLIER) 5" in lines
        _, _, lines = await select(client, f" (QRESYNC ({validity} 1 1:2 (1 1)))")
        assert "* VANISHED (EARLIER) 2" in lines
    await store.close()


async def test_kept_over_restarts_and_a_lost_state(tmp_path: Path) -> None:
    store = on_disk(tmp_path)
    await fill(store, *[PLAIN] * 4)
    async with session_on(store) as client:
        validity, highest, _ = await select(client)
        await client.command("STORE 2 +FLAGS (\\Deleted)")
        await client.command("EXPUNGE")
        changed = number(await client.command("FETCH 1 (MODSEQ)"), "MODSEQ")
    await store.close()
    # Another program changes one message and takes another away while we are down.
    cur = tmp_path / "mail" / "lcarr" / "cur"
    names = sorted(cur.iterdir(), key=lambda path: arrival_key(path.name))
    names[0].rename(f"{names[0]}F")
    names[2].unlink()
    store = on_disk(tmp_path)
    async with session_on(store) as client:
        await client.command("ENABLE QRESYNC")
        again, now, lines = await select(client, f" (QRESYNC ({validity} {highest}))")
        assert (again, now > changed) == (validity, True)
        told = [one for one in lines if "VANISHED" in one or "FETCH" in one]
        assert told[0] == "* VANISHED (EARLIER) 2,4"
        assert len(told) == 2
        assert "FLAGS (\\Flagged" in told[1]
    await store.close()
    for path in (tmp_path / "mail" / "lcarr").glob("state*"):
        path.unlink()
    store = on_disk(tmp_path)
    async with session_on(store) as client:
        await client.command("ENABLE QRESYNC")
        again, higher, lines = await select(client, f" (QRESYNC ({validity} {now}))")
        assert (again, higher > now) == (validity, True)
        # All that can have changed is told.
        assert "* VANISHED (EARLIER) 2,4" in lines
        assert sum("FETCH" in one for one in lines) == 2
    await store.close()


async def test_what_came_and_went_unseen_vanished(tmp_path: Path) -> None:
    """UIDs that another program gave out and took back are told as vanished, too."""
    store = on_disk(tmp_path)
    await fill(store, PLAIN)
    async with session_on(store) as client:
        validity, highest, _ = await select(client)
    await store.close()
    uidlist = tmp_path / "mail" / "lcarr" / "dovecot-uidlist"
    uidlist.write_bytes(uidlist.read_bytes() + b"2 :1.other\n3 :2.other\n")
    store = on_disk(tmp_path)
    async with session_on(store) as client:
        await client.command("ENABLE QRESYNC")
        _, _, lines = await select(client, f" (QRESYNC ({validity} {highest}))")
        assert "* VANISHED (EARLIER) 2:3" in lines
    await store.close()


def on_disk(path: Path) -> MaildirStore:
    settings = Settings.build("server", mail_location=f"maildir:{path}/mail/%u")
    return MaildirStore(User("lcarr", home=str(path)), settings, Disk(), MailLog(StreamSink(2)))
