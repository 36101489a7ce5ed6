"""Where the parts of a message lie (RFC 2045, RFC 2046, RFC 5322), on byte offsets.

One pass, no recursion, linear in the size of the message; never fails. What is broken is read as
Dovecot reads it, so that clients who move keep the part numbers that they have cached: a boundary
ends every part inside it, a missing final boundary ends at the end of the message, an inner
multipart may use the boundary of an outer one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from resel_lda.mime.fields import Field, named, unfolded_fields
from resel_lda.mime.params import Params, parse_content_type

MAX_PARTS = 10_000
MAX_DEPTH = 100
MAX_BOUNDARY = 80
_COPIED = 1 << 20
# Octets of a part's header up to which it is remembered what it says.
_MAX_REMEMBERED = 200
EMPTY_LINE = re.compile(rb"\n\r?\n")

# The only fields that ENVELOPE and BODYSTRUCTURE ever look at.
ENVELOPE_FIELDS = frozenset(
    (b"date", b"subject", b"from", b"sender", b"reply-to", b"to", b"cc", b"bcc", b"in-reply-to",
     b"message-id")
)  # fmt: skip
_CONTENT_FIELDS = frozenset(
    (b"content-type", b"content-transfer-encoding", b"content-id", b"content-description",
     b"content-disposition", b"content-md5", b"content-language", b"content-location")
)  # fmt: skip
OF_PART = named(_CONTENT_FIELDS)
OF_MESSAGE = named(_CONTENT_FIELDS | {b"mime-version"})
_OF_ROOT = named(_CONTENT_FIELDS | ENVELOPE_FIELDS | {b"mime-version"})


@lru_cache(maxsize=512)
def _remembered_fields(header: bytes) -> Sequence[Field]:
    """Most parts have one of a few headers."""
    return tuple(unfolded_fields(header, OF_PART))


class Node:
    """One MIME part. Offsets are into the message that was parsed.

    start, header_end, body, end: its header, its body (after the empty line) and where that
        ends, without the line end that belongs to the boundary. header_end is body, but where a
        boundary cuts the header short.
    lines: line ends in the body; of a multipart 0.
    fields: (lower-case name, unfolded value) of the fields that matter, in order; a Subject has its
        line ends.
    children: of a multipart its parts; of a message/rfc822 the one message in it.
    """

    __slots__ = (
        "body", "boundary", "children", "end", "fields", "header_end", "is_message", "is_multipart", "lines",
        "params", "parent", "start", "subtype", "type",
    )  # fmt: skip

    def __init__(self, start: int, parent: Node | None) -> None:
        self.start = start
        self.header_end = start
        self.body = start
        self.end = start
        self.lines = 0
        self.parent = parent
        self.children: list[Node] = []
        self.fields: Sequence[Field] = ()
        # None: there is no Content-Type.
        self.type: bytes | None = None
        self.subtype = b""
        self.params: Params = ()
        self.boundary: bytes | None = None
        self.is_multipart = False
        self.is_message = False

    @property
    def size(self) -> int:
        """Octets of the body."""
        return self.end - self.body

    @property
    def is_root(self) -> bool:
        """Whether this is a message: the whole one, or the one in a message/rfc822 part."""
        return self.parent is None or self.parent.is_message

    def field(self, name: bytes) -> bytes | None:
        """The first value of a field (lower-case name), or None."""
        for key, value in self.fields:
            if key == name:
                return value
        return None

    def last_field(self, name: bytes) -> bytes | None:
        """The last value of a field, or None."""
        found = None
        for key, value in self.fields:
            if key == name:
                found = value
        return found

    @property
    def is_mime(self) -> bool:
        """Whether its Content- fields mean something: a message says by MIME-Version or by its
        Content-Type that it follows RFC 2045."""
        if self.type is not None or not self.is_root:
            return True
        return self.field(b"mime-version") is not None

    def walk(self) -> Iterator[Node]:
        """This part and all below it, in the order of the message."""
        waiting = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend(reversed(node.children))


def leaf(part: bytes, header_end: int, body: int) -> Node:
    """A part that holds no others and is all that is at hand of its message. header_end, body: as
    `Node` has them."""
    node = Node(0, None)
    node.header_end, node.body, node.end = header_end, body, len(part)
    node.fields = unfolded_fields(part[:body], OF_MESSAGE)
    return node


def line_ends(octets: bytes) -> int:
    """How many there are."""
    if len(octets) > _COPIED:
        return octets.count(b"\n")
    # It leaps from one to the next, where `count` looks at each octet.
    return len(octets.replace(b"\n", b"\r\n")) - len(octets)


def parse(data: bytes, with_global: bool = False, with_envelope: bool = True) -> Node:
    """The structure of a message whose lines end in CR LF (a bare LF is a line end too).
    with_global: message/global is a message as well (RFC 9051 §9, media-message). with_envelope:
    the outermost header's fields are all taken, also those that only ENVELOPE looks at."""
    return _Parser(data, with_global, with_envelope).parse()


class _Parser:
    def __init__(self, data: bytes, with_global: bool, with_envelope: bool) -> None:
        self.data = data
        self.with_envelope = with_envelope
        self.message_types = (b"rfc822", b"global") if with_global else (b"rfc822",)
        self.parts = 0
        # The last empty line found, (where, what follows): a header may end before it, by a
        # boundary, and then the next one need not look for it again.
        self.empty_line = (-1, 0)
        # Open multiparts, outermost first.
        self.open: list[tuple[bytes, Node]] = []

    def parse(self) -> Node:
        root = node = self.new_part(0, None, 0)
        depth = 0
        while True:
            depth = self.enter(node, depth)
            if node.is_message and depth < MAX_DEPTH and self.parts < MAX_PARTS:
                node = self.new_part(node.body, node, depth)
                depth += 1
                continue
            following = self.next_part(node, depth)
            if following is None:
                return root
            node, depth = following

    def enter(self, node: Node, depth: int) -> int:
        if node.boundary is not None and depth < MAX_DEPTH and self.parts < MAX_PARTS:
            self.open.append((node.boundary, node))
        return depth

    def new_part(self, start: int, parent: Node | None, depth: int) -> Node:
        self.parts += 1
        node = Node(start, parent)
        if parent is not None:
            parent.children.append(node)
        node.body = self.header_end(start)
        found = self.find_boundary(start, node.body)
        if found is not None:
            # A boundary in the header ends it, and the part.
            node.body = found[1]
        node.header_end = node.body
        self.read_header(node)
        if found is not None:
            # It has no body that its own boundary could divide.
            node.boundary = None
        return node

    def read_header(self, node: Node) -> None:
        header = self.data[node.start : node.body]
        if node.is_root and (self.with_envelope or node.parent is not None):
            node.fields = unfolded_fields(header, _OF_ROOT, b"subject")
        elif node.is_root:
            node.fields = unfolded_fields(header, OF_MESSAGE)
        elif len(header) <= _MAX_REMEMBERED:
            node.fields = _remembered_fields(header)
        else:
            node.fields = unfolded_fields(header, OF_PART)
        for name, value in node.fields:
            if name == b"content-type":
                node.type, node.subtype, node.params = parse_content_type(value)
                break
        if node.type is None:
            parent = node.parent
            node.is_message = (
                parent is not None and parent.is_multipart and (parent.subtype.lower() == b"digest")
            )
            return
        kind = node.type.lower()
        subtype = node.subtype.lower()
        if kind == b"message" and subtype in self.message_types:
            node.is_message = True
        elif kind == b"multipart" and subtype:
            node.is_multipart = True
            for key, value in node.params:
                if key.lower() == b"boundary":
                    node.boundary = value[:MAX_BOUNDARY]
                    break

    def next_part(self, node: Node, depth: int) -> tuple[Node, int] | None:
        """Go on from the start of a body to the next part; None at the end of the message."""
        position = node.body
        while True:
            found = self.find_boundary(position)
            if found is None:
                self.close(node, None, len(self.data), position)
                return None
            index, line, after, final = found
            owner = self.open[index][1]
            self.close(node, owner, _before_line_end(self.data, line), position)
            if not final and self.parts < MAX_PARTS:
                del self.open[index + 1 :]
                child = self.new_part(after, owner, 0)
                return child, _depth(child)
            del self.open[index:]
            node, position = owner, after

    def close(self, node: Node, owner: Node | None, end: int, floor: int) -> None:
        """End `node` and everything around it up to `owner`."""
        current: Node | None = node
        while current is not None and current is not owner:
            if end < current.body:
                # The boundary follows the header at once: the empty line is its line end.
                current.header_end = max(end, current.start)
            current.end = max(end, floor, current.body)
            if not current.is_multipart:
                current.lines = line_ends(self.data[current.body : current.end])
            current = current.parent

    def find_boundary(
        self, position: int, limit: int | None = None
    ) -> tuple[int, int, int, bool] | None:
        """(index in `open`, start of the line, start of the next line, whether it is final)."""
        if not self.open:
            return None
        data = self.data
        line = position if data.startswith(b"--", position) else self.next_dashes(position, limit)
        while line >= 0 and (limit is None or line < limit):
            best = -1
            length = -1
            for index in range(len(self.open) - 1, -1, -1):
                boundary = self.open[index][0]
                if len(boundary) > length and data.startswith(boundary, line + 2):
                    best, length = index, len(boundary)
            if best >= 0:
                tail = line + 2 + length
                stop = data.find(b"\n", tail)
                final = data.startswith(b"--", tail)
                if stop < 0:
                    # Cut off in the middle of a boundary: no part can follow.
                    return best, line, len(data), True
                return best, line, stop + 1, final
            line = self.next_dashes(line + 2, limit)
        return None

    def header_end(self, start: int) -> int:
        """Where the body starts: after the first empty line, or at the end."""
        data = self.data
        if data.startswith(b"\n", start):
            return start + 1
        if data.startswith(b"\r\n", start):
            return start + 2
        if self.empty_line[0] < start:
            match = EMPTY_LINE.search(data, start)
            self.empty_line = (match.start(), match.end()) if match else (len(data), len(data))
        return self.empty_line[1]

    def next_dashes(self, position: int, limit: int | None) -> int:
        found = self.data.find(b"\n--", max(position - 1, 0), limit)
        return found if found < 0 else found + 1


def _depth(node: Node) -> int:
    depth = 0
    parent = node.parent
    while parent is not None:
        depth += 1
        parent = parent.parent
    return depth


def _before_line_end(data: bytes, line: int) -> int:
    """The end of the text before the line that starts at `line`, without its CR LF."""
    if line and data[line - 1] == 0x0A:
        line -= 1
        if line and data[line - 1] == 0x0D:
            line -= 1
    return line
