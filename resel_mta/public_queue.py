"""The queue's public side: any user of this machine may list the queue and have it tried again, as
with Postfix's postqueue(1), and may know which daemon runs; nothing else.

It speaks the admin socket's protocol, at ``queue_directory/public/queue``. The kernel says who asks;
`authorized_mailq_users` and `authorized_flush_users` say whether he may.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import socket
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from resel_mta.config import Settings
from resel_mta.config.maps import MatchList
from resel_mta.control import ControlError, ControlServer, Verb
from resel_mta.mail import TempFail
from resel_mta.maillog import MailLog

#: Listings and flushes at a time, of one user and of all.
MOST_OF_ONE = 5
MOST_OF_ALL = 50
#: Seconds for one of them: a command that prints slowly keeps the answer itself.
PATIENCE = 120.0
#: Octets of a request: a few addresses, patterns and words. Longer patterns are work to compile.
REQUEST_LIMIT = 4096

_RIGHTS = {
    "queue.walk": ("authorized_mailq_users", "view the mail queue"),
    "queue.flush": ("authorized_flush_users", "flush the mail queue"),
}
#: What nobody is kept from.
ABOUT = "daemon.about"
#: What may be asked for by others than root and the mail owner.
PUBLIC_VERBS = frozenset((ABOUT, *_RIGHTS))


def public_queue_path(queue_directory: str) -> Path:
    """The socket for everybody."""
    return Path(queue_directory) / "public" / "queue"


def is_served(queue_directory: str) -> bool:
    """Whether a daemon has this queue: one that is being started or ended does not answer here."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.setblocking(False)
        try:
            asking.connect(str(public_queue_path(queue_directory)))
        except BlockingIOError:
            # Too many are asking.
            return True
        except OSError:
            return False
    return True


class PublicQueue(ControlServer):
    """Answers there."""

    mode = 0o666
    request_limit = REQUEST_LIMIT
    patience = PATIENCE

    def __init__(self, settings: Settings, verbs: Mapping[str, Verb], log: MailLog) -> None:
        """verbs: those of the admin socket. Blocks: reads files that the settings name."""
        path = public_queue_path(settings.text("queue_directory"))
        super().__init__(path, {name: verbs[name] for name in PUBLIC_VERBS}, log)
        self._busy: Counter[int] = Counter()
        self.reconfigure(settings)

    def reconfigure(self, settings: Settings) -> None:
        """For those who ask from now on. Blocks."""
        self._lists = {verb: MatchList(settings, name) for verb, (name, _) in _RIGHTS.items()}

    @contextlib.contextmanager
    def admitted(self, uid: int) -> Iterator[None]:
        """Anybody, but nobody so often that others are kept out. Raises ControlError."""
        if self._busy[uid] >= MOST_OF_ONE or self._busy.total() >= MOST_OF_ALL:
            raise ControlError(75, "the queue is being asked too often at a time")
        self._busy[uid] += 1
        try:
            yield
        finally:
            self._busy[uid] -= 1
            if not self._busy[uid]:
                del self._busy[uid]

    async def check(self, uid: int, verb: str, args: Mapping[str, Any]) -> None:
        if verb == ABOUT and not args["input"].size:
            return
        if verb not in _RIGHTS or args["input"].size:
            raise ControlError(77, "permission denied: only root and the mail owner may ask that")
        if uid not in (0, os.getuid()):
            await self._check_name(uid, verb)
        # What Postfix's listing does not show either.
        if args.get("queue") == "trash" or "subject" in (args.get("select") or ()):
            text = "permission denied: only root and the mail owner see deleted mail and subjects"
            raise ControlError(77, text)

    async def _check_name(self, uid: int, verb: str) -> None:
        name = await asyncio.to_thread(_name_of, uid)
        parameter, what = _RIGHTS[verb]
        try:
            allowed = await self._lists[verb].matches(name)
        except TempFail as failure:
            self._complaints.warning(uid, failure.why or failure.reply.text)
            raise ControlError(
                75, f"{parameter} cannot be looked up; the log says why"
            ) from failure
        if not allowed:
            raise ControlError(77, f"User {name}({uid}) is not allowed to {what}")


def _name_of(uid: int) -> str:
    """As Postfix has it for a uid that is no account."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return "unknown"
