"""resel-sendmail: sendmail(1) as programs call it; by those names also mailq and newaliases.

It needs no special rights. The message is read whole, then handed to the daemon's public socket;
if no daemon takes it, it is put into the drop folder, and is safe there when the command ends.
"""

from __future__ import annotations

import os
import pwd
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from resel_mta import __version__
from resel_mta.commands import cli
from resel_mta.commands.cli import Failure
from resel_mta.commands.sendmail_options import Mode, Options, parse, tell
from resel_mta.config.load import load, read
from resel_mta.config.settings import Settings
from resel_mta.content import Header
from resel_mta.disk import Disk
from resel_mta.pickup.client import NotTaken, hand_over
from resel_mta.pickup.collect import Collected, HeaderTooBig, Hold, TooBig, collect
from resel_mta.pickup.drop import Full, drop_directory, leave, smtp_path, submit_path
from resel_mta.pickup.letter import Answer, Letter, LetterError
from resel_mta.wire import xtext
from resel_mta.wire.header_addresses import find_addresses

HELP = """\
usage: {program} [options] [recipient ...]

Reads a message from standard input and hands it to the mail system.

  -t          recipients from To, Cc and Bcc too      -f SENDER   envelope sender; '' for none
  -i, -oi     a line with a dot does not end it       -F NAME     full name for a From field
  -N NOTIFY   never, or of success,failure,delay      -R full|hdrs, -V ENVID, -B 7BIT|8BITMIME
  -G          leave the header as it is               -C FILE     main.cf or its directory
  -bm deliver (default)   -bs speak SMTP   -bv verify recipients   -v say the queue id
  -bp list the queue (mailq)   -bi make aliases live (newaliases)   -q flush  -qISITE  -qRID
Other letters of sendmail(1) are accepted and ignored. Exit status as in sysexits.h: 64 usage,
65 bad address or data, 67 user unknown, 69 too big, 75 try again, 78 configuration.
"""
_PLAIN = re.compile(r"[a-z0-9_-]+(?:@[a-z0-9]+(?:[.-][a-z0-9]+)*)?")
_TO = frozenset((b"to", b"cc", b"bcc"))
_RESENT_TO = frozenset((b"resent-to", b"resent-cc", b"resent-bcc"))


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script; its exit status."""
    program = os.path.basename(sys.argv[0]).removesuffix(".py") or "sendmail"
    return cli.run(program, partial(_main, program), arguments)


def _main(program: str, arguments: Sequence[str]) -> int:
    if list(arguments) == ["--help"]:
        print(HELP.replace("{program}", program), end="")
        return cli.EX_OK
    if list(arguments) == ["--version"]:
        print(f"{program} {__version__}")
        return cli.EX_OK
    options = parse(program, arguments)
    tell(program, options)
    match options.mode:
        case Mode.IGNORE:
            return cli.EX_OK
        case Mode.DAEMON:
            raise Failure(cli.EX_USAGE, "the daemon is started with resel-mta")
        case Mode.STAND_ALONE:
            return _stand_alone(options)
        case Mode.NEWALIASES:
            return _newaliases(program, options)
        case Mode.ENQUEUE if not options.flush_site and not options.flush_id:
            return _Enqueue(program, options).run()
        case _:
            return _queue(options)


def _settings(options: Options) -> Settings:
    """What is wrong elsewhere in main.cf is the daemon's affair: mail must not wait for it."""
    return read(options.config)[0]


def _queue_directory(settings: Settings) -> str:
    """Raises Failure."""
    try:
        return str(settings.value("queue_directory"))
    except ValueError as error:
        where = settings.source("queue_directory")
        raise Failure(cli.EX_CONFIG, f"{where}: queue_directory: {error}") from None


# -- send ---------------------------------------------------------------------------------------


class _Enqueue:
    """One message from standard input."""

    def __init__(self, program: str, options: Options) -> None:
        self._program = program
        self._options = options
        self._uid = os.getuid()
        self._malformed = False
        settings = _settings(options)
        self._queue = _queue_directory(settings)
        try:
            self._limit = settings.number("message_size_limit")
        except ValueError:
            self._limit = 0  # The daemon knows it.

    def run(self) -> int:
        options = self._options
        sender = self._sender()
        recipients = self._recipients(options.recipients)
        if not recipients and not options.from_header:
            self._no_recipients(sender)
        if options.verify:
            return self._verify(self._letter(sender, recipients, 0))
        message = self._collect()
        if options.from_header:
            recipients += self._recipients(_header_fields(message.header))
        if not recipients:
            self._no_recipients(sender)
        letter = self._letter(sender, recipients, message.hold.size)
        return self._send(letter, message.hold) or (cli.EX_DATAERR if self._malformed else 0)

    def _no_recipients(self, sender: str) -> None:
        who = f"{sender}({self._uid})"
        if self._malformed:
            raise Failure(cli.EX_DATAERR, f"{who}: No valid recipient addresses")
        if self._options.from_header:
            raise Failure(cli.EX_USAGE, f"{who}: No recipient addresses found in message header")
        raise Failure(
            cli.EX_USAGE,
            f"{who}: Recipient addresses must be specified on the command line or via the -t option",
        )

    def _warn(self, text: str) -> None:
        print(f"{self._program}: warning: {text}", file=sys.stderr)

    def _sender(self) -> str:
        given = self._options.sender
        if given is None:
            return _login_name(self._uid)
        if given.strip() in ("", "<>"):
            return ""
        found = _addresses(os.fsencode(given))
        if len(found) != 1:
            self._warn(f"-f option specified malformed sender: {given}")
        sender = _parsed(found[0] if found else given)
        if sender is None:
            raise Failure(cli.EX_DATAERR, f"-f {_shown(given)}: Bad address syntax")
        return sender

    def _recipients(self, texts: Sequence[str]) -> list[str]:
        recipients: list[str] = []
        for text in texts:
            for address in _addresses(os.fsencode(text)):
                parsed = _parsed(address)
                if parsed is None:
                    self._malformed = True
                    self._warn(f"malformed recipient address: {_shown(address)}")
                else:
                    recipients.append(parsed)
        return recipients

    def _collect(self) -> Collected:
        hold = Hold((str(drop_directory(self._queue)), None))
        dots = self._options.dot_ends
        try:
            with open(0, "rb", closefd=False) as source:
                return collect(source, hold, dot_ends=dots, size_limit=self._limit)
        except TooBig:
            raise Failure(
                cli.EX_UNAVAILABLE, f"Message file too big (more than {self._limit} octets)"
            ) from None
        except HeaderTooBig:
            raise Failure(cli.EX_DATAERR, "the message's header is too big") from None
        except OSError as error:
            raise Failure(cli.EX_TEMPFAIL, f"cannot read the message: {error.strerror}") from None

    def _letter(self, sender: str, recipients: list[str], size: int) -> Letter:
        options = self._options
        return Letter(
            token=os.urandom(16).hex(),
            sender=sender,
            recipients=tuple(dict.fromkeys(recipients)),
            size=size,
            full_name=_full_name(options, self._uid),
            rewrite=options.rewrite,
            body=options.body,
            notify=options.notify,
            ret=options.ret,
            envid=xtext.encode(options.envid),
            verify=options.verify,
        )

    def _send(self, letter: Letter, hold: Hold) -> int:
        try:
            answer = hand_over(submit_path(self._queue), letter, hold.blocks())
        except NotTaken as error:
            return self._leave(letter, hold, str(error))
        except LetterError as error:
            raise Failure(cli.EX_DATAERR, str(error)) from None
        if answer.busy:
            return self._leave(letter, hold, answer.text)
        return self._report(answer)

    def _report(self, answer: Answer) -> int:
        for address, _ in answer.refused:
            rest = "; sent to the other recipients" if answer.queue_id else ""
            print(
                f"{self._program}: fatal: <{_shown(address)}>: user unknown{rest}", file=sys.stderr
            )
        if answer.queue_id and self._options.verbose:
            print(f"queued as {answer.queue_id}")
        if answer.exit and not answer.refused:
            raise Failure(answer.exit, answer.text)
        return answer.exit

    def _leave(self, letter: Letter, hold: Hold, reason: str) -> int:
        """No daemon took it."""
        folder = drop_directory(self._queue)
        try:
            path = leave(folder, letter, hold.blocks(), Disk())
        except Full as error:
            raise Failure(cli.EX_TEMPFAIL, str(error)) from None
        except LetterError as error:
            raise Failure(cli.EX_DATAERR, str(error)) from None
        except OSError as error:
            raise Failure(
                cli.EX_TEMPFAIL, f"no daemon ({reason}), and {folder}: {error.strerror or error}"
            ) from None
        if self._options.verbose:
            print(f"no daemon ({reason}): the message waits as {path}")
        return cli.EX_OK

    def _verify(self, letter: Letter) -> int:
        try:
            answer = hand_over(submit_path(self._queue), letter, ())
        except NotTaken as error:
            raise Failure(cli.EX_TEMPFAIL, f"no daemon to ask: {error}") from None
        for address, text in answer.verified:
            print(f"{address}... {text}")
        if answer.exit and not answer.verified:
            raise Failure(answer.exit, answer.text)
        return answer.exit


def _login_name(uid: int) -> str:
    """In a container an account may have no name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _full_name(options: Options, uid: int) -> str:
    """As given, else $NAME, else from the account (& is the capitalised login name)."""
    name = options.full_name or os.environ.get("NAME", "")
    if not name:
        try:
            account = pwd.getpwuid(uid)
        except KeyError:
            return ""
        name = account.pw_gecos.partition(",")[0].replace("&", account.pw_name.capitalize())
    return "".join(char for char in name.encode("utf-8", "replace").decode() if char.isprintable())


def _header_fields(header: bytes) -> list[str]:
    """The values that -t takes recipients from: the Resent- ones where there are any."""
    ordinary: list[str] = []
    resent: list[str] = []
    for name, field in Header(header).fields():
        found = resent if name.lower() in _RESENT_TO else ordinary
        if name.lower() in _TO or found is resent:
            found.append(os.fsdecode(field.partition(b":")[2]))
    return resent or ordinary


def _addresses(text: bytes) -> list[str]:
    """Those of a list with commas, or of words with spaces between them."""
    found = [text[span.start : span.end] for span in find_addresses(text)]
    if not found and not any(char in text for char in b'"<>(),;:'):
        found = text.split()
    return [each.decode("utf-8", "surrogateescape") for each in found]


def _parsed(address: str) -> str | None:
    """The address in its shortest form, None if it is none."""
    if _PLAIN.fullmatch(address):
        return address
    # Its grammar takes longer to build than all else that this command does.
    from resel_mta.wire.path import PathError, parse_address

    try:
        address.encode()
        return parse_address(address)
    except (PathError, UnicodeEncodeError):
        return None


def _shown(address: str) -> str:
    return address.encode("utf-8", "replace").decode()


# -- other modes --------------------------------------------------------------------------------


def _stand_alone(options: Options) -> int:
    """-bs: the daemon speaks, else this command takes what it can into the drop folder."""
    import asyncio

    from resel_mta.commands.sendmail_smtp import NoDaemon, converse, turn_away

    settings = _settings(options)
    queue = _queue_directory(settings)
    try:
        return converse(smtp_path(queue))
    except NoDaemon as error:
        from resel_mta.commands.sendmail_offline import OfflineSession

        folder = drop_directory(queue)
        try:
            session = OfflineSession(settings, folder)
        except ValueError as bad:
            turn_away()
            raise Failure(cli.EX_CONFIG, f"{error}; and main.cf: {bad}") from None
        if not os.access(folder, os.W_OK | os.X_OK):
            turn_away()
            raise
    with open(0, "rb", closefd=False) as source:
        return asyncio.run(session.run(source))


def _queue(options: Options) -> int:
    """-bp and -q: what resel-queue does."""
    from resel_mta.commands import queue

    words = ["-c", options.config] if options.config else []
    if options.mode is Mode.MAILQ:
        words.append("-p")
    elif options.flush_site:
        words += ["-s", options.flush_site]
    elif options.flush_id:
        words += ["-i", options.flush_id]
    else:
        words.append("-f")
    return queue.main(words)


def _newaliases(program: str, options: Options) -> int:
    """Check every alias file and make it live; a broken one keeps its last good copy."""
    import asyncio

    from resel_mta.commands.map import await_daemon, publish
    from resel_mta.config.live import live_file
    from resel_mta.config.mapspec import parse_map
    from resel_mta.routing.alias_check import check_aliases

    settings = load(options.config)
    if options.alias_file:
        try:
            files = [(spec, False) for spec in parse_map(options.alias_file).files()]
        except ValueError as error:
            raise Failure(cli.EX_USAGE, f"-oA{options.alias_file}: {error}") from None
    else:
        files = [
            (spec, not settings.is_set(parameter))
            for parameter in ("alias_database", "alias_maps")
            for item in settings.items(parameter)
            for spec in parse_map(item).files()
        ]
    status = cli.EX_OK
    done: set[Path] = set()
    good: list[str] = []
    for spec, optional in files:
        file = live_file(settings, spec, optional=optional)
        if file.live not in done:
            done.add(file.live)
            failed = publish(program, file)
            status = failed or status
            if not failed:
                good.append(spec.name)
    for problem in asyncio.run(check_aliases(settings, good)):
        print(f"{program}: {problem}", file=sys.stderr)
    await_daemon(settings)
    return status


if __name__ == "__main__":
    sys.exit(main())
