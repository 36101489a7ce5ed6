"""``resel-adm who`` and ``kick``: who is logged in to his mail."""

from __future__ import annotations

import fnmatch
import ipaddress
from collections.abc import Callable, Iterable, Sequence

from resel_mta.commands import cli
from resel_mta.commands.adm_options import EX_NOTFOUND, Command, Context, Fatal, Options
from resel_mta.commands.adm_print import Header, open_printer
from resel_mta.control import ControlClient, ControlError, NotRunning, Row, control_path

Filter = Callable[[Row], bool]

_GROUPED = (
    Header("username", expand=True),
    Header("connections", "#", right=True),
    Header("service", "proto"),
    Header("pids", "(pids)"),
    Header("ips", "(ips)"),
)
_SINGLE = (
    Header("username", expand=True),
    Header("service", "proto"),
    Header("pid"),
    Header("ip"),
)


def _sessions(context: Context, words: Sequence[str]) -> list[Row]:
    """Raises Failure, Fatal."""
    wanted = [_filter(word) for word in words]
    try:
        rows = list(_client(context).call("mail.who"))
    except NotRunning:
        raise cli.Failure(
            cli.EX_UNAVAILABLE, "the mail system is down: nobody is logged in"
        ) from None
    except ControlError as error:
        raise cli.Failure(error.exit_code, error.text) from None
    return [row for row in rows if all(one(row) for one in wanted)]


def _client(context: Context) -> ControlClient:
    return ControlClient(control_path(context.settings.text("data_directory")))


def _filter(word: str) -> Filter:
    """An address, a network, or a user's name with wildcards. Raises Fatal."""
    try:
        network = ipaddress.ip_network(word, strict=False)
    except ValueError:
        if "/" in word:
            raise Fatal(cli.EX_USAGE, f"Error: Invalid network: {word}") from None
        mask = word.replace("[", "[[]")
        return lambda row: fnmatch.fnmatchcase(row["user"], mask)
    return lambda row: _is_in(row["ip"], network)


def _is_in(address: str, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    try:
        return ipaddress.ip_address(address) in network
    except ValueError:
        return False


def _who(context: Context, options: Options) -> int:
    rows = _sessions(context, options.words)
    single = "1" in options.letters
    printer = open_printer(context.formatter or "table", _SINGLE if single else _GROUPED)
    if single:
        for row in rows:
            printer.row([row["user"], row["service"], str(row["pid"]), row["ip"]])
    else:
        for values in _grouped(rows):
            printer.row(values)
    printer.finish()
    return cli.EX_OK


def _grouped(rows: Sequence[Row]) -> list[list[str]]:
    """One line a user and service."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["user"], row["service"]), []).append(row)
    return [
        [
            user,
            str(len(group)),
            service,
            _listed(str(row["pid"]) for row in group),
            _listed(row["ip"] for row in group),
        ]
        for (user, service), group in groups.items()
    ]


def _listed(words: Iterable[str]) -> str:
    return f"({' '.join(dict.fromkeys(words))})"


def _kick(context: Context, options: Options) -> int:
    if not options.words:
        raise Fatal(cli.EX_USAGE, "Error: user and/or ip[/bits] must be specified.")
    rows = _sessions(context, options.words)
    if not rows:
        print("no users kicked")
        return EX_NOTFOUND
    try:
        for _ in _client(context).call("mail.kick", sessions=[row["session"] for row in rows]):
            continue
    except (ControlError, NotRunning) as error:
        raise cli.Failure(cli.EX_TEMPFAIL, str(error)) from None
    print("kicked connections from the following users:")
    print(" ".join(dict.fromkeys(row["user"] for row in rows)))
    return cli.EX_OK


COMMANDS = (
    Command("kick", "<user mask>[|]<ip/bits>", "a:f", _kick, most=2),
    Command("who", "[-1] [<user mask>] [<ip/bits>]", "a:1", _who, most=2),
)
