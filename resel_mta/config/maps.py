"""Look-ups in maps (``alias_maps``, ``transport_maps`` …) and in lists of domains."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from pathlib import Path

from resel_mta.config.grammar import logical_lines, split_items
from resel_mta.config.live import LiveFile, Stamp, live_file
from resel_mta.config.mapspec import FILE_TYPES, MapSpec, parse_map
from resel_mta.config.problems import Problem
from resel_mta.config.settings import Settings
from resel_mta.config.tables import FailTable, Table, memory_table
from resel_mta.mail import Reply, TempFail

#: How long a table in memory is used before its live copy is looked at again, in seconds.
RECHECK = 0.25
_MAX_FILES = 10

# Lists in which a name may also stand for its subdomains; all others hold whole names.
_DOMAIN_LISTS = frozenset(("relay_domains", "fast_flush_domains", "permit_mx_backup_networks"))


class MapSet:
    """The maps of one parameter, asked in order; the first that knows a key answers.

    A new live copy (newaliases, resel-map) is noticed within `RECHECK` seconds.
    """

    def __init__(self, name: str, specs: Iterable[MapSpec], settings: Settings) -> None:
        """Reads the tables: blocks. A table that cannot be read fails its look-ups."""
        self.name = name
        self.problems: list[Problem] = []
        self._specs = tuple(specs)
        optional = not settings.is_set(name)
        self._files = {
            spec: live_file(settings, spec, optional=optional)
            for each in self._specs
            for spec in each.files()
        }
        self._stamps: dict[MapSpec, Stamp | None] = {}
        self._read: dict[MapSpec, Table] = {}
        self._tables: list[tuple[str, Table]] = []
        self._load()
        self._recheck = time.monotonic() + RECHECK if self._files else float("inf")

    def __bool__(self) -> bool:
        return bool(self._specs)

    async def lookup(self, key: str) -> str | None:
        """The value, None if no map has the key. Raises TempFail when a map cannot answer."""
        found = await self.find(key)
        return None if found is None else found[0]

    async def find(self, key: str) -> tuple[str, str] | None:
        """(value, "type:table" of the map that has it). Raises TempFail."""
        if time.monotonic() >= self._recheck:
            self._recheck = time.monotonic() + RECHECK
            await asyncio.to_thread(self._reload_changed)
        for label, table in self._tables:
            try:
                value = await asyncio.to_thread(table.get, key) if table.blocks else table.get(key)
            except (LookupError, OSError) as error:
                raise _failure(f'{self.name}: {label} lookup error for "{key}": {error}') from error
            if value is not None:
                return value, label
        return None

    def _load(self) -> None:
        self.problems = []
        for spec, file in self._files.items():
            self._read_file(spec, file)
        self._tables = [(str(spec), self._table(spec)) for spec in self._specs]

    def _read_file(self, spec: MapSpec, file: LiveFile) -> None:
        self._stamps[spec] = file.stamp()
        self._read[spec], problems = file.read()
        self.problems += problems

    def _table(self, spec: MapSpec) -> Table:
        if spec.type in FILE_TYPES:
            return self._read[spec]
        try:
            return memory_table(spec, [self._table(part) for part in spec.parts])
        except ValueError as error:
            self.problems.append(Problem("", self.name, str(error)))
            return FailTable(str(error))

    def _reload_changed(self) -> None:
        changed = False
        for spec, file in self._files.items():
            stamp = file.stamp()
            # A live copy that is gone leaves what is in memory in force.
            if stamp is not None and stamp != self._stamps[spec]:
                self._read_file(spec, file)
                changed = True
        if changed:
            self._tables = [(str(spec), self._table(spec)) for spec in self._specs]


def _failure(why: str) -> TempFail:
    """why: for the administrator, who finds it in the log; not for the client."""
    return TempFail(Reply(451, "4.3.0", "Temporary lookup failure"), why)


def open_maps(settings: Settings, name: str) -> MapSet:
    """The maps of a parameter. Blocks while it reads them; see `MapSet.problems`."""
    return MapSet(name, [parse_map(item) for item in settings.items(name)], settings)


class MatchList:
    """A list of domains: names, ``!name``, ``/file`` (its items), ``type:table``.

    In relay_domains a name stands for its subdomains too when parent_domain_matches_subdomains
    says so, and ``.name`` only for them when it does not. The first item that matches decides.
    """

    def __init__(self, settings: Settings, name: str) -> None:
        """Reads files: blocks. One that cannot be read fails the look-ups that come to it."""
        self.name = name
        self.problems: list[Problem] = []
        self._by_domain = name in _DOMAIN_LISTS
        self._parents = name in settings.items("parent_domain_matches_subdomains")
        self._items: list[tuple[bool, str | MapSet | FailTable]] = []
        self._add(settings, settings.items(name), True, 0)
        # The usual list of plain names needs one look into a set.
        self._plain: frozenset[str] | None = None
        if not self._by_domain and all(
            isinstance(item, str) and include for include, item in self._items
        ):
            self._plain = frozenset(item for _, item in self._items if isinstance(item, str))

    def __bool__(self) -> bool:
        return bool(self._items)

    def _add(self, settings: Settings, items: Iterable[str], include: bool, depth: int) -> None:
        for text in items:
            bare = text.lstrip("!")
            wanted = include == ((len(text) - len(bare)) % 2 == 0)
            if bare.startswith("/"):
                self._add_file(settings, bare, wanted, depth)
            elif ":" in bare and not bare.startswith("["):
                maps = MapSet(self.name, [parse_map(bare)], settings)
                self.problems += maps.problems
                self._items.append((wanted, maps))
            else:
                self._items.append((wanted, bare.lower()))

    def _add_file(self, settings: Settings, path: str, include: bool, depth: int) -> None:
        try:
            if depth >= _MAX_FILES:
                raise ValueError("files within files within files")
            text = Path(path).read_bytes().decode("utf-8", "surrogateescape")
            items = [item for _, _, line in logical_lines(text) for item in split_items(line)]
            self._add(settings, items, include, depth + 1)
        except (OSError, ValueError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            self.problems.append(Problem(path, self.name, reason))
            self._items.append((include, FailTable(f"{path}: {reason}")))

    @property
    def is_fixed(self) -> bool:
        """Whether it names no tables, so that its answers are always the same."""
        return all(isinstance(item, str) for _, item in self._items)

    async def matches(self, domain: str) -> bool:
        """Whether the list holds the domain. Raises TempFail when a table or file cannot be read."""
        domain = domain.lower()
        if self._plain is not None:
            return domain in self._plain
        for include, item in self._items:
            if isinstance(item, str):
                if self._is_named(item, domain):
                    return include
            elif isinstance(item, FailTable):
                raise _failure(f"{self.name}: {item.reason}")
            elif await self._in_table(item, domain):
                return include
        return False

    def _is_named(self, item: str, domain: str) -> bool:
        if item == domain:
            return True
        if not self._by_domain:
            return False
        if self._parents:
            return domain.endswith(f".{item}")
        return item.startswith(".") and domain.endswith(item)

    async def _in_table(self, maps: MapSet, domain: str) -> bool:
        if await maps.lookup(domain) is not None:
            return True
        rest = domain
        while self._by_domain and "." in rest:
            rest = rest.partition(".")[2]
            if rest and await maps.lookup(rest if self._parents else f".{rest}") is not None:
                return True
        return False
