"""Commands on messages: ``search``, ``fetch``, ``flags``, ``copy``, ``move``, ``save``, ``import``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from resel_lda.admin.deliver import OverQuota, deliver_to
from resel_lda.admin.fields import Item, field_values
from resel_lda.admin.find import BadQuery, Finder, Match, store_name
from resel_lda.admin.query import parse_query
from resel_lda.admin.work import EX_NOPERM, EX_TEMPFAIL, Work
from resel_lda.imap.names import Names
from resel_lda.imap.parser import normal_flag
from resel_lda.mailbox import AppendData, MailboxError
from resel_lda.maildir.layout import LocationError
from resel_lda.maildir.store import MaildirStore
from resel_mta.content import Header
from resel_mta.disk import Disk
from resel_mta.mail import PermFail, TempFail
from resel_mta.maillog import MailLog, StreamSink
from resel_mta.users import User

_BATCH = 500
_READ_BATCH = 32


async def matching(work: Work, failing: str) -> AsyncIterator[Match]:
    """args: query. failing: what is said of a folder that is not there, "" for nothing;
    {name} stands for it."""
    missing: list[tuple[str, MailboxError]] = []
    finder = Finder(work.store, work.names, parse_query(work.words("query")))
    try:
        async for match in finder.matches(lambda *one: missing.append(one)):
            yield match
    except BadQuery as refused:
        await work.tell.problem(str(refused), EX_TEMPFAIL)
    for name, error in missing:
        if failing:
            shown = work.names.shown(name)
            gone = error.code == "NONEXISTENT"
            text = f"Mailbox doesn't exist: {shown}" if gone else error.text
            await work.failed(failing.format(name=shown), error, text)


async def search(work: Work) -> None:
    """args: query. Rows: the folder's GUID, UID."""
    async for match in matching(work, "Couldn't get mailbox '{name}' GUID"):
        guid = match.folder.index.uidlist.guid
        for uid in match.uids:
            await work.tell.row([guid, str(uid)])


async def fetch(work: Work) -> None:
    """args: query, fields. Rows: the fields' values of each message."""
    values = field_values(work.words("fields"))
    async for match in matching(work, ""):
        shown = work.names.shown(match.folder.name)
        for uid in match.uids:
            info = match.folder.get(uid)
            if info is None:
                continue
            item = Item(work.user.name, shown, match.folder, match.view, info)
            try:
                row = [await value(item) for value in values]
            except MailboxError as error:
                if error.code != "EXPUNGEISSUED":
                    await work.failed(f"fetch failed for box={shown} uid={uid}", error)
                continue
            await work.tell.row(row)


async def flags(work: Work) -> None:
    """args: query, flags, mode ("add", "remove", "set")."""
    wanted = [normal_flag(word.encode("ascii", "replace")) for word in work.words("flags")]
    async for match in matching(work, "Syncing mailbox '{name}' failed"):
        try:
            if match.uids:
                await match.folder.store(match.uids, wanted, work.text("mode"))
        except MailboxError as error:
            shown = work.names.shown(match.folder.name)
            await work.failed(f"Syncing mailbox '{shown}' failed", error)


async def copy(work: Work) -> None:
    """args: query, target."""
    await _transfer(work, move=False)


async def move(work: Work) -> None:
    """args: query, target."""
    await _transfer(work, move=True)


async def _transfer(work: Work, move: bool) -> None:
    shown = work.text("target")
    try:
        target = store_name(work.names, shown)
        (await work.store.open_folder(target)).release()
    except MailboxError as error:
        gone = error.code == "NONEXISTENT"
        text = f"Mailbox doesn't exist: {shown}" if gone else error.text
        await work.failed(f"Can't open mailbox '{shown}'", error, text)
        return
    async for match in matching(work, "Syncing mailbox '{name}' failed"):
        folder = match.folder
        if folder.name == target and move:
            continue
        step = folder.move if move else folder.copy
        try:
            for start in range(0, len(match.uids), _BATCH):
                await step(match.uids[start : start + _BATCH], target)
        except MailboxError as error:
            verb = "Moving" if move else "Copying"
            await work.failed(f"{verb} message to mailbox '{shown}' failed", error)


async def save(work: Work) -> None:
    """args: mailbox, flags, date (seconds since the epoch; none: now). The message is what was
    handed in."""
    shown = work.text("mailbox") or "INBOX"
    try:
        folder = await work.store.open_folder(store_name(work.names, shown))
    except MailboxError as error:
        gone = error.code == "NONEXISTENT"
        text = f"Mailbox doesn't exist: {shown}" if gone else error.text
        await work.failed(f"Failed to open mailbox {shown}", error, text)
        return
    try:
        flags = [normal_flag(word.encode()) for word in work.words("flags")]
        date = work.args.get("date")
        await folder.append([AppendData(work.content(), 0, flags, date)])
    except MailboxError as error:
        await work.failed(f"Saving mail to mailbox {shown} failed", error)
    finally:
        folder.release()


async def deliver(work: Work) -> None:
    """args: mailbox, sender. dovecot-lda: what was handed in goes to new/, as it is."""
    message = b"".join([block async for block in work.content()])
    mailbox, sender = work.text("mailbox"), work.text("sender")
    try:
        name = await asyncio.to_thread(
            deliver_to, work.user, work.settings, work.names, mailbox, sender, message
        )
    except OverQuota as error:
        await work.tell.problem(str(error), EX_NOPERM)
        return
    except (LocationError, TempFail, PermFail, OSError) as error:
        await work.tell.problem(f"save failed: {error}", EX_TEMPFAIL)
        return
    wanted = mailbox or "INBOX"
    what = f"msgid={_message_id(message)}"
    if name.upper() != wanted.upper():
        missing = f"Mailbox doesn't exist: {wanted}"
        work.report(f"{what}: save failed to open mailbox {wanted}: {missing}")
    work.report(f"{what}: saved mail to {name}")


def _message_id(message: bytes) -> str:
    """For the log, as Dovecot writes it."""
    header = message.replace(b"\r\n", b"\n").partition(b"\n\n")[0]
    found = Header(header.replace(b"\n", b"\r\n") + b"\r\n").get(b"Message-ID")
    return found.decode("ascii", "replace")[:200] if found else "unspecified"


async def import_mail(work: Work) -> None:
    """args: location, parent, query, subscribe. Copies what matches in another Maildir."""
    source = _source(work)
    try:
        # A Dovecot folder that is looked at is written to (UIDs, new mail taken in); so is ours.
        inner = Work(
            work.user,
            source,
            work.settings,
            Names("", "/"),
            work.args,
            work.tell,
            work.content,
            work.report,
        )
        async for match in matching(inner, "Syncing mailbox '{name}' failed"):
            await _import_folder(work, match)
    finally:
        await source.close()


def _source(work: Work) -> MaildirStore:
    user = work.user
    other = User(user.name, user.uid, user.gid, user.home, work.text("location"))
    return MaildirStore(other, work.settings, Disk(), MailLog(StreamSink(2)))


async def _import_folder(work: Work, match: Match) -> None:
    parent = work.text("parent")
    name = match.folder.name
    target = "/".join((store_name(work.names, parent), name)) if parent else name
    await copy_into(work, match, target)


async def copy_into(work: Work, match: Match, target: str) -> list[int]:
    """Copy messages of another store into a folder of this, which is made if need be; the UIDs
    (there) of those that were. Failures are told."""
    done: list[int] = []
    try:
        await _ensure(work, target)
        folder = await work.store.open_folder(target)
        try:
            for start in range(0, len(match.uids), _READ_BATCH):
                batch = match.uids[start : start + _READ_BATCH]
                await folder.append(await _appended(match, batch))
                done += batch
        finally:
            folder.release()
    except MailboxError as error:
        await work.failed(f"Importing into mailbox {work.names.shown(target)} failed", error)
    return done


async def _appended(match: Match, uids: Sequence[int]) -> list[AppendData]:
    found = []
    dates = await match.folder.internal_dates(uids)
    for uid in uids:
        info = match.folder.get(uid)
        if info is None:
            continue
        message = await match.folder.read(uid)
        found.append(AppendData([message], len(message), info.flags, dates.get(uid)))
    return found


async def _ensure(work: Work, target: str) -> None:
    try:
        await work.store.create(target)
    except MailboxError as error:
        if error.code != "ALREADYEXISTS":
            raise
    if work.on("subscribe"):
        await work.store.subscribe(target)
