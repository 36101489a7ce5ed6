"""Operator log lines. Their wording is an interface (pflogsumm, fail2ban, ELK patterns).

A line is ``<syslog_name>/<service>[<pid>]: <queue id>: <text>``, as Postfix has it, or for the
services of mailboxes ``<mailbox_syslog_name>: <service>: <text>``, as Dovecot has it; the caller
gives service, queue id and text, this room the rest. Lines are collected and written at once when
the event loop comes round, or some milliseconds after the write before, so that a busy relay makes
one write for many events.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable

from resel_mta.maillog.ecs import VERSION, fields_of
from resel_mta.maillog.journal import JournalSink, is_journal
from resel_mta.maillog.sinks import FileSink, Sink, StreamSink, SyslogSink

__all__ = ["FileSink", "JournalSink", "MailLog", "Sink", "StreamSink", "SyslogSink", "is_journal"]

#: Services whose lines are worded as Dovecot's, and begin with `mailbox_syslog_name`.
MAILBOX_SERVICES = frozenset(
    (
        "doveadm",
        "imap",
        "imap-login",
        "lda",
        "managesieve",
        "managesieve-login",
        "pop3",
        "pop3-login",
    )
)

#: Warnings that are remembered.
RECENT = 10


class MailLog:
    """Formats events and hands them to a Sink.

    stamped: put "Nov 24 03:50:56 host " before each line (files and terminals; journald and
    syslog add their own); the time is that of the write. as_json: one JSON object a line with ECS
    field names. gather: seconds between two writes of a busy log; what comes after a silence of as
    long is written in the same turn of the event loop.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        syslog_name: str = "postfix",
        mailbox_syslog_name: str = "dovecot",
        hostname: str = "",
        stamped: bool = True,
        as_json: bool = False,
        gather: float = 0.0,
    ) -> None:
        self._sink = sink
        self.syslog_name = syslog_name
        self.mailbox_syslog_name = mailbox_syslog_name
        self.hostname = hostname or socket.gethostname()
        self.stamped = stamped
        self.as_json = as_json
        self._gather = gather
        self._pid = os.getpid()
        # Threads add to it without the lock, as adding is one step; only who takes away has it.
        self._waiting: list[str] = []
        self._lock = threading.Lock()
        self._scheduled = False
        self._written = 0.0
        self._second = 0
        self._stamp = ""
        self._heads: dict[str, str] = {}
        #: The last warnings, for `resel-mta status`: (time, line without its stamp).
        self.recent: deque[tuple[float, str]] = deque(maxlen=RECENT)
        #: Told each of them, in whichever thread.
        self.warned: Callable[[float, str], None] | None = None

    def event(self, service: str, text: str, queue_id: str = "", **fields: object) -> None:
        """Log one line. fields: ECS-named extras for the JSON form ("client.ip" as client_ip)."""
        if self.as_json:
            line = self._json(service, text, queue_id, fields)
        else:
            if not text.isprintable():
                text = _printable(text)
            head = self._heads.get(service) or self._head(service, text)
            line = f"{head}{queue_id}: {text}\n" if queue_id else f"{head}{text}\n"
        self._waiting.append(line)
        if not self._scheduled:
            self._schedule()

    def warning(self, service: str, text: str, queue_id: str = "", **fields: object) -> None:
        """As `event`, with Postfix's "warning: " before the text."""
        name = f"{service}: {queue_id}" if queue_id else service
        when, line = time.time(), f"{name}: {_printable(text)}"
        self.recent.append((when, line))
        if self.warned is not None:
            self.warned(when, line)
        self.event(service, f"warning: {text}", queue_id, **fields)

    def _head(self, service: str, text: str) -> str:
        """What stands between the time and the text."""
        if service not in MAILBOX_SERVICES:
            head = f"{self.syslog_name}/{service}[{self._pid}]: "
        elif text.startswith(f"{service}("):
            # A session's lines name it themselves: imap(user)<pid><session>.
            return f"{self.mailbox_syslog_name}: "
        else:
            head = f"{self.mailbox_syslog_name}: {service}: "
            if not service.endswith("-login"):
                return head
        self._heads[service] = head
        return head

    def _schedule(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.flush()
            return
        self._scheduled = True
        wait = self._written + self._gather - time.monotonic() if self._gather else 0.0
        if wait > 0:
            loop.call_later(wait, self.flush)
        else:
            loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what is waiting. A sink that fails (full disk) must not stop the mail: it is told
        once on standard error and the lines are dropped."""
        self._scheduled = False
        with self._lock:
            lines = self._waiting[:]
            del self._waiting[: len(lines)]
        if not lines:
            return
        if self.stamped and not self.as_json:
            stamp = self._prefix()
            lines = [stamp + line for line in lines]
        self._written = time.monotonic()
        try:
            self._sink.write(lines)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.write(2, f"resel-mta: {len(lines)} log lines lost: {error}\n".encode())

    def reopen(self) -> None:
        """After log rotation."""
        self.flush()
        self._sink.reopen()

    def _prefix(self) -> str:
        now = int(time.time())
        if now != self._second:
            local = time.localtime(now)
            month = "JanFebMarAprMayJunJulAugSepOctNovDec"[local.tm_mon * 3 - 3 : local.tm_mon * 3]
            self._second = now
            self._stamp = (
                f"{month} {local.tm_mday:2d} {time.strftime('%H:%M:%S', local)} {self.hostname} "
            )
        return self._stamp

    def _json(self, service: str, text: str, queue_id: str, fields: dict[str, object]) -> str:
        now = time.time()
        module = self.mailbox_syslog_name if service in MAILBOX_SERVICES else self.syslog_name
        level = text.partition(": ")[0]
        record: dict[str, object] = {
            "@timestamp": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
            + f".{int(now % 1 * 1000):03d}Z",
            "log.level": level if level in ("warning", "error", "fatal", "panic") else "info",
            "message": f"{queue_id}: {text}" if queue_id else text,
            "ecs.version": VERSION,
            "event.kind": "event",
            "event.module": module,
            "event.dataset": f"{module}.{service}",
            "process.name": service,
            "process.pid": self._pid,
            "host.hostname": self.hostname,
        }
        if queue_id and queue_id != "NOQUEUE":
            record["email.local_id"] = queue_id
        record.update(fields_of(module, service, text))
        record.update((name.replace("_", ".", 1), value) for name, value in fields.items())
        return json.dumps(record, ensure_ascii=False, default=str) + "\n"


def _printable(text: str) -> str:
    """One line with no control characters, so that a peer's words cannot forge a log line."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == " " else "?" for c in text)
