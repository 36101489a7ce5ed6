"""What only building the daemon's parts would show: certificates, user databases, mailboxes, and
where aliases lead."""

from __future__ import annotations

import asyncio
import contextlib
import os

from resel_lda.maildir.layout import LocationError, parse_location
from resel_mta.config import ConfigError, Settings
from resel_mta.config.maps import MapSet
from resel_mta.config.mapspec import parse_map
from resel_mta.config.problems import Problem
from resel_mta.mail import TempFail
from resel_mta.privileges import PrivilegeError, mail_owner, mailbox_account
from resel_mta.rights import Rights, has_helper
from resel_mta.routing.alias_check import alias_files, check_aliases
from resel_mta.tls import ServerTLS
from resel_mta.users import open_users
from resel_mta.users.accounts import Accounts


def start_checks(settings: Settings) -> list[Problem]:
    """Problems of a configuration whose values are good one by one. Blocks; changes nothing."""
    problems = [*_certificates(settings), *_users(settings), *mailbox_problems(settings)]
    if not problems:
        problems += asyncio.run(check_aliases(settings, alias_files(settings)))
        if os.geteuid() == 0:
            problems += own_accounts(settings)
    return problems


def own_accounts(settings: Settings) -> list[Problem]:
    """Accounts of the mail system itself that get mail and have no alias: what comes for them waits.
    For a daemon that root starts. Blocks."""
    if not settings.items("mydestination"):
        return []
    try:
        owner = mail_owner(settings)
        worker = mailbox_account(settings, owner)
    except PrivilegeError:
        # `check` says so.
        return []
    rights = Rights(settings, owner)
    aliases = MapSet("alias_maps", map(parse_map, settings.items("alias_maps")), settings)
    problems = []
    for account, parameter in {owner: "mail_owner", worker: "mail_uid"}.items():
        with contextlib.suppress(OSError, TempFail):
            user = Accounts(settings).find(account.name)
            waits = user is not None and has_helper(user, settings, worker)
            why = rights.refusal(account.name) if waits else ""
            if why and asyncio.run(aliases.find(account.name)) is None:
                where = str(settings.source(parameter))
                problems.append(Problem(where, parameter, why, is_error=False))
    return problems


def _certificates(settings: Settings) -> list[Problem]:
    """Certificates and keys that can be read and yet do not serve."""
    problems: list[Problem] = []
    for service in ("", "smtpd", "submission", "submissions"):
        try:
            ServerTLS(settings.service(service) if service else settings)
        except ConfigError as error:
            problems += [each for each in error.problems if each not in problems]
    return problems


def _users(settings: Settings) -> list[Problem]:
    try:
        open_users(settings)
    except ConfigError as error:
        return [_placed(settings, each) for each in error.problems]
    return []


def _placed(settings: Settings, problem: Problem) -> Problem:
    """With the place where the parameter is set."""
    if problem.where or not problem.parameter:
        return problem
    return Problem(str(settings.source(problem.parameter)), problem.parameter, problem.text)


def mailbox_problems(settings: Settings) -> list[Problem]:
    """What is wrong with mail_location: no mail could be delivered."""
    location = settings.text("mail_location")
    if not location:
        return []
    try:
        parse_location(location, "user", "/home/user")
    except LocationError as error:
        text = str(error).removeprefix("mail_location ")
        return [_placed(settings, Problem("", "mail_location", text))]
    return []
