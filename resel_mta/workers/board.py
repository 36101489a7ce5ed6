"""Memory that all workers share: how many sessions each has, from which clients, and who guesses
passwords.

Every worker writes its own column only, so that nobody needs a lock; a number that is read while
it is written may be that of the moment before. Worker 0 wipes the column of one that died.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct

from resel_mta.queue.parts import MOST
from resel_mta.smtpd import ConnectionCounter

#: Places for clients in a column (a power of two), and how many of them in a row are tried for one.
_PLACES = 16_384
_TRIED = 8
_PLACE = struct.Struct("<QQ")
_HEAD = struct.Struct("<qq")
#: Where what is said of guesses begins in a column (see `guesses`, which needs less).
_GUESSES = 16 + (_PLACES + _TRIED) * _PLACE.size
_COLUMN = _GUESSES + 128 * 1024
#: What stands for a worker that is not there.
_AWAY = 0


class Board:
    """A view of the shared memory. number: of the worker whose column is its own."""

    def __init__(self, descriptor: int, number: int) -> None:
        """descriptor: of `make`, or of another's; it is kept open, for `descriptor`."""
        self.descriptor = descriptor
        self.number = number
        self._memory = mmap.mmap(descriptor, MOST * _COLUMN)
        self._own = number * _COLUMN
        self._others: list[int] = []
        self._sessions = 0
        self.enter()

    @classmethod
    def make(cls) -> Board:
        """Worker 0's, in new memory. Raises OSError."""
        descriptor = os.memfd_create("workers", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, MOST * _COLUMN)
        return cls(descriptor, 0)

    def enter(self) -> None:
        """This worker accepts connections from now on."""
        self._write_head()

    def leave(self) -> None:
        """It accepts no more; its sessions go on."""
        _HEAD.pack_into(self._memory, self._own, _AWAY, self._sessions)

    def wipe(self, number: int) -> None:
        """The worker of this column is dead."""
        start = number * _COLUMN
        self._memory[start : start + _COLUMN] = bytes(_COLUMN)

    def use(self, count: int) -> None:
        """So many workers there are."""
        self._others = [n * _COLUMN for n in range(count) if n != self.number]

    @property
    def is_alone(self) -> bool:
        return not self._others

    def sessions(self, number: int) -> int:
        """Of a worker."""
        return int(_HEAD.unpack_from(self._memory, number * _COLUMN)[1])

    @property
    def is_busier(self) -> bool:
        """Whether this worker has more sessions than another one."""
        for start in self._others:
            there, sessions = _HEAD.unpack_from(self._memory, start)
            if there != _AWAY and sessions < self._sessions:
                return True
        return False

    def count_session(self, change: int) -> None:
        self._sessions += change
        self._write_head()

    def _write_head(self) -> None:
        _HEAD.pack_into(self._memory, self._own, 1, self._sessions)

    # -- guesses ------------------------------------------------------------------------------

    @property
    def memory(self) -> mmap.mmap:
        """All of it."""
        return self._memory

    @property
    def own_guesses(self) -> int:
        """Where this worker's are."""
        return self._own + _GUESSES

    @property
    def others_guesses(self) -> list[int]:
        """Where those of the others are."""
        return [start + _GUESSES for start in self._others]

    # -- clients ------------------------------------------------------------------------------

    def set_count(self, address: str, count: int) -> None:
        """How many connections a client has with this worker. With very many clients some of them
        are known to this worker alone."""
        key, place = _place(address)
        free = -1
        for offset in range(self._own + place, self._own + place + _SPAN, _PLACE.size):
            found, have = _PLACE.unpack_from(self._memory, offset)
            if found == key:
                _PLACE.pack_into(self._memory, offset, key if count else 0, count)
                return
            if not have and free < 0:
                free = offset
        if count and free >= 0:
            _PLACE.pack_into(self._memory, free, key, count)

    def forget_clients(self) -> None:
        """As if there were none with this worker."""
        start = self._own + _HEAD.size
        self._memory[start : self._own + _GUESSES] = bytes(_GUESSES - _HEAD.size)

    def count_elsewhere(self, address: str) -> int:
        """How many connections a client has with the other workers."""
        if not self._others:
            return 0
        key, place = _place(address)
        total = 0
        for start in self._others:
            for offset in range(start + place, start + place + _SPAN, _PLACE.size):
                found, have = _PLACE.unpack_from(self._memory, offset)
                if found == key:
                    total += have
        return total


_SPAN = _TRIED * _PLACE.size


def key_of(address: str) -> int:
    """What stands for a client; never 0."""
    digest = hashlib.blake2b(address.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


def _place(address: str) -> tuple[int, int]:
    """What stands for a client, and where in a column its places begin."""
    key = key_of(address)
    return key, _HEAD.size + key % _PLACES * _PLACE.size


class SharedCounter(ConnectionCounter):
    """Connections of a client over all services of all workers."""

    def __init__(self, board: Board) -> None:
        super().__init__()
        self._board = board

    def add(self, address: str) -> None:
        super().add(address)
        self._changed(address, 1)

    def remove(self, address: str) -> None:
        super().remove(address)
        self._changed(address, -1)

    def _changed(self, address: str, change: int) -> None:
        self._board.count_session(change)
        if not self._board.is_alone:
            self._board.set_count(address, super().__getitem__(address))

    def publish(self) -> None:
        """There are other workers from now on."""
        self._board.forget_clients()
        for address, count in self._counts.items():
            self._board.set_count(address, count)

    def __getitem__(self, address: str) -> int:
        return super().__getitem__(address) + self._board.count_elsewhere(address)
