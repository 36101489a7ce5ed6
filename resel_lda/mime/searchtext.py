"""What SEARCH BODY and TEXT compare with: decoded and folded text of a message. Never fails."""

from __future__ import annotations

from resel_lda.mime.fold import fold
from resel_lda.mime.structure import Node, parse
from resel_lda.mime.text import decode_header, decoded_text


def header_values(header: bytes) -> list[tuple[bytes, str]]:
    """(lower-case name, decoded and folded value) of all fields."""
    values: list[tuple[bytes, list[bytes]]] = []
    for line in header.split(b"\n"):
        line = line.removesuffix(b"\r")
        if line[:1] in (b" ", b"\t"):
            if values:
                values[-1][1].append(line)
            continue
        name, colon, rest = line.partition(b":")
        if colon:
            values.append((name.rstrip(b" \t").lower(), [rest]))
    return [(name, fold(decode_header(b"".join(lines).strip(b" \t")))) for name, lines in values]


def header_line(name: bytes, value: str) -> str:
    """A field as TEXT sees it."""
    return f"{name.decode('latin-1')}: {value}"


def body_text(message: bytes, root: Node | None = None) -> str:
    """The leaf parts' text, and the headers of messages inside (they are body text, too). root: the
    message's structure."""
    root = root or parse(message)
    texts: list[str] = []
    for node in root.walk():
        if node is not root and node.is_root:
            texts += [
                header_line(*field) for field in header_values(message[node.start : node.body])
            ]
        found = decoded_text(message, node)
        if found:
            texts.append(fold(found))
    return "\n".join(texts)


def whole_text(message: bytes, header: bytes, root: Node | None = None) -> str:
    """All that TEXT looks at, of which BODY's text is a part. root: the message's structure."""
    lines = [header_line(*field) for field in header_values(header)]
    return "\n".join([*lines, body_text(message, root)])
