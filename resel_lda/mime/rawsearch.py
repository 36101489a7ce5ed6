"""A quick "surely not" for searches in text, on a message as it lies on disk."""

from __future__ import annotations

import re

from resel_lda.mime.fold import fold
from resel_lda.mime.searchtext import header_line, header_values

# Where one of these stands, the octets are not the text, or may not be.
_CODED = ("base64", "quoted-printable", "=?", "utf-7", "iso-2022", "hz-gb", "utf-16", "utf-32")
# Headers inside the body.
_NESTED = ("message/", "multipart/digest")
_JOINTS = re.compile(r"[ \t:]")
_EMPTY_LINE = re.compile(rb"\n\r?\n")


def may_contain(message: bytes, needle: str) -> bool:
    """Whether the decoded header or body may contain `needle` (folded, without line ends).

    False is certain; True has to be verified on the decoded text.
    """
    try:
        text = fold(message.decode("utf-8"))
    except UnicodeDecodeError:
        return True
    if needle in text or any(word in text for word in _CODED):
        return True
    if not message.isascii():
        # Octets beyond ASCII are other letters in another character set.
        declared = text.count("charset")
        if declared != text.count("charset=utf-8") + text.count('charset="utf-8"'):
            return True
    # Fields are unfolded, and what stands around their colons is made uniform.
    return _JOINTS.search(needle) is not None and (
        any(word in text for word in _NESTED) or _in_header(message, needle)
    )


def _in_header(message: bytes, needle: str) -> bool:
    end = _EMPTY_LINE.search(message)
    header = message if end is None else message[: end.start() + 1]
    return any(needle in header_line(*field) for field in header_values(header))
