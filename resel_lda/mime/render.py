"""ENVELOPE, BODY and BODYSTRUCTURE as they go on the wire (RFC 3501 §7.4.2, §9)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from resel_lda.mime.addresses import parse_addresses
from resel_lda.mime.fields import Field, named, unfolded_fields
from resel_lda.mime.params import (
    Params,
    parse_content_type,
    parse_disposition,
    parse_languages,
    parse_token,
)
from resel_lda.mime.structure import ENVELOPE_FIELDS, Node

_PLAIN = re.compile(rb"[\x01-\x09\x0b\x0c\x0e-\x21\x23-\x5b\x5d-\x7f]*")
_QUOTABLE = re.compile(rb"[\x01-\x09\x0b\x0c\x0e-\x7f]*")
_SPACES = re.compile(rb"[ \t\r\n]+")
# A text that is shown as it stands, as nearly all are: words with one space between.
_WORDS = re.compile(rb"[\x21\x23-\x5b\x5d-\x7f]++(?: [\x21\x23-\x5b\x5d-\x7f]++)*+")
_OF_ENVELOPE = named(ENVELOPE_FIELDS)
_ADDRESS_FIELDS = frozenset((b"from", b"sender", b"reply-to", b"to", b"cc", b"bcc"))
# A multipart must have a part (RFC 3501 §9).
_EMPTY_PART = b'("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 0 0%b)'
_NO_NUL = "\N{REPLACEMENT CHARACTER}".encode()
# More than this many escapes and a literal is shorter to read (as Dovecot decides).
_MAX_ESCAPES = 4
# Octets of fields up to which it is remembered what they say.
_MAX_REMEMBERED = 300

Fields = tuple[Field, ...]


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
    if _WORDS.fullmatch(value):
        return b'"%b"' % value
    shown = _SPACES.sub(b" ", value).strip(b" ")
    if not shown or (shown == value and _PLAIN.fullmatch(value)):
        return b'"%b"' % shown
    shown = shown.replace(b"\0", _NO_NUL)
    return b"{%d}\r\n%b" % (len(shown), shown)


def render_envelope(node: Node) -> bytes:
    """The ENVELOPE of a message (a root node, or the one inside a message/rfc822)."""
    if not node.is_root and node.children:
        node = node.children[0]
    return _envelope(node.fields)


def envelope_of(header: bytes) -> bytes:
    """The ENVELOPE of a message of which only the header block is at hand."""
    return _envelope(unfolded_fields(header, _OF_ENVELOPE, b"subject"))


def _envelope(fields: Iterable[Field]) -> bytes:
    last: dict[bytes, bytes] = {}
    lists: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        if name in _ADDRESS_FIELDS:
            few = len(value) <= _MAX_REMEMBERED
            shown = _remembered_addresses(value) if few else _addresses(value)
            if shown:
                lists.setdefault(name, []).append(shown)
        else:
            last[name] = value
    listed = {name: b"(%b)" % b"".join(found) for name, found in lists.items()}
    get, sender = listed.get, listed.get(b"from", b"NIL")
    return b"(%b %b %b %b %b %b %b %b %b %b)" % (
        nstring(last.get(b"date")),
        human_string(last.get(b"subject")),
        sender,
        get(b"sender", sender),
        get(b"reply-to", sender),
        get(b"to", b"NIL"),
        get(b"cc", b"NIL"),
        get(b"bcc", b"NIL"),
        nstring(last.get(b"in-reply-to")),
        nstring(last.get(b"message-id")),
    )


def _addresses(value: bytes) -> bytes:
    """Those of a field, without the parentheses around them; b"" if it holds none."""
    return b"".join(
        b"(%b %b %b %b)"
        % (human_string(one.name), nstring(one.route), nstring(one.mailbox), nstring(one.domain))
        for one in parse_addresses(value)
    )


# Mail of a mailbox is from and to the same few.
_remembered_addresses = lru_cache(maxsize=1024)(_addresses)


def render_body(node: Node) -> bytes:
    """BODY, without extension data."""
    return render_structures(node)[0]


def render_bodystructure(node: Node) -> bytes:
    """BODYSTRUCTURE, with extension data."""
    return render_structures(node)[1]


def render_structures(root: Node, bare: bool = False) -> tuple[bytes, bytes]:
    """(BODY, BODYSTRUCTURE). bare: the message has no CR, but its LF would get one. Children first,
    by an explicit stack: hostile mail nests deeper than a call stack likes."""
    done: dict[int, tuple[bytes, bytes]] = {}
    for node in reversed(list(root.walk())):
        inner = inner_full = b""
        if node.children:
            made = [done.pop(id(child)) for child in node.children]
            inner = b"".join([short for short, _ in made])
            inner_full = b"".join([full for _, full in made])
        size = node.size + (node.lines if bare else 0)
        if node.is_multipart:
            done[id(node)] = multipart_structures(node, inner, inner_full)
        elif node.is_message and node.children:
            done[id(node)] = _message(node, size, inner, inner_full)
        else:
            said = leaf_fields(tuple(node.fields) if node.is_mime else ())
            done[id(node)] = leaf_structures(said, size, node.lines)
    return done[id(root)]


def multipart_structures(node: Node, inner: bytes, inner_full: bytes) -> tuple[bytes, bytes]:
    """(BODY, BODYSTRUCTURE). inner, inner_full: those of its parts."""
    subtype = string(node.subtype) if node.subtype else b'"x-unknown"'
    return (
        b"(%b %b)" % (inner or _EMPTY_PART % b"", subtype),
        b"(%b %b %b %b %b %b)"
        % (
            inner_full or _EMPTY_PART % b" NIL NIL NIL NIL",
            subtype,
            _params(node.params),
            _disposition(node),
            _language(node),
            nstring(node.field(b"content-location")),
        ),
    )


def _message(node: Node, size: int, inner: bytes, inner_full: bytes) -> tuple[bytes, bytes]:
    """Of a part that is a message."""
    said = leaf_fields(tuple(node.fields) if node.is_mime else ())
    subtype = b"global" if node.subtype.lower() == b"global" else b"rfc822"
    head = b'"message" "%b" %b %b' % (subtype, _params(node.params), said.middle)
    before = b"%b %d %b" % (head, size, render_envelope(node.children[0]))
    return (
        b"(%b %b %d)" % (before, inner, node.lines),
        b"(%b %b %d %b)" % (before, inner_full, node.lines, said.tail),
    )


class LeafFields(NamedTuple):
    """What a leaf part's fields say. head: from the type to the encoding; middle: the same without
    type and parameters; tail: extension data."""

    head: bytes
    middle: bytes
    tail: bytes
    is_text: bool


def leaf_structures(said: LeafFields, size: int, lines: int) -> tuple[bytes, bytes]:
    """(BODY, BODYSTRUCTURE) of a part that holds no others."""
    if said.is_text:
        short = b"(%b %d %d" % (said.head, size, lines)
    else:
        short = b"(%b %d" % (said.head, size)
    return short + b")", b"%b %b)" % (short, said.tail)


def leaf_fields(fields: Fields) -> LeafFields:
    """fields: those of MIME that mean something."""
    octets = 0
    for _, value in fields:
        octets += len(value)
    return _make_leaf(fields) if octets > _MAX_REMEMBERED else _remembered_leaf(fields)


def _make_leaf(fields: Fields) -> LeafFields:
    node = Node(0, None)
    node.fields = fields
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
    return LeafFields(
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
