"""BINARY, BINARY.PEEK and BINARY.SIZE (RFC 3516): parts without their transfer encoding."""

from __future__ import annotations

from resel_lda.imap.errors import Refused
from resel_lda.imap.fetch_items import Item, Loaded, Need, parse_partial, parse_path
from resel_lda.imap.parser import Parser
from resel_lda.mime import binary, sections
from resel_lda.mime.structure import leaf

_NAMES = (b"BINARY", b"BINARY.PEEK", b"BINARY.SIZE")


def parse_binary(args: Parser, name: bytes) -> Item | None:
    """After the item's name; None if it is none of these. Raises ParseError."""
    if name not in _NAMES:
        return None
    args.expect(b"[")
    path = parse_path(args)
    args.expect(b"]")
    spec = b".".join(b"%d" % number for number in path)
    if name == b"BINARY.SIZE":
        label = b"BINARY.SIZE[%b]" % spec

        def render_size(loaded: Loaded) -> bytes:
            return b"%b %d" % (label, len(_octets(loaded, path) or b""))

        return Item(render_size, Need.MESSAGE, name=label, part=path)
    partial = parse_partial(args)
    start = b"<%d>" % partial[0] if partial is not None else b""
    label = b"BINARY[%b]%b" % (spec, start)

    def render(loaded: Loaded) -> bytes:
        octets = _octets(loaded, path)
        if octets is None:
            return label + b" NIL"
        if partial is not None:
            octets = octets[partial[0] : partial[0] + partial[1]]
        # RFC 9051 §7.5.2: so a client sees whether there is a NUL without a look at all of it.
        tilde = b"~" if b"\0" in octets else b""
        return b"%b %b{%d}\r\n%b" % (label, tilde, len(octets), octets)

    return Item(render, Need.MESSAGE, sets_seen=name == b"BINARY", name=label, part=path)


def _octets(loaded: Loaded, path: tuple[int, ...]) -> bytes | None:
    """None if there is no such part. Raises Refused."""
    part = loaded.few.get(path)
    if part is not None:
        return _decoded(loaded, part.octets, leaf(part.octets, part.header_end, part.body))
    root = loaded.structure
    node = sections.find_part(root, path)
    if node is None:
        return None
    return _decoded(loaded, loaded.message, node, not path)


def _decoded(loaded: Loaded, data: bytes, node: sections.Node, whole: bool = False) -> bytes:
    """whole: header and body. Raises Refused."""
    try:
        if whole:
            return binary.decoded_message(data, node)
        return binary.decoded(data, node)
    except binary.Undecodable as error:
        raise Refused("NO", f"Message {loaded.sequence}: {error}", "UNKNOWN-CTE") from None
