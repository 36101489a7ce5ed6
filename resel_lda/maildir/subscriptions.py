"""The `subscriptions` file, in both of Dovecot's formats.

Version 1 has a folder name a line, in modified UTF-7 with the layout's separator. Version 2
starts with "V<TAB>2" and an empty line; levels are separated by tabs, in modified UTF-7 too, with
\\001 as the escape octet. The file keeps the version it has; a new one is version 2.
"""

from __future__ import annotations

from collections.abc import Sequence

from resel_lda.maildir.dotlock import dotlock
from resel_lda.maildir.names import decode_found, encode_mutf7
from resel_mta.disk import Disk

FILE_NAME = "subscriptions"
_ESCAPES = (("\001", "\0011"), ("\t", "\001t"), ("\r", "\001r"), ("\n", "\001n"), ("\0", "\0010"))


class Subscriptions:
    """separator: the layout's on disk ("." or "/"). Methods block."""

    def __init__(self, disk: Disk, path: str, separator: str) -> None:
        self._disk = disk
        self._path = path
        self._separator = separator

    def read(self) -> list[str]:
        """Subscribed names with "/" between levels, in the file's order."""
        return self._read()[1]

    def _read(self) -> tuple[int, list[str]]:
        try:
            with open(self._path, "rb") as file:
                text = file.read().decode("utf-8", "surrogateescape")
        except FileNotFoundError:
            return 2, []
        lines = text.split("\n")
        if lines[0].startswith("V\t2"):
            names = [
                "/".join(decode_found(_unescape(level)) for level in line.split("\t"))
                for line in lines[1:]
            ]
            return 2, [name for name in names if name]
        return 1, [
            "/".join(decode_found(level) for level in line.split(self._separator))
            for line in lines
            if line
        ]

    def set(self, name: str, subscribed: bool) -> None:
        """Durable when it returns."""
        with dotlock(self._disk, self._path):
            version, names = self._read()
            if (name in names) == subscribed:
                return
            names = [one for one in names if one != name]
            if subscribed:
                names.append(name)
            self._write(version, names)

    def _write(self, version: int, names: Sequence[str]) -> None:
        if version == 2:
            lines = ["V\t2", ""]
            lines += [
                "\t".join(_escape(encode_mutf7(level)) for level in name.split("/"))
                for name in names
            ]
        else:
            lines = [
                self._separator.join(encode_mutf7(level) for level in name.split("/"))
                for name in names
            ]
        text = "".join(f"{line}\n" for line in lines)
        self._disk.replace_file(self._path, [text.encode("utf-8", "surrogateescape")])


def _escape(level: str) -> str:
    for plain, escaped in _ESCAPES:
        level = level.replace(plain, escaped)
    return level


def _unescape(level: str) -> str:
    for plain, escaped in reversed(_ESCAPES):
        level = level.replace(escaped, plain)
    return level
