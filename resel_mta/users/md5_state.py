"""MD5 stopped half-way (RFC 1321 §3.4), which `hashlib` does not give out: CRAM-MD5's stored
secrets are the two states of HMAC-MD5 after its key (RFC 2195), and none of the password."""

from __future__ import annotations

import hashlib
import math
import struct

_SHIFTS = (7, 12, 17, 22), (5, 9, 14, 20), (4, 11, 16, 23), (6, 10, 15, 21)
_SINES = tuple(int(abs(math.sin(i + 1)) * 2**32) for i in range(64))
_START = struct.pack("<4I", 0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476)
_MASK = 0xFFFFFFFF


def compress(state: bytes, block: bytes) -> bytes:
    """The state of 16 octets after one more block of 64."""
    words = struct.unpack("<16I", block)
    start = struct.unpack("<4I", state)
    a, b, c, d = start
    for i in range(64):
        part = i >> 4
        if part == 0:
            mixed, at = (b & c) | (~b & d), i
        elif part == 1:
            mixed, at = (d & b) | (~d & c), (5 * i + 1) & 15
        elif part == 2:
            mixed, at = b ^ c ^ d, (3 * i + 5) & 15
        else:
            mixed, at = c ^ (b | (~d & _MASK)), (7 * i) & 15
        turned = (a + (mixed & _MASK) + _SINES[i] + words[at]) & _MASK
        by = _SHIFTS[part][i & 3]
        a, d, c = d, c, b
        b = (b + (turned << by | turned >> (32 - by))) & _MASK
    return struct.pack("<4I", *((x + y) & _MASK for x, y in zip(start, (a, b, c, d), strict=True)))


def cram_md5(password: bytes) -> bytes:
    """32 octets: HMAC's outer state, then the inner one. 0.1 ms."""
    if len(password) > 64:
        password = hashlib.md5(password, usedforsecurity=False).digest()
    key = password.ljust(64, b"\0")
    outer, inner = bytes(x ^ 0x5C for x in key), bytes(x ^ 0x36 for x in key)
    return compress(_START, outer) + compress(_START, inner)
