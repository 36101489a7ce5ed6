"""What stands on the right side of an alias: addresses, ``\\user``, ``:include:file``; commands and
files are recognised and put off."""

from __future__ import annotations

import asyncio
import os
import stat

from resel_mta.config.aliases import Target, TargetKind, parse_targets
from resel_mta.mail import Reply, TempFail

#: Addresses handled before other tasks get their turn.
YIELD_AFTER = 200
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
    """The addresses of a virtual alias's result, ``@domain`` for the same name elsewhere.

    Raises TempFail for a result that makes no sense: mail waits until the table is mended.
    """
    return [item if item.startswith("@") else _address(item) for item in split_list(text)]


def _target(item: str) -> Target:
    try:
        return parse_targets(item)[0]
    except (ValueError, IndexError) as error:
        text = f"alias database error: {item[:60]}: {error}"
        raise TempFail(Reply(451, "4.3.5", text)) from error


def _address(item: str) -> str:
    target = _target(item)
    if target.kind is not TargetKind.ADDRESS:
        text = f"alias database error: {item[:60]} is not an address"
        raise TempFail(Reply(451, "4.3.5", text))
    return target.value


def _not_yet(what: str) -> TempFail:
    return TempFail(Reply(451, "4.3.5", f"{what} is not available yet"))


async def read_targets(text: str) -> list[tuple[str, bool]]:
    """(address, whether it means the mailbox itself) of every target of a local alias, those of
    included files among them.

    Raises TempFail: an included file that cannot be read, a command or a file as target.
    """
    found: list[tuple[str, bool]] = []
    await _collect(text, found, 0)
    return found


async def _collect(text: str, found: list[tuple[str, bool]], depth: int) -> None:
    for count, item in enumerate(split_list(text), 1):
        if not count % YIELD_AFTER:
            await asyncio.sleep(0)
        if item.startswith("\\"):
            found.append((_address(item[1:]), True))
            continue
        target = _target(item)
        match target.kind:
            case TargetKind.ADDRESS:
                found.append((target.value, False))
            case TargetKind.COMMAND:
                raise _not_yet("command delivery")
            case TargetKind.FILE:
                raise _not_yet("delivery to a file")
            case TargetKind.INCLUDE:
                if depth >= _MAX_INCLUDES:
                    text = f":include: nested too deeply at {target.value}"
                    raise TempFail(Reply(451, "4.3.5", text))
                included = await asyncio.to_thread(_read_include, target.value)
                await _collect(included, found, depth + 1)


def _read_include(path: str) -> str:
    """The list in an included file, a comma or a line end after each target; blocks.

    As with Postfix, a file that anyone may write is not followed.
    """
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode) or mode & stat.S_IWOTH:
                text = f":include: file {path} is no regular file, or anyone may write to it"
                raise TempFail(Reply(451, "4.3.5", text))
            lines = file.read().splitlines()
    except OSError as error:
        text = f":include: file {path}: {os.strerror(error.errno or 0)}"
        raise TempFail(Reply(451, "4.3.5", text)) from error
    return "\n".join(line for line in lines if not line.lstrip().startswith("#"))
