"""What is wrong with the values of a configuration, all at once. Files are `check`'s."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resel_mta.config.expand import ExpansionError, references
from resel_mta.config.listen import SERVICES
from resel_mta.config.parameters import Parameter, Support, find, similar, table
from resel_mta.config.problems import Problem
from resel_mta.config.restrictions import closes_relay

if TYPE_CHECKING:
    from resel_mta.config.settings import Setting, Settings


def examine(settings: Settings) -> list[Problem]:
    """Errors and warnings about every value that was set, and about what follows from them."""
    problems: list[Problem] = []
    known = _user_names(settings)
    for name, setting in settings.explicit().items():
        problems += _examine_setting(settings, name, setting, known)
    problems += _implied(settings, problems, "")
    for service in SERVICES:
        prefix = service + "/"
        if any(name.startswith(prefix) for name in settings.explicit()):
            problems += _implied(settings.service(service), problems, prefix)
    if not any(problem.is_error for problem in problems):
        settings.addresses().listeners()
        problems += settings.addresses().problems
        problems += _open_relay(settings)
    return problems


def _implied(settings: Settings, known: list[Problem], prefix: str) -> list[Problem]:
    """Problems of the typed values, also of those that nobody set and that follow from others.
    The same words about a value that merely follows are not said again."""
    problems: list[Problem] = []
    for parameter in table().values():
        if parameter.support is not Support.IMPLEMENTED:
            continue
        try:
            settings.value(parameter.name)
        except (ValueError, OSError) as error:
            text = str(error)
            source = settings.source(parameter.name)
            said = any(each.text == text for each in (*known, *problems))
            if not said or source.kind in ("file", "command line"):
                problems.append(Problem(str(source), prefix + parameter.name, text))
    if not prefix:
        return problems
    # The general value's problem was reported with the general value.
    places = {(each.where, each.text) for each in known}
    return [each for each in problems if (each.where, each.text) not in places]


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
    """References to names that nobody defines: Postfix takes them as empty, with a warning.
    A template's names are known only when there is a mail."""
    parameter = find(name.rpartition("/")[2])
    if "$" not in setting.value or (parameter is not None and parameter.type == "template"):
        return []
    return [
        Problem(str(setting.source), name, f'"${each}" is not defined', is_error=False)
        for each in sorted(references(setting.value.replace("$$", "")))
        if each not in settings.explicit() and find(each) is None
    ]


def _refused(view: Settings, parameter: Parameter, name: str, where: str) -> list[Problem]:
    """Fail closed: it must say what Postfix's default says, since that is what happens."""
    plain = view.plain()
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
