"""Our own changes of many names in cur/, of which inotify need not tell.

To read two events of each message and find them to be our own takes as long as renaming it, and the
kernel keeps only so many. So the watch is told to leave them out, and what other programs did
meanwhile is found by a listing at the end: whatever is not as we know it has the folder scanned.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from resel_lda.maildir.index import FolderIndex
from resel_lda.maildir.watch import Watcher

# Below so many messages, or such a share of the folder, events are less work than a listing.
_MANY = 64
_SHARE = 4


class Hush:
    """Of one folder. active: inotify leaves out what happens in cur/, so that nothing is known."""

    def __init__(self, index: FolderIndex) -> None:
        self._index = index
        self.active = False

    @contextlib.contextmanager
    def over(self, watcher: Watcher | None, number: int | None, count: int) -> Iterator[None]:
        """Around a change of so many names. number: of the watch on cur/, None if there is none.
        In a thread, under the folder's lock."""
        cur = self._index.files.cur
        if watcher is None or number is None or not self._is_worth(count):
            yield
            return
        if not watcher.hush(number, cur):
            yield
            return
        self.active = True
        try:
            yield
        finally:
            try:
                known = watcher.heed(number, cur) and self._is_as_known()
                if not known:
                    watcher.missed(number)
            finally:
                self.active = False

    def _is_worth(self, count: int) -> bool:
        return count >= _MANY and count * _SHARE >= len(self._index.marks)

    def _is_as_known(self) -> bool:
        """Whether cur/ has the names that we know, and no others."""
        try:
            found = os.listdir(self._index.files.cur)
        except OSError:
            return False
        bases = self._index.bases
        known = {bases[uid] + marks.ending for uid, marks in list(self._index.marks.items())}
        return {name for name in found if name[0] != "."} == known
