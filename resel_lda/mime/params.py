"""Content-Type, Content-Disposition and their parameters (RFC 2045 §5.1, RFC 2183, RFC 2231)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from resel_lda.mime.tokens import BROKEN, END, MORE, Scanner

Params = tuple[tuple[bytes, bytes], ...]

# type/subtype; name=token; name="text": nearly all real fields.
_TOKEN = rb"[^\x00-\x20\x7f()<>@,;:\\\"/\[\]?=*]+"
_SIMPLE_TYPE = re.compile(
    rb"("
    + _TOKEN
    + rb")/("
    + _TOKEN
    + rb")((?:;[ \t]*"
    + _TOKEN
    + rb"=(?:"
    + _TOKEN
    + rb"|\"[^\"\\\r\n]*\"))*)"
)
_SIMPLE_PARAM = re.compile(rb";[ \t]*(" + _TOKEN + rb")=(?:(" + _TOKEN + rb")|\"([^\"\\\r\n]*)\")")
# Octets of a field up to which it is remembered what it says.
_MAX_REMEMBERED = 200
_PLAIN_TOKEN = re.compile(rb"[A-Za-z0-9-]+")
_BARE_VALUE = re.compile(rb"[^; \t\r\n]*")
_CONTINUED = re.compile(rb"([^*]*)\*([0-9]*)(\*?)")


class ContentType(NamedTuple):
    """type and subtype as written; subtype is b"" where it is missing."""

    type: bytes
    subtype: bytes
    params: Params


def parse_content_type(value: bytes) -> ContentType:
    """Never fails; a broken type is b"" and has no parameters."""
    return _parse_type(value) if len(value) > _MAX_REMEMBERED else _remembered_type(value)


def _parse_type(value: bytes) -> ContentType:
    simple = _SIMPLE_TYPE.fullmatch(value)
    if simple is not None:
        kind, subtype, rest = simple.groups()
        params = tuple(
            (name, quoted if bare is None else bare)
            for name, bare, quoted in (m.group(1, 2, 3) for m in _SIMPLE_PARAM.finditer(rest))
        )
        return ContentType(kind, subtype, params)
    scan = Scanner(value)
    scan.skip_space()
    out: list[bytes] = []
    state = scan.token(out)
    kind = b"".join(out)
    if state != MORE and kind:
        return ContentType(kind, b"", ())
    if state != MORE or not scan.at(b"/"):
        return ContentType(b"", b"", ())
    scan.pos += 1
    out = []
    state = scan.skip_space()
    if state == MORE:
        state = scan.token(out)
    subtype = b"".join(out)
    if not subtype or state == BROKEN or (state == MORE and not scan.at(b";")):
        return ContentType(b"", b"", ())
    return ContentType(kind, subtype, parse_params(scan))


# Most messages have one of a few.
_remembered_type = lru_cache(maxsize=512)(_parse_type)


def parse_disposition(value: bytes) -> tuple[bytes, Params] | None:
    """(disposition, parameters); b"" if it cannot be read, None if a comment after it does not end."""
    scan = Scanner(value)
    scan.skip_space()
    out: list[bytes] = []
    if scan.token(out) == BROKEN and out:
        return None
    return b"".join(out), parse_params(scan)


def parse_token(value: bytes) -> bytes:
    """A field that is one token (Content-Transfer-Encoding); b"" if it is anything else."""
    if _PLAIN_TOKEN.fullmatch(value):
        return value
    scan = Scanner(value)
    scan.skip_space()
    out: list[bytes] = []
    return b"".join(out) if scan.token(out) == END else b""


def parse_languages(value: bytes) -> tuple[bytes, ...]:
    """Content-Language: tokens between commas (RFC 3282)."""
    scan = Scanner(value)
    scan.skip_space()
    found: list[bytes] = []
    while True:
        out: list[bytes] = []
        state = scan.token(out)
        if not out or state == BROKEN:
            break
        found.append(out[0])
        if state != MORE or not scan.at(b","):
            break
        scan.pos += 1
        if scan.skip_space() != MORE:
            break
    return tuple(found)


def parse_params(scan: Scanner) -> Params:
    """Parameters from `scan` to its end. Continuations (name*0, name*1*) are joined as name or
    name*, after the others; with a number missing they stay as they are."""
    plain: list[tuple[bytes, bytes]] = []
    split: list[tuple[bytes, int, bool, bytes]] = []
    while scan.pos < scan.end:
        found = _param(scan)
        if found is None:
            scan.pos += 1
            continue
        name, value = found
        match = _CONTINUED.fullmatch(name)
        if match is None:
            plain.append((name, value))
        else:
            base, number, star = match.groups()
            # name*= is a lone extended value, kept under the name it has.
            split.append((base, int((number or b"0")[:9]), bool(star) or not number, value))
    if split:
        plain += _join(split)
    return tuple(plain)


def _param(scan: Scanner) -> tuple[bytes, bytes] | None:
    if not scan.at(b";"):
        return None
    scan.pos += 1
    name: list[bytes] = []
    if scan.skip_space() != MORE or (scan.token(name) != MORE and name) or not scan.at(b"="):
        return None
    scan.pos += 1
    value: list[bytes] = []
    state = scan.skip_space()
    if state == MORE:
        if scan.at(b'"'):
            if scan.quoted_string(value) == BROKEN:
                return None
        elif scan.at(b"="):
            # name==?utf-8?q?...?= without quotes: take all of it.
            value.append(scan.run(_BARE_VALUE))
            scan.skip_space()
        else:
            # BROKEN without a value: there is none.
            if scan.token(value) == BROKEN and value:
                return None
    elif state == BROKEN:
        return None
    return b"".join(name), b"".join(value)


def _join(split: Sequence[tuple[bytes, int, bool, bytes]]) -> list[tuple[bytes, bytes]]:
    groups: dict[bytes, list[tuple[bytes, int, bool, bytes]]] = {}
    for item in sorted(split, key=lambda item: (item[0].lower(), item[1])):
        groups.setdefault(item[0].lower(), []).append(item)
    joined: list[tuple[bytes, bytes]] = []
    for group in groups.values():
        if [item[1] for item in group] != list(range(len(group))):
            for base, number, extended, value in group:
                joined.append((b"%b*%d%b" % (base, number, b"*" if extended else b""), value))
            continue
        any_extended = any(item[2] for item in group)
        text = [b"''"] if any_extended and not group[0][2] else []
        for _, _, extended, value in group:
            text.append(_escape(value) if any_extended and not extended else value)
        joined.append((group[0][0] + (b"*" if any_extended else b""), b"".join(text)))
    return joined


def _escape(value: bytes) -> bytes:
    return value.replace(b"%", b"%25")
