"""Reading main.cf."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from resel_mta.config.grammar import parse_main_cf
from resel_mta.config.problems import ConfigError, Problem, in_file_order
from resel_mta.config.settings import Setting, Settings, Source

DEFAULT_PATH = "/etc/resel-mta/main.cf"


def config_path(path: str | None) -> Path:
    """The main.cf to read: `path` (or the one in that directory), else $RESEL_CONFIG, else
    /etc/resel-mta/main.cf."""
    found = Path(path or os.environ.get("RESEL_CONFIG") or DEFAULT_PATH)
    return found / "main.cf" if found.is_dir() else found


def load(path: str | None, overrides: Sequence[str] = (), role: str | None = None) -> Settings:
    """Read and check a configuration.

    path: main.cf, a directory that holds one, or None for the default. overrides: "name=value"
    or "service/name=value". role: --role. Raises ConfigError with all problems.
    """
    settings, problems = read(path, overrides, role)
    if any(problem.is_error for problem in problems):
        raise ConfigError(in_file_order(problems, settings.path))
    return settings


def read(
    path: str | None, overrides: Sequence[str] = (), role: str | None = None
) -> tuple[Settings, list[Problem]]:
    """As `load`, but for tools that show and mend a configuration: its errors are returned, and
    getters of bad values raise ValueError. Raises ConfigError for a file that cannot be read."""
    file = config_path(path)
    try:
        text = file.read_bytes().decode("utf-8", "surrogateescape")
    except OSError as error:
        reason = error.strerror or str(error)
        if isinstance(error, FileNotFoundError):
            reason += " (resel-mta setup writes one; -c names another)"
        elif isinstance(error, PermissionError):
            reason += " (all who send mail must be able to read it; it holds no secrets)"
        raise ConfigError([Problem(str(file), "", f"cannot be read: {reason}")]) from None
    explicit, problems = read_assignments(text, str(file))
    problems += apply_overrides(explicit, overrides)
    directory = os.path.abspath(file.parent)
    return Settings.checked(role, explicit, problems, path=str(file), config_directory=directory)


def read_assignments(text: str, file: str) -> tuple[dict[str, Setting], list[Problem]]:
    """The settings of a main.cf; a later line wins over an earlier one, with a warning."""
    assignments, problems = parse_main_cf(text, file)
    explicit: dict[str, Setting] = {}
    for each in assignments:
        before = explicit.get(each.name)
        if before is not None:
            problems.append(
                Problem(
                    each.where,
                    each.name,
                    f'overrides line {before.source.line} ("{before.value}")',
                    is_error=False,
                )
            )
        explicit[each.name] = Setting(each.value, Source("file", file, each.first))
    return explicit, problems


def apply_overrides(explicit: dict[str, Setting], overrides: Iterable[str]) -> list[Problem]:
    """Add the command line's "name=value" to what the file says; what is wrong with them."""
    problems = []
    for override in overrides:
        name, equals, value = override.partition("=")
        name = name.strip()
        if not equals or not name:
            problems.append(Problem("command line", "", f'"{override}" is not name=value'))
            continue
        explicit[name] = Setting(value.strip(), Source("command line"))
    return problems
