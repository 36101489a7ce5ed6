"""`auth_username_format`: the user that a name given at log-in means, in Dovecot's variables."""

from __future__ import annotations

import re
from collections.abc import Callable

_VARIABLE = re.compile(
    r"%(?:([LU]*)([und%])|\{(user|username|domain)((?: *\| *(?:lower|upper))*)\})"
)
_LONG = {"user": "u", "username": "n", "domain": "d"}
_FILTERS = {"lower": "L", "upper": "U"}

Part = Callable[[str], str]


class UsernameFormat:
    """format: %u the name as it was given, %n what stands before its first @, %d what follows; L and
    U before the letter make it small and large. Also as Dovecot 2.4 writes them: %{user},
    %{username}, %{domain}, with `| lower` and `| upper`. Empty: the name as it is.

    Raises ValueError, which says what is wrong.
    """

    def __init__(self, format: str) -> None:
        text = format or "%u"
        self._parts: list[Part] = []
        place = 0
        for found in _VARIABLE.finditer(text):
            self._literal(text[place : found.start()])
            self._parts.append(_part(found))
            place = found.end()
        self._literal(text[place:])
        if not {found[2] or found[3] for found in _VARIABLE.finditer(text)} - {"%"}:
            raise ValueError(f"{format}: the same for everybody; %n is a name without its @domain")

    def _literal(self, text: str) -> None:
        if "%" in text:
            raise ValueError(f"{text[text.index('%') :]}: only %u, %n and %d, as in %Ln")
        if text:
            self._parts.append(lambda name: text)

    def __call__(self, name: str) -> str:
        """The user's name. It may be empty, and is nobody's then."""
        return "".join([part(name) for part in self._parts])


def _part(found: re.Match[str]) -> Part:
    short, letter, long, filters = found.groups()
    if letter == "%":
        return _percent
    if long is not None:
        letter = _LONG[long]
        short = "".join(_FILTERS[each] for each in re.findall("[a-z]+", filters))
    get = {"u": _whole, "n": _local, "d": _domain}[letter]
    if not short:
        return get
    change = str.lower if short[-1] == "L" else str.upper
    return lambda name: change(get(name))


def _percent(name: str) -> str:
    return "%"


def _whole(name: str) -> str:
    return name


def _local(name: str) -> str:
    return name.partition("@")[0]


def _domain(name: str) -> str:
    return name.partition("@")[2]
