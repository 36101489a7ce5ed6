"""Decoded text for SEARCH: transfer encodings, character sets and encoded words. Never fails."""

from __future__ import annotations

import binascii
import codecs
import re

from resel_lda.mime.params import parse_token
from resel_lda.mime.structure import Node

_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/]+")
_ENCODED_WORD = re.compile(rb"=\?([^?\s]{1,60})\?([bBqQ])\?([^?]*)\?=")
_BETWEEN_WORDS = re.compile(rb"(\?=)[ \t\r\n]+(?==\?[^?\s]{1,60}\?[bBqQ]\?)")
# Python's codecs that are not character sets of mail, or take more than linear time.
_NO_CHARSET = frozenset(
    ("idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined", "mbcs", "oem")
)


def decode_charset(data: bytes, charset: str) -> str:
    """Text in a character set; in an unknown one as UTF-8, or Latin-1 where it is not that."""
    try:
        name = codecs.lookup(charset).name.replace("-", "_")
        if name not in _NO_CHARSET:
            return data.decode(name if name != "ascii" else "utf-8", "replace")
    except (LookupError, ValueError, UnicodeError):
        # Unknown, no character set at all ("base64"), or a name with a NUL.
        pass
    return decode_raw(data)


def decode_raw(data: bytes) -> str:
    """Text of which nothing is said: UTF-8, or Latin-1 where it is not that."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def decode_base64(data: bytes) -> bytes:
    """What can be read of broken base64: foreign octets skipped, an odd end dropped."""
    clean = _NOT_BASE64.sub(b"", data)
    rest = len(clean) % 4
    if rest == 1:
        clean = clean[:-1]
    elif rest:
        clean += b"=" * (4 - rest)
    return binascii.a2b_base64(clean)


def decode_transfer(data: bytes, encoding: bytes) -> bytes:
    """Undo a Content-Transfer-Encoding; an unknown one leaves the octets as they are."""
    name = encoding.lower()
    if name == b"base64":
        return decode_base64(data)
    if name == b"quoted-printable":
        return binascii.a2b_qp(data)
    return data


def transfer_encoding(node: Node) -> bytes:
    """The part's transfer encoding in lower case, b"7bit" if it declares none."""
    value = node.field(b"content-transfer-encoding")
    return (parse_token(value).lower() if value is not None else b"") or b"7bit"


def decoded_text(data: bytes, node: Node) -> str:
    """The text of a leaf part; "" of a part that holds others or is not text."""
    if node.children or node.is_multipart:
        return ""
    if node.type is not None and node.type.lower() not in (b"text", b"message"):
        return ""
    charset = "utf-8"
    for name, value in node.params:
        if name.lower() == b"charset":
            charset = value.decode("ascii", "replace")
    raw = decode_transfer(data[node.body : node.end], transfer_encoding(node))
    return decode_charset(raw, charset)


def decode_header(value: bytes) -> str:
    """A field value with its encoded words (RFC 2047) decoded."""
    if b"=?" not in value:
        return decode_raw(value)
    value = _BETWEEN_WORDS.sub(rb"\1", value)
    out: list[str] = []
    position = 0
    for match in _ENCODED_WORD.finditer(value):
        out.append(decode_raw(value[position : match.start()]))
        charset, kind, text = match.groups()
        if kind in b"bB":
            raw = decode_base64(text)
        else:
            raw = binascii.a2b_qp(text.replace(b"_", b" "), header=False)
        out.append(decode_charset(raw, charset.partition(b"*")[0].decode("ascii", "replace")))
        position = match.end()
    out.append(decode_raw(value[position:]))
    return "".join(out)
