"""Raw DEFLATE on a stream (RFC 4978)."""

from __future__ import annotations

import zlib

# Fast, and most of what there is to gain on mail.
_LEVEL = 3
# Octets unpacked at a time: a few received ones can become a thousand times as many.
_AT_A_TIME = 64 * 1024


class Deflate:
    """Both directions of one connection."""

    def __init__(self) -> None:
        self._out = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
        self._in = zlib.decompressobj(-zlib.MAX_WBITS)
        self._rest = b""

    def pack(self, data: bytes) -> bytes:
        """Ends at a flush, so that the peer can read all of it."""
        return self._out.compress(data) + self._out.flush(zlib.Z_SYNC_FLUSH)

    @property
    def waiting(self) -> bool:
        """Whether there is more to unpack of what was received."""
        return bool(self._rest)

    def feed(self, data: bytes, buffer: bytearray) -> bool:
        """Unpack some of what was received into the buffer; False if it is no DEFLATE."""
        data = self._rest + data
        if len(buffer) >= _AT_A_TIME:
            self._rest = data
            return True
        try:
            buffer += self._in.decompress(data, _AT_A_TIME)
        except zlib.error:
            return False
        self._rest = self._in.unconsumed_tail
        return not self._in.eof
