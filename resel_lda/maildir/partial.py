"""Single parts of large messages, of which no more is read than that part."""

from __future__ import annotations

import os
from collections.abc import Sequence

import apsw

from resel_lda.mailbox import PartOctets
from resel_lda.maildir.content import MessageReader
from resel_lda.maildir.files import with_crlf
from resel_lda.mime.places import Place, Places, digest_of, read_places


def read_part(reader: MessageReader, uid: int, path: Sequence[int]) -> PartOctets | None:
    """None where the cache does not say where it lies: the message is small, is not in the cache
    yet, has no such part, or was changed. Blocks. Raises OSError."""
    try:
        reader.take_arrivals()
        noted = reader.cache.single(reader.guid, "parts", [uid]).get(uid)
    except apsw.Error:
        return None
    if noted is None:
        return None
    places = read_places(noted)
    place = places.parts.get(".".join(map(str, path)))
    opened = reader.open(uid) if place is not None else None
    if place is None or opened is None:
        return None
    try:
        octets = _read(opened[0], places, place)
    finally:
        os.close(opened[0])
    if digest_of(octets) != place.digest:
        return None
    return PartOctets(octets, place.header, place.body)


def _read(fd: int, places: Places, place: Place) -> bytes:
    """With CR LF line ends; something else where the file is not as it was."""
    size = os.fstat(fd).st_size
    if size == places.size:
        return os.pread(fd, place.length, place.start)
    if size == places.size - places.lines:
        # Its line ends are LF.
        return with_crlf(os.pread(fd, place.length - place.lines, place.start - place.before))
    return b""
