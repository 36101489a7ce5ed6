"""Paths and parameters of MAIL, RCPT and VRFY (RFC 5321 §4.1.2). Pure, no I/O.

An address is a `str` ``local@domain`` whose local part is in its shortest form: unquoted where
it is a dot-atom, else a quoted string with only `"` and `\\` escaped. So two spellings of one
address compare equal (apart from case), and a quoted ``"user@other"@domain`` can never be taken
for ``user@other``.

As Postfix does without `strict_rfc821_envelopes`, missing angle brackets and space after the
colon are forgiven, a source route is dropped (RFC 5321 §4.1.1.3), and an address without a
domain is given as it is: the caller qualifies it.
"""

from __future__ import annotations

import re

_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\U0010ffff-]+"
_DOT_ATOM = rf"{_ATEXT}(?:\.{_ATEXT})*"
# Only what RFC 5321 §4.1.2 allows: printable ASCII and, with SMTPUTF8, everything beyond it.
_QUOTED = r'"(?:[ !#-\[\]-~\x80-\U0010ffff]|\\[ -~])*"'
# Lenient where Postfix is: underscores, and dots too many in the local part ("a..b", "a.").
_LOCAL = rf"(?:[A-Za-z0-9!#$%&'*+/=?^_`{{|}}~.\x80-\U0010ffff-]+|{_QUOTED})"
_LABEL = r"[A-Za-z0-9_\x80-\U0010ffff](?:[A-Za-z0-9_\x80-\U0010ffff-]*[A-Za-z0-9_\x80-\U0010ffff])?"
_NAME = rf"{_LABEL}(?:\.{_LABEL})*\.?"
_LITERAL = r"\[[!-Z^-~]+\]"
_DOMAIN = rf"(?:{_NAME}|{_LITERAL})"
# RFC 5321 §4.1.2: A-d-l = At-domain *( "," At-domain )
_ROUTE = rf"@{_DOMAIN}(?:,@{_DOMAIN})*:"

_dot_atom = re.compile(_DOT_ATOM)
_path = re.compile(rf"(?:{_ROUTE})?({_LOCAL})(?:@({_DOMAIN}))?")
_address_end = re.compile(rf"<(?:{_ROUTE})?(?:{_LOCAL}(?:@{_DOMAIN})?)?>|<[^>\s]*>|[^\s<>]+")
# What nearly all mail has: a plain address in brackets, and nothing more to be looked at.
_simple = re.compile(rf"<({_ATEXT}(?:\.{_ATEXT}){{0,9}}@{_LABEL}(?:\.{_LABEL}){{1,20}})>")
_keyword = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")
_value = re.compile(r"[!-<>-~\x80-\U0010ffff]+")
_escaped = re.compile(r"\\(.)", re.DOTALL)

MAX_LOCAL = 512
MAX_DOMAIN = 255


class PathError(ValueError):
    """Not an address, or not the syntax of the command; str() says which."""


def quote_local(local: str) -> str:
    """A local part as it stands in an address: quoted where it must be."""
    if _dot_atom.fullmatch(local):
        return local
    escaped = local.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def unquote_local(local: str) -> str:
    """The text of a local part, its quotes and backslashes taken away."""
    if local.startswith('"') and local.endswith('"') and len(local) > 1:
        return _escaped.sub(r"\1", local[1:-1])
    return local


def split_address(address: str) -> tuple[str, str]:
    """(local part as written, domain) of an address; the domain is "" if it has none."""
    if address.startswith('"'):
        end = _closing_quote(address)
        local, rest = address[: end + 1], address[end + 1 :]
        return (local, rest[1:]) if rest.startswith("@") else (address, "")
    local, _, domain = address.rpartition("@")
    return (local, domain) if local else (address, "")


def _closing_quote(text: str) -> int:
    position = 1
    while position < len(text):
        if text[position] == "\\":
            position += 1
        elif text[position] == '"':
            return position
        position += 1
    return len(text)


def is_routed(address: str) -> bool:
    """Whether the local part names a further destination: user%other@domain, other!user@domain,
    "user@other"@domain. An untrusted client may not have such an address relayed."""
    text = unquote_local(split_address(address)[0])
    return "%" in text or "@" in text or "!" in text


def parse_address(text: str) -> str:
    """An address without brackets, in its shortest form. Raises PathError."""
    match = _path.fullmatch(text)
    if match is None:
        raise PathError("Bad address syntax")
    local, domain = match.groups()
    if local[0] == '"':
        local = quote_local(unquote_local(local))
    elif "." in local and not _dot_atom.fullmatch(local):
        local = quote_local(local)
    if len(local) > MAX_LOCAL or (domain and len(domain) > MAX_DOMAIN):
        raise PathError("Address too long")
    return f"{local}@{domain}" if domain else local


def parse_path(text: str) -> str:
    """``<address>``, ``address`` or ``<>``; "" for the null path. Raises PathError."""
    if text.startswith("<"):
        if not text.endswith(">"):
            raise PathError("Bad address syntax")
        text = text[1:-1]
        if not text:
            return ""
    return parse_address(text)


def parse_parameters(text: str) -> dict[str, str]:
    """ESMTP parameters by upper-case keyword; "" where one has no value. Raises PathError."""
    parameters: dict[str, str] = {}
    for word in text.split():
        keyword, equals, value = word.partition("=")
        if not _keyword.fullmatch(keyword) or (equals and not _value.fullmatch(value)):
            raise PathError(f"Bad parameter: {word[:40]}")
        keyword = keyword.upper()
        if keyword in parameters:
            raise PathError(f"Parameter given twice: {keyword}")
        parameters[keyword] = value
    return parameters


def parse_command(argument: str, prefix: str) -> tuple[str, dict[str, str]]:
    """(address, parameters) of what follows the verb: ``FROM:<a@b> SIZE=1`` with prefix "FROM:".

    Raises PathError, whose text is "" when the prefix itself is missing.
    """
    size = len(prefix)
    if argument[:size].upper() != prefix:
        raise PathError("")
    rest = argument[size:].strip()
    match = _simple.match(rest)
    if match is not None and len(rest) < 200:
        tail = rest[match.end() :]
        if not tail:
            return match[1], {}
        if tail[0] in " \t":
            return match[1], parse_parameters(tail)
    match = _address_end.match(rest)
    if match is None:
        raise PathError("Bad address syntax")
    tail = rest[match.end() :]
    if tail and tail[0] not in " \t":
        raise PathError("Bad address syntax")
    return parse_path(match.group()), parse_parameters(tail) if tail else {}
