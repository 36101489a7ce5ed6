"""What IMAP says of messages beside their content: what they are, how they begin.

An EMAILID is made of the message's octets and its internal date, which is all of a message that
never changes; so a copy or a moved message has that of the original, also where `state` and `cache`
are lost (RFC 8474 §5.1). A THREADID is made of the first message id in References, else
In-Reply-To, else Message-ID: it is known at once and never changes. What does not say otherwise blocks.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence

import apsw

from resel_lda.maildir.content import MessageReader
from resel_lda.maildir.dates import internal_dates
from resel_lda.maildir.index import FolderIndex
from resel_lda.maildir.names import size_in_name


def object_ids(
    index: FolderIndex, reader: MessageReader, uids: Sequence[int]
) -> dict[int, tuple[str, str]]:
    """uid -> (EMAILID, THREADID). Messages that are gone are left out."""
    contents = reader.rows("content", ("digest",), uids)
    threads = reader.rows("sort", ("message_id", "ancestors"), uids)
    dates = internal_dates(index, uids)
    found: dict[int, tuple[str, str]] = {}
    for uid in uids:
        if uid not in dates or uid not in contents or uid not in threads:
            continue
        made_of = contents[uid][0] + b"%d" % int(dates[uid])
        email = hashlib.blake2b(made_of, digest_size=16).hexdigest()
        own, ancestors = threads[uid]
        first = ancestors.partition(" ")[0] or own
        made_of = first.encode("utf-8", "replace") if first else bytes.fromhex(email)
        found[uid] = f"M{email}", f"T{hashlib.blake2b(made_of, digest_size=16).hexdigest()}"
    return found


def previews(reader: MessageReader, uids: Sequence[int], ready: bool) -> dict[int, str]:
    """ready: those that the cache has."""
    if not ready:
        return {uid: row[0] for uid, row in reader.rows("content", ("preview",), uids).items()}
    try:
        rows = reader.cache.rows(reader.guid, "content", ("preview",), uids)
    except apsw.Error:
        # A damaged cache has nothing ready; who asks without LAZY has it reported.
        return {}
    return {uid: row[0] for uid, row in rows.items()}


def named_sizes(index: FolderIndex, uids: Sequence[int]) -> dict[int, int]:
    """Of those messages whose files' names say it, with whatever line ends. Does not block."""
    sizes: dict[int, int] = {}
    for uid in uids:
        base = index.bases.get(uid, "")
        size = size_in_name(base, "W") or size_in_name(base, "S")
        if size is not None:
            sizes[uid] = size
    return sizes


def file_sizes(index: FolderIndex, uids: Sequence[int]) -> dict[int, int]:
    """As the files are. Those that are gone, or were renamed just now, are left out. Raises
    OSError."""
    sizes: dict[int, int] = {}
    for uid in uids:
        name = index.name(uid)
        if name is not None:
            with contextlib.suppress(FileNotFoundError):
                sizes[uid] = os.stat(index.files.path(name)).st_size
    return sizes
