"""Folder names between wire and store: prefix, separator, modified UTF-7, INBOX in any case."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from resel_lda.imap import utf7
from resel_lda.imap.errors import Refused
from resel_lda.mailbox import MailboxError


@dataclass(frozen=True, slots=True)
class Names:
    """One personal namespace (RFC 2342). The store's own separator is "/". utf8: names travel in
    UTF-8 (RFC 9051 §5.1, RFC 6855 §3), not in modified UTF-7."""

    prefix: str = ""
    separator: str = "/"
    utf8: bool = False

    def text(self, wire: bytes) -> str:
        """A name or pattern as the client means it, still with prefix and separator."""
        coding = "UTF-8" if self.utf8 else "modified UTF-7"
        try:
            return wire.decode("utf-8") if self.utf8 else utf7.decode(wire)
        except ValueError:
            raise Refused("NO", f"Mailbox name is not valid {coding}", "CANNOT") from None

    def store_name(self, wire: bytes) -> str:
        """Raises Refused for a name that no folder can have."""
        name = self.text(wire)
        if name.upper() == "INBOX":
            return "INBOX"
        if not name.isprintable():
            raise Refused("NO", "Control character in mailbox name", "CANNOT")
        if self.prefix:
            if not name.startswith(self.prefix):
                raise Refused("NO", "Client tried to access nonexistent namespace", "NONEXISTENT")
            name = name[len(self.prefix) :]
        if self.separator != "/":
            if "/" in name:
                raise Refused("NO", "Character not allowed in mailbox name: '/'", "CANNOT")
            name = name.replace(self.separator, "/")
        levels = name.split("/")
        if "" in levels or any(level in (".", "..") for level in levels):
            raise Refused("NO", "Invalid mailbox name", "CANNOT")
        if levels[0].upper() == "INBOX":
            levels[0] = "INBOX"
        return "/".join(levels)

    def new_name(self, wire: bytes) -> str:
        """As `store_name`, of a folder that is to be made: in UTF-8 it is normalised, so that two
        folders never look the same (RFC 9051 §5.1, RFC 5198)."""
        return self.normal(self.store_name(wire))

    def normal(self, name: str) -> str:
        """A name as folders made with it are called."""
        return unicodedata.normalize("NFC", name) if self.utf8 else name

    def shown(self, name: str) -> str:
        """A store's name as the client sees it, before it is coded for the wire."""
        if name == "INBOX":
            return name
        return self.prefix + name.replace("/", self.separator)

    def explain(self, error: MailboxError) -> str:
        """What went wrong, with the folder's name as the client knows it: a text in UTF-8 is for
        those who said that they read it (RFC 3501 §9, TEXT-CHAR)."""
        if not error.name:
            return error.text
        shown = self.shown(error.name)
        known = shown if self.utf8 else utf7.encode(shown).decode("ascii")
        return error.text.replace(error.name, known)

    def wire(self, name: str) -> bytes:
        """A store's name as sent (an astring still has to be made of it)."""
        return self.coded(self.shown(name))

    def coded(self, shown: str) -> bytes:
        """A shown name, or a part of one, as it travels."""
        return shown.encode("utf-8", "replace") if self.utf8 else utf7.encode(shown)


def matches(pattern: str, name: str, separator: str) -> bool:
    """LIST's wildcards: "*" is anything, "%" anything within a level. Linear in both lengths
    multiplied at most, so no pattern can be made to explode."""
    if len(pattern) - pattern.count("*") - pattern.count("%") > len(name):
        return False
    reached = {0}
    for char in _collapsed(pattern):
        if not reached:
            return False
        if char == "*":
            reached = set(range(min(reached), len(name) + 1))
        elif char == "%":
            grown: set[int] = set()
            for start in reached:
                position = start
                while position not in grown:
                    grown.add(position)
                    if position == len(name) or name[position] == separator:
                        break
                    position += 1
            reached = grown
        else:
            reached = {at + 1 for at in reached if at < len(name) and name[at] == char}
    return len(name) in reached


def _collapsed(pattern: str) -> str:
    """The pattern with runs of wildcards reduced to one that means the same."""
    out: list[str] = []
    for char in pattern:
        if char in "*%" and out and out[-1] in "*%":
            if char == "*":
                out[-1] = "*"
            continue
        out.append(char)
    return "".join(out)


def matches_folder(pattern: str, shown: str, separator: str) -> bool:
    """As `matches`, INBOX in any case."""
    if matches(pattern, shown, separator):
        return True
    return shown == "INBOX" and matches(pattern.upper(), shown, separator)
