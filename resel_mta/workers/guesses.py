"""Failed log-ins in the memory that all workers share, so that several do not give a client several
times the tries."""

from __future__ import annotations

import struct
from time import monotonic

from resel_mta.users.penalties import FORGIVEN, Attempts
from resel_mta.workers.board import Board, key_of

#: Key, used, waiting, failures, last.
_PLACE = struct.Struct("<QHHId")
#: Places for addresses (a power of two), and how many of them in a row are tried for one.
_PLACES = 4096
_TRIED = 8
_SPAN = _TRIED * _PLACE.size


class SharedGuesses:
    """Implements `users.penalties.Elsewhere`. With very many addresses some of them are known to
    one worker alone."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def tell(self, address: str, attempts: Attempts) -> None:
        key = key_of(address)
        start = self._board.own_guesses + key % _PLACES * _PLACE.size
        chosen, oldest = -1, monotonic()
        for offset in range(start, start + _SPAN, _PLACE.size):
            found, used, waiting, _, last = _PLACE.unpack_from(self._board.memory, offset)
            if found == key:
                chosen = offset
                break
            # One that nobody guesses from just now may be forgotten.
            if not (used or waiting) and last < oldest:
                chosen, oldest = offset, last
        if chosen >= 0:
            _PLACE.pack_into(self._board.memory, chosen, key, *attempts)

    def of(self, address: str) -> Attempts:
        key = key_of(address)
        place = key % _PLACES * _PLACE.size
        total = Attempts()
        forgiven = monotonic() - FORGIVEN
        for start in self._board.others_guesses:
            for offset in range(start + place, start + place + _SPAN, _PLACE.size):
                found, *rest = _PLACE.unpack_from(self._board.memory, offset)
                if found == key:
                    some = Attempts(*rest)
                    total = Attempts(
                        total.used + some.used,
                        total.waiting + some.waiting,
                        total.failures + (some.failures if some.last > forgiven else 0),
                        max(total.last, some.last),
                    )
        return total
