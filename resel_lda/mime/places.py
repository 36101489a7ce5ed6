"""Where the parts of a large message lie, as it can be kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from resel_lda.mime.sections import Node, find_part

# Smaller messages are read whole: it costs no more.
LARGE = 64 * 1024
_MAX_PARTS = 200
DIGEST_SIZE = 12


class Place(NamedTuple):
    """A leaf part, in the message with CR LF line ends: where its header starts, and how many line
    ends come before; header, body: from there on, where its header and the empty line after it end;
    length: up to its end; lines: line ends in it. digest: of all its octets."""

    start: int
    before: int
    header: int
    body: int
    length: int
    lines: int
    digest: str


class Places(NamedTuple):
    """size, lines: octets and line ends of the message. parts: by number ("1.2")."""

    size: int
    lines: int
    parts: dict[str, Place]


def digest_of(octets: bytes) -> str:
    return hashlib.blake2b(octets, digest_size=DIGEST_SIZE).hexdigest()


def noted_places(message: bytes, root: Node) -> str | None:
    """Of a message with CR LF line ends and its structure; None if it is not large."""
    if len(message) < LARGE:
        return None
    parts: dict[str, Place] = {}
    at = before = 0
    for path, node in sorted(_leaves(root), key=lambda leaf: leaf[1].start):
        before += message.count(b"\n", at, node.start)
        at = node.start
        octets = message[node.start : node.end]
        parts[".".join(map(str, path))] = Place(
            node.start,
            before,
            node.header_end - node.start,
            node.body - node.start,
            len(octets),
            octets.count(b"\n"),
            digest_of(octets),
        )
        if len(parts) >= _MAX_PARTS:
            break
    return json.dumps(Places(len(message), message.count(b"\n"), parts))


def read_places(noted: str) -> Places:
    """What `noted_places` made."""
    size, lines, parts = json.loads(noted)
    return Places(size, lines, {path: Place(*place) for path, place in parts.items()})


def _leaves(root: Node) -> Iterator[tuple[Sequence[int], Node]]:
    """Parts that hold no others, with their numbers. None that is a message: for some clients that
    holds others (message/global)."""
    waiting: list[tuple[tuple[int, ...], Node]] = [((), root)]
    while waiting:
        path, node = waiting.pop()
        if node.is_multipart:
            waiting += [((*path, n), child) for n, child in enumerate(node.children, 1)]
            continue
        path = path or (1,)
        if node.is_message and node.children:
            inner = node.children[0]
            waiting.append((path if inner.is_multipart else (*path, 1), inner))
        elif (node.type or b"").lower() != b"message" and find_part(root, path) is node:
            yield path, node
