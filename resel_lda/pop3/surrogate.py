"""A message whose headers are in UTF-8 (RFC 6532), for a client that can read ASCII only.

As RFC 6858 has it: display names and texts become encoded words, parameters RFC 2231's; an address
that is not ASCII is shown as a name, with an address that leads nowhere; fields that have no form
for it are left out. Bodies stay as they are. Headers that are not UTF-8 do too: they are broken for
everybody.
"""

from __future__ import annotations

import base64
import re
from urllib.parse import quote_from_bytes

from resel_lda.mime.addresses import Address, parse_addresses
from resel_lda.mime.sections import Node, parse

_INVALID = b"invalid@internationalized-address.invalid"
_ADDRESSES = frozenset(
    (b"from", b"sender", b"reply-to", b"to", b"cc", b"bcc", b"resent-from", b"resent-sender",
     b"resent-to", b"resent-cc", b"resent-bcc", b"resent-reply-to", b"disposition-notification-to")
)  # fmt: skip
_WITH_PARAMETERS = frozenset((b"content-type", b"content-disposition"))
_LEFT_OUT = frozenset(
    (b"date", b"message-id", b"in-reply-to", b"references", b"received", b"return-path",
     b"resent-date", b"resent-message-id", b"content-id", b"content-transfer-encoding",
     b"mime-version", b"dkim-signature", b"authentication-results", b"list-post", b"list-help",
     b"list-unsubscribe", b"list-subscribe", b"list-owner", b"list-archive")
)  # fmt: skip
_FIELD = re.compile(rb"[^\r\n]*\r?\n?(?:[ \t][^\r\n]*\r?\n?)*")
_FOLD = re.compile(rb"\r?\n(?=[ \t])")
_TOKEN = rb"[!#$&+\-.0-9A-Z^_`a-z{|}~]"
# Nothing of it is looked at twice, however long a token is.
_PARAMETER = re.compile(
    rb"(?<!" + _TOKEN + rb")(" + _TOKEN + rb"++)[ \t]*+=[ \t]*+"
    rb"""("(?:[^"\\]|\\.)*+"|[^;\s"]++)""",
    re.DOTALL,
)
_SPECIALS = re.compile(rb'[()<>\[\]:;@\\,."]')
_BROKEN = (b"MISSING_MAILBOX", b"MISSING_DOMAIN", b"SYNTAX_ERROR")
# Octets of UTF-8 in one encoded word, which may take 75 characters (RFC 2047 §2).
_WORD = 36
_LINE = 76
# Characters of a parameter's value in one section (RFC 2231 §3).
_SECTION = 60


def needs_utf8(message: bytes) -> bool:
    """Whether `surrogate` may have something to change; quick where it has not."""
    if message.isascii():
        return False
    end = message.find(b"\r\n\r\n")
    header = message if end < 0 else message[:end]
    if not header.isascii():
        return True
    folded = header.lower()
    return b"multipart/" in folded or b"message/" in folded


def surrogate(message: bytes) -> bytes:
    """The message with all its headers, those of parts too, in ASCII."""
    out: list[bytes] = []
    done = 0
    for node in _nodes(parse(message, with_global=True)):
        header = message[node.start : node.header_end]
        if header.isascii() or not _is_utf8(header):
            continue
        out += (message[done : node.start], _header(header))
        done = node.header_end
    out.append(message[done:])
    return b"".join(out)


def _nodes(root: Node) -> list[Node]:
    """All parts, in the order in which they stand."""
    found: list[Node] = []
    waiting = [root]
    while waiting:
        node = waiting.pop()
        found.append(node)
        waiting += reversed(node.children)
    return found


def _is_utf8(octets: bytes) -> bool:
    try:
        octets.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _header(header: bytes) -> bytes:
    fields = _FIELD.findall(header)
    return b"".join(field if field.isascii() else _field(field) for field in fields)


def _field(field: bytes) -> bytes:
    """With its line end; nothing if it is left out."""
    name, colon, value = field.partition(b":")
    key = name.strip().lower()
    if not colon or not name.isascii() or key in _LEFT_OUT:
        return b""
    value = _FOLD.sub(b"", value).strip(b" \t\r\n")
    words: list[bytes] | None = None
    if key in _ADDRESSES:
        words = _addresses(value)
    elif key in _WITH_PARAMETERS:
        words = _parameters(value)
    return _folded(name + b":", _text(value) if words is None else words)


def _folded(line: bytes, words: list[bytes]) -> bytes:
    lines = []
    for at, word in enumerate(words):
        if at and len(line) + 1 + len(word) > _LINE:
            lines.append(line)
            line = b""
        line += b" " + word
    return b"\r\n".join([*lines, line]) + b"\r\n"


def _text(value: bytes) -> list[bytes]:
    """Unstructured: runs of words that are not ASCII are encoded together, since the space between
    two encoded words is none."""
    words: list[bytes] = []
    run: list[bytes] = []
    for word in value.split():
        if not word.isascii():
            run.append(word)
            continue
        if run:
            words += _encoded(b" ".join(run))
            run = []
        words.append(word)
    if run:
        words += _encoded(b" ".join(run))
    return words


def _encoded(text: bytes) -> list[bytes]:
    """Encoded words (RFC 2047)."""
    words: list[bytes] = []
    piece = b""
    for char in text.decode("utf-8", "replace"):
        octets = char.encode()
        if len(piece) + len(octets) > _WORD:
            words.append(b"=?utf-8?B?%b?=" % base64.b64encode(piece))
            piece = b""
        piece += octets
    words.append(b"=?utf-8?B?%b?=" % base64.b64encode(piece))
    return words


def _addresses(value: bytes) -> list[bytes] | None:
    """None if it is no list of addresses."""
    words: list[bytes] = []
    in_group = False
    for address in parse_addresses(value):
        if address.mailbox in _BROKEN or address.domain in _BROKEN:
            return None
        if address.mailbox is None:
            # The end of a group closes what stands before it.
            in_group = False
            if words:
                words[-1] = words[-1].removesuffix(b",") + b";,"
            continue
        if address.domain is None:
            in_group = True
            words += _phrase(address.mailbox)
            words[-1] += b":"
            continue
        words += _address(address)
        words[-1] += b","
    if not words or in_group:
        return None
    words[-1] = words[-1].removesuffix(b",")
    return words


def _address(address: Address) -> list[bytes]:
    """Without a route: nobody may send one any more (RFC 5322 §4.4)."""
    mailbox = address.mailbox or b""
    plain = mailbox + b"@" + (address.domain or b"")
    name = address.name or b""
    if not plain.isascii():
        return [*_encoded(name + b" " + plain if name else plain), b"<%b>" % _INVALID]
    if _SPECIALS.search(mailbox.replace(b".", b"")) or b" " in mailbox:
        plain = _quoted(mailbox) + b"@" + (address.domain or b"")
    return [*_phrase(name), b"<%b>" % plain] if name else [plain]


def _phrase(name: bytes) -> list[bytes]:
    if not name.isascii():
        return _encoded(name)
    if b"=?" in name or not _SPECIALS.search(name):
        return name.split() or [b'""']
    return [_quoted(name)]


def _quoted(text: bytes) -> bytes:
    return b'"' + text.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def _parameters(value: bytes) -> list[bytes]:
    """The value with the parameters that need it as RFC 2231 has them."""

    def extended(found: re.Match[bytes]) -> bytes:
        name, given = found.groups()
        if given.isascii():
            return found[0]
        if given.startswith(b'"'):
            given = re.sub(rb"\\(.)", rb"\1", given[1:-1], flags=re.DOTALL)
        coded = quote_from_bytes(given, safe="").encode()
        if len(coded) <= _SECTION:
            return b"%b*=utf-8''%b" % (name, coded)
        sections = []
        while coded:
            # Not within the three characters of one octet.
            end = _SECTION - next(
                (n for n in (1, 2) if coded[_SECTION - n : _SECTION - n + 1] == b"%"), 0
            )
            sections.append(coded[:end])
            coded = coded[end:]
        sections[0] = b"utf-8''" + sections[0]
        return b"; ".join(b"%b*%d*=%b" % (name, at, one) for at, one in enumerate(sections))

    made = _PARAMETER.sub(extended, value)
    if not made.isascii():
        made = re.sub(rb"[\x80-\xff]+", b"?", made)
    return re.split(rb"(?<=;)[ \t]*", made)
