"""The reserve of free space (`expunge_minfree`), kept at the cost of what is in all users' bins.

`bin` looks when a user expunges something. Here a process looks now and then, so that new mail is
not refused for want of room that expunged mail takes, whoever expunged it.
"""

from __future__ import annotations

import asyncio
import contextlib
import glob
import os
from collections.abc import Callable

from resel_lda.maildir.bin import Bin, bin_root
from resel_lda.maildir.layout import Layout, LocationError, MailLocation, parse_location
from resel_mta.config import Settings
from resel_mta.disk import Disk
from resel_mta.maillog import MailLog

# Seconds between two looks. Also the time that a full disk may refuse mail for nothing.
_EVERY = 10.0
# Whatever a user is called, in a mail_location with %u or %n, and in one with %d.
_NAMES = ("*", "*@*")


async def keep_reserve(settings: Callable[[], Settings | None], log: MailLog) -> None:
    """Until it is cancelled. settings: those of the moment, None while there are none."""
    told = ""
    while True:
        await asyncio.sleep(_EVERY)
        now = settings()
        if now is None:
            continue
        try:
            text = await asyncio.to_thread(make_room, now, Disk(), log)
        except OSError as error:
            text = f"expunged mail cannot be removed: {error}"
            text = "" if text == told else text
            told = text or told
        if text:
            log.warning("imap", text)


def make_room(settings: Settings, disk: Disk, log: MailLog) -> str:
    """Removes the oldest of all bins until the reserve is free. What was done, "" for nothing.

    Only where `mail_location` leads to the mailboxes by users' names, and they lie in one file
    system: in homes (%h, ~) each user's bin makes room when that user expunges. Blocks. Raises
    OSError where nothing can be removed.
    """
    bins = [Bin(disk, Layout(one), settings, log) for one in _locations(settings)]
    kept = []
    for one in bins:
        # Not this process's to look into, as where users have a uid of their own.
        with contextlib.suppress(PermissionError):
            kept += [(when, path, size, one) for when, path, size in one.messages()]
    kept.sort(key=lambda message: message[:2])
    count = octets = 0
    for _, path, size, one in kept:
        if one.is_free():
            break
        one.remove(path)
        count += 1
        octets += size
    if not count:
        return ""
    return (
        f"{count} expunged messages ({octets} octets) are gone before expunge_keep_time: less "
        "than expunge_minfree was free"
    )


def _locations(settings: Settings) -> list[MailLocation]:
    """Of the mailboxes with a bin, where there is less room than there should be."""
    template = settings.text("mail_location")
    found: set[tuple[str, bool]] = set()
    for name in _NAMES:
        try:
            fixed = parse_location(template, name, "").root.partition("*")[0]
            every = parse_location(glob.escape(template), name, "")
        except LocationError:
            return []
        if not os.path.isdir(os.path.dirname(fixed)) or _is_free(os.path.dirname(fixed), settings):
            return []
        roots = glob.glob(bin_root(every))
        found.update((os.path.normpath(os.path.dirname(root)), every.fs) for root in roots)
    return [MailLocation(root, root, root, root, fs) for root, fs in sorted(found)]


def _is_free(directory: str, settings: Settings) -> bool:
    space = os.statvfs(directory)
    return space.f_bavail * space.f_frsize >= settings.number("expunge_minfree")
