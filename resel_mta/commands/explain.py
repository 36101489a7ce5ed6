"""resel-mta explain: what happens to mail for an address, rule by rule."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from dataclasses import asdict
from typing import Any

from resel_mta.commands import cli
from resel_mta.commands.cli import Failure
from resel_mta.commands.explain_follow import End, Followed, Follower
from resel_mta.commands.explain_judge import Judge, judge_of
from resel_mta.commands.explain_text import Report
from resel_mta.commands.language import Speaker, Text
from resel_mta.commands.mta_client import differences, running
from resel_mta.config import Settings
from resel_mta.control import Row
from resel_mta.mail import TempFail
from resel_mta.maillog import MailLog
from resel_mta.privileges import current_account
from resel_mta.routing.explain import Step
from resel_mta.users import open_users
from resel_mta.wire.path import PathError, parse_address

DESCRIPTION = """\
What happens to mail for ADDRESS, rule by rule, each with the file and line that says so, down to
the mailbox, the command, or the next hop and its hosts. It is the daemon's own decision, with the
tables that are live; nothing is sent or changed. In English or French, by LANG."""
EPILOG = """\
Exit status: 0; 67 if a client that names ADDRESS is refused for good; 75 if it cannot be told now;
77 if you may not read what decides.
"""
_DOWN: Text = (
    "The daemon does not run: mail waits until it does.",
    "Le démon ne tourne pas : le courrier attend qu'il tourne.",
)
_NOT_YET: Text = (
    "The running daemon (pid {pid}) does not know this yet; resel-mta reload:",
    "Le démon en marche (pid {pid}) ne le sait pas encore ; resel-mta reload :",
)
_AS_ROOTS: Text = (
    "Decided as for a daemon that root starts, which runs as {account}.",
    "Décidé comme pour un démon que root lance, et qui tourne comme {account}.",
)
_AS_MINE: Text = (
    "Decided as for a daemon that {account} starts.",
    "Décidé comme pour un démon que {account} lance.",
)
_SOURCES: Text = (
    "{account} may not read the tables that are live: these are their sources.",
    "{account} ne peut pas lire les tables actives : ce sont leurs sources.",
)
_UNREAD: Text = (
    "These may have a say, and {account} may not read them; ask as root:",
    "Ces fichiers comptent peut-être, et {account} ne peut pas les lire ; à demander comme root :",
)


class _Silent:
    """A log for nobody. Implements `maillog.Sink`."""

    def write(self, lines: list[str]) -> None:
        return None

    def reopen(self) -> None:
        return None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("address", metavar="ADDRESS", nargs="+", help="user@domain, or a bare name")
    parser.add_argument(
        "-f",
        dest="sender",
        default="somebody@example.org",
        metavar="SENDER",
        help="envelope sender (default %(default)s)",
    )
    parser.add_argument("-j", dest="json", action="store_true", help="JSON, one object a line")


def explain(settings: Settings, options: argparse.Namespace) -> int:
    """The exit status: the worst of all addresses."""
    speaker = Speaker(os.environ)
    status = cli.EX_OK
    about = running(settings)
    judge = judge_of(settings, about)
    judge.look_at_tables(settings)
    for address in options.address:
        _must_be_address(address)
        followed = asyncio.run(_follow(settings, address, options.sender, judge))
        if options.json:
            row = {**_row(followed), "decided_as": _decided_as(judge, about)}
            print(json.dumps(row, ensure_ascii=False))
        else:
            print("\n".join(Report(speaker).lines(followed)))
        refusal = followed.explanation.refusal
        if refusal is not None:
            status = cli.EX_NOUSER if refusal.is_permanent else status or cli.EX_TEMPFAIL
    if not options.json:
        _print_state(settings, speaker, about)
        _print_assumed(speaker, judge, about)
    return status


def _must_be_address(text: str) -> None:
    """Nobody could name it. Raises Failure(65)."""
    try:
        parse_address(text)
    except PathError as error:
        raise Failure(cli.EX_DATAERR, f'"{text}" is not an address: {error}') from None


async def _follow(settings: Settings, address: str, sender: str, judge: Judge) -> Followed:
    log = MailLog(_Silent())
    try:
        follower = await asyncio.to_thread(
            Follower, settings, open_users(settings, log), log, judge
        )
        return await follower.follow(address, sender)
    except TempFail as failure:
        cause = failure.__cause__
        text = f"{address}: {cause or failure}"
        if isinstance(cause, OSError) and cause.filename:
            text = f"{address}: {cause.filename}: {cause.strerror}"
        if isinstance(cause, PermissionError):
            text += f"; {current_account().name} may not read it: ask as root"
            raise Failure(cli.EX_NOPERM, text) from None
        raise Failure(cli.EX_TEMPFAIL, text) from None


def _print_state(settings: Settings, speaker: Speaker, about: Row | None) -> None:
    """Where the running daemon may still decide otherwise."""
    if about is None:
        print(speaker.say(_DOWN))
        return
    found = differences(settings, about) if about else []
    if found:
        print(speaker.say(_NOT_YET, pid=about["pid"]))
        for problem in found:
            print(f"  {problem}")


def _print_assumed(speaker: Speaker, judge: Judge, about: Row | None) -> None:
    """What could not be known, and what was taken for it."""
    if not about and os.geteuid() != 0:
        text = _AS_ROOTS if judge.supervised else _AS_MINE
        print(speaker.say(text, account=judge.owner.name))
    if judge.by_sources:
        print(speaker.say(_SOURCES, account=current_account().name))
    if judge.unread:
        print(speaker.say(_UNREAD, account=current_account().name))
        for path in sorted(judge.unread):
            print(f"  {path}")


def _decided_as(judge: Judge, about: Row | None) -> dict[str, Any]:
    """running: None where that cannot be told."""
    return {
        "running": None if about == {} else about is not None,
        "supervised": judge.supervised,
        "account": judge.owner.name,
        "sources": judge.by_sources,
        "unread": sorted(judge.unread),
    }


def _row(followed: Followed) -> dict[str, Any]:
    explanation = followed.explanation
    refusal = explanation.refusal
    return {
        "address": explanation.address,
        "accepted": refusal is None,
        "reply": str(refusal) if refusal is not None else "",
        "relayed": bool(explanation.relay_rule),
        "steps": _steps(explanation.steps),
        "destinations": [_end(end) for end in followed.ends],
    }


def _steps(steps: list[Step]) -> list[dict[str, str]]:
    return [{name: value for name, value in asdict(step).items() if value} for step in steps]


def _end(end: End) -> dict[str, Any]:
    recipient, route = end.destination.recipient, end.destination.route
    return {
        "address": recipient.address,
        "original": recipient.orig_to,
        "sender": recipient.reverse_path,
        "transport": route.transport if route else "",
        "nexthop": route.nexthop if route else "",
        "steps": _steps(end.destination.steps),
        "kind": end.kind,
        "what": end.what,
        "account": end.account,
        "reply": str(end.reply) if end.reply else "",
        "hosts": [asdict(host) for host in end.hosts],
        "onward": [_row(each) for each in end.onward],
    }
