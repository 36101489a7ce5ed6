"""BODY and BODYSTRUCTURE of what most mail is: one part, or parts that hold no others. It is what
`structure.parse` would find, without an object for each part; what is not so plain is left to that.
"""

from __future__ import annotations

from functools import lru_cache

from resel_lda.mime.fields import unfolded_fields
from resel_lda.mime.params import ContentType, parse_content_type
from resel_lda.mime.render import (
    Fields,
    LeafFields,
    leaf_fields,
    leaf_structures,
    multipart_structures,
)
from resel_lda.mime.structure import (
    EMPTY_LINE,
    MAX_BOUNDARY,
    OF_MESSAGE,
    OF_PART,
    Node,
    line_ends,
)

Structures = tuple[bytes, bytes]

# More parts than these are left to `parse`, which limits them.
_MAX_PARTS = 1000
# Octets of a part's header up to which it is remembered what it says.
_MAX_REMEMBERED = 200
_HOLDS_OTHERS = (b"multipart", b"message")


def flat_structures(data: bytes, bare: bool) -> Structures | None:
    """(BODY, BODYSTRUCTURE) of a message with CR LF line ends (bare: that has no CR, where its LF
    would get one); None if parts of it may hold others, or if it is broken."""
    if data.startswith((b"\n", b"\r\n")):
        return None
    empty = EMPTY_LINE.search(data)
    start = empty.end() if empty is not None else len(data)
    fields = tuple(unfolded_fields(data[:start], OF_MESSAGE))
    declared = _declared(fields)
    if declared is not None:
        kind = declared.type.lower()
        if kind == b"multipart" and empty is not None:
            return _multipart(data, start, fields, declared, bare)
        if kind in _HOLDS_OTHERS:
            return None
    elif not any(name == b"mime-version" for name, _ in fields):
        fields = ()
    body = data[start:]
    lines = line_ends(body)
    return leaf_structures(leaf_fields(fields), len(body) + (lines if bare else 0), lines)


def _declared(fields: Fields) -> ContentType | None:
    """The type that the first Content-Type says."""
    for name, value in fields:
        if name == b"content-type":
            return parse_content_type(value)
    return None


def _multipart(
    data: bytes, start: int, fields: Fields, declared: ContentType, bare: bool
) -> Structures | None:
    """start: of its body, after an empty line."""
    boundary = next((value for name, value in declared.params if name.lower() == b"boundary"), b"")
    if not boundary or not declared.subtype or declared.subtype.lower() == b"digest":
        return None
    mark = b"\n--" + boundary[:MAX_BOUNDARY]
    at = data.find(mark, start - 1)
    inner: list[bytes] = []
    inner_full: list[bytes] = []
    while at >= 0:
        tail = at + len(mark)
        line_end = data.find(b"\n", tail)
        if line_end < 0 or len(inner) >= _MAX_PARTS:
            # Cut off in the middle of a boundary, or hostile.
            return None
        if data.startswith(b"--", tail):
            break
        start = line_end + 1
        body = _body(data, start)
        at = data.find(mark, line_end)
        if body < 0 or 0 <= at < body - 1:
            # It has no body, or a boundary cuts its header short.
            return None
        header = data[start:body]
        said = _of_header(header) if len(header) > _MAX_REMEMBERED else _remembered(header)
        if said is None:
            return None
        end = len(data) if at < 0 else max(at - (data[at - 1] == 0x0D), body)
        lines = line_ends(data[body:end])
        short, full = leaf_structures(said, end - body + (lines if bare else 0), lines)
        inner.append(short)
        inner_full.append(full)
    if not inner:
        return None
    node = Node(0, None)
    node.fields, node.subtype, node.params = fields, declared.subtype, declared.params
    return multipart_structures(node, b"".join(inner), b"".join(inner_full))


def _body(data: bytes, start: int) -> int:
    """Where the part's body starts; -1 if it has no empty line."""
    if data.startswith(b"\n", start):
        return start + 1
    if data.startswith(b"\r\n", start):
        return start + 2
    empty = EMPTY_LINE.search(data, start)
    return -1 if empty is None else empty.end()


def _of_header(header: bytes) -> LeafFields | None:
    """None if the part may hold others."""
    fields = tuple(unfolded_fields(header, OF_PART))
    declared = _declared(fields)
    if declared is not None and declared.type.lower() in _HOLDS_OTHERS:
        return None
    return leaf_fields(fields)


# Most parts have one of a few headers.
_remembered = lru_cache(maxsize=512)(_of_header)
