"""Expansion of ``$name`` in parameter values, as postconf(5) describes it.

``$name ${name} $(name)``; ``${name?text}`` (if not empty) and ``${name:text}`` (if empty), with
``{text}`` in braces also together: ``${name?{this}:{that}}``; the relational form
``${{a} == {b} ? {this} : {that}}`` with ``== != < <= >= >`` (as numbers if both are digits) and
their ``level`` variants, which compare release numbers part by part; ``$$`` is a dollar sign.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_CLOSING = {"{": "}", "(": ")"}
_NAME = re.compile(r"[A-Za-z0-9_]+")
_OPERATOR = re.compile(r"(==|!=|<=|>=|<|>)(level)?")
_MAX_DEPTH = 50

Lookup = Callable[[str], str | None]


class ExpansionError(ValueError):
    """A ``$`` expression that does not parse, or one that refers to itself."""


def expand(text: str, lookup: Lookup) -> str:
    """Replace all references. lookup gives a parameter's expanded value, None if there is none."""
    return _expand(text, lookup, 0) if "$" in text else text


def references(text: str) -> set[str]:
    """The names that a value refers to, whatever the conditions give."""
    found: set[str] = set()
    for name in re.findall(r"\$(?:[({]\s*)?([A-Za-z0-9_]+)", text):
        found.add(name)
    return found


def _expand(text: str, lookup: Lookup, depth: int) -> str:
    if depth > _MAX_DEPTH:
        raise ExpansionError("too many references within references")
    out: list[str] = []
    position = 0
    while True:
        dollar = text.find("$", position)
        if dollar < 0 or dollar + 1 >= len(text):
            out.append(text[position:])
            return "".join(out)
        out.append(text[position:dollar])
        char = text[dollar + 1]
        if char == "$":
            out.append("$")
            position = dollar + 2
        elif char in _CLOSING:
            inside, position = _balanced(text, dollar + 1)
            out.append(_reference(inside, lookup, depth))
        else:
            match = _NAME.match(text, dollar + 1)
            if match is None:
                raise ExpansionError(f'"$" before "{text[dollar + 1 :][:10]}" names no parameter')
            out.append(lookup(match.group()) or "")
            position = match.end()


def _balanced(text: str, start: int) -> tuple[str, int]:
    """What stands inside the bracket that opens at `start`, and where the text goes on."""
    opening, closing = text[start], _CLOSING[text[start]]
    depth = 0
    for index in range(start, len(text)):
        if text[index] == opening:
            depth += 1
        elif text[index] == closing:
            depth -= 1
            if depth == 0:
                return text[start + 1 : index], index + 1
    raise ExpansionError(f'"{text[start - 1 :]}" is not closed by "{closing}"')


def _reference(inside: str, lookup: Lookup, depth: int) -> str:
    """The value of what stands between ``${`` and ``}``."""
    inside = inside.strip()
    if inside.startswith("{"):
        return _relational(inside, lookup, depth)
    match = _NAME.match(inside)
    if match is None:
        raise ExpansionError(f'"${{{inside}}}" names no parameter')
    value = lookup(match.group()) or ""
    rest = inside[match.end() :]
    if not rest:
        return value
    bare = rest.lstrip()
    if bare[0] not in "?:" or (bare is not rest and not bare[1:].lstrip().startswith("{")):
        raise ExpansionError(f'"${{{inside}}}": "?" or ":" was expected after the name')
    when_true, when_false = _branches(bare, inside)
    chosen = when_true if value else when_false
    return _expand(chosen, lookup, depth + 1)


def _branches(rest: str, whole: str) -> tuple[str, str]:
    """(text if true, text if false) of ``?text``, ``:text``, ``?{text}``, ``?{text}:{text}``."""
    mark, text = rest[0], rest[1:].lstrip()
    if not text.startswith("{"):
        return (rest[1:], "") if mark == "?" else ("", rest[1:])
    first, end = _balanced(text, 0)
    first = first.strip()
    rest = text[end:].strip()
    if not rest:
        return (first, "") if mark == "?" else ("", first)
    other = rest[1:].lstrip()
    if mark != "?" or rest[0] != ":" or not other:
        raise ExpansionError(f'"${{{whole}}}": ":{{text}}" was expected at "{rest}"')
    if not other.startswith("{"):
        return first, other
    second, end = _balanced(other, 0)
    if other[end:].strip():
        raise ExpansionError(f'"${{{whole}}}": nothing was expected at "{other[end:]}"')
    return first, second.strip()


def _relational(inside: str, lookup: Lookup, depth: int) -> str:
    left, end = _balanced(inside, 0)
    rest = inside[end:].lstrip()
    operator = _OPERATOR.match(rest)
    if operator is None:
        raise ExpansionError(f'"${{{inside}}}": a comparison was expected at "{rest}"')
    rest = rest[operator.end() :].lstrip()
    if not rest.startswith("{"):
        raise ExpansionError(f'"${{{inside}}}": "{{" was expected at "{rest}"')
    right, end = _balanced(rest, 0)
    rest = rest[end:].strip()
    a = _expand(left.strip(), lookup, depth + 1)
    b = _expand(right.strip(), lookup, depth + 1)
    outcome = _compare(a, operator.group(1), b, by_level=operator.group(2) is not None)
    if not rest:
        return "true" if outcome else ""
    if rest[0] not in "?:":
        raise ExpansionError(f'"${{{inside}}}": "?" or ":" was expected at "{rest}"')
    when_true, when_false = _branches(rest, inside)
    return _expand(when_true if outcome else when_false, lookup, depth + 1)


def _compare(a: str, operator: str, b: str, *, by_level: bool) -> bool:
    order: int
    if by_level:
        order = _sign(_level(a), _level(b))
    elif a.isdigit() and b.isdigit():
        order = _sign(int(a), int(b))
    else:
        order = _sign(a, b)
    return {
        "==": order == 0,
        "!=": order != 0,
        "<": order < 0,
        "<=": order <= 0,
        ">=": order >= 0,
        ">": order > 0,
    }[operator]


def _sign(a: object, b: object) -> int:
    if a == b:
        return 0
    return -1 if a < b else 1  # type: ignore[operator]


def _level(text: str) -> tuple[int, int, int]:
    """A compatibility level "major.minor.patch" with missing parts 0."""
    parts = text.split(".")
    if not 1 <= len(parts) <= 3 or not all(part.isdigit() for part in parts):
        raise ExpansionError(f'"{text}" is not a release number such as 3.6')
    numbers = [int(part) for part in parts] + [0, 0]
    return numbers[0], numbers[1], numbers[2]
