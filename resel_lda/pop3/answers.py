"""How POP3 answers (RFC 1939 §3, RFC 2449 §3, §8), before log-in and after it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from resel_lda.pop3.language import LANGUAGES, Language, find_language

#: Of both states (RFC 2449 §6), without those that depend on the connection.
CAPABILITIES = (
    "TOP",
    "UIDL",
    "RESP-CODES",
    "PIPELINING",
    "AUTH-RESP-CODE",
    "UTF8 USER",
    "LANG",
    "EXPIRE NEVER",
    "IMPLEMENTATION resel-mta",
)
_UNPRINTABLE = re.compile(rb"[^ -~]")


class Failed(Exception):
    """A command answered with -ERR and this text, values for its braces. code: RFC 2449's response
    code, "" for none."""

    def __init__(self, text: str, code: str = "", **values: object) -> None:
        super().__init__(text)
        self.text = text
        self.code = code
        self.values = values

    def answer(self, language: Language) -> bytes:
        code = f"[{self.code}] " if self.code else ""
        text = language.say(self.text, **self.values)
        return f"-ERR {code}{text}\r\n".encode("utf-8", "replace")


def shown(given: bytes) -> str:
    """What a client said, for an answer: short, and nothing but printable ASCII."""
    return _UNPRINTABLE.sub(b"?", given[:32]).decode("ascii")


def lines(words: Iterable[str], first: str = "") -> bytes:
    """A multi-line answer. first: the text after +OK."""
    opening = f"+OK {first}" if first else "+OK"
    return "".join(f"{line}\r\n" for line in (opening, *words, ".")).encode()


def choose_language(argument: bytes, now: Language) -> tuple[bytes, Language]:
    """LANG: (the answer, which language is spoken from it on). Raises Failed."""
    asked = argument.strip().decode("ascii", "replace")
    if not asked:
        names = [f"{one.tag} {one.name}" for one in LANGUAGES]
        return lines(names, now.say("Language listing follows:")), now
    found = find_language(asked)
    if found is None:
        raise Failed("This language is unknown: {shown}", shown=shown(argument.strip()))
    return f"+OK {found.tag} {found.say('Language changed.')}\r\n".encode(), found
