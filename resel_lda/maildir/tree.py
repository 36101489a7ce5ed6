"""The tree of folders: what LIST says of it, removing and moving folders, UIDVALIDITY."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from resel_lda.mailbox import FolderInfo, MailboxError
from resel_lda.maildir.files import create_maildir
from resel_lda.maildir.layout import Layout, MailLocation
from resel_mta.disk import Disk

# Names that mail programs create, by special use (RFC 6154); the first one found has the use.
_BY_NAME = {
    "\\Drafts": ("drafts",),
    "\\Sent": ("sent", "sent messages", "sent items"),
    "\\Trash": ("trash", "deleted messages", "deleted items"),
    "\\Junk": ("junk", "spam", "junk e-mail"),
    "\\Archive": ("archive", "archives"),
}
# With a dot before it under LAYOUT=fs: neither is taken for a folder's name, also by Dovecot.
_REMOVED = "resel-removed."
_VALIDITY_PREFIX = "dovecot-uidvalidity"
_VALIDITY_FILE = re.compile(_VALIDITY_PREFIX + r"\.([0-9a-f]{8})")


def describe(
    names: Mapping[str, bool], subscribed: Collection[str], stored_uses: Mapping[str, str]
) -> list[FolderInfo]:
    """names: existing folders -> selectable. Sorted, INBOX first, missing parents (\\NonExistent
    and \\HasChildren) and subscribed names that do not exist included."""
    everything = dict(names)
    missing: set[str] = set()
    for name in names:
        parent = name.rpartition("/")[0]
        while parent and parent not in everything:
            everything[parent] = False
            missing.add(parent)
            parent = parent.rpartition("/")[0]
    parents = {name.rpartition("/")[0] for name in everything}
    uses = _special_uses(names, stored_uses)
    found: list[FolderInfo] = []
    for name in sorted({*everything, *subscribed}, key=lambda one: (one != "INBOX", one)):
        attributes: set[str] = set()
        if name not in everything:
            attributes.add("\\NonExistent")
        else:
            attributes.add("\\HasChildren" if name in parents else "\\HasNoChildren")
            if name in missing:
                attributes.add("\\NonExistent")
            elif not everything[name]:
                attributes.add("\\Noselect")
            elif name in uses:
                attributes.add(uses[name])
        found.append(FolderInfo(name, frozenset(attributes), name in subscribed))
    return found


def _special_uses(names: Mapping[str, bool], stored: Mapping[str, str]) -> dict[str, str]:
    uses = {name: use for name, use in stored.items() if name in names}
    taken = set(uses.values())
    by_lower = {name.lower(): name for name in sorted(names, reverse=True)}
    for use, candidates in _BY_NAME.items():
        if use in taken:
            continue
        for candidate in candidates:
            name = by_lower.get(candidate) or by_lower.get(f"inbox/{candidate}")
            if name is not None and name not in uses:
                uses[name] = use
                break
    return uses


def prepare_folder(disk: Disk, layout: Layout, name: str) -> tuple[str, str, bool]:
    """(its Maildir, where its UID list lies, whether there is such a folder), ready to be opened."""
    directory, control = layout.directory(name), layout.control_directory(name)
    if not os.path.isdir(f"{directory}/cur"):
        return directory, control, False
    # These may be missing in what other programs made.
    if not (os.path.isdir(f"{directory}/new") and os.path.isdir(f"{directory}/tmp")):
        create_maildir(disk, directory)
    if control != directory:
        disk.make_directories(control)
    return directory, control, True


def next_uidvalidity(disk: Disk, control: str) -> int:
    """A UIDVALIDITY above all that this user's folders had, kept as Dovecot keeps it: in the name
    of an empty file ``dovecot-uidvalidity.<8 hexadecimal digits>``."""
    last = 0
    found = ""
    for name in os.listdir(control):
        match = _VALIDITY_FILE.fullmatch(name)
        if match and int(match.group(1), 16) > last:
            last, found = int(match.group(1), 16), name
    value = max(int(time.time()), last + 1)
    target = os.path.join(control, f"{_VALIDITY_PREFIX}.{value:08x}")
    if found:
        try:
            disk.rename(os.path.join(control, found), target)
            return value
        except FileNotFoundError:
            # Another process took the same step: try again from what it left.
            return next_uidvalidity(disk, control)
    for path in (os.path.join(control, _VALIDITY_PREFIX), target):
        with contextlib.suppress(FileExistsError):
            disk.close(disk.create(path, 0o444))
    return value


def remove_folder(
    disk: Disk, directory: str, location: MailLocation, gone: Callable[[], None]
) -> None:
    """Remove a folder's Maildir at once (by renaming) and for good. Its subfolders stay. gone: called
    when it is no folder any more."""
    if not os.path.isdir(directory):
        return
    parent = os.path.dirname(directory)
    own = [e.name for e in os.scandir(directory) if not e.is_dir(follow_symlinks=False)]
    children = [
        entry.name
        for entry in os.scandir(directory)
        if entry.is_dir(follow_symlinks=False) and entry.name not in ("cur", "new", "tmp")
    ]
    dot = "." if location.fs else ""
    aside = os.path.join(parent, f"{dot}{_REMOVED}{os.urandom(6).hex()}")
    if not location.fs or not children:
        disk.rename(directory, aside)
    else:
        disk.mkdir(aside)
        for name in [n for n in ("cur", "new", "tmp") if os.path.isdir(f"{directory}/{n}")] + own:
            disk.rename(os.path.join(directory, name), os.path.join(aside, name))
        disk.sync_directory(directory)
    disk.sync_directory(parent)
    gone()
    _remove_tree(disk, aside)


def sweep(disk: Disk, root: str) -> bool:
    """Finish removals that a crash interrupted; whether there were any."""
    # Earlier versions had two dots before it.
    left = [name for name in os.listdir(root) if name.lstrip(".").startswith(_REMOVED)]
    for name in left:
        _remove_tree(disk, os.path.join(root, name))
    return bool(left)


def _remove_tree(disk: Disk, path: str) -> None:
    for directory, subdirectories, files in os.walk(path, topdown=False):
        for name in files:
            disk.unlink(os.path.join(directory, name))
        for name in subdirectories:
            below = os.path.join(directory, name)
            if os.path.islink(below):
                disk.unlink(below)
            else:
                disk.rmdir(below)
    disk.rmdir(path)


def rename_folders(
    disk: Disk, layout: Layout, name: str, new_name: str, affected: Sequence[str]
) -> list[tuple[str, str]]:
    """Give `name`, and what is below it, a new name. affected: all of these names. (old, new) of
    those that there were. Raises OSError, MailboxError."""
    there = [one for one in affected if layout.exists(one)]
    if not there:
        raise MailboxError(f"Mailbox doesn't exist: {name}", "NONEXISTENT", name)
    pairs = [(one, new_name + one[len(name) :]) for one in there]
    for _, target in pairs:
        if layout.exists(target):
            raise MailboxError(f"Mailbox already exists: {target}", "ALREADYEXISTS", target)
    if layout.location.fs and os.path.isdir(layout.directory(new_name)):
        # No mailbox itself, but there are some below it.
        text = f"Mailbox already exists: {new_name}"
        raise MailboxError(text, "ALREADYEXISTS", new_name)
    moves: dict[str, str] = {}
    for one, target in [(name, new_name)] if layout.location.fs else pairs:
        moves[layout.directory(one)] = layout.directory(target)
        control = layout.control_directory(one)
        if os.path.isdir(control):
            moves[control] = layout.control_directory(target)
    _move_directories(disk, moves)
    return pairs


def _move_directories(disk: Disk, moves: Mapping[str, str]) -> None:
    """Rename directories, durable; all back again if one fails."""
    done: list[tuple[str, str]] = []
    try:
        for source, target in moves.items():
            disk.make_directories(os.path.dirname(target))
            disk.rename(source, target)
            done.append((source, target))
    except BaseException:
        for source, target in reversed(done):
            disk.rename(target, source)
        raise
    parents: Sequence[str] = sorted({os.path.dirname(path) for pair in done for path in pair})
    for parent in parents:
        disk.sync_directory(parent)
