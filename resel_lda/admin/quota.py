"""``quota get`` and ``quota recalc``: what a user's messages take up, by their files' sizes."""

from __future__ import annotations

import asyncio
import os

from resel_lda.admin.work import Work
from resel_lda.maildir.quota import NAME, limit_of, usage
from resel_mta.disk import Disk


async def get(work: Work) -> None:
    """Rows: quota name, type, value, limit, percent; none without a quota."""
    limit = limit_of(work.user, work.settings)
    if not limit:
        return
    octets, count = await asyncio.to_thread(usage, work.store.layout)
    value, most = -(-octets // 1024), limit // 1024
    percent = value * 100 // most if most else 0
    await work.tell.row([NAME, "STORAGE", str(value), str(most), str(percent)])
    await work.tell.row([NAME, "MESSAGE", str(count), "-", "0"])


async def recalc(work: Work) -> None:
    """Count again, into `maildirsize`."""
    limit = limit_of(work.user, work.settings)
    path = os.path.join(work.store.layout.location.root, "maildirsize")
    if not limit and not await asyncio.to_thread(os.path.exists, path):
        return
    octets, count = await asyncio.to_thread(usage, work.store.layout)
    lines = f"{limit}S\n{octets} {count}\n".encode()
    await asyncio.to_thread(Disk().replace_file, path, [lines])
