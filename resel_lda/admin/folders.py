"""``mailbox list``, ``status``, ``create``, ``delete``, ``rename``, ``subscribe``, ``path``."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from resel_lda.admin.find import save_date, store_name
from resel_lda.admin.kept import Kept
from resel_lda.admin.work import EX_DATAERR, EX_USAGE, Work
from resel_lda.imap import utf7
from resel_lda.imap.names import matches_folder
from resel_lda.mailbox import FolderInfo, MailboxError
from resel_lda.maildir.folder import MaildirFolder

STATUS_FIELDS = (
    "messages",
    "recent",
    "uidnext",
    "uidvalidity",
    "unseen",
    "highestmodseq",
    "vsize",
    "guid",
    "firstsaved",
)
#: Of what was expunged and can be brought back: only where asked for by name.
BIN_FIELDS = ("kept", "keptsize")
#: What can be added up over folders (``status -t``).
SUMMABLE = frozenset(("messages", "recent", "unseen", "vsize", *BIN_FIELDS))


def _has_wildcards(name: str) -> bool:
    return "*" in name or "%" in name


async def list_folders(work: Work) -> None:
    """args: masks, mutf7, subscribed. Rows: name."""
    masks = work.words("masks")
    if len(masks) == 1 and not _has_wildcards(masks[0]):
        # doveadm takes a name as given.
        await work.tell.row([_spelled(work, masks[0])])
        return
    for info in await work.store.folders():
        if work.on("subscribed"):
            if not info.subscribed:
                continue
        elif "\\NonExistent" in info.attributes and "\\HasChildren" not in info.attributes:
            continue
        shown = work.names.shown(info.name)
        if not masks or any(matches_folder(m, shown, work.names.separator) for m in masks):
            await work.tell.row([_spelled(work, shown)])


def _spelled(work: Work, shown: str) -> str:
    return utf7.encode(shown).decode("ascii") if work.on("mutf7") else shown


async def status(work: Work) -> None:
    """args: fields, masks, total. Rows: name, then the fields' values; with total their sums."""
    fields, masks = work.words("fields"), work.words("masks")
    sums = dict.fromkeys(fields, 0)
    for name in await _selected(work, masks):
        try:
            values = await _status(work, name, fields)
        except MailboxError as error:
            text = f"Failed to lookup mailbox status: {_missing(work, name, error)}"
            await work.failed(f"Mailbox {work.names.shown(name)}", error, text)
            continue
        if work.on("total"):
            for field in fields:
                sums[field] += int(values[field])
        else:
            await work.tell.row([work.names.shown(name), *(values[field] for field in fields)])
    if work.on("total"):
        await work.tell.row([str(sums[field]) for field in fields])


async def _selected(work: Work, masks: Sequence[str]) -> list[str]:
    if len(masks) == 1 and not _has_wildcards(masks[0]):
        return [store_name(work.names, masks[0])]
    return [
        info.name
        for info in await work.store.folders()
        if not info.attributes & {"\\Noselect", "\\NonExistent"} and _is_in(work, info, masks)
    ]


def _is_in(work: Work, info: FolderInfo, masks: Sequence[str]) -> bool:
    shown = work.names.shown(info.name)
    return any(matches_folder(mask, shown, work.names.separator) for mask in masks)


def _missing(work: Work, name: str, error: MailboxError) -> str:
    if error.code in ("NONEXISTENT", "TRYCREATE"):
        return f"Mailbox doesn't exist: {work.names.shown(name)}"
    return error.text


async def _status(work: Work, name: str, fields: Sequence[str]) -> Mapping[str, str]:
    folder = await work.store.open_folder(name)
    try:
        counts = folder.count_by_marks()
        values: dict[str, object] = {
            "messages": folder.count(),
            "recent": folder.recent_count(),
            "uidnext": folder.uidnext,
            "uidvalidity": folder.uidvalidity,
            "unseen": sum(n for marks, n in counts.items() if "\\Seen" not in marks.flags),
            "highestmodseq": folder.highestmodseq,
            "guid": folder.index.uidlist.guid,
        }
        if "vsize" in fields:
            uids = folder.uids()
            sizes = await folder.sizes(uids)
            values["vsize"] = sum(sizes.get(uid, 0) for uid in uids)
        if "kept" in fields or "keptsize" in fields:
            kept = await asyncio.to_thread(work.store.bin.contents, name)
            values["kept"], values["keptsize"] = kept
        if "firstsaved" in fields:
            values["firstsaved"] = await _first_saved(folder)
        return {field: str(values[field]) for field in fields}
    finally:
        folder.release()


async def _first_saved(folder: MaildirFolder) -> str:
    uids = folder.uids()
    if not uids:
        return "never"
    return str(int(await asyncio.to_thread(save_date, folder, uids[0])))


async def create(work: Work) -> None:
    """args: names, subscribe."""
    for shown in work.words("names"):
        reason = _bad_name(work, shown)
        if reason:
            text = f"Can't create mailbox {shown}: {reason}"
            await work.tell.problem(text, EX_USAGE)
            continue
        try:
            name = store_name(work.names, shown)
            await work.store.create(name)
            if work.on("subscribe"):
                await work.store.subscribe(name)
        except MailboxError as error:
            there = "Mailbox already exists" if error.code == "ALREADYEXISTS" else ""
            await work.failed(f"Can't create mailbox {shown}", error, there)


def _bad_name(work: Work, shown: str) -> str:
    """doveadm's words for a name that no folder can have, or ""."""
    separator = work.names.separator
    if f"{separator}{separator}" in shown:
        return "Invalid mailbox name: Has adjacent hierarchy separators"
    if separator == "/" and "." in shown and not work.store.layout.location.fs:
        return "Character not allowed in mailbox name: '.'"
    return ""


async def delete(work: Work) -> None:
    """args: names, recursive, require_empty, unsubscribe."""
    kept = Kept(work)
    for shown in work.words("names"):
        try:
            name = store_name(work.names, shown)
            below = await _below(work, name) if work.on("recursive") else []
            if work.on("require_empty") and await _holds_messages(work, name):
                text = f"Can't delete mailbox {shown}: Mailbox isn't empty"
                await work.tell.problem(text, EX_DATAERR)
                continue
            for one in (*below, name):
                await kept.before(one)
                await _delete(work, one)
                await kept.after(one)
        except MailboxError as error:
            text = _missing(work, store_name(work.names, shown), error)
            if error.code == "CANNOT" and shown.upper() == "INBOX":
                text = "INBOX can't be deleted."
            await work.failed(f"Can't delete mailbox {shown}", error, text)
    await kept.tell()


async def _delete(work: Work, name: str) -> None:
    await work.store.delete(name)
    if work.on("unsubscribe"):
        await work.store.unsubscribe(name)


async def _below(work: Work, name: str) -> list[str]:
    """Existing folders below `name`, the deepest first."""
    found = [
        info.name
        for info in await work.store.folders()
        if info.name.startswith(f"{name}/")
        and not info.attributes & {"\\Noselect", "\\NonExistent"}
    ]
    return sorted(found, key=lambda one: one.count("/"), reverse=True)


async def _holds_messages(work: Work, name: str) -> bool:
    folder = await work.store.open_folder(name)
    try:
        return bool(folder.count())
    finally:
        folder.release()


async def rename(work: Work) -> None:
    """args: names (old, new), subscribe: move the subscription along."""
    old_shown, new_shown = work.words("names")
    doing = f"Can't rename mailbox {old_shown} to {new_shown}"
    try:
        old, new = store_name(work.names, old_shown), store_name(work.names, new_shown)
        await work.store.rename(old, new)
        if work.on("subscribe"):
            await work.store.subscribe(new)
            await work.store.unsubscribe(old)
    except MailboxError as error:
        text = _missing(work, store_name(work.names, old_shown), error)
        if error.code == "ALREADYEXISTS":
            text = "Target mailbox already exists"
        await work.failed(doing, error, text)


async def subscribe(work: Work) -> None:
    """args: names."""
    await _subscriptions(work, subscribed=True)


async def unsubscribe(work: Work) -> None:
    """args: names."""
    await _subscriptions(work, subscribed=False)


async def _subscriptions(work: Work, subscribed: bool) -> None:
    change = work.store.subscribe if subscribed else work.store.unsubscribe
    for shown in work.words("names"):
        try:
            await change(store_name(work.names, shown))
        except MailboxError as error:
            verb = "subscribe" if subscribed else "unsubscribe"
            await work.failed(f"Can't {verb} mailbox {shown}", error)


async def path(work: Work) -> None:
    """args: names, kind (mailbox, index, control). Rows: the directory of each."""
    for shown in work.words("names"):
        name = store_name(work.names, shown)
        layout = work.store.layout
        control = layout.control_directory(name)
        directories = {"control": control, "index": layout.location.index}
        await work.tell.row([directories.get(work.text("kind"), layout.directory(name))])


async def resync(work: Work) -> None:
    """args: masks. Looks at every file of these folders again."""
    for name in await _selected(work, work.words("masks")):
        try:
            folder = await work.store.open_folder(name)
        except MailboxError as error:
            if error.code != "NONEXISTENT":
                await work.failed(f"Forcing a resync on mailbox {name} failed", error)
            continue
        try:
            await folder.refresh()
        finally:
            folder.release()
