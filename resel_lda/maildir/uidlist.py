"""`dovecot-uidlist`, version 3: which UID belongs to which file.

    3 V<uidvalidity> N<next uid> G<mailbox guid>
    <uid> [<letter><value> ...] :<base>

Under `dovecot-uidlist.lock` new lines are appended, or the file is replaced. A reader takes the
next UID as the larger of N and the last line's plus one. Versions 1 and 2 are read.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain, repeat
from operator import itemgetter, lt

from resel_lda.mailbox import MailboxError
from resel_lda.maildir.names import base_of
from resel_mta.disk import Disk

FILE_NAME = "dovecot-uidlist"

# Lines of a UID and a base each.
_PLAIN = re.compile(r"(?:[0-9]{1,10} :[^:\n]+\n)*")


@dataclass(slots=True)
class Uidlist:
    """The file in memory. entries: base -> UID, ascending. extensions: by UID, what stands between
    UID and name ("W1234 S1200"), kept as found. stamp: of the file it was read from, None when there
    was none. damaged: lines were not understood, so it must be rewritten."""

    uidvalidity: int = 0
    next_uid: int = 1
    guid: str = ""
    entries: dict[str, int] = field(default_factory=dict)
    extensions: dict[int, str] = field(default_factory=dict)
    header_extensions: str = ""
    stamp: tuple[int, int, int] | None = None
    damaged: bool = False

    def add(self, base: str) -> int:
        """The UID that it gets."""
        uid = self.entries[base] = self.next_uid
        self.next_uid += 1
        return uid

    def remove(self, base: str) -> None:
        self.extensions.pop(self.entries.pop(base), None)

    def noted(self, base: str) -> str:
        """The extensions of a line, "" if there are none."""
        uid = self.entries.get(base)
        return "" if uid is None else self.extensions.get(uid, "")


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
    head, newline, body = data.decode("utf-8", "surrogateescape").partition("\n")
    if not newline or not _read_header(found, head):
        found.damaged = True
        return found
    if not _read_plain(found, body):
        _read_lines(found, body)
    return found


def _read_plain(found: Uidlist, body: str) -> bool:
    """Lines of nothing but a UID and a base, and in order; False if there are others."""
    words = body.replace(" :", "\n").split("\n")
    uids, bases = words[:-1:2], words[1::2]
    if words[-1] or len(uids) != len(bases) or not _PLAIN.fullmatch(body):
        return False
    numbers = list(map(int, uids))
    if not all(map(lt, [0, *numbers], [*numbers, 0xFFFFFFFF])):
        return False
    entries = dict(zip(bases, numbers, strict=True))
    if len(entries) < len(bases):
        return False
    found.entries = entries
    found.next_uid = max(found.next_uid, numbers[-1] + 1 if numbers else 1)
    return True


def _read_lines(found: Uidlist, body: str) -> None:
    lines = body.split("\n")
    # A last line without its end was being appended when the machine stopped.
    if lines.pop():
        found.damaged = True
    last = 0
    entries = found.entries
    for line in lines:
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
        entries[base] = uid
        if extensions:
            found.extensions[uid] = extensions
        last = uid
    found.next_uid = max(found.next_uid, last + 1)


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
        used = set(fresh.entries.values())
        for base, uid in old.entries.items():
            if base not in fresh.entries and uid not in used:
                fresh.entries[base] = uid
                if uid in old.extensions:
                    fresh.extensions[uid] = old.extensions[uid]
        fresh.entries = dict(sorted(fresh.entries.items(), key=itemgetter(1)))
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


def _lines(uidlist: Uidlist, entries: Mapping[str, int]) -> bytes:
    noted = uidlist.extensions
    if noted:
        words = [
            f"{uid} {noted[uid]} :{base}\n" if uid in noted else f"{uid} :{base}\n"
            for base, uid in entries.items()
        ]
        return "".join(words).encode("utf-8", "surrogateescape")
    uids = map(str, entries.values())
    plain = chain.from_iterable(zip(uids, repeat(" :"), entries, repeat("\n"), strict=False))
    return "".join(plain).encode("utf-8", "surrogateescape")


def append_entries(disk: Disk, path: str, uidlist: Uidlist, bases: Iterable[str]) -> None:
    """Add lines to the file as `uidlist` has it. Durable. The lock is held by the caller."""
    lines = _lines(uidlist, {base: uidlist.entries[base] for base in bases})
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        try:
            disk.write(fd, lines)
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
    body = _lines(uidlist, uidlist.entries)
    if uidlist.stamp is None and file_stamp(path) is None:
        _write_first(disk, path, header + body)
    else:
        disk.replace_file(path, [header, body])
    uidlist.damaged = False
    uidlist.stamp = file_stamp(path)


def _write_first(disk: Disk, path: str, data: bytes) -> None:
    """Where there was no list. It gets its name before it is synced, so that file and name are one
    commit of a journal: what a power cut leaves of it before that, nobody was told of, and half
    a list counts as damaged, or is followed by higher UIDs."""
    directory, name = os.path.split(path)
    current = os.path.join(directory, f".{name}.{os.getpid()}.{os.urandom(4).hex()}")
    fd = disk.create(current)
    try:
        try:
            disk.write(fd, data)
            disk.rename(current, path)
            current = path
            disk.fsync(fd)
        finally:
            disk.close(fd)
        disk.sync_directory(directory)
    except BaseException:
        # The next look would take it for one that is durable.
        disk.unlink(current)
        raise
