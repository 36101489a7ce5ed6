"""A quick "surely not" for searches in text, on a message as it lies on disk."""

from __future__ import annotations

import re

from resel_lda.mime.fold import fold
from resel_lda.mime.searchtext import header_line, header_values

# Where a field has one of these, the octets are not the text.
_CODED = ("base64", "quoted-printable")
# Character sets in which ASCII's octets are ASCII's letters; the first one is all UTF-8.
_UTF8 = re.compile(r'charset="?utf-8(?=["\s;]|$)')
_LIKE_ASCII = re.compile(
    r'charset="?(?:utf-8|us-ascii|iso-8859-[0-9]{1,2}|windows-125[0-9])(?=["\s;]|$)'
)
# Headers inside the body.
_NESTED = ("message/", "multipart/digest")
_JOINTS = re.compile(r"[ \t:]")
_EMPTY_LINE = re.compile(rb"\n\r?\n")
# Content-Type or Content-Transfer-Encoding up to the end of the field, with whatever case and
# folding; also where the body only speaks of them.
_FIELD_START = "content-t"
_FIELD = re.compile(r"[^\n]*(?:\n[ \t][^\n]*)*")


def may_contain(message: bytes, needle: str) -> bool:
    """Whether the decoded header or body may contain `needle` (folded, without line ends).

    False is certain; True has to be verified on the decoded text.
    """
    try:
        text = fold(message.decode("utf-8"))
    except UnicodeDecodeError:
        return True
    if needle in text or "=?" in text:
        return True
    fields = _content_fields(text)
    if any(word in fields for word in _CODED):
        return True
    expected = _LIKE_ASCII if message.isascii() else _UTF8
    if len(expected.findall(fields)) != fields.count("charset"):
        # Some octets are other letters.
        return True
    # Fields are unfolded, and what stands around their colons is made uniform.
    return _JOINTS.search(needle) is not None and (
        any(word in text for word in _NESTED) or _in_header(message, needle)
    )


def _content_fields(text: str) -> str:
    found: list[str] = []
    at = text.find(_FIELD_START)
    while at >= 0:
        match = _FIELD.match(text, at)
        assert match is not None
        found.append(match[0])
        at = text.find(_FIELD_START, match.end())
    return "\n".join(found)


def _in_header(message: bytes, needle: str) -> bool:
    end = _EMPTY_LINE.search(message)
    header = message if end is None else message[: end.start() + 1]
    return any(needle in header_line(*field) for field in header_values(header))
