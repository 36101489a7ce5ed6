"""A folder's STATUS, counted once for each state it is in."""

from __future__ import annotations

from resel_lda.mailbox import FolderStatus
from resel_lda.maildir.folder import MaildirFolder


async def folder_status(folder: MaildirFolder, with_sizes: bool) -> FolderStatus:
    """As it was at the last look at the disk."""
    recent, known = folder.recent_count(), folder.known_status
    as_before = known is not None and (
        (known.highestmodseq, known.recent) == (folder.highestmodseq, recent)
    )
    if known is not None and as_before and (folder.known_sizes or not with_sizes):
        return known
    counts = folder.count_by_marks()
    uids, deleted = folder.uids(), folder.with_flags((("\\Deleted", True),))
    uidnext, highestmodseq = folder.uidnext, folder.highestmodseq
    sizes = await folder.sizes(uids) if with_sizes else {}
    folder.known_status = FolderStatus(
        messages=len(uids),
        recent=recent,
        unseen=sum(count for marks, count in counts.items() if "\\Seen" not in marks.flags),
        uidnext=uidnext,
        uidvalidity=folder.uidvalidity,
        highestmodseq=highestmodseq,
        size=sum(sizes.get(uid, 0) for uid in uids) if with_sizes else 0,
        deleted=len(deleted),
        deleted_size=sum(sizes.get(uid, 0) for uid in deleted),
        mailbox_id=folder.mailbox_id,
    )
    folder.known_sizes = with_sizes
    return folder.known_status
