"""The process that does for one account what needs its rights: ``python -m resel_lda.helper``.

Started by the supervisor as that account, or by the network process as its own. It runs commands,
appends to files, reads ``.forward`` and included files, and writes the account's mailbox; nothing
in it ever runs as root. Descriptor 0 is the control socket (SOCK_SEQPACKET): a packet
{"role", "values"} with the configuration, at first and after each reload, and errands (see
`errand`), each done in a thread. For each that is done a packet {} goes back. It ends when the control socket does; commands that still
run are killed then, and their mail is tried again.

A user's programs run as the same account and may stop or kill this process: that is their own
mail's misfortune, and nobody else's.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
import threading
from collections import deque
from dataclasses import replace
from typing import Any

import apsw

from resel_lda import errand as errands
from resel_lda.deposit import ThreadDepositor, Told
from resel_lda.errand import Errand, ErrandError
from resel_lda.job import deferred
from resel_lda.local_options import LocalOptions
from resel_lda.mailbox_place import is_in_spool, mailbox_command
from resel_lda.mailcopy import mail_copy
from resel_lda.maildir.arrivals import prepare_closed
from resel_lda.maildir.layout import MailLocation
from resel_lda.mbox import append_message
from resel_lda.parcel import outcome_row, unwrap
from resel_lda.pipe import run_command
from resel_mta.config import Settings
from resel_mta.config.aliases import Target, TargetKind
from resel_mta.config.target_files import Found, read_forward, read_include
from resel_mta.content import Content
from resel_mta.disk import Disk
from resel_mta.mail import Bounced, Outcome, PermFail, Reply, TempFail
from resel_mta.maillog import MailLog, StreamSink

_PR_SET_DUMPABLE = 4
# Messages of which the cache is made at a time.
_BATCH = 20

Answer = dict[str, object]


class Helper:
    """Does errands. stop: a descriptor that is readable when all is to end. delivered: told of
    each message in a Maildir."""

    def __init__(
        self, settings: Settings, disk: Disk, stop: int = -1, delivered: Told | None = None
    ) -> None:
        self._settings = settings
        self._options = LocalOptions.from_settings(settings)
        self._disk = disk
        self._stop = stop
        self._delivered = delivered

    def do(self, errand: Errand, message: int | None) -> Answer:
        """The answer to one errand; `message` stays the caller's to close. Never raises."""
        warnings: list[str] = []
        try:
            answer = self._do(errand, message, warnings)
        except (TempFail, PermFail) as failure:
            answer = {"failure": outcome_row(_of_failure(errand, failure))}
        except Exception as error:
            # Whatever it is: the mail waits.
            warnings.append(f"{errand.do} for <{errand.job.address}> failed: {error!r}")
            outcome = deferred(errand.job, "unexpected failure in local delivery", "4.3.0")
            answer = {"failure": outcome_row(outcome)}
        return {**answer, "warnings": warnings}

    def _do(self, errand: Errand, message: int | None, warnings: list[str]) -> Answer:
        if errand.do == errands.INCLUDE:
            return {"targets": _rows(read_include(errand.argument))}
        if message is None:
            raise ValueError("no message")
        if errand.do == errands.DELIVER:
            found = read_forward(self._options.forward_paths(errand), warnings.append)
            if found is not None:
                return {"targets": _rows(found)}
            if is_in_spool(errand.job.user, self._settings):
                # For that another helper may be needed, of the spool's group.
                return {"spool": True}
        content = unwrap(message, errand.header)
        if errand.do in (errands.COMMAND, errands.FILE) and not self._is_named(errand):
            return {"gone": True}
        if errand.do == errands.COMMAND:
            outcome = self._command(errand, content)
        elif errand.do == errands.FILE:
            outcome = self._file(errand, content)
        elif command := mailbox_command(self._settings):
            outcome = self._command(replace(errand, argument=command), content)
        elif errand.do in (errands.DELIVER, errands.MAILBOX, errands.SPOOL):
            depositor = ThreadDepositor(
                self._settings,
                lambda _service, text, _id: warnings.append(text),
                self._disk,
                self._delivered,
            )
            outcome = depositor.deposit_one(content, errand.job, self._settings)
        else:
            raise ValueError(f"unknown errand {errand.do!r}")
        return {"outcome": outcome_row(outcome)}

    def _is_named(self, errand: Errand) -> bool:
        """What a user's or a list's file names is run only while it is in that file: who asks
        cannot have anything else done in the user's name. Raises TempFail, PermFail."""
        kind = TargetKind.COMMAND if errand.do == errands.COMMAND else TargetKind.FILE
        options = self._options
        is_command = kind is TargetKind.COMMAND
        allowed = options.commands_allowed if is_command else options.files_allowed
        if errand.source == "alias":
            sources = {"alias"}
        elif errand.source == "forward":
            paths = options.forward_paths(errand)
            found: Found = read_forward(paths, lambda _: None) or []
            sources = {
                "include" if stands_in else "forward"
                for target, stands_in in found
                if target.kind is kind and target.value == errand.argument
            }
        else:
            found = read_include(errand.source)
            sources = (
                {"include"} if (Target(kind, errand.argument), errand.source) in found else set()
            )
        if sources and sources.isdisjoint(allowed):
            raise PermFail(Reply(550, "5.7.1", f"mail to {kind.value} is restricted"))
        return bool(sources)

    def _command(self, errand: Errand, content: Content) -> Outcome:
        marked = "command" in self._options.delivered_to
        text = mail_copy(content, errand.job, delivered_to=marked)
        return run_command(self._options.command(errand), text, self._stop)

    def _file(self, errand: Errand, content: Content) -> Outcome:
        return append_message(
            self._disk,
            errand.argument,
            content,
            errand.job,
            self._options.locking,
            limit=self._options.size_limit,
            delivered_to="file" in self._options.delivered_to,
        )


def _rows(found: Found) -> list[tuple[str, str, str]]:
    return [(target.kind.value, target.value, stands_in) for target, stands_in in found]


def _of_failure(errand: Errand, failure: TempFail | PermFail) -> Outcome:
    if isinstance(failure, PermFail):
        return Bounced(failure.reply, relay=errand.job.relay)
    return deferred(errand.job, failure.reply.text, failure.reply.enhanced)


class _Arrived:
    """Messages whose part of the cache is made once their delivery has been answered. Several
    threads use it; who comes first does it for those that come meanwhile."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[MailLocation, str]] = deque()
        self._turn = threading.Lock()

    def delivered(self, user: str, location: MailLocation, base: str) -> None:
        self._waiting.append((location, base))

    def fill(self) -> None:
        """Blocks for a moment."""
        while self._waiting and self._turn.acquire(blocking=False):
            try:
                bases: dict[MailLocation, list[str]] = {}
                for _ in range(min(_BATCH, len(self._waiting))):
                    location, base = self._waiting.popleft()
                    bases.setdefault(location, []).append(base)
                for location, those in bases.items():
                    prepare_closed(location, those, Disk(), MailLog(StreamSink(2)))
            except (OSError, apsw.Error) as error:
                # It is made when somebody asks for it.
                print(f"helper: cache not filled: {error}", file=sys.stderr)
            finally:
                self._turn.release()


class _Process:
    """The control socket's side: errands in threads, each answered on its own socket."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._sending = threading.Lock()
        self._helper: Helper | None = None
        self._stopped, self._stop = os.pipe()
        self._arrived = _Arrived()

    def run(self) -> None:
        threads: list[threading.Thread] = []
        while True:
            try:
                packet, descriptors = errands.receive(self._control)
            except OSError:
                break
            if not packet:
                break
            if packet.startswith(b'{"role":'):
                self._helper = self._configured(packet)
                continue
            threads = [thread for thread in threads if thread.is_alive()]
            thread = threading.Thread(target=self._work, args=(packet, descriptors))
            thread.start()
            threads.append(thread)
        os.close(self._stop)
        for thread in threads:
            thread.join()

    def _configured(self, packet: bytes) -> Helper:
        told: dict[str, Any] = json.loads(packet)
        settings = Settings.build(str(told["role"]), **told["values"])
        return Helper(settings, Disk(), self._stopped, self._arrived.delivered)

    def _work(self, packet: bytes, descriptors: list[int]) -> None:
        """The first descriptor is for the answer, the second is the message."""
        helper = self._helper
        try:
            with socket.socket(fileno=descriptors[0]) as answer:
                message = descriptors[1] if len(descriptors) > 1 else None
                try:
                    if helper is None:
                        raise ErrandError("an errand before the configuration")
                    done = helper.do(errands.unpack(packet), message)
                    with contextlib.suppress(OSError):
                        answer.sendall(json.dumps(done).encode())
                except ErrandError as error:
                    print(f"helper: {error}", file=sys.stderr)
                finally:
                    if message is not None:
                        os.close(message)
            self._arrived.fill()
        finally:
            with self._sending, contextlib.suppress(OSError):
                self._control.send(b"{}")


def _not_for_us(number: int, frame: object) -> None:
    """The end of the control socket ends this process."""


def main() -> int:
    """Exit status 0, or 64 when it was not started by the mail system."""
    os.umask(0o077)
    try:
        control = socket.socket(fileno=os.dup(0))
        if control.family != socket.AF_UNIX:
            raise OSError("descriptor 0 is another socket")
    except OSError:
        print("resel_lda.helper is started by resel-mta, not by hand", file=sys.stderr)
        return 64
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    # A hang-up or a stop that is sent to the whole group: the supervisor decides. Handlers, since
    # ignored signals would stay ignored in commands.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _not_for_us)
    # The user's own programs need not look into it (a helper may have a group that they have not).
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    _Process(control).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
