"""Reads a search program: the grammar of SEARCH, SORT and THREAD (RFC 3501 §6.4.4)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from resel_lda.imap import search_keys as keys
from resel_lda.imap.errors import Refused
from resel_lda.imap.parser import ParseError, Parser, SequenceSet
from resel_lda.imap.search_keys import FlagKey, Key
from resel_lda.imap.search_stored import ReceivedKey, StoredKey, age, parse_stored
from resel_lda.imap.search_text import FieldKey, SentKey, TextKey
from resel_lda.imap.view import View, uid_required

# AND, OR, NOT and parentheses inside each other, and keys in all.
_MAX_DEPTH = 50
_MAX_KEYS = 2_000

_CHARSETS = {"UTF-8": "utf-8", "UTF8": "utf-8", "US-ASCII": "utf-8", "ASCII": "utf-8"}
_FLAG_KEYS = {
    b"ANSWERED": ("\\Answered", True),
    b"DELETED": ("\\Deleted", True),
    b"DRAFT": ("\\Draft", True),
    b"FLAGGED": ("\\Flagged", True),
    b"SEEN": ("\\Seen", True),
    b"UNANSWERED": ("\\Answered", False),
    b"UNDELETED": ("\\Deleted", False),
    b"UNDRAFT": ("\\Draft", False),
    b"UNFLAGGED": ("\\Flagged", False),
    b"UNSEEN": ("\\Seen", False),
}
_RECENT_KEYS: dict[bytes, Key] = {
    b"ALL": keys.always,
    b"SAVEDATESUPPORTED": keys.always,
    b"RECENT": lambda candidate: candidate.recent,
    b"OLD": lambda candidate: not candidate.recent,
    b"NEW": lambda candidate: candidate.recent and "\\Seen" not in candidate.info.flags,
}
_DATE_KEYS = (b"BEFORE", b"ON", b"SINCE")
_SENT_KEYS = (b"SENTBEFORE", b"SENTON", b"SENTSINCE")
_FIELD_KEYS = (b"BCC", b"CC", b"FROM", b"SUBJECT", b"TO")
_SET = re.compile(rb"[0-9*$]")
_MODSEQ_ENTRY = re.compile(rb'"/flags/[^"]*" (?:priv|shared|all) ', re.IGNORECASE)
_MAX_MODSEQ = 2**63 - 1


@dataclass(slots=True)
class Program:
    """key: what all must match. fields: keys that the store may answer at once; of these, every
    match is a match of each in `narrowing`. texts: keys for which messages may have to be read.
    size, message: what else may have to be looked at. with_modseq: MODSEQ was asked for.
    passing: what matches also depends on sequence numbers, on what was saved or on the time.
    everything: the program is ALL and nothing else. only_flags: it asks for system flags and
    nothing else. keys: how many there are."""

    key: Key = keys.always
    fields: list[FieldKey | SentKey | StoredKey] = field(default_factory=list)
    narrowing: list[FieldKey | FlagKey | StoredKey] = field(default_factory=list)
    texts: list[TextKey] = field(default_factory=list)
    size: bool = False
    with_modseq: bool = False
    passing: bool = False
    everything: bool = False
    only_flags: bool = False
    keys: int = 1


def charset(args: Parser) -> str:
    """A character set's name as Python knows it. Raises Refused."""
    name = args.astring().decode("ascii", "replace").upper()
    if name not in _CHARSETS:
        raise Refused("NO", "Unknown charset", "BADCHARSET (US-ASCII UTF-8)")
    return _CHARSETS[name]


def parse_program(args: Parser, view: View, encoding: str) -> Program:
    """One or more keys up to the end. Raises ParseError, Refused."""
    return _KeyParser(args, view, encoding).program()


class _KeyParser:
    def __init__(self, args: Parser, view: View, encoding: str) -> None:
        self.args = args
        self.view = view
        self.encoding = encoding
        self.found = Program()
        self._keys = 0

    def program(self) -> Program:
        start = self.args.pos
        every = [self.key(0)]
        while not self.args.at_end:
            self.args.space()
            if self.args.at_end:
                break
            every.append(self.key(0))
        self.found.key = keys.all_of(every)
        self.found.keys = self._keys
        self.found.narrowing = [
            key for key in every if isinstance(key, FieldKey | FlagKey | StoredKey)
        ]
        self.found.only_flags = all(isinstance(key, FlagKey) for key in every)
        self.found.everything = self.args.data[start:].strip().upper() == b"ALL"
        return self.found

    def key(self, depth: int) -> Key:
        self._keys += 1
        if depth > _MAX_DEPTH or self._keys > _MAX_KEYS:
            raise ParseError("Search query is too complex")
        args = self.args
        if args.skip(b"("):
            return self._group(depth)
        if _SET.match(args.data, args.pos):
            return self._set(args.sequence_set(), by_uid=False)
        word = args.word()
        if word in _FLAG_KEYS:
            return keys.FlagKey(*_FLAG_KEYS[word])
        if word in _RECENT_KEYS:
            return _RECENT_KEYS[word]
        args.space()
        if word == b"NOT":
            return keys.not_(self.key(depth + 1))
        if word == b"OR":
            first = self.key(depth + 1)
            args.space()
            return keys.any_of(first, self.key(depth + 1))
        if word == b"UID":
            return self._set(args.sequence_set(), by_uid=True)
        return self._with_argument(word)

    def _group(self, depth: int) -> Key:
        every = [self.key(depth + 1)]
        while not self.args.skip(b")"):
            self.args.space()
            every.append(self.key(depth + 1))
        return keys.all_of(every)

    def _set(self, numbers: SequenceSet, by_uid: bool) -> Key:
        if self.view.uid_only and not by_uid and not numbers.saved:
            raise uid_required()
        if numbers.saved or not by_uid:
            self.found.passing = True
        if numbers.saved:
            return keys.in_uids(frozenset(self.view.saved))
        uids = self.view.uids
        largest = (uids[-1] if uids else 0) if by_uid else len(uids)
        ranges = numbers.resolved(largest)
        if not by_uid and ranges and ranges[-1][1] > largest:
            raise Refused("BAD", "Invalid messageset")
        return keys.within(ranges, by_uid)

    def _with_argument(self, word: bytes) -> Key:
        args = self.args
        if word in _DATE_KEYS:
            return self._field(ReceivedKey(*keys.days_meant(word, args.date())))
        if word in (b"KEYWORD", b"UNKEYWORD"):
            return keys.keyword(args.atom().decode("ascii"), word == b"KEYWORD")
        if word in (b"LARGER", b"SMALLER"):
            self.found.size = True
            return keys.size(word, args.number(2**63 - 1))
        if word in (b"OLDER", b"YOUNGER"):
            self.found.passing = True
            return self._field(age(word, self._seconds()))
        if word == b"MODSEQ":
            return self._modseq()
        if word in _SENT_KEYS:
            return self._field(SentKey(word, args.date()))
        if word in _FIELD_KEYS:
            return self._field(FieldKey(word, self._needle()))
        if word == b"HEADER":
            name = args.astring()
            args.space()
            return self._field(FieldKey(name, self._needle()))
        stored = parse_stored(args, word)
        if stored is not None:
            return self._field(stored)
        if word in (b"BODY", b"TEXT"):
            key = TextKey(self._needle(), word == b"TEXT")
            self.found.texts.append(key)
            return key
        raise ParseError(f"Unknown search key {word.decode('ascii')}")

    def _field(self, key: FieldKey | SentKey | StoredKey) -> Key:
        self.found.fields.append(key)
        return key

    def _seconds(self) -> int:
        seconds = self.args.number()
        if not seconds:
            raise ParseError("Invalid search interval parameter")
        return seconds

    def _modseq(self) -> Key:
        """With the entry that RFC 7162 lets clients name; all flags of a message share a MODSEQ."""
        found = _MODSEQ_ENTRY.match(self.args.data, self.args.pos)
        if found is not None:
            self.args.pos = found.end()
        self.found.with_modseq = True
        return keys.changed(self.args.number(_MAX_MODSEQ))

    def _needle(self) -> str:
        raw = self.args.astring()
        try:
            return raw.decode(self.encoding)
        except UnicodeDecodeError:
            raise ParseError("Search string is not valid in its character set") from None
