"""Address lists (RFC 5322 §3.4 and the obsolete forms), read to the end whatever they hold.

Broken input gives the placeholders that Dovecot's users know: MISSING_MAILBOX, MISSING_DOMAIN,
SYNTAX_ERROR, INVALID_ROUTE.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from resel_lda.mime.tokens import BROKEN, END, MORE, Scanner

# "Name" <local@domain>, Name <local@domain>, local@domain: nearly all real fields.
_ATEXT = rb"[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~\x80-\xff]"
_SIMPLE = re.compile(
    rb"(?:(?:\"([^\"\\\r\n]+)\"|(" + _ATEXT + rb"+(?: " + _ATEXT + rb"+)*)) ?)?"
    rb"<(" + _ATEXT + rb"+(?:\." + _ATEXT + rb"+)*)@(" + _ATEXT + rb"+(?:\." + _ATEXT + rb"+)*)>"
)


# local@domain alone; and what makes a list of addresses more than commas between such.
_BARE = re.compile(
    rb"(" + _ATEXT + rb"+(?:\." + _ATEXT + rb"+)*)@(" + _ATEXT + rb"+(?:\." + _ATEXT + rb"+)*)"
)
_SPECIAL = re.compile(rb"[\"():;\\\r\n\t]")


class Address(NamedTuple):
    """One address as ENVELOPE shows it (RFC 3501 §7.4.2). A group starts with only `mailbox`
    set and ends with nothing set."""

    name: bytes | None = None
    route: bytes | None = None
    mailbox: bytes | None = None
    domain: bytes | None = None


def parse_addresses(value: bytes) -> list[Address]:
    """The addresses of an unfolded field value; [] if it holds none. Never fails."""
    simple = _SIMPLE.fullmatch(value)
    if simple is not None:
        quoted, words, mailbox, domain = simple.groups()
        return [Address(quoted or words, None, mailbox, domain)]
    if _SPECIAL.search(value) is None:
        found = _plain_list(value)
        if found:
            return found
    return _Parser(value).parse()


def _plain_list(value: bytes) -> list[Address]:
    """A list of which every address is of a usual form; [] if one is not."""
    found: list[Address] = []
    for item in value.split(b","):
        item = item.strip(b" ")
        bare = _BARE.fullmatch(item)
        if bare is not None:
            found.append(Address(None, None, bare[1], bare[2]))
            continue
        named = _SIMPLE.fullmatch(item)
        if named is None:
            return []
        found.append(Address(named[2], None, named[3], named[4]))
    return found


class _Parser:
    def __init__(self, value: bytes) -> None:
        self.scan = Scanner(value)
        self.found: list[Address] = []
        self.clear()

    def clear(self) -> None:
        self.name: bytes | None = None
        self.route: bytes | None = None
        self.mailbox: bytes | None = None
        self.domain: bytes | None = None
        # What there is of a local part that goes wrong after a dot.
        self.begun = b""
        self.invalid = False

    def add(self) -> None:
        self.found.append(Address(self.name, self.route, self.mailbox, self.domain))
        self.clear()

    def add_filled(self) -> None:
        if self.mailbox is None:
            self.mailbox = b"MISSING_MAILBOX"
        if not self.domain:
            self.domain = b"MISSING_DOMAIN"
        self.add()

    def parse(self) -> list[Address]:
        scan = self.scan
        if scan.skip_space() != MORE:
            return []
        while self.address() != END:
            if not scan.at(b","):
                break
            scan.pos += 1
            state = scan.skip_space()
            if state == BROKEN:
                self.add_filled()
            if state != MORE:
                break
        return self.found

    def address(self) -> int:
        start = self.scan.pos
        state = self.group()
        if state == BROKEN:
            self.scan.pos = start
            state = self.mailbox_item()
        return state

    def group(self) -> int:
        scan = self.scan
        words: list[bytes] = []
        if scan.phrase(words) != MORE or not scan.at(b":"):
            return BROKEN
        scan.pos += 1
        state = scan.skip_space()
        self.mailbox = b"".join(words)
        self.add()
        if state == MORE and not scan.at(b";"):
            state = self.members()
        if state != BROKEN:
            if scan.at(b";"):
                scan.pos += 1
                state = scan.skip_space()
            else:
                state = BROKEN
        self.add()
        return END if state == END else MORE

    def members(self) -> int:
        scan = self.scan
        while True:
            self.mailbox_item()
            if not scan.at(b","):
                return MORE
            scan.pos += 1
            if scan.skip_space() != MORE:
                return BROKEN

    def mailbox_item(self) -> int:
        start = self.scan.pos
        state = self.name_addr()
        if state == BROKEN:
            self.scan.pos = start
            state = self.addr_spec()
            if self.invalid and self.name is None and self.domain is None:
                self.name, self.mailbox = self.mailbox, None
        self.add_filled()
        return state

    def name_addr(self) -> int:
        scan = self.scan
        words: list[bytes] = []
        if scan.phrase(words) != MORE or not scan.at(b"<"):
            return BROKEN
        self.name = b"".join(words) or None
        if self.angle_addr() == BROKEN:
            self.domain = b"SYNTAX_ERROR"
        return MORE if scan.pos < scan.end else END

    def angle_addr(self) -> int:
        scan = self.scan
        scan.pos += 1
        if scan.skip_space() != MORE:
            return BROKEN
        if scan.at(b"@"):
            if self.source_route() == MORE and scan.at(b":"):
                scan.pos += 1
            else:
                self.route = b"INVALID_ROUTE"
                if scan.pos >= scan.end:
                    return BROKEN
            if scan.skip_space() != MORE:
                return BROKEN
        if not scan.at(b">"):
            state = self.local_part()
            if state == MORE and scan.at(b"@"):
                state = self.domain_part()
            if state != MORE:
                return BROKEN
        if not scan.at(b">"):
            return BROKEN
        scan.pos += 1
        return scan.skip_space()

    def source_route(self) -> int:
        scan = self.scan
        out: list[bytes] = []
        while True:
            if scan.pos >= scan.end:
                return END
            if not scan.at(b"@"):
                break
            out.append(b",@" if out else b"@")
            state = scan.domain(out)
            if state != MORE:
                return state
            while scan.skip_space() == MORE and scan.at(b","):
                scan.pos += 1
        self.route = b"".join(out)
        return MORE

    def local_part(self) -> int:
        out: list[bytes] = []
        scan = self.scan
        state = scan.quoted_string(out) if scan.at(b'"') else scan.local_part(out)
        if state != BROKEN:
            self.mailbox = b"".join(out)
        else:
            self.begun = b"".join(out)
        return state

    def domain_part(self) -> int:
        out: list[bytes] = []
        state = self.scan.domain(out)
        if state != BROKEN:
            self.domain = b"".join(out)
        return state

    def addr_spec(self) -> int:
        scan = self.scan
        scan.comment = b""
        quoted = scan.at(b'"')
        state = self.local_part()
        if state != MORE:
            self.invalid = True
        has_domain = False
        if state != END and scan.at(b"@"):
            has_domain = True
            domain_state = self.domain_part()
            if domain_state != MORE:
                state = domain_state
        if scan.comment:
            self.name = scan.comment
        elif not has_domain:
            self.bare_words(quoted)
            state = MORE if scan.pos < scan.end else END
        return state

    def bare_words(self, quoted: bool) -> None:
        """A word without "@": a mailbox if it stands alone, else the start of a display name."""
        words: list[bytes] = []
        scan = self.scan
        if self.begun:
            if scan.skip_space() == MORE and scan.words(words) != BROKEN and any(words):
                # Two spaces: it is not as it stands there.
                self.name = b"  ".join([self.begun, b"".join(words)])
        elif scan.phrase(words) != BROKEN and any(words):
            self.name = b" ".join([self.mailbox or b"", b"".join(words)])
            self.mailbox = None
        elif not quoted:
            self.domain = b""
        self.invalid = True
