"""What stands on the right side of an alias: addresses, ``\\user``, ``:include:file``; commands and
files are recognised and put off."""

from __future__ import annotations

import asyncio
import os
import stat

from resel_mta.config import Settings
from resel_mta.mail import Reply, TempFail
from resel_mta.wire.path import PathError, parse_address, split_address

_INCLUDE = ":include:"
#: Files that include files.
_MAX_INCLUDES = 20


def split_list(text: str) -> list[str]:
    """The items of a comma-separated list; commas in quotes, comments and brackets do not count."""
    items: list[str] = []
    start = depth = 0
    quoted = False
    position = 0
    while position < len(text):
        char = text[position]
        if char == "\\":
            position += 1
        elif char == '"' and not depth:
            quoted = not quoted
        elif not quoted and char == "(":
            depth += 1
        elif not quoted and char == ")" and depth:
            depth -= 1
        elif char in ",\n" and not quoted and not depth:
            items.append(text[start:position])
            start = position + 1
        position += 1
    items.append(text[start:])
    return [item.strip() for item in items if item.strip()]


def split_addresses(text: str) -> list[str]:
    """The addresses of a virtual alias's result; what is none is left out of no list: it is kept
    as it is and refused where it is used."""
    return [_bare(item) for item in split_list(text)]


def _bare(item: str) -> str:
    """The address in ``Name <address>``, ``address (comment)``, ``<address>`` or ``address``."""
    if item.endswith(">") and "<" in item:
        item = item[item.rindex("<") + 1 : -1]
    elif item.endswith(")") and "(" in item:
        item = item[: item.index("(")].rstrip()
    if item.startswith("@"):
        return item
    try:
        return parse_address(item)
    except PathError:
        return item


def add_extension(address: str, extension: str) -> str:
    """``user+ext@domain`` from ``user@domain``."""
    local, domain = split_address(address)
    if local.startswith('"'):
        local, extension = local[:-1], extension + '"'
    return f"{local}{extension}@{domain}" if domain else local + extension


def _not_yet(what: str) -> TempFail:
    return TempFail(Reply(451, "4.3.5", f"{what} is not available yet"))


class TargetReader:
    """Reads the targets of local aliases, with the files they include."""

    def __init__(self, settings: Settings) -> None:
        self._directory = _alias_directory(settings)

    async def read(self, text: str) -> list[tuple[str, bool]]:
        """(address, whether it means the mailbox itself) of every target.

        Raises TempFail: an included file that cannot be read, a command or a file as target.
        """
        found: list[tuple[str, bool]] = []
        await self._collect(text, found, 0)
        return found

    async def _collect(self, text: str, found: list[tuple[str, bool]], depth: int) -> None:
        for item in split_list(text):
            # A quoted target as a whole: "|program -with arguments", "/file with spaces".
            bare = item[1:-1].replace('\\"', '"') if _is_quoted(item) else item
            if bare.startswith("|"):
                raise _not_yet("command delivery")
            if bare.startswith("/"):
                raise _not_yet("delivery to a file")
            if bare[: len(_INCLUDE)].lower() == _INCLUDE:
                path = bare[len(_INCLUDE) :].strip().strip('"')
                if depth >= _MAX_INCLUDES:
                    raise TempFail(Reply(451, "4.3.5", f":include: nested too deeply at {path}"))
                included = await asyncio.to_thread(self._include, path)
                await self._collect(included, found, depth + 1)
            elif bare.startswith("\\"):
                found.append((_bare(bare[1:]), True))
            else:
                found.append((_bare(item), False))

    def _include(self, path: str) -> str:
        """The list in an included file, a comma or a line end after each target; in a thread."""
        if not os.path.isabs(path):
            path = os.path.join(self._directory, path)
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                mode = os.fstat(file.fileno()).st_mode
                if not stat.S_ISREG(mode) or mode & stat.S_IWOTH:
                    text = f":include: file {path} is not a file, or anyone may write it"
                    raise TempFail(Reply(451, "4.3.5", text))
                lines = file.read().splitlines()
        except OSError as error:
            text = f":include: file {path}: {os.strerror(error.errno or 0)}"
            raise TempFail(Reply(451, "4.3.5", text)) from error
        return "\n".join(line for line in lines if not line.lstrip().startswith("#"))


def _is_quoted(item: str) -> bool:
    return len(item) > 1 and item[0] == item[-1] == '"' and '"' not in item[1:-1].replace('\\"', "")


def _alias_directory(settings: Settings) -> str:
    """Where the first alias file lies: what a relative :include: is relative to."""
    for item in settings.items("alias_maps"):
        path = item.rpartition(":")[2]
        if path.startswith("/"):
            return os.path.dirname(path)
    return "/etc"
