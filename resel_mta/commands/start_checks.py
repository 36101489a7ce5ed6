"""What only building the daemon's parts would show: certificates, user databases, mailboxes, and
where aliases lead."""

from __future__ import annotations

import asyncio

from resel_lda.maildir.layout import LocationError, parse_location
from resel_mta.config import ConfigError, Settings
from resel_mta.config.problems import Problem
from resel_mta.routing.alias_check import alias_files, check_aliases
from resel_mta.tls import ServerTLS
from resel_mta.users import open_users


def start_checks(settings: Settings) -> list[Problem]:
    """Problems of a configuration whose values are good one by one. Blocks; changes nothing."""
    problems = [*_certificates(settings), *_users(settings), *mailbox_problems(settings)]
    if not problems:
        problems += asyncio.run(check_aliases(settings, alias_files(settings)))
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
