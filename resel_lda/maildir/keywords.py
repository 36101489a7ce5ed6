"""`dovecot-keywords`: which keyword each letter a to z in file names stands for.

Lines are ``<index> <keyword>``; index 0 is the letter a. Letters are never reused.
"""

from __future__ import annotations

import os
from collections.abc import Collection

from resel_lda.mailbox import MAX_KEYWORDS, MailboxError
from resel_lda.maildir.dotlock import dotlock
from resel_lda.maildir.names import FLAG_LETTERS, LETTER_FLAGS
from resel_mta.disk import Disk

FILE_NAME = "dovecot-keywords"
# As Dovecot's mail_max_keyword_length: every message that has it says it in every answer.
_MAX_LENGTH = 50


class Keywords:
    """The table of one folder. Methods that touch the disk block."""

    def __init__(self, disk: Disk, directory: str) -> None:
        self._disk = disk
        self._path = os.path.join(directory, FILE_NAME)
        self._stamp: tuple[int, int, int] | None = None
        self._names: dict[int, str] = {}
        self._flag_sets: dict[str, frozenset[str]] = {}

    def names(self) -> tuple[str, ...]:
        return tuple(name for _, name in sorted(self._names.items()))

    def known_letters(self) -> set[str]:
        return {chr(97 + index) for index in self._names}

    def refresh(self) -> None:
        """Read the file if it changed."""
        try:
            stat = os.stat(self._path)
        except FileNotFoundError:
            return
        stamp = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if stamp == self._stamp:
            return
        names: dict[int, str] = {}
        with open(self._path, encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                number, _, name = line.rstrip("\n").partition(" ")
                if number.isascii() and number.isdigit() and name and int(number) < MAX_KEYWORDS:
                    names[int(number)] = name
        if names != self._names:
            self._flag_sets.clear()
        self._names, self._stamp = names, stamp

    def flags(self, letters: str) -> frozenset[str]:
        """Flags and keywords of a file name's letters; unknown letters are left out."""
        found = self._flag_sets.get(letters)
        if found is None:
            names = [LETTER_FLAGS.get(c) or self._names.get(ord(c) - 97) for c in letters]
            found = self._flag_sets[letters] = frozenset(name for name in names if name)
        return found

    def letters(self, flags: Collection[str]) -> str:
        """The letters of flags; keywords that are new get one. MailboxError("LIMIT") when all 26
        are taken."""
        wanted = [flag for flag in flags if flag not in FLAG_LETTERS]
        known = {name.lower(): index for index, name in self._names.items()}
        if any(name.lower() not in known for name in wanted):
            self._add(wanted)
            known = {name.lower(): index for index, name in self._names.items()}
        letters = [FLAG_LETTERS[flag] for flag in flags if flag in FLAG_LETTERS]
        letters += [chr(97 + known[name.lower()]) for name in wanted]
        return "".join(sorted(set(letters)))

    def _add(self, wanted: Collection[str]) -> None:
        with dotlock(self._disk, self._path):
            self.refresh()
            names = dict(self._names)
            known = {name.lower() for name in names.values()}
            for name in wanted:
                if name.lower() in known:
                    continue
                if len(name) > _MAX_LENGTH:
                    raise MailboxError("The keyword is too long", "LIMIT")
                free = next((i for i in range(MAX_KEYWORDS) if i not in names), None)
                if free is None:
                    raise MailboxError("A folder can have at most 26 keywords", "LIMIT")
                names[free] = name
                known.add(name.lower())
            lines = "".join(f"{index} {name}\n" for index, name in sorted(names.items()))
            self._disk.replace_file(self._path, [lines.encode("utf-8", "surrogateescape")])
            self._stamp = None
            self.refresh()
