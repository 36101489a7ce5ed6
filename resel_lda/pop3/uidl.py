"""``pop3_uidl_format``: what a message is called in UIDL (RFC 1939 §7), in Dovecot's variables.

    %u  UID        %v  UIDVALIDITY      %f  file name, without its flags     %g  the same
    %%  a percent sign; %08Xu is %u in hexadecimal of at least 8 digits, as %08xu

A name that `dovecot-uidlist` holds for a message (its P field, from a server that was migrated
once) wins, so that nothing is downloaded again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable

DEFAULT = "%08Xu%08Xv"

_VARIABLE = re.compile(r"%(0?)(\d*)([Xx]?)([uvfg%])")
# RFC 1939: 1 to 70 characters from 0x21 to 0x7E.
_LONGEST = 70

# (UID, UIDVALIDITY, base of the file's name) → the name
Namer = Callable[[int, int, str], str]


def parse_format(text: str) -> Namer:
    """Raises ValueError, in plain words."""
    if "%u" not in re.sub(r"%0?\d*[Xx]?", "%", text) and not re.search(r"%[fg]", text):
        raise ValueError(f"{text}: needs %u, %f or %g, or messages would share a name")
    left = _VARIABLE.sub("", text)
    if "%" in left:
        at = left.index("%")
        raise ValueError(f"{text}: unknown variable {left[at : at + 2]}")
    if any(not "!" <= char <= "~" for char in left):
        raise ValueError(f"{text}: only printable ASCII without spaces can be in a UIDL")

    def name(uid: int, uidvalidity: int, base: str) -> str:
        values = {"u": uid, "v": uidvalidity}

        def expand(match: re.Match[str]) -> str:
            zero, width, as_hex, variable = match.groups()
            if variable == "%":
                return "%"
            number = values.get(variable)
            if number is None:
                return base
            digits = f"{number:x}" if as_hex else str(number)
            return digits.rjust(int(width or 0), "0" if zero else " ").replace(" ", "0")

        return clean(_VARIABLE.sub(expand, text))

    return name


def clean(name: str) -> str:
    """As UIDL may be: RFC 1939's characters, and a digest of a name that is too long."""
    kept = "".join(char if "!" <= char <= "~" else "_" for char in name)
    if len(kept) > _LONGEST:
        return hashlib.sha256(kept.encode("ascii")).hexdigest()
    return kept or "_"


def stored_name(extensions: str) -> str:
    """The P field of a line of `dovecot-uidlist`, or ""."""
    for word in extensions.split():
        if word.startswith("P") and len(word) > 1:
            return clean(word[1:])
    return ""
