"""What an administrator wants to hear about alias files beside their grammar: aliases that lead in
a circle or to nobody, commands and files that are not there, names that another file hides.

All of it is a warning: such a file is live, and mail for the rest of it is delivered.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from resel_mta.config import Settings
from resel_mta.config.aliases import Target, TargetKind, list_aliases, read_targets
from resel_mta.config.mapspec import DATABASE_TYPES, parse_map
from resel_mta.config.problems import Problem
from resel_mta.config.target_files import read_include_text
from resel_mta.mail import AddressClass, TempFail
from resel_mta.routing.address import local_name
from resel_mta.routing.reach import EXECUTE, WRITE, Reach
from resel_mta.routing.table import RoutingTable
from resel_mta.users import open_users

_MAX_INCLUDES = 20


@dataclass(frozen=True, slots=True)
class _Entry:
    """An alias that counts: where it stands, and its targets."""

    where: str
    targets: list[Target]


def alias_files(settings: Settings) -> list[str]:
    """The text files of alias_maps and alias_database, in the order in which they are asked."""
    found = [
        spec.name
        for parameter in ("alias_maps", "alias_database")
        for item in settings.items(parameter)
        for spec in parse_map(item).files()
        if spec.type in DATABASE_TYPES or spec.type == "texthash"
    ]
    return list(dict.fromkeys(found))


async def check_aliases(settings: Settings, files: Iterable[str]) -> list[Problem]:
    """Warnings about the aliases of `files`, by file and line. Reads what they name."""
    entries: dict[str, _Entry] = {}
    problems: list[Problem] = []
    wanted = set(files)
    for path in dict.fromkeys((*alias_files(settings), *wanted)):
        try:
            text = Path(path).read_bytes().decode("utf-8", "surrogateescape")
        except OSError:
            # Said where the file is made live.
            continue
        for alias in list_aliases(text, path)[0]:
            where = f"{path}:{alias.line}"
            if alias.name not in entries:
                entries[alias.name] = _Entry(where, read_targets(alias.value))
            elif path in wanted:
                hidden = f'"{alias.name}" is hidden by {entries[alias.name].where}'
                problems.append(_warning(where, hidden))
    checker = _Checker(settings, entries)
    if await checker.root_is_lost():
        text = (
            "there is no alias for root: nothing is delivered as root, so that its mail waits in the "
            'queue and is given up after maximal_queue_lifetime; add "root: somebody@example.org"'
        )
        if wanted:
            problems.append(_warning(f"{min(wanted)}:1", text))
        else:
            place = str(settings.source("alias_maps"))
            problems.append(Problem(place, "alias_maps", text, is_error=False))
    for name, entry in entries.items():
        if entry.where.rpartition(":")[0] in wanted:
            problems += await checker.check(name, entry)
    return sorted(problems, key=_place)


def _place(problem: Problem) -> tuple[str, int]:
    path, _, line = problem.where.rpartition(":")
    return path, int(line) if line.isdigit() else 0


def _warning(where: str, text: str) -> Problem:
    return Problem(where, "", text, is_error=False)


class _Checker:
    def __init__(self, settings: Settings, entries: dict[str, _Entry]) -> None:
        self._entries = entries
        self._users = open_users(settings)
        self._table = RoutingTable(settings, self._users)
        self._commands = settings.items("allow_mail_to_commands")
        self._files = settings.items("allow_mail_to_files")
        self._relays_unknown = bool(settings.text("luser_relay").strip())
        self._default_privs = settings.text("default_privs")
        self._read: set[str] = set()

    async def root_is_lost(self) -> bool:
        """Whether mail for "root" comes to an account here that has no alias."""
        full = self._table.rules.qualify("root")
        try:
            address_class = await self._table.classify(full)
            if "root" in self._entries or address_class is not AddressClass.LOCAL:
                return False
            if await self._table.find_virtual(full, address_class) is not None:
                return False
            if await self._table.find_alias(full) is not None:
                return False
            user = await self._users.find("root")
        except TempFail:
            return False
        return user is not None and user.uid == 0

    async def check(self, name: str, entry: _Entry) -> list[Problem]:
        found = []
        circle = await self._circle(name)
        if circle:
            found.append(
                _warning(entry.where, f'"{name}" leads in a circle: {" -> ".join(circle)}')
            )
        for target in entry.targets:
            found += await self._target(entry.where, name, target, "alias", 0)
        return found

    async def _circle(self, name: str) -> list[str]:
        """The way from a name back to it, by other names; [] if there is none. An alias that names
        itself means the mailbox."""
        ways = [[name]]
        seen: set[str] = set()
        while ways:
            way = ways.pop()
            entry = self._entries.get(way[-1])
            for target in entry.targets if entry is not None else ():
                if target.kind is not TargetKind.ADDRESS:
                    continue
                following = await self._alias_of(target.value)
                if following == name and len(way) > 1:
                    return [*way, name]
                if following and following not in seen and following != way[-1]:
                    seen.add(following)
                    ways.append([*way, following])
        return []

    async def _alias_of(self, address: str) -> str:
        """The alias that an address of this machine is, or ""."""
        full = self._table.rules.qualify(address)
        if await self._class_of(full) is not AddressClass.LOCAL:
            return ""
        name = local_name(full).lower()
        base, _ = self._table.rules.split_extension(name)
        return next((each for each in (name, base) if each in self._entries), "")

    async def _class_of(self, address: str) -> AddressClass | None:
        try:
            return await self._table.classify(address)
        except TempFail:
            return None

    async def _target(
        self, where: str, name: str, target: Target, source: str, depth: int
    ) -> list[Problem]:
        if target.kind is TargetKind.COMMAND:
            text = _command_problem(target.value, self._reach_of(where))
            if source not in self._commands:
                text = f"allow_mail_to_commands has no {source}: mail for it bounces"
        elif target.kind is TargetKind.FILE:
            text = _file_problem(target.value, self._reach_of(where))
            if source not in self._files:
                text = f"allow_mail_to_files has no {source}: mail for it bounces"
        elif target.kind is TargetKind.INCLUDE:
            return await self._include(where, name, target.value, depth)
        else:
            text = await self._address_problem(name, target)
        return [_warning(where, f'"{name}": {target.text}: {text}')] if text else []

    def _reach_of(self, where: str) -> Reach | None:
        """Of the account that does what stands there, by local(8)'s rule: the file's owner, for
        root `default_privs`. None where only root could tell."""
        if os.geteuid() != 0:
            return None
        try:
            owner = os.stat(where.rpartition(":")[0]).st_uid
            account = pwd.getpwuid(owner) if owner else pwd.getpwnam(self._default_privs)
        except (OSError, KeyError):
            # Said elsewhere: by `check`, or when the mail comes.
            return None
        return Reach.of(account)

    async def _address_problem(self, name: str, target: Target) -> str:
        full = self._table.rules.qualify(target.value)
        if await self._class_of(full) is not AddressClass.LOCAL or self._relays_unknown:
            return ""
        own = await self._alias_of(target.value)
        if target.kind is TargetKind.ADDRESS and own and own != name:
            return ""
        local = local_name(full)
        base, _ = self._table.rules.split_extension(local)
        try:
            for each in dict.fromkeys((full, local, base)):
                if await self._users.find(each) is not None:
                    return ""
        except TempFail as failure:
            return f"the user cannot be looked up: {failure.reply.text}"
        return "there is no such alias and no such user"

    async def _include(self, where: str, name: str, path: str, depth: int) -> list[Problem]:
        if depth >= _MAX_INCLUDES:
            return [_warning(where, f'"{name}": :include:{path}: nested too deeply')]
        if path in self._read:
            return []
        self._read.add(path)
        try:
            text = read_include_text(path)
        except ValueError as error:
            return [_warning(where, f'"{name}": :include:{path}: {error}: it is not followed')]
        except OSError as error:
            return [_warning(where, f'"{name}": :include:{path}: {error.strerror}')]
        found: list[Problem] = []
        for number, line in enumerate(text.splitlines(), 1):
            place = f"{path}:{number}"
            try:
                targets = read_targets("" if line.lstrip().startswith("#") else line)
            except ValueError as error:
                found.append(_warning(place, f"{error}: mail for {name} waits"))
                continue
            for target in targets:
                found += await self._target(place, name, target, "include", depth + 1)
        return found


def _command_problem(command: str, reach: Reach | None) -> str:
    """Only a program that is named by its path can be looked for."""
    words = command.split()
    if not words or not words[0].startswith("/") or set(words[0]) & set("$`*?'\";|&<>()"):
        return ""
    path = words[0]
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode) or not mode & 0o111:
            return f"{path} cannot be executed"
        if reach is not None and not reach.may(path, EXECUTE):
            return f"{path} cannot be executed by {reach.name}, as whom it would run"
    except OSError as error:
        return f"{path}: {error.strerror}"
    return ""


def _file_problem(path: str, reach: Reach | None) -> str:
    folder = os.path.dirname(path.rstrip("/"))
    if not os.path.isdir(folder):
        return f"{folder}: no such folder"
    if os.path.islink(path):
        return "is a symbolic link: nothing is written to it"
    if os.path.isdir(path) and not path.endswith("/"):
        return 'is a folder: with a "/" at its end it is a Maildir'
    try:
        place = path if os.path.exists(path) else folder
        if reach is not None and not reach.may(place, WRITE):
            return f"{reach.name}, as whom it would be written, may not write to {place}"
    except OSError as error:
        return f"{path}: {error.strerror}"
    return ""
