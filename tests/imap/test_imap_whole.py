"""Whole messages are told in the same words whichever way they are made."""

from __future__ import annotations

import pytest
from imap_dialog import session_on
from test_imap_dialog import PLAIN, fill

from resel_lda.imap import fetch_whole
from resel_lda.imap.fetch import parse_items
from resel_lda.imap.parser import Parser
from resel_lda.mailbox import MailStore

WHOLE = (
    "BODY.PEEK[]", "(BODY.PEEK[])", "(UID BODY.PEEK[])", "(BODY.PEEK[] UID)", "BODY[]", "RFC822",
    "(FLAGS BODY.PEEK[] RFC822.SIZE UID MODSEQ)", "(RFC822.SIZE RFC822 FLAGS)", "(UID FLAGS BODY[])",
)  # fmt: skip
OTHERS = (
    "BODY.PEEK[]<0.10>", "(BODY.PEEK[] BODY.PEEK[TEXT])", "BODY.PEEK[TEXT]", "BODY.PEEK[1]",
    "(BODY.PEEK[] RFC822)", "(BODY.PEEK[] ENVELOPE)", "(BODY.PEEK[] INTERNALDATE)", "(FLAGS UID)",
)  # fmt: skip


@pytest.mark.parametrize("uid_only", [False, True])
@pytest.mark.parametrize("items", WHOLE)
async def test_whole_messages(
    store: MailStore, items: str, uid_only: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(store, PLAIN, PLAIN + b"a\0b\r\n", PLAIN + b"x" * 5000)
    told = []
    async with session_on(store) as client:
        # From now on none is \\Recent.
        await client.command("SELECT INBOX")
    for numbers in ("1", "1:*"):
        for template in (fetch_whole.template, lambda *_: None):
            monkeypatch.setattr("resel_lda.imap.fetch_whole.template", template)
            async with session_on(store) as client:
                if uid_only:
                    await client.command("ENABLE UIDONLY")
                await client.command("SELECT INBOX")
                # Those that the first one marks are seen from then on.
                await client.command(f"UID STORE {numbers} -FLAGS.SILENT (\\Seen)")
                told.append(await client.command(f"UID FETCH {numbers} {items}"))
                told[-1] += await client.command(f"UID FETCH {numbers} {items}")
                assert "FETCH" in "".join(told[-1])
            monkeypatch.undo()
    drop = str.maketrans("", "", "0123456789") if "MODSEQ" in items else {}
    for first, second in (told[:2], told[2:]):
        assert [line.translate(drop) for line in first] == [line.translate(drop) for line in second]


def parsed(items: str) -> fetch_whole.Template | None:
    return fetch_whole.template(parse_items(Parser(items.encode())), b"FETCH")


def test_what_is_taken_for_whole() -> None:
    assert all(parsed(items) is not None for items in WHOLE)
    assert all(parsed(items) is None for items in OTHERS)
