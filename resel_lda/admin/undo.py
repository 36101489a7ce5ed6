"""``expunge``, and what undoes it or makes it final: ``undelete``, ``purge``."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace

from resel_lda.admin import messages
from resel_lda.admin.kept import Kept, messages_text, size_text
from resel_lda.admin.work import EX_NOTFOUND, Work
from resel_lda.mailbox import MailboxError
from resel_lda.maildir.bin import bin_location
from resel_lda.maildir.store import MaildirStore
from resel_mta.disk import Disk
from resel_mta.maillog import MailLog, StreamSink

_BATCH = 500


def _bin_store(work: Work) -> MaildirStore:
    """The bin as a store of its own."""
    location = bin_location(work.store.layout.location)
    user = replace(work.user, mail_location=location, quota_storage_size=0)
    return MaildirStore(user, work.settings, Disk(), MailLog(StreamSink(2)))


async def expunge(work: Work) -> None:
    """args: query, delete_empty: the folder goes too, once it is empty. purge: nothing is kept."""
    kept = Kept(work)
    async for match in messages.matching(work, "Syncing mailbox '{name}' failed"):
        name = match.folder.name
        shown = work.names.shown(name)
        await kept.before(name)
        try:
            for start in range(0, len(match.uids), _BATCH):
                batch = match.uids[start : start + _BATCH]
                await match.folder.expunge(batch, keep=not work.on("purge"))
            if work.on("delete_empty") and not match.folder.count() and name != "INBOX":
                await work.store.delete(name)
        except MailboxError as error:
            await work.failed(f"Syncing mailbox '{shown}' failed", error)
        await kept.after(name)
    await kept.tell()


async def undelete(work: Work) -> None:
    """args: query, as of any command; "saved" is when a message was expunged. show: only look, with
    `fetch`'s fields. Each comes back into its folder, which is made again if it is gone, with its
    flags and a new UID."""
    if not await asyncio.to_thread(os.path.isdir, work.store.bin.root):
        if not work.on("show"):
            await work.tell.problem("Nothing is kept that could come back", EX_NOTFOUND)
        return
    kept = _bin_store(work)
    try:
        inside = replace(work, store=kept)
        if work.on("show"):
            await messages.fetch(inside)
        else:
            await _bring_back(work, inside)
    finally:
        await kept.close()


async def _bring_back(work: Work, inside: Work) -> None:
    found = False
    async for match in messages.matching(inside, ""):
        if not match.uids:
            continue
        found = True
        target = match.folder.name
        back = await messages.copy_into(work, match, target)
        await match.folder.expunge(back)
        if back:
            await work.tell.info(f"{messages_text(len(back))} back in {work.names.shown(target)}")
    if not found:
        await work.tell.problem("No message that is kept matches", EX_NOTFOUND)


async def purge(work: Work) -> None:
    """Frees what the bin holds."""
    count, octets = await asyncio.to_thread(work.store.bin.empty)
    if count:
        await work.tell.info(f"{messages_text(count)} ({size_text(octets)}) are gone for good")
