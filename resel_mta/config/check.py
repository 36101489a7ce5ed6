"""What `load` does not look at: the files that a configuration names, and its tables."""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Sequence
from pathlib import Path

from resel_mta.config.listen import SERVICES
from resel_mta.config.live import LiveFile, live_files
from resel_mta.config.maps import MatchList
from resel_mta.config.networks import Networks
from resel_mta.config.parameters import Support, table
from resel_mta.config.problems import Problem
from resel_mta.config.settings import Settings

_NOTICES = frozenset(
    ("2bounce", "bounce", "data", "delay", "policy", "protocol", "resource", "software")
)
_READABLE_FILES = (
    "smtpd_tls_cert_file",
    "smtpd_tls_key_file",
    "smtp_tls_CAfile",
)
_FILES_BEHIND = {"passwd-file": ("passdb", "userdb"), "ldap": ("passdb", "userdb")}


def check(settings: Settings, known: Sequence[Problem] = ()) -> list[Problem]:
    """All that is wrong with files, tables and accounts. Errors would make mail fail; warnings say
    what an administrator may have forgotten. Blocks; changes nothing.

    known: errors of single values (`load.read`). What hangs on such a value is not looked at."""
    problems: list[Problem] = []
    said = {each.text for each in known}
    for part in (
        _files,
        _user_files,
        _tables,
        _lists,
        _tls,
        _accounts,
        _sizes,
        _machine,
        _notices,
    ):
        try:
            problems += [each for each in part(settings) if each.text not in said]
        except ValueError:
            if not any(each.is_error for each in known):
                raise
    return problems


def _problem(settings: Settings, name: str, text: str, *, is_error: bool = True) -> Problem:
    return Problem(str(settings.source(name)), name, text, is_error)


def _unreadable(path: str) -> str:
    """Why a file cannot be read, or ""."""
    try:
        with Path(path).open("rb"):
            return ""
    except OSError as error:
        return f"{path}: {error.strerror or error}"


def _files(settings: Settings) -> list[Problem]:
    problems = []
    for name in _READABLE_FILES:
        path = settings.text(name)
        why = _unreadable(path) if path else ""
        if why:
            problems.append(_problem(settings, name, why))
    for path in settings.items("smtpd_tls_chain_files"):
        if why := _unreadable(path):
            problems.append(_problem(settings, "smtpd_tls_chain_files", why))
    directory = settings.text("smtp_tls_CApath")
    if directory and not os.path.isdir(directory):
        problems.append(_problem(settings, "smtp_tls_CApath", f"{directory}: no such directory"))
    origin = settings.setting("myorigin").value
    if origin.startswith("/") and (why := _unreadable(origin)):
        problems.append(
            _problem(settings, "myorigin", f"{why}; $myhostname is used", is_error=False)
        )
    return problems


def _user_files(settings: Settings) -> list[Problem]:
    """passdb and userdb of the kinds that are files."""
    problems = []
    for kind, names in _FILES_BEHIND.items():
        for name in names:
            for item in settings.text(name).replace(",", " ").split():
                found, colon, path = item.partition(":")
                if colon and found == kind and "%" not in path and (why := _unreadable(path)):
                    problems.append(_problem(settings, name, why))
    return problems


def _tables(settings: Settings) -> list[Problem]:
    problems = []
    for name, file in live_files(settings):
        _, found = file.read_source()
        has_copy = file.stamp() is not None
        for each in found:
            kept = each.is_error and has_copy
            text = each.text + ("; the last good copy stays in use" if kept else "")
            problems.append(Problem(each.where, name, text, each.is_error and not kept))
        if not any(each.is_error for each in found) and file.is_stale():
            problems.append(_stale(name, file))
    return problems


def _stale(name: str, file: LiveFile) -> Problem:
    how = "newaliases" if file.aliases else f"resel-map {file.spec}"
    text = f"is newer than what is live; {how} or a reload makes it live"
    return Problem(str(file.source), name, text, is_error=False)


def stale_tables(settings: Settings) -> list[Problem]:
    """A warning for each table whose source was changed and not made live since. Blocks."""
    return [_stale(name, file) for name, file in live_files(settings) if file.is_stale()]


def _lists(settings: Settings) -> list[Problem]:
    """Files of items that lists of networks and domains read."""
    problems: list[Problem] = []
    for parameter in table().values():
        if parameter.support is not Support.IMPLEMENTED:
            continue
        if parameter.type == "networks":
            try:
                Networks(settings.items(parameter.name))
            except (OSError, ValueError) as error:
                reason = _reason(error)
                # Not once more for each list that has this one in it.
                if not any(each.text == reason for each in problems):
                    problems.append(_problem(settings, parameter.name, reason))
        elif parameter.type == "domains" and any(
            item.lstrip("!").startswith("/") for item in settings.items(parameter.name)
        ):
            problems += [
                each
                for each in MatchList(settings, parameter.name).problems
                if each.parameter == parameter.name
            ]
    return problems


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror or error}"
    return str(error)


def _tls(settings: Settings) -> list[Problem]:
    """TLS that is asked for and cannot be given."""
    problems = []
    for service in ("smtpd", "submission", "submissions"):
        view = settings.service(service)
        if not settings.items(f"{service}_listen"):
            continue
        if view.text("smtpd_tls_cert_file") or view.items("smtpd_tls_chain_files"):
            continue
        level = view.text("smtpd_tls_security_level")
        if level == "encrypt":
            text = f"{service} requires TLS, and there is no smtpd_tls_cert_file"
            problems.append(_problem(view, "smtpd_tls_security_level", text))
        elif service == "submissions" or level == "may":
            text = f"{service} offers TLS, and there is no smtpd_tls_cert_file"
            problems.append(_problem(view, "smtpd_tls_cert_file", text, is_error=False))
    return problems


def _sizes(settings: Settings) -> list[Problem]:
    """Postfix's rule: what is accepted must fit into a mailbox."""
    message = settings.number("message_size_limit")
    mailbox = settings.number("mailbox_size_limit")
    if mailbox == 0 or 0 < message <= mailbox:
        return []
    text = f'"{mailbox}" is smaller than message_size_limit ({message}); 0 is no limit'
    return [_problem(settings, "mailbox_size_limit", text)]


def _machine(settings: Settings) -> list[Problem]:
    """What this machine does not have: the log's folder, the addresses to listen on."""
    problems = []
    log = settings.text("maillog_file")
    if log and not os.path.isdir(folder := os.path.dirname(log) or "."):
        problems.append(_problem(settings, "maillog_file", f"{folder}: no such directory"))
    hosts = {each.host: each for service in SERVICES for each in settings.listeners(service)}
    for host, listener in hosts.items():
        if host and (why := _not_ours(host)):
            problems.append(_problem(settings, "inet_interfaces", f"{listener}: {why}"))
    return problems


def _notices(settings: Settings) -> list[Problem]:
    """Classes of notices to the postmaster that there are not."""
    name = "notify_classes"
    known = ", ".join(sorted(_NOTICES))
    return [
        _problem(settings, name, f'"{word}" is not one of: {known}')
        for word in settings.items(name)
        if word not in _NOTICES
    ]


def _not_ours(host: str) -> str:
    """Why nothing can listen on an address, or ""."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((host, 0))
    except OSError as error:
        return f"{error.strerror or error}; no interface of this machine has that address"
    return ""


def _accounts(settings: Settings) -> list[Problem]:
    problems = _mail_uid(settings)
    if os.geteuid() == 0:  # Nobody else becomes another.
        problems += _account(settings, "mail_owner")
        problems += _account(settings, "default_privs")
    return problems


def _account(settings: Settings, name: str) -> list[Problem]:
    """An account that must be there, and must not be root."""
    account = settings.text(name)
    try:
        uid = pwd.getpwnam(account).pw_uid
    except KeyError:
        return [_problem(settings, name, f'there is no account "{account}"')]
    return [] if uid else [_problem(settings, name, f'"{account}" has the rights of root')]


def _mail_uid(settings: Settings) -> list[Problem]:
    text = settings.text("mail_uid")
    if not text:
        return []
    try:
        uid = int(text) if text.isdigit() else pwd.getpwnam(text).pw_uid
    except KeyError:
        return [_problem(settings, "mail_uid", f'there is no account "{text}"')]
    if uid == 0:
        return [_problem(settings, "mail_uid", "mailboxes never belong to root")]
    return []
