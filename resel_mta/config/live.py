"""Files of tables: an edit of the source counts only once it has been checked and made live.

The live copy lies in ``data_directory/maps/``. It holds the text of the source as it was when it
was last found good, so a half-written or broken source never reaches the mail. Where there is no
copy yet, or where it cannot be written (a command of an ordinary user), the source itself is read,
once, into memory.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from resel_mta.config.mapspec import DATABASE_TYPES, MapSpec, parse_map
from resel_mta.config.parameters import Support, table
from resel_mta.config.problems import Problem
from resel_mta.config.settings import Settings
from resel_mta.config.tables import FailTable, KeyTable, Table, parse_table
from resel_mta.disk import Disk

_ALIAS_PARAMETERS = ("alias_maps", "alias_database")
_MAX_NAME = 200

Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class LiveFile:
    """One file of a table.

    aliases: it has the grammar of aliases(5). optional: only a default names it, so it may be
    missing, and is empty then. live: where its checked copy lies.
    """

    spec: MapSpec
    aliases: bool
    optional: bool
    live: Path

    @property
    def source(self) -> Path:
        return Path(self.spec.name)

    def stamp(self) -> Stamp | None:
        """What changes when a new copy is made live; None while there is none."""
        try:
            found = self.live.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size

    def text(self) -> str:
        """What counts: the live copy, else the source. Raises OSError."""
        try:
            return _read(self.live)
        except OSError:
            return _read(self.source)

    def read(self) -> tuple[Table, list[Problem]]:
        """The table as it is live, else as its source has it. Never raises: a table that cannot be
        read fails every look-up, and the problems say why."""
        try:
            text = _read(self.live)
        except OSError:
            return self.read_source()
        found, problems = parse_table(self.spec, text, str(self.source), aliases=self.aliases)
        if any(problem.is_error for problem in problems):
            # A copy from a release with another grammar: the source is the better witness.
            return self.read_source()
        return found, problems

    def read_source(self) -> tuple[Table, list[Problem]]:
        """The same, of the source."""
        try:
            text = _read(self.source)
        except OSError as error:
            if self.optional and isinstance(error, FileNotFoundError):
                return KeyTable({}), []
            problem = self._unreadable(error)
            return FailTable(problem.text), [problem]
        found, problems = parse_table(self.spec, text, str(self.source), aliases=self.aliases)
        errors = [problem for problem in problems if problem.is_error]
        return (FailTable(str(errors[0])) if errors else found), problems

    def _unreadable(self, error: OSError) -> Problem:
        if isinstance(error, FileNotFoundError) and self.spec.type in DATABASE_TYPES:
            for suffix in (".db", ".lmdb"):
                if os.path.exists(self.spec.name + suffix):
                    text = (
                        f"its text is missing: there is only {self.spec.name}{suffix}, which is "
                        f"not read (postmap -s {self.spec} writes the text)"
                    )
                    return Problem(self.spec.name, "", text)
        return Problem(self.spec.name, "", error.strerror or str(error))

    def is_stale(self) -> bool:
        """Whether the source differs from what is live."""
        try:
            source = self.source.stat()
            live = self.live.stat()
        except OSError:
            return False
        if source.st_size == live.st_size and source.st_mtime_ns == live.st_mtime_ns:
            return False
        try:
            return _read(self.source) != _read(self.live)
        except OSError:
            return False

    def publish(self, disk: Disk) -> list[Problem]:
        """Check the source and make it live. With an error among the problems, the last good copy
        stays. Raises OSError when the copy cannot be written."""
        try:
            with self.source.open("rb") as file:
                source = os.fstat(file.fileno())
                data = file.read()
        except FileNotFoundError:
            _, problems = self.read_source()
            if not problems:
                # Optional and not there: then neither is a copy of what once was.
                self.live.unlink(missing_ok=True)
            return problems
        except OSError as error:
            return [self._unreadable(error)]
        text = data.decode("utf-8", "surrogateescape")
        _, problems = parse_table(self.spec, text, str(self.source), aliases=self.aliases)
        if any(problem.is_error for problem in problems):
            return problems
        if self._same(data):
            os.utime(self.live, ns=(source.st_mtime_ns, source.st_mtime_ns))
            return problems
        disk.make_directories(self.live.parent, 0o755)
        disk.replace_file(self.live, [data], stat.S_IMODE(source.st_mode) & 0o644 | 0o600)
        self._give_to_owner()
        os.utime(self.live, ns=(source.st_mtime_ns, source.st_mtime_ns))
        return problems

    def _same(self, data: bytes) -> bool:
        try:
            return self.live.read_bytes() == data
        except OSError:
            return False

    def _give_to_owner(self) -> None:
        """What root makes live belongs to the owner of data_directory, who has to read it."""
        if os.geteuid() != 0:
            return
        owner = self.live.parent.parent.stat()
        for path in (self.live.parent, self.live):
            os.chown(path, owner.st_uid, owner.st_gid)


def _read(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "surrogateescape")


def live_file(settings: Settings, spec: MapSpec, *, optional: bool = False) -> LiveFile:
    """The file of one table. It is an alias file if alias_maps or alias_database name it."""
    aliases = spec.type in DATABASE_TYPES | {"texthash"} and spec.name in _alias_files(settings)
    grammar = "aliases" if aliases else "regexp" if spec.type == "pcre" else spec.type
    if not aliases and spec.type in DATABASE_TYPES | {"texthash"}:
        grammar = "table"
    name = quote(spec.name, safe="")
    if len(name) > _MAX_NAME:
        name = hashlib.sha256(name.encode()).hexdigest()
    directory = Path(settings.text("data_directory")) / "maps"
    return LiveFile(spec, aliases, optional, directory / f"{grammar}:{name}")


def _alias_files(settings: Settings) -> set[str]:
    return {
        file.name
        for parameter in _ALIAS_PARAMETERS
        for item in _good_items(settings, parameter)
        for file in parse_map(item).files()
    }


def live_files(settings: Settings) -> list[tuple[str, LiveFile]]:
    """(parameter, file) of every table that this configuration reads, each file once."""
    found: dict[Path, tuple[str, LiveFile]] = {}
    for parameter in table().values():
        if parameter.support is not Support.IMPLEMENTED or parameter.type not in (
            "maps",
            "domains",
        ):
            continue
        optional = not settings.is_set(parameter.name)
        for item in _good_items(settings, parameter.name):
            for spec in map_files(item):
                file = live_file(settings, spec, optional=optional)
                before = found.get(file.live)
                if before is None or (before[1].optional and not optional):
                    found[file.live] = (parameter.name, file)
    return list(found.values())


def _good_items(settings: Settings, name: str) -> tuple[str, ...]:
    """A list's items; none of a bad value, which whoever reads a configuration has reported."""
    try:
        return settings.items(name)
    except ValueError:
        return ()


def map_files(item: str) -> list[MapSpec]:
    """The file tables that an item of a list of maps or domains names; none for a plain name."""
    bare = item.lstrip("!")
    if ":" not in bare or bare[0] in "/[":
        return []
    return parse_map(bare).files()


def publish_maps(
    settings: Settings, disk: Disk | None = None, *, only_missing: bool = False
) -> list[Problem]:
    """Check the source of every table and make it live, as at a reload. Blocks.

    only_missing: leave tables alone that have a live copy. Problems of a source whose last good
    copy stays in use are warnings; errors are those of tables that cannot be used at all. A first
    copy that cannot be written is no problem: the table is then read from its source.
    """
    problems: list[Problem] = []
    for parameter, file in live_files(settings):
        has_copy = file.stamp() is not None
        if has_copy and only_missing:
            continue
        try:
            found = file.publish(disk or Disk())
        except OSError as error:
            # Without the right to write there, the source is what counts.
            _, found = file.read_source()
            if has_copy:
                reason = error.strerror or str(error)
                text = f"the live copy of {file.source} cannot be replaced: {reason}"
                found = [*found, Problem(str(file.live), parameter, text, is_error=False)]
        for problem in found:
            kept = problem.is_error and has_copy
            text = problem.text + ("; the last good copy stays in use" if kept else "")
            problems.append(
                Problem(problem.where, parameter, text, problem.is_error and not has_copy)
            )
    return problems
