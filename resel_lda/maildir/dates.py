"""When messages came.

The internal date is the time stamp of a message's file. The save date is the file's last change of
place, as Dovecot reckons it, and has to be noted before a change of flags is one. Both are in
`state`; of a folder that was seen for the first time they are found out when somebody asks, when
flags change, or in the background. Everything here blocks.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from resel_lda.maildir.index import FolderIndex
from resel_lda.maildir.names import base_of
from resel_lda.maildir.state import NO_DATE


def internal_dates(index: FolderIndex, uids: Sequence[int]) -> dict[int, float]:
    """Of those that are there. Raises apsw.Error."""
    found = known_dates(index, uids)
    late = _look_up(index, [uid for uid in uids if uid not in found])
    found.update((uid, date) for uid, (date, _) in late.items())
    index.dates.update(found)
    return found


def known_dates(index: FolderIndex, uids: Sequence[int]) -> dict[int, float]:
    """Internal dates, without a look at files. Raises apsw.Error."""
    dates = index.dates
    found = {uid: dates[uid] for uid in uids if uid in dates}
    unknown = [uid for uid in uids if uid not in found]
    if unknown:
        noted = index.noted_dates(unknown)
        dated = [uid for uid in unknown if uid in noted and noted[uid][0] > NO_DATE]
        found.update((uid, noted[uid][0]) for uid in dated)
    return found


def saved_dates(index: FolderIndex, uids: Sequence[int]) -> dict[int, int]:
    """Of those that are there. Raises apsw.Error."""
    if not uids:
        return {}
    noted = index.noted_dates(uids)
    known = {uid: saved for uid in uids if uid in noted and (saved := noted[uid][1]) is not None}
    late = _look_up(index, [uid for uid in uids if uid not in known])
    return {**known, **{uid: saved for uid, (_, saved) in late.items()}}


def note_dates(index: FolderIndex, uids: Sequence[int]) -> None:
    """Have the dates of messages in `state`. Raises apsw.Error."""
    _look_up(index, undated(index, uids))


def _look_up(index: FolderIndex, uids: Sequence[int]) -> dict[int, tuple[float, int]]:
    """As their files have them, and that is how they are from now on, whatever becomes of the
    files. Without those that are gone. Raises apsw.Error."""
    found = {uid: dates for uid in uids if (dates := file_dates(index, uid)) is not None}
    if found:
        index.note_dates(found)
    return found


def undated(index: FolderIndex, uids: Sequence[int]) -> list[int]:
    """Those of which a date is not noted in `state`. Raises apsw.Error."""
    early = [uid for uid in uids if uid < index.state.dated_from]
    if not early:
        return []
    noted = index.noted_dates(early)
    return [
        uid for uid in early
        if uid not in noted or noted[uid][0] == NO_DATE or noted[uid][1] is None
    ]  # fmt: skip


def file_dates(index: FolderIndex, uid: int) -> tuple[float, int] | None:
    """(internal date, save date) as the message's file has them; None if it is gone."""
    name = index.name(uid)
    if name is None:
        return None
    found = index.files.dates(name)
    if found is not None:
        return found
    # Another program may have renamed it.
    opened = index.files.open_message(base_of(name), name)
    if opened is None:
        return None
    try:
        status = os.fstat(opened[0])
    finally:
        os.close(opened[0])
    return status.st_mtime, int(status.st_ctime)
