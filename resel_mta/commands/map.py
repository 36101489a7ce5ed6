"""resel-map: look up keys in tables, check tables and make them live, as postmap(1)."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from resel_mta.commands import cli
from resel_mta.commands.cli import Failure
from resel_mta.config.live import LiveFile, live_file
from resel_mta.config.load import load
from resel_mta.config.maps import RECHECK, MapSet
from resel_mta.config.mapspec import FILE_TYPES, MapSpec, parse_map
from resel_mta.config.settings import Settings
from resel_mta.config.tables import KeyTable
from resel_mta.control import control_path
from resel_mta.disk import Disk
from resel_mta.mail import TempFail
from resel_mta.routing.alias_check import check_aliases

PROGRAM = "resel-map"
EPILOG = """\
resel-map TYPE:TABLE         checks the table and makes it live
resel-map -q KEY TYPE:TABLE  prints the value of KEY; exit status 1 if there is none
resel-map -q - TYPE:TABLE    reads keys from standard input, prints "key<TAB>value"
resel-map -s TYPE:TABLE      prints all of the table, "key<TAB>value"
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script; its exit status."""
    return cli.run(PROGRAM, _main, arguments)


def _main(arguments: Sequence[str]) -> int:
    parser = cli.parser(PROGRAM, "Look up keys in tables, or make tables live.", EPILOG)
    parser.add_argument("-q", dest="key", metavar="KEY", help="look up a key; - reads keys")
    parser.add_argument("-s", dest="dump", action="store_true", help="print all keys and values")
    parser.add_argument("tables", nargs="+", metavar="TYPE:TABLE")
    options = parser.parse_args(arguments)
    settings = _settings(options)
    specs = [_spec(settings, text) for text in options.tables]
    if options.key is not None or options.dump:
        for spec in specs:
            _must_exist(settings, spec)
    if options.dump:
        return _dump(settings, specs)
    if options.key is not None:
        return asyncio.run(_query(settings, specs, options.key))
    failed = 0
    for spec in specs:
        failed = _publish(settings, spec) or failed
    await_daemon(settings)
    return failed


def _settings(options: argparse.Namespace) -> Settings:
    settings = load(options.config, options.override)
    cli.tell_overrides(PROGRAM, settings)
    return settings


def _spec(settings: Settings, text: str) -> MapSpec:
    """A relative path is one from here, as for postmap."""
    kind, colon, name = text.partition(":")
    if kind in FILE_TYPES or not colon:
        path = str(Path(name if colon else text).absolute())
        text = f"{kind}:{path}" if colon else path
    try:
        return parse_map(text, settings.text("default_database_type"))
    except ValueError as error:
        raise Failure(cli.EX_USAGE, str(error)) from None


def _must_exist(settings: Settings, spec: MapSpec) -> None:
    """Raises Failure for a file that is not there: it was named by hand, not by a default."""
    for each in spec.files():
        try:
            live_file(settings, each).text()
        except OSError as error:
            status = cli.EX_NOPERM if isinstance(error, PermissionError) else cli.EX_UNAVAILABLE
            raise Failure(status, f"{each.name}: {error.strerror}") from None


def _dump(settings: Settings, specs: list[MapSpec]) -> int:
    """Tables with keys can be listed, as with postmap; rules cannot."""
    for spec in specs:
        found = live_file(settings, spec).read()[0] if spec.type in FILE_TYPES else None
        if not isinstance(found, KeyTable):
            raise Failure(cli.EX_USAGE, f"{spec}: has no keys to list")
        for key, value in found.items():
            print(f"{key}\t{value}")
    return cli.EX_OK


async def _query(settings: Settings, specs: list[MapSpec], key: str) -> int:
    maps = MapSet("", specs, settings)
    for problem in maps.problems:
        print(f"{PROGRAM}: {problem}", file=sys.stderr)
    if key != "-":
        found = await _lookup(maps, key)
        if found is not None:
            print(found)
        return cli.EX_OK if found is not None else 1
    status = 1
    for line in sys.stdin:
        each = line.rstrip("\r\n")
        found = await _lookup(maps, each) if each else None
        if found is not None:
            print(f"{each}\t{found}")
            status = cli.EX_OK
    return status


async def _lookup(maps: MapSet, key: str) -> str | None:
    try:
        return await maps.lookup(key)
    except TempFail as error:
        raise Failure(cli.EX_UNAVAILABLE, f"{error.__cause__ or error}") from None


def _publish(settings: Settings, spec: MapSpec) -> int:
    """Make the files of one table live; the exit status."""
    if not spec.files():
        raise Failure(cli.EX_USAGE, f"{spec}: not a table that lies in a file")
    status = cli.EX_OK
    for each in spec.files():
        file = live_file(settings, each)
        failed = publish(PROGRAM, file)
        status = failed or status
        if file.aliases and not failed:
            for problem in asyncio.run(check_aliases(settings, [each.name])):
                print(f"{PROGRAM}: {problem}", file=sys.stderr)
    return status


def publish(program: str, file: LiveFile) -> int:
    """Check one file and make it live; problems go to standard error. The exit status."""
    try:
        problems = file.publish(Disk())
    except PermissionError:
        # Said as for all commands.
        raise
    except OSError as error:
        text = f"{error.filename or file.live}: {error.strerror or error}"
        raise Failure(cli.EX_CANTCREAT, text) from None
    for problem in problems:
        word = "fatal: " if problem.is_error else ""
        print(f"{program}: {word}{problem}", file=sys.stderr)
    if not any(problem.is_error for problem in problems):
        return cli.EX_OK
    return cli.EX_CONFIG if not file.source.exists() else cli.EX_DATAERR


def await_daemon(settings: Settings) -> None:
    """Once this returns, a daemon that runs uses what was just made live: the next command may
    rely on it."""
    if os.path.exists(control_path(settings.text("data_directory"))):
        time.sleep(RECHECK)


if __name__ == "__main__":
    sys.exit(main())
