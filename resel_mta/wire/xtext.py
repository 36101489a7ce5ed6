"""xtext, the encoding of ENVID, ORCPT and AUTH= values (RFC 3461 §4)."""

from __future__ import annotations

import re

_PLAIN = re.compile(r"[!-*,-<>-~]*")
_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*")


def encode(text: str) -> str:
    """ "+", "=", space, controls and non-ASCII octets (of UTF-8) become "+XX"."""
    if _PLAIN.fullmatch(text):
        return text
    return "".join(
        chr(octet) if 33 <= octet <= 126 and octet not in b"+=" else f"+{octet:02X}"
        for octet in text.encode("utf-8", "surrogateescape")
    )


def is_valid(text: str) -> bool:
    """Whether this is xtext."""
    return _XTEXT.fullmatch(text) is not None


def decode(text: str) -> str:
    """The text that `encode` made this from. ValueError if it is not xtext.

    Octets that are not UTF-8 come back as surrogate escapes.
    """
    if not is_valid(text):
        raise ValueError("not xtext")
    if "+" not in text:
        return text
    head, *parts = text.split("+")
    octets = bytearray(head, "ascii")
    for part in parts:
        octets.append(int(part[:2], 16))
        octets += part[2:].encode("ascii")
    return octets.decode("utf-8", "surrogateescape")
