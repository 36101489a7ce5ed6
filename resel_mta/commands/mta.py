"""resel-mta: run a role in the foreground, or talk to the one that runs."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from errno import EACCES

import apsw
import uvloop

from resel_mta.commands import cli
from resel_mta.commands import explain as explaining
from resel_mta.commands import setup as setting_up
from resel_mta.commands.cli import Failure
from resel_mta.commands.explain_judge import would_be_roots
from resel_mta.commands.mta_client import ask, running
from resel_mta.commands.start_checks import mailbox_problems, start_checks
from resel_mta.commands.status import report
from resel_mta.composition import open_log
from resel_mta.config import ConfigError, Settings, load
from resel_mta.config.check import check
from resel_mta.config.load import read
from resel_mta.config.problems import in_file_order
from resel_mta.config.roles import ROLES
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
    prepare_log,
)
from resel_mta.public_queue import is_served
from resel_mta.queue.lock import QueueLocked
from resel_mta.queue.schema import UnknownVersion, UnusableLibrary
from resel_mta.sockets import BindError, Bound
from resel_mta.spawning import can_run
from resel_mta.supervised import SupervisorLink, from_environment
from resel_mta.supervisor import ENVIRONMENT, Supervisor

# Seconds beyond shutdown_timeout that `stop` waits.
STOP_PATIENCE = 40.0
_TO_FIND_IT = ("role", "queue_directory", "data_directory", "shutdown_timeout")
DESCRIPTION = """\
The mail daemon: one program, one role. Without a command it runs the role in the foreground until
SIGTERM; SIGHUP reloads. The commands look at the configuration or talk to the daemon that runs."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script; its exit status."""
    return cli.run("resel-mta", _main, arguments)


def _parser() -> cli.Parser:
    parser = cli.parser("resel-mta", DESCRIPTION)
    parser.add_argument("--role", choices=tuple(ROLES), help="overrides role in main.cf")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, what in (
        ("check", "read and check the configuration, its files and maps; exit 0 or 78"),
        ("reload", "have the daemon read its configuration again; a bad one changes nothing"),
        ("status", "what runs: role, listeners, queue, problems; exit 0, or 69 if nothing does"),
        ("stop", "end the daemon: what is in flight is finished, the rest stays queued"),
        ("explain", "what happens to mail for an address, rule by rule"),
        ("setup", "ask what kind of machine this is, and write main.cf and the aliases"),
    ):
        made = commands.add_parser(name, help=what, description=_description(name, what))
        made.formatter_class = argparse.RawDescriptionHelpFormatter
        # Also after the command, where people write them too.
        made.add_argument(
            "-c", dest="config", metavar="FILE", default=argparse.SUPPRESS, help="as before COMMAND"
        )
        made.add_argument("-o", dest="late", action="append", default=[], help=argparse.SUPPRESS)
        if name != "setup":
            made.add_argument("--role", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        if name == "explain":
            made.epilog = explaining.EPILOG
            explaining.add_arguments(made)
        elif name == "setup":
            made.epilog = setting_up.EPILOG
            setting_up.add_arguments(made)
        elif name == "status":
            made.add_argument("-j", dest="json", action="store_true", help="one JSON object")
    return parser


def _description(name: str, what: str) -> str:
    longer = {"explain": explaining.DESCRIPTION, "setup": setting_up.DESCRIPTION}
    return longer.get(name, f"{what[0].upper()}{what[1:]}.")


def _main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    options.override += getattr(options, "late", [])
    if options.command == "setup":
        # It is there to write the configuration that the others read.
        return setting_up.setup(options)
    if options.command == "check":
        return _check(options)
    if options.command in ("status", "stop"):
        return _of_running(options)
    try:
        settings = load(options.config, options.override, options.role)
    except ConfigError:
        if options.command == "reload":
            print(
                "resel-mta: nothing is reloaded: a running daemon keeps its old configuration",
                file=sys.stderr,
            )
        raise
    if options.command is not None:
        cli.tell_overrides("resel-mta", settings)
    match options.command:
        case None:
            return _start(settings, options)
        case "reload":
            return _reload(settings)
    return explaining.explain(settings, options)


# -- run ----------------------------------------------------------------------------------------


def _start(settings: Settings, options: argparse.Namespace) -> int:
    def reread() -> Settings:
        found = load(options.config, options.override, options.role)
        if problems := mailbox_problems(found):
            raise ConfigError(problems)
        return found

    if problems := mailbox_problems(settings):
        raise ConfigError(problems)
    told = os.environ.pop(ENVIRONMENT, "")
    if told:
        link, bound = from_environment(told)
        return _run(settings, bound, open_log(settings), reread, link)
    account = _account(settings)
    try:
        prepare_directories(settings, account, Disk())
        if os.getuid() == 0:
            prepare_log(settings, account)
        bound = bind_all(settings)
    except PrivilegeError as error:
        raise Failure(cli.EX_CANTCREAT, str(error)) from None
    except BindError as error:
        if about := running(settings):
            text = f"it runs already: role {about['role']}, pid {about['pid']} (resel-mta stop ends it)"
            raise Failure(cli.EX_UNAVAILABLE, text) from None
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
    """The network process. Why it ends is in the mail log too: nobody may see standard error."""
    os.umask(0o077)
    try:
        _serve(settings, bound, log, reread, link)
    except Exception as error:
        log.event("master", f"fatal: {cli.cause(error)}")
        raise
    finally:
        log.flush()
    return cli.EX_OK


def _serve(
    settings: Settings,
    bound: list[Bound],
    log: MailLog,
    reread: Callable[[], Settings],
    link: SupervisorLink | None,
) -> None:
    """Raises Failure, and whatever is in the way of the start."""

    async def serve() -> None:
        await Daemon(settings, bound, log, reread, link).run()

    try:
        uvloop.run(serve())
    except QueueLocked as error:
        if is_served(settings.text("queue_directory")):
            raise Failure(cli.EX_UNAVAILABLE, f"{error}: another resel-mta runs") from None
        # A command that takes long: worth another try.
        raise Failure(cli.EX_TEMPFAIL, f"{error}, which does not let it go") from None
    except (UnusableLibrary, UnknownVersion, apsw.Error) as error:
        directory = settings.text("queue_directory")
        raise Failure(
            cli.EX_UNAVAILABLE, f"the queue in {directory} cannot be used: {error}"
        ) from None


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


def _check(options: argparse.Namespace) -> int:
    settings, problems = read(options.config, options.override, options.role)
    problems += check(settings, problems)
    if not any(problem.is_error for problem in problems):
        problems += start_checks(settings)
    for problem in in_file_order(problems, settings.path):
        print(f"resel-mta: {'fatal: ' if problem.is_error else ''}{problem}", file=sys.stderr)
    if any(problem.is_error for problem in problems):
        if os.geteuid() != 0 and any(os.strerror(EACCES) in problem.text for problem in problems):
            print(
                "resel-mta: what this user may not read, the daemon may: ask as root",
                file=sys.stderr,
            )
        return cli.EX_CONFIG
    print(f"{settings.path}: role {settings.role}, no errors")
    if os.geteuid() != 0 and would_be_roots(settings):
        print("(as far as this user may look: root sees more)")
    return cli.EX_OK


def _of_running(options: argparse.Namespace) -> int:
    """What must go on though main.cf was broken since the daemon read it. Raises ConfigError where
    not even the daemon can be found by it."""
    settings, problems = read(options.config, options.override, options.role)
    if any(problem.is_error and problem.parameter in _TO_FIND_IT for problem in problems):
        raise ConfigError(problems)
    cli.tell_overrides("resel-mta", settings)
    if options.command == "stop":
        return _stop(settings)
    return report(settings, problems, as_json=options.json)


def _reload(settings: Settings) -> int:
    for row in ask(settings, "daemon.reload"):
        for warning in row["warnings"]:
            print(f"resel-mta: {warning}", file=sys.stderr)
    print("resel-mta: reloaded")
    return cli.EX_OK


def _stop(settings: Settings) -> int:
    (row,) = ask(settings, "daemon.stop")
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
