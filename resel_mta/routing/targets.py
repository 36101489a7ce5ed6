"""What stands on the right side of an alias: addresses, ``\\user``, ``:include:file``, commands, files."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from resel_mta.config.aliases import Target, TargetKind, read_target, read_targets, split_list
from resel_mta.config.target_files import Found, read_include
from resel_mta.mail import Reply, TempFail

#: Addresses handled before other tasks get their turn.
YIELD_AFTER = 200

ReadInclude = Callable[[str, str], Awaitable[Found]]
"""(alias, path) -> the targets in that included file. Raises TempFail."""


def split_addresses(text: str) -> list[str]:
    """The addresses of a virtual alias's result, ``@domain`` for the same name elsewhere.

    Raises TempFail for a result that makes no sense: mail waits until the table is mended.
    """
    return [item if item.startswith("@") else _address(item) for item in split_list(text)]


def _address(item: str) -> str:
    try:
        target = read_target(item)
    except ValueError as error:
        raise _database_error(f"{item[:60]}: {error}") from error
    if target.kind is not TargetKind.ADDRESS:
        raise _database_error(f"{item[:60]} is not an address")
    return target.value


def _database_error(text: str) -> TempFail:
    return TempFail(Reply(451, "4.3.5", f"alias database error: {text}"))


def targets_of(alias: str, text: str) -> list[Target]:
    """The targets of a local alias. Raises TempFail."""
    try:
        return read_targets(text)
    except ValueError as error:
        raise _database_error(f"{alias}: {error}") from error


async def follow_includes(alias: str, text: str, read: ReadInclude) -> Found:
    """All targets of a local alias, those of included files among them, each with the path of
    the file that it stands in ("" for the alias file itself). Raises TempFail."""
    found: Found = []
    for target in targets_of(alias, text):
        if target.kind is TargetKind.INCLUDE:
            found += await read(alias, target.value)
        else:
            found.append((target, ""))
    return found


async def read_as_myself(alias: str, path: str) -> Found:
    """Implements `ReadInclude` with the rights of this process."""
    return await asyncio.to_thread(read_include, path)
