"""``quota get`` and ``quota recalc``: what a user's messages take up, by their files' sizes."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator

from resel_lda.admin.work import Work
from resel_lda.maildir.layout import Layout
from resel_lda.maildir.names import base_of, size_in_name
from resel_mta.config import Settings
from resel_mta.disk import Disk
from resel_mta.users import User

#: As Dovecot's wiki names it in its examples, and scripts expect it.
NAME = "User quota"


def limit_of(user: User, settings: Settings) -> int:
    """Octets; 0 is unlimited."""
    own = user.quota_storage_size
    return settings.number("quota_storage_size") if own is None else own


def _sizes(directory: str) -> Iterator[int]:
    for name in ("new", "cur"):
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(os.path.join(directory, name)):
                if entry.name.startswith("."):
                    continue
                size = size_in_name(base_of(entry.name), "S")
                with contextlib.suppress(FileNotFoundError):
                    yield entry.stat().st_size if size is None else size


def usage(layout: Layout) -> tuple[int, int]:
    """(octets, messages) of all folders. Blocks."""
    octets = count = 0
    names = ["INBOX", *(name for name, selectable in layout.names().items() if selectable)]
    for name in names:
        for size in _sizes(layout.directory(name)):
            octets += size
            count += 1
    return octets, count


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
