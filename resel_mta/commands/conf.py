"""resel-conf: show and change the configuration, with postconf(1)'s options."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Collection, Iterable, Sequence

from resel_mta.commands import cli
from resel_mta.commands.cli import Failure
from resel_mta.config.edit import (
    commented_out,
    edited,
    read_text,
    removed,
    repeated,
    sole_editor,
    write_text,
)
from resel_mta.config.expand import ExpansionError, references
from resel_mta.config.load import config_path, read
from resel_mta.config.mapspec import MAP_TYPES
from resel_mta.config.parameters import find, table
from resel_mta.config.problems import Problem
from resel_mta.config.settings import Settings
from resel_mta.disk import Disk

PROGRAM = "resel-conf"
EPILOG = """\
Without NAME: all parameters. With -n only those that are set; -x with it says where: file and
line, role, or command line. -e, -# and -X change main.cf in one step and keep its comments;
'resel-mta reload' makes a running daemon read it.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script; its exit status."""
    return cli.run(PROGRAM, _main, arguments)


def _parser() -> cli.Parser:
    parser = cli.parser(PROGRAM, "Show or change parameters of main.cf.", EPILOG, short_help=False)
    parser.add_argument("--role", help="overrides role in main.cf")
    parser.add_argument("-n", dest="explicit", action="store_true", help="only what is set")
    parser.add_argument("-d", dest="defaults", action="store_true", help="defaults")
    parser.add_argument("-h", dest="hide_name", action="store_true", help="values without names")
    parser.add_argument(
        "-x",
        dest="expand",
        action="store_true",
        help="expand values; with -n: say where they are set",
    )
    parser.add_argument("-m", dest="map_types", action="store_true", help="list the types of maps")
    parser.add_argument(
        "-e", dest="edit", action="store_true", help="set parameters: NAME=VALUE ..."
    )
    parser.add_argument(
        "-#",
        dest="comment_out",
        action="store_true",
        help="turn the lines of NAME ... into comments: the defaults count again",
    )
    parser.add_argument(
        "-X", dest="remove", action="store_true", help="take the lines of NAME ... out"
    )
    parser.add_argument("names", nargs="*", metavar="NAME[=VALUE]")
    return parser


def _main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    if options.map_types:
        print("\n".join(sorted(MAP_TYPES)))
        return cli.EX_OK
    if sum((options.edit, options.comment_out, options.remove)) > 1:
        raise Failure(cli.EX_USAGE, "only one of -e, -# and -X at a time")
    if options.comment_out or options.remove:
        return _take_out(options)
    # As with postconf, NAME=VALUE says -e.
    if options.edit or any("=" in name for name in options.names):
        return _set(options)
    settings, problems = _read(options)
    if options.defaults:
        settings = settings.plain()
    else:
        _print_warnings(problems)
    if options.explicit:
        _print(settings, _explicit_names(settings, options), options)
        return cli.EX_OK
    for name in options.names:
        if find(name) is None and name not in settings.explicit():
            print(f"{PROGRAM}: warning: {name}: unknown parameter", file=sys.stderr)
    known = [name for name in options.names if find(name) or name in settings.explicit()]
    _print(settings, known if options.names else _all_names(settings), options)
    return cli.EX_OK


def _read(options: argparse.Namespace) -> tuple[Settings, list[Problem]]:
    """Defaults can be shown without a main.cf."""
    if options.defaults and options.config is None and not config_path(None).exists():
        return Settings.checked(options.role, {}, [])
    return read(options.config, options.override, options.role)


def _print_warnings(problems: Iterable[Problem]) -> None:
    """A configuration with errors is shown too: this is the tool to mend it with."""
    for problem in problems:
        word = "warning: " if problem.is_error else ""
        print(f"{PROGRAM}: {word}{problem}", file=sys.stderr)


def _all_names(settings: Settings) -> list[str]:
    return sorted({*table(), *_used(settings)})


def _used(settings: Settings) -> set[str]:
    """What is set and has an effect: parameters, and names that others refer to."""
    explicit = settings.explicit()
    referred = {"role"}
    for setting in explicit.values():
        referred |= references(setting.value)
    classes = explicit.get("smtpd_restriction_classes")
    if classes is not None:
        referred |= set(classes.value.replace(",", " ").split())
    return {
        name for name in explicit if name in referred or find(name.rpartition("/")[2]) is not None
    }


def _explicit_names(settings: Settings, options: argparse.Namespace) -> list[str]:
    names = _used(settings)
    if options.expand:
        names |= set(settings.role_defaults())
    if options.config and os.path.isdir(options.config):
        # As postconf has it: -c DIRECTORY sets config_directory.
        names.add("config_directory")
    wanted = set(options.names)
    return sorted(name for name in names if not wanted or name in wanted)


def _print(settings: Settings, names: Iterable[str], options: argparse.Namespace) -> None:
    for name in names:
        value = _value(settings, name, options)
        if options.hide_name:
            print(value)
            continue
        line = f"{name} = {value}".rstrip()
        if options.expand and options.explicit:
            line += f"  # {settings.source(name)}"
        print(line)


def _value(settings: Settings, name: str, options: argparse.Namespace) -> str:
    if name == "config_directory" and not settings.is_set(name):
        given = options.config
        return given if given and os.path.isdir(given) else settings.config_directory
    if options.expand and not options.explicit:
        try:
            return settings.text(name)
        except ExpansionError as error:
            raise Failure(cli.EX_CONFIG, f"{name}: {error}") from None
    # As postconf shows them: space of any length is one space.
    return " ".join(settings.setting(name).value.split())


def _set(options: argparse.Namespace) -> int:
    values: dict[str, str] = {}
    for argument in options.names:
        name, equals, value = argument.partition("=")
        if not equals:
            raise Failure(cli.EX_USAGE, f'"{argument}" is not NAME=VALUE')
        values[_checked_name(name.strip())] = value.strip()
        if "\n" in value or "\r" in value:
            raise Failure(cli.EX_USAGE, f"the value of {name} holds a line break")
    if not values:
        raise Failure(cli.EX_USAGE, "-e needs NAME=VALUE")
    return _change(options, values, lambda text: edited(text, values))


def _take_out(options: argparse.Namespace) -> int:
    names = [_checked_name(name) for name in options.names]
    if not names:
        raise Failure(cli.EX_USAGE, "-# and -X need the names of parameters")
    change = commented_out if options.comment_out else removed
    return _change(options, names, lambda text: change(text, names))


def _checked_name(name: str) -> str:
    if not name or any(c.isspace() or c == "=" for c in name) or name.startswith("#"):
        raise Failure(cli.EX_USAGE, f'"{name}" is not the name of a parameter')
    return name


def _change(
    options: argparse.Namespace, names: Collection[str], change: Callable[[str], str]
) -> int:
    """Change main.cf; what is wrong with these parameters now goes to standard error."""
    path = config_path(options.config)
    try:
        with sole_editor(path):
            before = read_text(path)
            after = change(before)
            if after != before:
                write_text(path, after, Disk())
    except FileNotFoundError:
        raise Failure(cli.EX_CONFIG, f"{path}: no such file") from None
    except PermissionError as error:
        raise Failure(cli.EX_NOPERM, f"{path}: {error.strerror}") from None
    except OSError as error:
        raise Failure(cli.EX_CANTCREAT, f"{path}: {error.strerror}") from None
    for name in repeated(after, names):
        print(f'{PROGRAM}: warning: {path}: multiple entries for "{name}"', file=sys.stderr)
    _, problems = read(options.config, options.override, options.role)
    concerned = [p for p in problems if p.parameter in names and "overrides line" not in p.text]
    _print_warnings(concerned)
    return cli.EX_OK


if __name__ == "__main__":
    sys.exit(main())
