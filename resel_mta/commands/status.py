"""resel-mta status: what a person wants to know of the daemon, at a glance."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator

from resel_mta.commands import cli
from resel_mta.commands.language import Speaker, Text
from resel_mta.commands.mta_client import ask, differences
from resel_mta.config import Settings
from resel_mta.config.check import check
from resel_mta.config.problems import Problem, in_file_order
from resel_mta.control import Row

_RUNS: Text = (
    "resel-mta {version} runs: role {role}, pid {pid}",
    "resel-mta {version} tourne : rôle {role}, pid {pid}",
)
_SINCE: Text = ("since {when} ({up})", "depuis le {when} ({up})")
# By the greatest unit that is not 0.
_UP: tuple[Text, Text, Text] = (
    ("{minutes} min", "{minutes} min"),
    ("{hours} h {minutes} min", "{hours} h {minutes} min"),
    ("{days} d {hours} h {minutes} min", "{days} j {hours} h {minutes} min"),
)
_CONFIGURATION: Text = (
    "configuration {path}, read {when}",
    "configuration {path}, lue le {when}",
)
_LISTENS: Text = ("listens on:", "écoute sur :")
_NOT_LISTENING: Text = ("listens on nothing", "n'écoute sur rien")
_MAILBOXES: Text = ("mailbox processes: {pids}", "processus des boîtes aux lettres : {pids}")
_STARTING: Text = ("starting", "démarrage")
_WORKERS: Text = ("worker processes:", "processus de travail :")
_WORKER: dict[str, Text] = {
    "running": (
        "{number}: pid {pid}, {sessions} sessions",
        "{number} : pid {pid}, {sessions} sessions",
    ),
    "starting": ("{number}: is being started", "{number} : en cours de démarrage"),
    "standing in": (
        "{number}: is being started; its part of the queue is delivered by pid {main}",
        "{number} : en cours de démarrage ; sa partie de la file est distribuée par le pid {main}",
    ),
    "adopted": (
        "{number}: none; its part of the queue is delivered by pid {main}",
        "{number} : aucun ; sa partie de la file est distribuée par le pid {main}",
    ),
}
_QUEUE: Text = ("queue: {counts}", "file d'attente : {counts}")
_EMPTY: Text = ("empty", "vide")
_QUEUES: dict[str, Text] = {
    "active": ("{n} active", "{n} en cours"),
    "incoming": ("{n} incoming", "{n} à l'entrée"),
    "deferred": ("{n} deferred", "{n} en attente d'un nouvel essai"),
    "hold": ("{n} on hold", "{n} retenus"),
    "corrupt": ("{n} corrupt", "{n} endommagés"),
}
_PROBLEMS: Text = ("configuration on disk:", "configuration sur le disque :")
_GOOD: Text = (
    "configuration on disk: no problem, and nothing newer than what is live",
    "configuration sur le disque : aucun problème, et rien de plus récent que ce qui est actif",
)
_RECENT: Text = ("last warnings:", "derniers avertissements :")
_OF: Text = ("worker {worker}:", "processus {worker} :")
_STAMP: Text = ("%Y-%m-%d %H:%M:%S", "%d/%m/%Y %H:%M:%S")


def report(settings: Settings, known: list[Problem], *, as_json: bool) -> int:
    """Print it. known: what is wrong with the configuration on disk. Raises Failure(69) when no
    daemon runs."""
    (status,) = ask(settings, "daemon.status")
    on_disk = [each for each in known if each.where != "command line"]
    found = [*on_disk, *_checked(settings, known)]
    problems = [*differences(settings, status), *in_file_order(found, settings.path)]
    if as_json:
        texts = [str(problem) for problem in problems]
        print(json.dumps({**status, "problems": texts}, ensure_ascii=False))
        return cli.EX_OK
    sys.stdout.writelines(f"{line}\n" for line in _lines(status, problems))
    return cli.EX_OK


def _checked(settings: Settings, known: list[Problem]) -> list[Problem]:
    """Without what `differences` says already."""
    return [each for each in check(settings, known) if "newer than what is live" not in each.text]


def _lines(status: Row, problems: list[Problem]) -> Iterator[str]:
    speaker = Speaker(os.environ)
    say = speaker.say

    def stamp(when: float) -> str:
        return time.strftime(say(_STAMP), time.localtime(when))

    yield say(_RUNS, **{name: status[name] for name in ("version", "role", "pid")})
    minutes = max(int(time.time() - status["started"]), 0) // 60
    text = _UP[(minutes >= 60) + (minutes >= 1440)]
    up = say(text, days=minutes // 1440, hours=minutes // 60 % 24, minutes=minutes % 60)
    yield say(_SINCE, when=stamp(status["started"]), up=up)
    yield say(_CONFIGURATION, path=status["configuration"], when=stamp(status["configured"]))
    yield say(_LISTENS if status["listeners"] else _NOT_LISTENING)
    for listener in status["listeners"]:
        yield f"  {listener['service']:<12} {listener['where']}"
    mailboxes = status["mailbox_processes"]
    if mailboxes:
        yield say(_MAILBOXES, pids=", ".join(str(pid or say(_STARTING)) for pid in mailboxes))
    if len(status["workers"]) > 1:
        yield say(_WORKERS)
        for worker in status["workers"]:
            state = worker["state"]
            if state == "starting" and worker["adopted"]:
                state = "standing in"
            yield "  " + say(_WORKER[state], **worker, main=status["pid"])
    counts = [say(_QUEUES[name], n=count) for name, count in status["queue"].items() if count]
    yield say(_QUEUE, counts=", ".join(counts) or say(_EMPTY))
    yield say(_PROBLEMS if problems else _GOOD)
    for problem in problems:
        yield f"  {problem}"
    if status["recent"]:
        yield say(_RECENT)
    for row in status["recent"]:
        worker = f"{say(_OF, worker=row['worker'])} " if len(status["workers"]) > 1 else ""
        yield f"  {stamp(row['time'])}  {worker}{row['text']}"
