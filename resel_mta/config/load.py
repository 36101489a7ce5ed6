"""Reading main.cf: layers, and every problem at once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from resel_mta.config.expand import ExpansionError, references
from resel_mta.config.grammar import parse_main_cf
from resel_mta.config.listen import SERVICES
from resel_mta.config.parameters import Parameter, Support, find, similar
from resel_mta.config.problems import ConfigError, Problem
from resel_mta.config.restrictions import closes_relay
from resel_mta.config.roles import DEFAULT_ROLE, ROLES
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
    file = config_path(path)
    try:
        text = file.read_bytes().decode("utf-8", "surrogateescape")
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError([Problem(str(file), "", f"cannot be read: {reason}")]) from None
    explicit, problems = read_assignments(text, str(file))
    problems += _apply_overrides(explicit, overrides)
    directory = os.path.abspath(file.parent)
    return _checked(role, explicit, problems, path=str(file), config_directory=directory)


def build(role: str, values: Mapping[str, str]) -> Settings:
    """Settings in memory, checked the same way."""
    explicit = {name: Setting(value, Source("command line")) for name, value in values.items()}
    return _checked(role, explicit, [])


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


def _apply_overrides(explicit: dict[str, Setting], overrides: Iterable[str]) -> list[Problem]:
    problems = []
    for override in overrides:
        name, equals, value = override.partition("=")
        name = name.strip()
        if not equals or not name:
            problems.append(Problem("command line", "", f'"{override}" is not name=value'))
            continue
        explicit[name] = Setting(value.strip(), Source("command line"))
    return problems


def _checked(
    role: str | None,
    explicit: dict[str, Setting],
    problems: list[Problem],
    *,
    path: str = "",
    config_directory: str = "/etc/resel-mta",
) -> Settings:
    configured = explicit.get("role")
    wanted = role or (configured.value if configured else DEFAULT_ROLE)
    if wanted not in ROLES:
        where = str(configured.source) if configured and role is None else "command line"
        allowed = ", ".join(ROLES)
        bad = Problem(where, "role", f'"{wanted}" is not a role; allowed are: {allowed}')
        raise ConfigError([*problems, bad])
    if configured and configured.value != wanted:
        problems.append(
            Problem(
                str(configured.source),
                "role",
                f'says "{configured.value}", but the role given is "{wanted}"',
                is_error=False,
            )
        )
    explicit = dict(explicit)
    if role is not None or configured is not None:
        source = configured.source if configured and role is None else Source("command line")
        explicit["role"] = Setting(wanted, source)
    settings = Settings(wanted, explicit, path=path, config_directory=config_directory)
    problems = problems + _examine(settings)
    if any(problem.is_error for problem in problems):
        raise ConfigError(problems)
    settings.warnings = tuple(problems)
    return settings


def _examine(settings: Settings) -> list[Problem]:
    """All that is wrong with the values themselves (files are `check`'s)."""
    problems: list[Problem] = []
    known = _user_names(settings)
    for name, setting in settings.explicit().items():
        problems += _examine_setting(settings, name, setting, known)
    reported = {problem.parameter for problem in problems if problem.is_error}
    problems += [each for each in settings.parse_all() if each.parameter not in reported]
    for service in SERVICES:
        view = settings.service(service)
        prefix = service + "/"
        if any(name.startswith(prefix) for name in settings.explicit()):
            reported = {problem.parameter for problem in problems if problem.is_error}
            problems += [
                Problem(each.where, prefix + each.parameter, each.text)
                for each in view.parse_all()
                if each.parameter not in reported
            ]
    if not any(problem.is_error for problem in problems):
        settings.addresses().listeners()
        problems += settings.addresses().problems
        problems += _open_relay(settings)
    return problems


def _user_names(settings: Settings) -> set[str]:
    """Names that are no parameters but that others refer to (as Postfix allows)."""
    found: set[str] = set()
    for setting in settings.explicit().values():
        if "$" in setting.value:
            found |= references(setting.value)
    classes = settings.explicit().get("smtpd_restriction_classes")
    if classes is not None:
        found |= set(classes.value.replace(",", " ").split())
    return found


def _examine_setting(
    settings: Settings, full_name: str, setting: Setting, known: set[str]
) -> list[Problem]:
    where = str(setting.source)
    service, slash, name = full_name.rpartition("/")
    if slash and service not in SERVICES:
        allowed = ", ".join(SERVICES)
        text = f'"{service}" is not a service; services are: {allowed}'
        return [Problem(where, full_name, text)]
    parameter = find(name)
    if parameter is None:
        if name in known:
            return _undefined(settings, full_name, setting)
        like = similar(name)
        hint = f'; did you mean "{like}"?' if like else ""
        return [Problem(where, full_name, f"unknown parameter{hint}", is_error=False)]
    view = settings.service(service) if slash else settings
    problems = _undefined(settings, full_name, setting)
    if parameter.support is Support.REFUSED:
        problems += _refused(view, parameter, full_name, where)
    return problems


def _undefined(settings: Settings, name: str, setting: Setting) -> list[Problem]:
    """References to names that nobody defines: Postfix takes them as empty, with a warning."""
    if "$" not in setting.value:
        return []
    return [
        Problem(str(setting.source), name, f'"${each}" is not defined', is_error=False)
        for each in sorted(references(setting.value.replace("$$", "")))
        if each not in settings.explicit() and find(each) is None
    ]


def _refused(view: Settings, parameter: Parameter, name: str, where: str) -> list[Problem]:
    """Fail closed: it must say what Postfix's default says, since that is what happens."""
    plain = Settings(view.role, {})
    try:
        if _words(view.text(parameter.name)) == _words(plain.text(parameter.name)):
            return []
    except ExpansionError as error:
        return [Problem(where, name, str(error))]
    default = plain.text(parameter.name)
    return [
        Problem(
            where,
            name,
            f'"{view.text(parameter.name)}" is not supported, and to ignore it could let mail '
            f'through, lose or redirect it; allowed is only the default, "{default}"',
        )
    ]


def _words(text: str) -> list[str]:
    return text.replace(",", " ").lower().split()


def _open_relay(settings: Settings) -> list[Problem]:
    """Postfix's rule: one of the two lists must refuse mail for destinations that are not ours."""
    problems = []
    for service in ("", "smtpd", "submission", "submissions"):
        view = settings.service(service) if service else settings
        if service and not settings.items(f"{service}_listen"):
            continue
        verbs = view.items("smtpd_relay_restrictions"), view.items("smtpd_recipient_restrictions")
        if any(closes_relay(each) for each in verbs):
            continue
        prefix = f"{service}/" if service else ""
        problems.append(
            Problem(
                str(view.source("smtpd_relay_restrictions")),
                f"{prefix}smtpd_relay_restrictions",
                "would relay for everybody; it or smtpd_recipient_restrictions must hold "
                "reject_unauth_destination, defer_unauth_destination, reject or defer before permit",
            )
        )
        break
    return problems
