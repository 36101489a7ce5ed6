"""Transfer encodings undone and done (RFC 3516): BINARY sections, and binary parts as base64."""

from __future__ import annotations

import binascii
import re

from resel_lda.mime.structure import Node, parse
from resel_lda.mime.text import transfer_encoding

_BASE64 = re.compile(rb"[A-Za-z0-9+/]*={0,2}")
_SPACE = re.compile(rb"[ \t\r\n]+")
_FIELD = re.compile(
    rb"^content-transfer-encoding[ \t]*:[^\n]*\n(?:[ \t][^\n]*\n)*", re.IGNORECASE | re.MULTILINE
)
_IDENTITY = frozenset((b"7bit", b"8bit", b"binary"))
_LINE = 57


class Undecodable(Exception):
    """The part's encoding is unknown, or its content is not in it."""


def decoded(data: bytes, node: Node) -> bytes:
    """The body of a part without its transfer encoding; of a part that holds others, with all of
    theirs undone. Raises Undecodable."""
    if not node.children:
        return _decoded_leaf(data, node)
    pieces: list[bytes] = []
    position = node.body
    for child in node.walk():
        if child is node:
            continue
        # Between parts there are boundaries and what stands around them.
        pieces.append(data[position : child.start])
        pieces.append(_binary_header(data[child.start : child.header_end], child))
        position = child.body
        if not child.children:
            pieces.append(_decoded_leaf(data, child))
            position = child.end
    pieces.append(data[position : node.end])
    return b"".join(pieces)


def decoded_message(data: bytes, root: Node) -> bytes:
    """The whole message as `decoded` gives its body."""
    return _binary_header(data[: root.body], root) + decoded(data, root)


def _binary_header(header: bytes, node: Node) -> bytes:
    if node.children or transfer_encoding(node) in _IDENTITY:
        return header
    return _FIELD.sub(b"Content-Transfer-Encoding: binary\r\n", header)


def _decoded_leaf(data: bytes, node: Node) -> bytes:
    body = data[node.body : node.end]
    encoding = transfer_encoding(node)
    if encoding in _IDENTITY or node.is_multipart:
        return body
    if encoding == b"quoted-printable":
        return binascii.a2b_qp(body)
    if encoding != b"base64":
        raise Undecodable(f"unknown encoding {encoding.decode('latin-1')}")
    text = _SPACE.sub(b"", body)
    if not _BASE64.fullmatch(text) or len(text) % 4:
        raise Undecodable("invalid base64")
    return binascii.a2b_base64(text)


def without_binary(message: bytes) -> bytes | None:
    """A message whose parts with the encoding "binary" are base64 instead; None if it has NUL
    outside of such parts."""
    root = parse(message)
    pieces: list[bytes] = []
    position = 0
    for node in root.walk():
        if node.children or node.is_multipart or transfer_encoding(node) != b"binary":
            continue
        header = message[node.start : node.header_end]
        pieces.append(message[position : node.start])
        pieces.append(_FIELD.sub(b"Content-Transfer-Encoding: base64\r\n", header))
        pieces.append(message[node.header_end : node.body])
        pieces.append(_base64(message[node.body : node.end]))
        position = node.end
    pieces.append(message[position:])
    found = b"".join(pieces)
    return None if b"\0" in found else found


def _base64(data: bytes) -> bytes:
    lines = [
        binascii.b2a_base64(data[start : start + _LINE], newline=False)
        for start in range(0, len(data), _LINE)
    ]
    return b"".join(line + b"\r\n" for line in lines)
