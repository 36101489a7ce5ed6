"""inotify(7) by ctypes: what other programs do in new/ and cur/, within milliseconds.

Where it is not there (another system, no watches left, NFS) `add` says so and the folder is
looked at by its directory stamps instead.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
from collections.abc import Callable, Sequence

_EVENT = struct.Struct("iIII")
IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE, IN_DELETE = 0x40, 0x80, 0x100, 0x200
IN_DELETE_SELF, IN_MOVE_SELF = 0x400, 0x800
IN_Q_OVERFLOW, IN_IGNORED = 0x4000, 0x8000
_MASK_SELF = IN_DELETE_SELF | IN_MOVE_SELF
_MASK = IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE | _MASK_SELF
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
# Seconds between two wakings of the loop: thousands of files may be renamed at once.
_PAUSE = 0.004

# (mask, file name); mask 0 means that events were lost.
Callback = Callable[[int, str], None]


class Watcher:
    """One inotify descriptor on the running loop, for all folders of a user."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._callbacks: dict[int, list[Callback]] = {}
        self._loop = asyncio.get_running_loop()
        self._fd = self._libc.inotify_init1(_FLAGS) if hasattr(self._libc, "inotify_init1") else -1
        self._resuming: asyncio.TimerHandle | None = None
        if self._fd >= 0:
            self._loop.add_reader(self._fd, self._readable)

    def add(self, directory: str, callback: Callback) -> int | None:
        """Start watching; a number for `remove`, None if this cannot be watched."""
        if self._fd < 0:
            return None
        number = self._libc.inotify_add_watch(self._fd, os.fsencode(directory), _MASK)
        if number < 0:
            return None
        self._callbacks.setdefault(number, []).append(callback)
        return int(number)

    def remove(self, number: int, callback: Callback) -> None:
        callbacks = self._callbacks.get(number, [])
        if callback in callbacks:
            callbacks.remove(callback)
        if not callbacks and self._callbacks.pop(number, None) is not None:
            self._libc.inotify_rm_watch(self._fd, number)

    # The following three in any thread.

    def hush(self, number: int, directory: str) -> bool:
        """Tell no more of what comes and goes in a directory, until `heed`. False, and nothing
        changes, if another is there now, or more than one want to know."""
        one = len(self._callbacks.get(number, ())) == 1
        return one and self._set_mask(number, directory, _MASK_SELF)

    def heed(self, number: int, directory: str) -> bool:
        """Tell again; False if another directory is there now."""
        return self._set_mask(number, directory, _MASK)

    def missed(self, number: int) -> None:
        """Events were lost."""
        for callback in list(self._callbacks.get(number, ())):
            self._loop.call_soon_threadsafe(callback, 0, "")

    def _set_mask(self, number: int, directory: str, mask: int) -> bool:
        found = self._libc.inotify_add_watch(self._fd, os.fsencode(directory), mask)
        if found >= 0 and found != number and found not in self._callbacks:
            self._libc.inotify_rm_watch(self._fd, found)
        return bool(found == number)

    def look(self) -> None:
        """Tell now what the kernel has noted by now: the loop may be at a command that came after
        it."""
        if self._fd >= 0:
            self._read()

    def close(self) -> None:
        if self._resuming is not None:
            self._resuming.cancel()
            self._resuming = None
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
            self._callbacks.clear()

    def _readable(self) -> None:
        self._loop.remove_reader(self._fd)
        self._resuming = self._loop.call_later(_PAUSE, self._resume)
        self._read()

    def _resume(self) -> None:
        self._resuming = None
        self._loop.add_reader(self._fd, self._readable)

    def _read(self) -> None:
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return
        position = 0
        while position < len(data):
            number, mask, _, length = _EVENT.unpack_from(data, position)
            position += _EVENT.size
            name = data[position : position + length].rstrip(b"\0")
            position += length
            if mask & IN_Q_OVERFLOW:
                for callbacks in list(self._callbacks.values()):
                    for callback in list(callbacks):
                        callback(0, "")
                continue
            for callback in list(self._callbacks.get(number, ())):
                callback(0 if mask & IN_IGNORED else mask, os.fsdecode(name))


def by_kind(
    events: Sequence[tuple[str, int, str]], is_news: Callable[[str, bool], bool]
) -> tuple[list[str], list[str], list[str]]:
    """Names of files that appeared in new/, that appeared in cur/, and that went from cur/. events:
    ("new" or "cur", mask, name). is_news: whether (name in cur/, whether it went) is not our own
    doing."""
    new: list[str] = []
    cur: list[str] = []
    gone: list[str] = []
    for kind, mask, name in events:
        if kind == "new":
            new.append(name)
            continue
        if mask & (IN_CREATE | IN_MOVED_TO) and is_news(name, False):
            cur.append(name)
        if mask & (IN_DELETE | IN_MOVED_FROM) and is_news(name, True):
            gone.append(name)
    return new, cur, gone
