"""resel-mta: run a role in the foreground, or talk to the one that runs."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence

import apsw
import uvloop

from resel_mta.commands import cli
from resel_mta.commands.cli import Failure
from resel_mta.composition import open_log
from resel_mta.config import Settings, load
from resel_mta.config.check import check
from resel_mta.config.roles import ROLES
from resel_mta.control import ControlClient, ControlError, NotRunning, Row, control_path
from resel_mta.daemon import Daemon, bind_all
from resel_mta.disk import Disk
from resel_mta.maillog import MailLog
from resel_mta.privileges import (
    Account,
    PrivilegeError,
    current_account,
    mail_owner,
    mailbox_account,
    prepare_directories,
)
from resel_mta.queue.schema import UnknownVersion, UnusableLibrary
from resel_mta.queue.sqlite import QueueLocked
from resel_mta.sockets import BindError, Bound
from resel_mta.supervised import SupervisorLink, from_environment
from resel_mta.supervisor import ENVIRONMENT, Supervisor, can_run

EPILOG = """\
Without a command: run the role in the foreground until SIGTERM; SIGHUP reloads.

  check    read and check the configuration, its files and maps; exit 0 or 78
  reload   have the running daemon read its configuration again (a bad one changes nothing)
  status   what runs: role, listeners, messages in the queue
  stop     end the running daemon: what is in flight is finished, the rest stays queued
"""
STOP_PATIENCE = 40.0


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script; its exit status."""
    return cli.run("resel-mta", _main, arguments)


def _main(arguments: Sequence[str]) -> int:
    parser = cli.parser("resel-mta", "The mail daemon: one process, one role.", EPILOG)
    parser.add_argument("--role", choices=tuple(ROLES), help="overrides role in main.cf")
    parser.add_argument(
        "command", nargs="?", choices=("check", "reload", "status", "stop"), help=argparse.SUPPRESS
    )
    options = parser.parse_args(arguments)
    settings = load(options.config, options.override, options.role)
    if options.command is None:
        return _start(settings, options)
    return {"check": _check, "reload": _reload, "status": _status, "stop": _stop}[options.command](
        settings
    )


# -- run ----------------------------------------------------------------------------------------


def _start(settings: Settings, options: argparse.Namespace) -> int:
    def reread() -> Settings:
        return load(options.config, options.override, options.role)

    told = os.environ.pop(ENVIRONMENT, "")
    if told:
        link, bound = from_environment(told)
        return _run(settings, bound, open_log(settings), reread, link)
    account = _account(settings)
    try:
        prepare_directories(settings, account, Disk())
        bound = bind_all(settings)
    except PrivilegeError as error:
        raise Failure(cli.EX_CANTCREAT, str(error)) from None
    except BindError as error:
        raise Failure(cli.EX_UNAVAILABLE, str(error)) from None
    log = open_log(settings)
    if os.getuid() == 0:
        # The network process runs in another folder: it gets the path that was meant here.
        arguments = ["-c", os.path.abspath(settings.path), "--role", settings.role]
        for override in options.override:
            arguments += ["-o", override]
        return Supervisor(settings, account, bound, log, reread, arguments).run()
    log.event("master", f"not started by root: everything runs as {account.name}")
    return _run(settings, bound, log, reread, None)


def _run(
    settings: Settings,
    bound: list[Bound],
    log: MailLog,
    reread: Callable[[], Settings],
    link: SupervisorLink | None,
) -> int:
    """The network process."""
    os.umask(0o077)

    async def serve() -> None:
        await Daemon(settings, bound, log, reread, link).run()

    try:
        uvloop.run(serve())
    except QueueLocked as error:
        raise Failure(cli.EX_UNAVAILABLE, f"{error}: is another resel-mta running?") from None
    except (UnusableLibrary, UnknownVersion, apsw.Error) as error:
        directory = settings.text("queue_directory")
        raise Failure(
            cli.EX_UNAVAILABLE, f"the queue in {directory} cannot be used: {error}"
        ) from None
    finally:
        log.flush()
    return cli.EX_OK


def _account(settings: Settings) -> Account:
    if os.getuid() != 0:
        return current_account()
    try:
        owner = mail_owner(settings)
        mailbox = mailbox_account(settings, owner)
    except PrivilegeError as error:
        raise Failure(cli.EX_CONFIG, str(error)) from None
    for account in {owner, mailbox}:
        if not can_run(account):
            raise Failure(
                cli.EX_CONFIG,
                f"{account.name} cannot run {sys.executable} with this program's packages: install "
                "it where every account can read it (/opt, not a home directory)",
            )
    return owner


# -- talk to the one that runs ------------------------------------------------------------------


def _check(settings: Settings) -> int:
    problems = [*settings.warnings, *check(settings)]
    for problem in problems:
        print(f"resel-mta: {'fatal: ' if problem.is_error else ''}{problem}", file=sys.stderr)
    if any(problem.is_error for problem in problems):
        return cli.EX_CONFIG
    print(f"{settings.path}: role {settings.role}, no errors")
    return cli.EX_OK


def _ask(settings: Settings, verb: str) -> list[Row]:
    path = control_path(settings.text("data_directory"))
    try:
        return list(ControlClient(path).call(verb))
    except NotRunning:
        raise Failure(
            cli.EX_UNAVAILABLE, f"no daemon is running (nobody listens on {path})"
        ) from None
    except ControlError as error:
        raise Failure(error.exit_code, error.text) from None


def _reload(settings: Settings) -> int:
    for row in _ask(settings, "daemon.reload"):
        for warning in row["warnings"]:
            print(f"resel-mta: {warning}", file=sys.stderr)
    print("resel-mta: reloaded")
    return cli.EX_OK


def _status(settings: Settings) -> int:
    (status,) = _ask(settings, "daemon.status")
    up = int(time.time() - status["started"])
    days, rest = divmod(up, 86400)
    hours, minutes, seconds = rest // 3600, rest // 60 % 60, rest % 60
    print(f"resel-mta {status['version']}, role {status['role']}, pid {status['pid']}")
    print(
        f"up {days} d {hours:02d}:{minutes:02d}:{seconds:02d}, configuration {status['configuration']}"
    )
    for listener in status["listeners"]:
        print(f"  {listener['service']:<12} {listener['where']}")
    counts = ", ".join(f"{count} {name}" for name, count in status["queue"].items())
    print(f"queue: {counts}")
    if settings.role != status["role"]:
        print(
            f"resel-mta: warning: main.cf says role {settings.role}, but role {status['role']} runs",
            file=sys.stderr,
        )
    return cli.EX_OK


def _stop(settings: Settings) -> int:
    (row,) = _ask(settings, "daemon.stop")
    pid = int(row["pid"])
    deadline = time.monotonic() + settings.seconds("shutdown_timeout") + STOP_PATIENCE
    while _alive(pid):
        if time.monotonic() > deadline:
            raise Failure(cli.EX_TEMPFAIL, f"process {pid} is still stopping")
        time.sleep(0.05)
    print("resel-mta: stopped")
    return cli.EX_OK


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


if __name__ == "__main__":
    sys.exit(main())
