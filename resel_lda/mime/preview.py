"""The beginning of a message's text, as a list of messages shows it (RFC 8970). Never fails."""

from __future__ import annotations

import html
import re
from collections.abc import Callable

from resel_lda.mime.structure import Node, parse
from resel_lda.mime.text import decoded_text

# RFC 8970 §3.1: 200 characters where possible, never more than 256.
MAX_CHARACTERS = 200
# More of the text is not looked at, nor more parts than this.
_MAX_TEXT = 32 * 1024
_MAX_PARTS = 20
# Of plain text so much is nearly always enough.
_BEGINNING = 2048

_TAG = re.compile(r"<[!/?]?[A-Za-z!?-][^<>]{0,4000}>?|<!--")
_UNSEEN = re.compile(r"<(style|script|head|title|template)\b", re.IGNORECASE)
_BLOCK_TAG = re.compile(r"</?(?:p|br|div|tr|td|th|li|h[1-6]|table|blockquote|hr|pre)\b", re.I)
_SIGNATURE = re.compile(r"^-- \r?$", re.MULTILINE)


def preview_of(message: bytes, root: Node | None = None) -> str:
    """At most MAX_CHARACTERS of the first text that is not attached, "" if there is none. White
    space is one space; quoted lines and HTML's tags are left out. root: the message's structure."""
    root = root or parse(message)
    chosen: list[Node] = []
    for number, node in enumerate(root.walk()):
        if number >= _MAX_PARTS or len(chosen) >= 2:
            break
        if _is_text(node) and not (chosen and chosen[0].subtype == node.subtype):
            chosen.append(node)
    # Of plain text and HTML the plain text, unless it is blank.
    chosen.sort(key=_is_html)
    for node in chosen:
        text = decoded_text(message, node)[:_MAX_TEXT]
        found = _shortened(_in_a_line(text, _from_html) if _is_html(node) else _plain(text))
        if found:
            return found
    return ""


def _is_text(node: Node) -> bool:
    if node.children or node.is_multipart or _is_inner(node):
        return False
    if node.type is not None and node.type.lower() != b"text":
        return False
    disposition = node.field(b"content-disposition") or b""
    if disposition.lstrip().lower().startswith(b"attachment"):
        return False
    return node.subtype.lower() in (b"", b"plain", b"html", b"enriched", b"x-amp-html")


def _is_inner(node: Node) -> bool:
    """Whether it belongs to a message inside this one."""
    parent = node.parent
    while parent is not None:
        if parent.is_message:
            return True
        parent = parent.parent
    return False


def _is_html(node: Node) -> bool:
    return node.subtype.lower() not in (b"", b"plain")


def _in_a_line(text: str, shown: Callable[[str], str]) -> str:
    return " ".join(shown(text).split())[: 4 * MAX_CHARACTERS]


def _plain(text: str) -> str:
    """What is shown of plain text."""
    end = text.rfind("\n", 0, _BEGINNING) + 1
    if 0 < end < len(text):
        found = _in_a_line(text[:end], _unquoted)
        if len(found) == 4 * MAX_CHARACTERS:
            return found
    return _in_a_line(text, _unquoted)


def _unquoted(text: str) -> str:
    """Without the quoted lines and the signature; with them, if nothing else is there."""
    if "-- " in text:
        text = _SIGNATURE.split(text, maxsplit=1)[0]
    own = [line for line in text.splitlines() if not line.startswith(">")]
    kept = "\n".join(own)
    return kept if kept.strip() else text


def _from_html(text: str) -> str:
    """The text of HTML, as much as can be told without building a tree. Linear."""
    out: list[str] = []
    unclosed: set[str] = set()
    position = 0
    while position < len(text):
        tag = _TAG.search(text, position)
        if tag is None:
            out.append(text[position:])
            break
        out.append(text[position : tag.start()])
        position = tag.end()
        word = tag[0]
        if word.startswith("<!--"):
            end = text.find("-->", tag.start() + 4)
            position = len(text) if end < 0 else end + 3
            continue
        hidden = _UNSEEN.match(word)
        if hidden is not None and not word.endswith("/>"):
            name = hidden[1].lower()
            close = None
            if name not in unclosed:
                close = re.compile(rf"</{name}\s*>", re.IGNORECASE).search(text, position)
            if close is not None:
                position = close.end()
            elif name in ("style", "script"):
                break
            else:
                unclosed.add(name)
        elif _BLOCK_TAG.match(word):
            out.append(" ")
    return html.unescape("".join(out))


def _shortened(text: str) -> str:
    if not text.isascii():
        # Half surrogates, which some character sets can decode to, are no text.
        text = text.encode("utf-8", "replace").decode("utf-8")
    if not text.isprintable():
        text = "".join(char for char in text if _is_shown(char))
    return text[:MAX_CHARACTERS].rstrip(" ")


def _is_shown(char: str) -> bool:
    """Not controls. Joiners are part of words in some scripts; beyond the first plane there may
    be characters that are newer than this program."""
    return char == " " or char in "\u200c\u200d" or char.isprintable() or ord(char) >= 0x10000
