"""A folder's STATUS, counted once for each state it is in."""

from __future__ import annotations

from resel_lda.mailbox import FolderStatus
from resel_lda.maildir.folder import MaildirFolder


async def folder_status(folder: MaildirFolder) -> FolderStatus:
    """As it was at the last look at the disk."""
    recent, known = folder.recent_count(), folder.known_status
    if known is not None and (known.highestmodseq, known.recent) == (folder.highestmodseq, recent):
        return known
    messages = folder.messages()
    uidnext, highestmodseq = folder.uidnext, folder.highestmodseq
    deleted = [info.uid for info in messages if "\\Deleted" in info.flags]
    sizes = await folder.sizes([info.uid for info in messages])
    folder.known_status = FolderStatus(
        messages=len(messages),
        recent=recent,
        unseen=sum("\\Seen" not in info.flags for info in messages),
        uidnext=uidnext,
        uidvalidity=folder.uidvalidity,
        highestmodseq=highestmodseq,
        size=sum(sizes.values()),
        deleted=len(deleted),
        deleted_size=sum(sizes.get(uid, 0) for uid in deleted),
        mailbox_id=folder.mailbox_id,
    )
    return folder.known_status
