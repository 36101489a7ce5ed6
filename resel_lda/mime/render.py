"""ENVELOPE, BODY and BODYSTRUCTURE as they go on the wire (RFC 3501 §7.4.2, §9)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from resel_lda.mime.addresses import Address, parse_addresses
from resel_lda.mime.params import (
    Params,
    parse_content_type,
    parse_disposition,
    parse_languages,
    parse_token,
)
from resel_lda.mime.structure import ENVELOPE_FIELDS, Node, unfolded_fields

_PLAIN = re.compile(rb"[\x01-\x09\x0b\x0c\x0e-\x21\x23-\x5b\x5d-\x7f]*")
_QUOTABLE = re.compile(rb"[\x01-\x09\x0b\x0c\x0e-\x7f]*")
_SPACES = re.compile(rb"[ \t\r\n]+")
# A multipart must have a part (RFC 3501 §9).
_EMPTY_PART = b'("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 0 0%b)'
_NO_NUL = "\N{REPLACEMENT CHARACTER}".encode()
# More than this many escapes and a literal is shorter to read (as Dovecot decides).
_MAX_ESCAPES = 4
# Octets of fields up to which it is remembered what they say.
_MAX_REMEMBERED = 300


def string(value: bytes) -> bytes:
    """A quoted string where the grammar allows it, else a literal."""
    if _PLAIN.fullmatch(value):
        return b'"%b"' % value
    if _QUOTABLE.fullmatch(value):
        escapes = value.count(b'"') + value.count(b"\\")
        if escapes <= _MAX_ESCAPES:
            return b'"%b"' % value.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    # NUL is not allowed in a literal (RFC 3501 §9, CHAR8).
    value = value.replace(b"\0", _NO_NUL)
    return b"{%d}\r\n%b" % (len(value), value)


def nstring(value: bytes | None) -> bytes:
    return b"NIL" if value is None else string(value)


def human_string(value: bytes | None) -> bytes:
    """A text for people: runs of white space are one space, and what is not as it stands in the
    message is a literal."""
    if value is None:
        return b"NIL"
    shown = _SPACES.sub(b" ", value).strip(b" ")
    if not shown or (shown == value and _PLAIN.fullmatch(value)):
        return b'"%b"' % shown
    shown = shown.replace(b"\0", _NO_NUL)
    return b"{%d}\r\n%b" % (len(shown), shown)


def render_envelope(node: Node) -> bytes:
    """The ENVELOPE of a message (a root node, or the one inside a message/rfc822)."""
    if not node.is_root and node.children:
        node = node.children[0]
    sender = _addresses(node, b"from")
    parts = [
        nstring(node.last_field(b"date")),
        human_string(node.last_field(b"subject")),
        _address_list(sender),
    ]
    for name in (b"sender", b"reply-to"):
        parts.append(_address_list(_addresses(node, name) or sender))
    parts += [_address_list(_addresses(node, name)) for name in (b"to", b"cc", b"bcc")]
    parts += [nstring(node.last_field(b"in-reply-to")), nstring(node.last_field(b"message-id"))]
    return b"(%b)" % b" ".join(parts)


def envelope_of(header: bytes) -> bytes:
    """The ENVELOPE of a message of which only the header block is at hand."""
    node = Node(0, None)
    node.fields = list(unfolded_fields(header, ENVELOPE_FIELDS, b"subject"))
    return render_envelope(node)


def _addresses(node: Node, name: bytes) -> list[Address]:
    found: list[Address] = []
    for key, value in node.fields:
        if key == name:
            found += parse_addresses(value)
    return found


def _address_list(addresses: Sequence[Address]) -> bytes:
    if not addresses:
        return b"NIL"
    return b"(%b)" % b"".join(
        b"(%b %b %b %b)"
        % (human_string(one.name), nstring(one.route), nstring(one.mailbox), nstring(one.domain))
        for one in addresses
    )


def render_body(node: Node) -> bytes:
    """BODY, without extension data."""
    return _structure(node, extended=False)


def render_bodystructure(node: Node) -> bytes:
    """BODYSTRUCTURE, with extension data."""
    return _structure(node, extended=True)


def _structure(root: Node, *, extended: bool) -> bytes:
    """Children first, by an explicit stack: hostile mail nests deeper than a call stack likes."""
    done: dict[int, bytes] = {}
    order = list(root.walk())
    for node in reversed(order):
        inner = b"".join(done.pop(id(child)) for child in node.children)
        if node.is_multipart:
            done[id(node)] = _multipart(node, inner, extended)
        else:
            done[id(node)] = _leaf(node, inner, extended)
    return done[id(root)]


def _multipart(node: Node, inner: bytes, extended: bool) -> bytes:
    empty = _EMPTY_PART % (b" NIL NIL NIL NIL" if extended else b"")
    parts = [(inner or empty) + b" " + (string(node.subtype) if node.subtype else b'"x-unknown"')]
    if extended:
        parts += [_params(node.params), _disposition(node), _language(node)]
        parts.append(nstring(node.field(b"content-location")))
    return b"(%b)" % b" ".join(parts)


def _leaf(node: Node, inner: bytes, extended: bool) -> bytes:
    fields = tuple(node.fields) if node.is_mime else ()
    if sum(len(value) for _, value in fields) > _MAX_REMEMBERED:
        leaf = _make_leaf(fields)
    else:
        leaf = _remembered_leaf(fields)
    if node.is_message and node.children:
        is_global = node.subtype.lower() == b"global"
        parts = [b'"message" "global"' if is_global else b'"message" "rfc822"']
        parts += [_params(node.params), leaf.middle, b"%d" % node.size]
        parts += [render_envelope(node.children[0]), inner, b"%d" % node.lines]
    else:
        parts = [leaf.head, b"%d" % node.size]
        if leaf.is_text:
            parts.append(b"%d" % node.lines)
    if extended:
        parts.append(leaf.tail)
    return b"(%b)" % b" ".join(parts)


class _LeafFields(NamedTuple):
    """What a leaf part's fields say. head: from the type to the encoding; middle: the same without
    type and parameters; tail: extension data."""

    head: bytes
    middle: bytes
    tail: bytes
    is_text: bool


def _make_leaf(fields: tuple[tuple[bytes, bytes], ...]) -> _LeafFields:
    node = Node(0, None)
    node.fields = list(fields)
    declared = node.field(b"content-type")
    if declared is None:
        kind, params, is_text = b'"text" "plain"', _params((), True), True
    else:
        found = parse_content_type(declared)
        is_text = found.type.lower() == b"text"
        kind = string(found.type) + b" " + string(found.subtype)
        if found.type.lower() == b"multipart":
            # Without a subtype it has no parts either.
            kind = b'"application" "octet-stream"'
        params = _params(found.params, is_text)
    encoding = None
    for name, value in fields:
        if name == b"content-transfer-encoding":
            encoding = encoding or parse_token(value)
    middle = [nstring(node.field(b"content-id")), nstring(node.field(b"content-description"))]
    middle.append(string(encoding or b"7bit"))
    tail = [nstring(node.field(b"content-md5")), _disposition(node), _language(node)]
    tail.append(nstring(node.field(b"content-location")))
    return _LeafFields(
        b" ".join([kind, params, *middle]), b" ".join(middle), b" ".join(tail), is_text
    )


# Most parts say one of a few things of themselves.
_remembered_leaf = lru_cache(maxsize=512)(_make_leaf)


def _params(params: Params, is_text: bool = False) -> bytes:
    items = [string(name) + b" " + string(value) for name, value in params]
    if is_text and not any(name.lower() == b"charset" for name, _ in params):
        items.append(b'"charset" "us-ascii"')
    return b"(%b)" % b" ".join(items) if items else b"NIL"


def _disposition(node: Node) -> bytes:
    value = node.last_field(b"content-disposition")
    if value is None:
        return b"NIL"
    found = parse_disposition(value)
    if found is None:
        return b"NIL"
    disposition, params = found
    return b"(%b %b)" % (string(disposition), _params(params))


def _language(node: Node) -> bytes:
    value = node.field(b"content-language")
    languages = parse_languages(value) if value is not None else ()
    if not languages:
        return b"NIL"
    return b"(%b)" % b" ".join(string(language) for language in languages)
