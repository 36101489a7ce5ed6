"""`dovecot-uidlist`, version 3: which UID belongs to which file.

    3 V<uidvalidity> N<next uid> G<mailbox guid>
    <uid> [<letter><value> ...] :<base>

Under `dovecot-uidlist.lock` new lines are appended, or the file is replaced. A reader takes the
next UID as the larger of N and the last line's plus one. Versions 1 and 2 are read.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field

from resel_lda.mailbox import MailboxError
from resel_lda.maildir.names import base_of
from resel_mta.disk import Disk

FILE_NAME = "dovecot-uidlist"


@dataclass(slots=True)
class UidEntry:
    """extensions: what stands between UID and name ("W1234 S1200"), kept as found."""

    uid: int
    base: str
    extensions: str = ""


@dataclass(slots=True)
class Uidlist:
    """The file in memory. entries: by base, ascending UIDs. stamp: of the file it was read from,
    None when there was none. damaged: lines were not understood, so it must be rewritten."""

    uidvalidity: int = 0
    next_uid: int = 1
    guid: str = ""
    entries: dict[str, UidEntry] = field(default_factory=dict)
    header_extensions: str = ""
    stamp: tuple[int, int, int] | None = None
    damaged: bool = False

    def add(self, base: str, extensions: str = "") -> UidEntry:
        entry = UidEntry(self.next_uid, base, extensions)
        self.entries[base] = entry
        self.next_uid += 1
        return entry


def new_guid() -> str:
    """A mailbox GUID: 32 hexadecimal digits, as Dovecot's."""
    return os.urandom(16).hex()


def file_stamp(path: str) -> tuple[int, int, int] | None:
    try:
        stat = os.stat(path)
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def read_uidlist(path: str) -> Uidlist:
    """The file, or an empty list with uidvalidity 0. Raises OSError."""
    found = Uidlist()
    try:
        with open(path, "rb") as file:
            stat = os.fstat(file.fileno())
            data = file.read()
    except FileNotFoundError:
        return found
    found.stamp = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
    # A last line without its end was being appended when the machine stopped.
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    if lines.pop():
        found.damaged = True
    if not lines or not _read_header(found, lines[0]):
        found.damaged = True
        return found
    last = 0
    entries = found.entries
    for line in lines[1:]:
        uid_text, _, rest = line.partition(" ")
        if not (uid_text.isascii() and uid_text.isdigit()):
            found.damaged = True
            continue
        uid = int(uid_text)
        if rest.startswith(":"):
            extensions, base = "", rest[1:]
        else:
            extensions, colon, base = rest.partition(" :")
            if not colon:
                # Version 1 and 2 lines have the bare name.
                extensions, base = "", rest
        base = base_of(base)
        if not base or not last < uid < 0xFFFFFFFF or base in entries:
            found.damaged = True
            continue
        entries[base] = UidEntry(uid, base, extensions)
        last = uid
    found.next_uid = max(found.next_uid, last + 1)
    return found


def reread_uidlist(path: str, old: Uidlist) -> Uidlist:
    """The file as it is now; `old` is what was known of it, and fills what is ruined. Raises
    OSError, MailboxError("UNAVAILABLE")."""
    stamp = file_stamp(path)
    if stamp is not None and stamp == old.stamp:
        return old
    fresh = read_uidlist(path)
    if not fresh.uidvalidity:
        # Deleted or ruined under us: what we know is written again.
        old.stamp = None
        return old
    if fresh.uidvalidity != old.uidvalidity:
        raise MailboxError("UIDVALIDITY was changed by another program", "UNAVAILABLE")
    if fresh.damaged:
        used = {entry.uid for entry in fresh.entries.values()}
        for base, entry in old.entries.items():
            if base not in fresh.entries and entry.uid not in used:
                fresh.entries[base] = entry
        fresh.entries = dict(sorted(fresh.entries.items(), key=lambda item: item[1].uid))
    fresh.guid = fresh.guid or old.guid
    fresh.next_uid = max(fresh.next_uid, old.next_uid)
    return fresh


def _read_header(found: Uidlist, line: str) -> bool:
    version, _, rest = line.partition(" ")
    try:
        if version == "3":
            kept = []
            for word in rest.split():
                if word[0] == "V":
                    found.uidvalidity = int(word[1:])
                elif word[0] == "N":
                    found.next_uid = int(word[1:])
                elif word[0] == "G":
                    found.guid = word[1:]
                else:
                    kept.append(word)
            found.header_extensions = " ".join(kept)
        elif version in ("1", "2"):
            validity, next_uid = rest.split()[:2]
            found.uidvalidity, found.next_uid = int(validity), int(next_uid)
            found.damaged = True
        else:
            return False
    except ValueError:
        return False
    return found.uidvalidity > 0 and found.next_uid > 0


def _line(entry: UidEntry) -> bytes:
    extensions = f" {entry.extensions}" if entry.extensions else ""
    return f"{entry.uid}{extensions} :{entry.base}\n".encode("utf-8", "surrogateescape")


def append_entries(disk: Disk, path: str, uidlist: Uidlist, entries: Iterable[UidEntry]) -> None:
    """Add lines to the file as `uidlist` has it. Durable. The lock is held by the caller."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        try:
            disk.write(fd, b"".join(_line(entry) for entry in entries))
            disk.fsync(fd)
        except BaseException:
            # Half a line (full disk) would spoil the next one appended, by us or by Dovecot.
            uidlist.stamp = None
            with contextlib.suppress(OSError):
                os.ftruncate(fd, size)
            raise
        stat = os.fstat(fd)
    finally:
        disk.close(fd)
    uidlist.stamp = (stat.st_ino, stat.st_size, stat.st_mtime_ns)


def write_uidlist(disk: Disk, path: str, uidlist: Uidlist) -> None:
    """Replace the whole file. Durable. The lock is held by the caller."""
    more = f" {uidlist.header_extensions}" if uidlist.header_extensions else ""
    header = f"3 V{uidlist.uidvalidity} N{uidlist.next_uid} G{uidlist.guid}{more}\n".encode()
    body = b"".join(_line(entry) for entry in uidlist.entries.values())
    disk.replace_file(path, [header, body])
    uidlist.damaged = False
    uidlist.stamp = file_stamp(path)
