"""Modified UTF-7: how folder names travel (RFC 3501 §5.1.3)."""

from __future__ import annotations

import base64
import binascii


def encode(name: str) -> bytes:
    """The wire form of a folder name."""
    out: list[bytes] = []
    waiting: list[str] = []
    for char in name:
        if " " <= char <= "~":
            if waiting:
                out.append(_shifted("".join(waiting)))
                waiting.clear()
            out.append(b"&-" if char == "&" else char.encode("ascii"))
        else:
            waiting.append(char)
    if waiting:
        out.append(_shifted("".join(waiting)))
    return b"".join(out)


def _shifted(text: str) -> bytes:
    raw = text.encode("utf-16-be", "surrogatepass")
    return b"&" + base64.b64encode(raw, b"+,").rstrip(b"=") + b"-"


def decode(wire: bytes) -> str:
    """The name. ValueError for anything but the one right form of a name, so that two wire forms
    never mean one folder."""
    try:
        text = wire.decode("ascii")
    except UnicodeDecodeError:
        raise ValueError("not modified UTF-7") from None
    if "&" not in text:
        if not all(" " <= char <= "~" for char in text):
            raise ValueError("control character in a name")
        return text
    out: list[str] = []
    position = 0
    while True:
        shift = text.find("&", position)
        if shift < 0:
            out.append(text[position:])
            break
        out.append(text[position:shift])
        end = text.find("-", shift)
        if end < 0:
            raise ValueError("not modified UTF-7")
        out.append(_unshifted(text[shift + 1 : end]) if end > shift + 1 else "&")
        position = end + 1
    name = "".join(out)
    if encode(name) != wire:
        raise ValueError("not modified UTF-7")
    return name


def _unshifted(coded: str) -> str:
    padded = coded + "=" * (-len(coded) % 4)
    try:
        raw = base64.b64decode(padded, altchars="+,", validate=True)
        return raw.decode("utf-16-be")
    except (binascii.Error, UnicodeDecodeError):
        raise ValueError("not modified UTF-7") from None
