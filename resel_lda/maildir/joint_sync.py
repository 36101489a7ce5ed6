"""Directory syncs that several deliveries share."""

from __future__ import annotations

import errno
import os
import threading
from dataclasses import dataclass, field

from resel_mta.disk import Disk


@dataclass(slots=True)
class _Round:
    """One sync and all who wait for it. before: the one of the same directory that runs now."""

    before: _Round | None
    begun: bool = False
    done: threading.Event = field(default_factory=threading.Event)
    error: OSError | None = None


class JointSync:
    """Whoever asks while a directory is being synced waits for the next sync of it, which is for all
    who asked before it began: a name that was there by then is durable. Any thread may call it."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._guard = threading.Lock()
        self._rounds: dict[str, _Round] = {}

    def sync(self, path: str) -> None:
        """Blocks. Raises OSError, in each thread that waited for the sync that failed."""
        with self._guard:
            last = self._rounds.get(path)
            leads = last is None or last.begun
            mine = _Round(last) if last is None or last.begun else last
            self._rounds[path] = mine
        if leads:
            self._lead(path, mine)
        else:
            mine.done.wait()
        if mine.error is not None:
            raise OSError(mine.error.errno, mine.error.strerror, path)

    def _lead(self, path: str, mine: _Round) -> None:
        if mine.before is not None:
            mine.before.done.wait()
            mine.before = None
        with self._guard:
            mine.begun = True
        try:
            self._disk.sync_directory(path)
        except OSError as error:
            mine.error = error
        except BaseException:
            # Whoever waits must not take it for a success.
            mine.error = OSError(errno.EIO, os.strerror(errno.EIO))
            raise
        finally:
            with self._guard:
                if self._rounds.get(path) is mine:
                    del self._rounds[path]
            mine.done.set()
