"""Loads what the items of a FETCH need of messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from resel_lda.imap.fetch_global import with_global
from resel_lda.imap.fetch_items import Item, Loaded, Need
from resel_lda.imap.fetch_stored import add_stored
from resel_lda.imap.view import View
from resel_lda.mailbox import Mailbox, MailboxError


async def load(
    view: View, batch: Sequence[tuple[int, int]], needs: Need, items: list[Item]
) -> list[Loaded]:
    """Those of the batch that are still there, with what `needs` asks for."""
    mailbox = view.mailbox
    found = [
        Loaded(sequence, info, view)
        for sequence, uid in batch
        if (info := mailbox.get(uid)) is not None
    ]
    uids = [loaded.info.uid for loaded in found]
    if needs & Need.PARTS:
        parts = dict(await mailbox.parts(uids))
        structures = {uid: (part.body, part.bodystructure) for uid, part in parts.items()}
        for uid, (body, full) in (await with_global(view, structures)).items():
            if body is not parts[uid].body:
                parts[uid] = replace(parts[uid], body=body, bodystructure=full)
        for loaded in found:
            loaded.parts = parts.get(loaded.info.uid)
        found = [loaded for loaded in found if loaded.parts is not None]
    if needs & Need.MESSAGE and not await _read_parts(mailbox, found, items):
        found = await _read(mailbox, found)
    if needs & Need.SIZE:
        await _add_sizes(mailbox, found)
    if needs & Need.HEADER:
        headers = await mailbox.header_fields([loaded.info.uid for loaded in found])
        for loaded in found:
            loaded.header = headers.get(loaded.info.uid, b"")
        found = [loaded for loaded in found if loaded.info.uid in headers]
    if needs & Need.STORED:
        found = await add_stored(mailbox, found, items)
    return found


async def _add_sizes(mailbox: Mailbox, found: list[Loaded]) -> None:
    unknown = []
    for loaded in found:
        if loaded.message:
            loaded.size = len(loaded.message)
        elif loaded.parts is not None:
            loaded.size = loaded.parts.size
        else:
            unknown.append(loaded)
    if unknown:
        sizes = await mailbox.sizes([loaded.info.uid for loaded in unknown])
        for loaded in unknown:
            loaded.size = sizes.get(loaded.info.uid, 0)


async def _read_parts(mailbox: Mailbox, found: list[Loaded], items: list[Item]) -> bool:
    """Whether that is enough: of one message, where single parts are asked for."""
    paths = {item.part for item in items if item.needs & Need.MESSAGE}
    if len(found) != 1 or () in paths:
        return False
    few = {path: await mailbox.part(found[0].info.uid, path) for path in sorted(paths)}
    found[0].few = {path: part for path, part in few.items() if part is not None}
    return len(found[0].few) == len(few)


async def _read(mailbox: Mailbox, found: list[Loaded]) -> list[Loaded]:
    """Without those that are gone."""
    if len(found) == 1:
        try:
            found[0].message = await mailbox.read(found[0].info.uid)
        except MailboxError as error:
            if error.code != "EXPUNGEISSUED":
                raise
            return []
        return found
    messages = await mailbox.read_many([loaded.info.uid for loaded in found])
    there = [loaded for loaded in found if loaded.info.uid in messages]
    for loaded in there:
        loaded.message = messages[loaded.info.uid]
    return there
