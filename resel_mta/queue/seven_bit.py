"""A returned message in 7 bits (RFC 2045 §6.2), for a notification that every server takes.

message/rfc822 itself may not be encoded (RFC 2046 §5.2.1): its 8-bit parts become quoted-printable
one by one, which says the same, and 8-bit fields of headers encoded words (RFC 2047). Pure.
"""

from __future__ import annotations

import binascii
import re

MOST_DEEP = 30
"""Parts within parts; no real message has so many."""

_CRLF = b"\r\n"
_WORD = re.compile(rb"\S+")
# In fields that describe a part, values are told apart from their names.
_VALUE = re.compile(rb'[^\s"=;]+')
_FIELD = re.compile(rb"([^\r\n:]+):(?:[^\r\n]*\r\n[ \t])*[^\r\n]*(?:\r\n|\Z)")
_BOUNDARY = re.compile(rb';\s*boundary\s*=\s*(?:"((?:[^"\\]|\\.){1,200})"|([^\s;"]{1,200}))', re.I)
_EIGHT_BIT = re.compile(rb"[\x80-\xff]")
# Octets of an encoded word: RFC 2047 §2 allows 75 characters.
_WORD_SIZE = 18
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!*+-/")


def seven_bit(message: bytes) -> bytes | None:
    """A message, with CR LF, in 7 bits; None where its parts cannot be told apart."""
    try:
        converted = _entity(message, 0, message=True)
    except _Malformed:
        return None
    return converted if converted.isascii() else None


def quoted_printable(data: bytes) -> bytes:
    """RFC 2045 §6.7, line by line, so that what is ASCII stays readable."""
    return _CRLF.join(
        binascii.b2a_qp(line, istext=False).replace(b"=\n", b"=\r\n") for line in data.split(_CRLF)
    )


class _Malformed(Exception):
    """No parts as MIME has them."""


def _entity(data: bytes, depth: int, *, default: bytes = b"", message: bool = False) -> bytes:
    """A part, or a whole message. default: its type where it says none. Raises _Malformed."""
    if data.isascii():
        return data
    if depth > MOST_DEEP:
        raise _Malformed
    if data.startswith(_CRLF):
        header, blank, body = b"", _CRLF, data[2:]
    else:
        header, end, body = data.partition(_CRLF * 2)
        header, blank = header + end[:2], end[2:]
    fields = _fields(header)
    if body.isascii():
        return _in_ascii(fields) + blank + body
    if message and not _value(fields, b"mime-version"):
        fields.append((b"mime-version", b"MIME-Version: 1.0\r\n"))
    kind = _value(fields, b"content-type").lower() or default
    encoding = _value(fields, b"content-transfer-encoding").lower()
    if kind.startswith(b"multipart/"):
        parts = _parts(_value(fields, b"content-type"), body, depth)
        return _labelled(fields, b"7bit") + blank + parts
    if kind.startswith(b"message/rfc822"):
        return _labelled(fields, b"7bit") + blank + _entity(body, depth + 1, message=True)
    if encoding not in (b"", b"7bit", b"8bit", b"binary"):
        # It says that it is encoded, and is not.
        raise _Malformed
    return _labelled(fields, b"quoted-printable") + blank + quoted_printable(body)


def _parts(content_type: bytes, body: bytes, depth: int) -> bytes:
    match = _BOUNDARY.search(content_type)
    if match is None:
        raise _Malformed
    boundary = match[2] or re.sub(rb"\\(.)", rb"\1", match[1])
    line = re.compile(rb"(?:\A|\r\n)--%s(--)?[ \t]*(?=\r\n|\Z)" % re.escape(boundary))
    default = b"message/rfc822" if content_type[:16].lower() == b"multipart/digest" else b""
    pieces: list[bytes] = []
    place, inside = 0, False

    def take(end: int) -> None:
        data = body[place:end]
        if inside:
            pieces.append(data[:2] + _entity(data[2:], depth + 1, default=default))
        else:
            # What stands around the parts is for nobody.
            pieces.append(_EIGHT_BIT.sub(b"?", data))

    for mark in line.finditer(body):
        take(mark.start())
        pieces.append(mark[0])
        place, inside = mark.end(), not mark[1]
        if not inside:
            break
    if not place:
        raise _Malformed
    take(len(body))
    return b"".join(pieces)


_Fields = list[tuple[bytes, bytes]]


def _fields(header: bytes) -> _Fields:
    """Names in lower case, and the whole fields. Raises _Malformed."""
    found: _Fields = []
    place = 0
    while place < len(header):
        match = _FIELD.match(header, place)
        if match is None or not match[1].isascii():
            raise _Malformed
        found.append((match[1].rstrip().lower(), match[0]))
        place = match.end()
    return found


def _value(fields: _Fields, wanted: bytes) -> bytes:
    for name, field in fields:
        if name == wanted:
            return field.partition(b":")[2].strip()
    return b""


def _labelled(fields: _Fields, encoding: bytes) -> bytes:
    """The header with another Content-Transfer-Encoding."""
    kept = [each for each in fields if each[0] != b"content-transfer-encoding"]
    return _in_ascii(kept) + b"Content-Transfer-Encoding: %s\r\n" % encoding


def _in_ascii(fields: _Fields) -> bytes:
    return b"".join(
        field
        if field.isascii()
        else _field_in_ascii(field, _VALUE if name.startswith(b"content-") else _WORD)
        for name, field in fields
    )


def _field_in_ascii(field: bytes, word: re.Pattern[bytes]) -> bytes:
    pieces: list[bytes] = []
    place, encoded = 0, False
    for match in word.finditer(field):
        between, text = field[place : match.start()], match[0]
        place = match.end()
        follows, encoded = encoded, not text.isascii()
        if encoded:
            # The space between two encoded words is not shown.
            text = _encoded_words(b" " + text if follows and between.isspace() else text)
        pieces += (between, text)
    return b"".join(pieces) + field[place:]


def _encoded_words(text: bytes) -> bytes:
    try:
        characters, charset = [each.encode() for each in text.decode()], b"utf-8"
    except UnicodeDecodeError:
        # RFC 1428 §3.
        characters, charset = [bytes((each,)) for each in text], b"unknown-8bit"
    words = [b""]
    for character in characters:
        if len(words[-1]) + len(character) > _WORD_SIZE:
            words.append(b"")
        words[-1] += character
    return b"\r\n ".join(b"=?%s?q?%s?=" % (charset, _q(word)) for word in words)


def _q(word: bytes) -> bytes:
    """RFC 2047 §4.2."""
    return b"".join(
        bytes((each,)) if each in _PLAIN else b"_" if each == 0x20 else b"=%02X" % each
        for each in word
    )
