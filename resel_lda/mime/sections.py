"""BODY[section] (RFC 3501 §6.4.5): the API that IMAP calls.

Everything works on the message as `Mailbox.read` gives it (CR LF line ends) and the `Node` that
`parse` makes of it. `find_part(parse(data), (1, 2))` is section "1.2"; `section` takes the whole
section text.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from resel_lda.mime.flat import flat_structures
from resel_lda.mime.render import (
    envelope_of,
    render_body,
    render_bodystructure,
    render_envelope,
    render_structures,
)
from resel_lda.mime.structure import Node, parse
from resel_lda.mime.text import decoded_text

__all__ = [
    "Node",
    "body_of",
    "decoded_text",
    "envelope_of",
    "find_part",
    "flat_structures",
    "header_fields",
    "header_of",
    "mime_of",
    "parse",
    "render_body",
    "render_bodystructure",
    "render_envelope",
    "render_structures",
    "section",
    "text_of",
]


def find_part(node: Node, path: Sequence[int]) -> Node | None:
    """The part with that number, None if there is none.

    () is the message itself. Part 1 of a message that is no multipart is its only body.
    """
    alone = False
    for depth, number in enumerate(path):
        if depth and node.is_message and node.children and not alone:
            node = node.children[0]
        if node.is_multipart and not alone:
            if not 1 <= number <= len(node.children):
                return None
            node = node.children[number - 1]
        elif number != 1 or alone:
            return None
        else:
            # What has no parts is its own part 1, once.
            alone = not node.is_message
    return node


def _message(node: Node, whole: bool) -> Node | None:
    if node.is_message and node.children and not whole:
        return node.children[0]
    return node if whole else None


def header_of(data: bytes, node: Node, whole: bool = False) -> bytes:
    """HEADER: of the message (whole: section is plain HEADER) or the one inside this
    message/rfc822 part, with the empty line; b"" for other parts."""
    message = _message(node, whole)
    return b"" if message is None else data[message.start : message.header_end]


def text_of(data: bytes, node: Node, whole: bool = False) -> bytes:
    """TEXT: the body of the message, as `header_of`."""
    message = _message(node, whole)
    return b"" if message is None else data[message.body : message.end]


def mime_of(data: bytes, node: Node) -> bytes:
    """MIME: the part's own header with the empty line."""
    return data[node.start : node.header_end]


def body_of(data: bytes, node: Node) -> bytes:
    """The part's body, still transfer-encoded."""
    return data[node.body : node.end]


def header_fields(header: bytes, names: Collection[bytes], exclude: bool = False) -> bytes:
    """HEADER.FIELDS (exclude: HEADER.FIELDS.NOT): the fields as they are, and an
    empty line. names: in any case."""
    wanted = {name.lower() for name in names}
    kept: list[bytes] = []
    # Continuation lines before any field belong to none.
    keep = exclude
    for line in _lines(header):
        if line in (b"\r\n", b"\n"):
            kept.append(line)
            return b"".join(kept)
        if line[:1] not in (b" ", b"\t"):
            keep = (line.partition(b":")[0].rstrip(b" \t\r\n").lower() in wanted) != exclude
        if keep:
            kept.append(line)
    # The header has no end of its own: as Dovecot, one is given to its last field only.
    return b"".join(kept) + b"\r\n" if keep and kept else b"".join(kept)


def _lines(data: bytes) -> list[bytes]:
    """With their line ends."""
    lines = [line + b"\n" for line in data.split(b"\n")]
    last = lines.pop()[:-1]
    return [*lines, last] if last else lines


def section(data: bytes, root: Node, text: str) -> bytes | None:
    """The octets of a section: "", "1.2", "HEADER", "1.TEXT", "2.MIME",
    "HEADER.FIELDS (From To)", "3.HEADER.FIELDS.NOT (X)". None if there is no such part.
    Raises ValueError if the text is no section."""
    spec, _, names = text.partition(" ")
    words = spec.upper().split(".") if spec else []
    path: list[int] = []
    while words and words[0].isascii() and words[0].isdigit():
        path.append(int(words.pop(0)))
    kind = ".".join(words)
    if kind not in ("", "HEADER", "TEXT", "MIME", "HEADER.FIELDS", "HEADER.FIELDS.NOT") or (
        kind == "MIME" and not path
    ):
        raise ValueError(f"not a section: {text}")
    node = find_part(root, path)
    if node is None:
        return None
    octets = _select(data, node, kind, names, whole=not path)
    # RFC 3501 allows no NUL in a literal; Dovecot sends this instead.
    return octets.replace(b"\0", b"\x80") if b"\0" in octets else octets


def _select(data: bytes, node: Node, kind: str, names: str, *, whole: bool) -> bytes:
    if kind == "":
        return data if whole else body_of(data, node)
    if kind == "MIME":
        return mime_of(data, node)
    if kind == "TEXT":
        return text_of(data, node, whole)
    header = header_of(data, node, whole)
    if kind == "HEADER":
        return header
    wanted = [name.encode() for name in names.strip("() ").split()]
    return header_fields(header, wanted, kind.endswith("NOT"))
