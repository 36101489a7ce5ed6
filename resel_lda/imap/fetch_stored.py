"""FETCH of INTERNALDATE, SAVEDATE (RFC 8514), EMAILID, THREADID (RFC 8474) and PREVIEW (RFC 8970): what the store
knows of messages. Their values are ready-made strings, for one message as for thousands."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from resel_lda.imap import text
from resel_lda.imap.fetch_items import Item, Loaded, Need
from resel_lda.imap.parser import ParseError, Parser
from resel_lda.mailbox import Mailbox

Values = Mapping[int, bytes]
Source = Callable[[Mailbox, Sequence[int]], Awaitable[Values]]


async def _internal(mailbox: Mailbox, uids: Sequence[int]) -> Values:
    found = await mailbox.internal_dates(uids)
    return {uid: text.date_time(seconds) for uid, seconds in found.items()}


async def _saved(mailbox: Mailbox, uids: Sequence[int]) -> Values:
    found = await mailbox.saved_dates(uids)
    return {uid: text.date_time(seconds) for uid, seconds in found.items()}


async def _email_ids(mailbox: Mailbox, uids: Sequence[int]) -> Values:
    found = await mailbox.object_ids(uids)
    return {uid: b"(%b)" % email.encode("ascii") for uid, (email, _) in found.items()}


async def _thread_ids(mailbox: Mailbox, uids: Sequence[int]) -> Values:
    found = await mailbox.object_ids(uids)
    return {uid: b"(%b)" % thread.encode("ascii") for uid, (_, thread) in found.items()}


async def _previews(mailbox: Mailbox, uids: Sequence[int]) -> Values:
    found = await mailbox.previews(uids)
    return {uid: text.string(preview.encode("utf-8")) for uid, preview in found.items()}


async def _ready_previews(mailbox: Mailbox, uids: Sequence[int]) -> Values:
    """NIL where there is none without reading the message (RFC 8970 §4.1)."""
    found = await mailbox.previews(uids, ready=True)
    return {
        uid: text.string(found[uid].encode("utf-8")) if uid in found else b"NIL" for uid in uids
    }


# By item: its name in the response, and where its value comes from.
SOURCES: dict[bytes, tuple[bytes, Source]] = {
    b"INTERNALDATE": (b"INTERNALDATE", _internal),
    b"SAVEDATE": (b"SAVEDATE", _saved),
    b"EMAILID": (b"EMAILID", _email_ids),
    b"THREADID": (b"THREADID", _thread_ids),
    b"PREVIEW": (b"PREVIEW", _previews),
    b"PREVIEW (LAZY)": (b"PREVIEW", _ready_previews),
}


def _item(name: bytes) -> Item:
    word = SOURCES[name][0]

    def render(loaded: Loaded) -> bytes:
        return b"%b %b" % (word, loaded.stored[name])

    return Item(render, Need.STORED, name=name)


_ITEMS = {name: _item(name) for name in SOURCES}


def parse_stored(args: Parser, name: bytes) -> Item | None:
    """After the item's name; None if it is none of these. Raises ParseError."""
    if name == b"PREVIEW" and args.skip(b" ("):
        if args.word() != b"LAZY":
            raise ParseError("Unknown PREVIEW modifier")
        args.expect(b")")
        name = b"PREVIEW (LAZY)"
    return _ITEMS.get(name)


async def add_stored(mailbox: Mailbox, found: list[Loaded], items: Sequence[Item]) -> list[Loaded]:
    """Those that are still there, with the values of these items."""
    uids = [loaded.info.uid for loaded in found]
    for item in items:
        if item.needs & Need.STORED:
            values = await SOURCES[item.name][1](mailbox, uids)
            found = [loaded for loaded in found if loaded.info.uid in values]
            for loaded in found:
                loaded.stored[item.name] = values[loaded.info.uid]
    return found
