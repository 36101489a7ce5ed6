"""What the sub-commands of resel-mta ask of the daemon that runs, and of what it may not know yet."""

from __future__ import annotations

import os
import time

from resel_mta.commands import cli
from resel_mta.commands.cli import Failure
from resel_mta.config import Settings
from resel_mta.config.check import stale_tables
from resel_mta.config.problems import Problem
from resel_mta.control import ControlClient, ControlError, NotRunning, Row, control_path
from resel_mta.public_queue import ABOUT, public_queue_path


def ask(settings: Settings, verb: str) -> list[Row]:
    """The rows of the daemon's answer. Raises Failure."""
    path = control_path(settings.text("data_directory"))
    try:
        return list(ControlClient(path).call(verb))
    except NotRunning:
        raise Failure(
            cli.EX_UNAVAILABLE, f"no daemon is running (nobody listens on {path})"
        ) from None
    except ControlError as error:
        raise Failure(error.exit_code, error.text) from None


def running(settings: Settings) -> Row | None:
    """What a daemon says of itself to everybody (`public_queue`); None where none runs, and an
    empty row where that cannot be told."""
    control = control_path(settings.text("data_directory"))
    public = public_queue_path(settings.text("queue_directory"))
    for path in (control, public):
        try:
            (about,) = ControlClient(path).call(ABOUT)
        except NotRunning:
            # Nobody is kept from the public one, and it is there as long as the daemon is.
            if path == control or public.parent.is_dir():
                return None
        except (ControlError, OSError):
            continue
        else:
            return about
    return {}


def differences(settings: Settings, status: Row) -> list[Problem]:
    """What was changed on disk since the daemon read it: main.cf and tables."""
    problems = []
    try:
        changed = os.stat(settings.path).st_mtime
    except OSError:
        changed = 0.0
    if changed > float(status["configured"]):
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(changed))
        text = f"changed at {when}, after the daemon read it; resel-mta reload"
        problems.append(Problem(settings.path, "", text, is_error=False))
    if settings.role != status["role"]:
        text = f'is "{settings.role}", but role {status["role"]} runs: a restart changes it'
        problems.append(Problem(str(settings.source("role")), "role", text, is_error=False))
    return [*problems, *stale_tables(settings)]
