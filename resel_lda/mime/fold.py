"""Comparison of texts whatever their case and composition: i;unicode-casemap (RFC 5051)."""

from __future__ import annotations

import re
import unicodedata

_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]+")


def fold(text: str) -> str:
    """Two texts are the same in i;unicode-casemap if this is; what one contains, so does the other."""
    text = text.lower()
    if text.isascii():
        return text
    return _BEYOND_ASCII.sub(_fold_run, text)


def _fold_run(match: re.Match[str]) -> str:
    # Some decompose to capitals; the final sigma is a sigma.
    return unicodedata.normalize("NFKD", match[0]).lower().replace("ς", "σ")


def casemap(text: str) -> str:
    """The key that orders texts: title case, decomposed."""
    if text.isascii():
        return text.upper()
    titled = "".join([char.title() if len(char.title()) == 1 else char for char in text])
    return unicodedata.normalize("NFKD", titled)
