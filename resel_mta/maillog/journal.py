"""The systemd journal, in its own protocol: one datagram per entry, with fields beside the text.

So `journalctl -t postfix/smtp` works as with Postfix, `journalctl -p warning` finds warnings, and
`journalctl QUEUE_ID=…` finds all lines of one message.
Source: https://systemd.io/JOURNAL_NATIVE_PROTOCOL/
"""

from __future__ import annotations

import os
import re

from resel_mta.maillog.sinks import Datagrams, severity_of

SOCKET = "/run/systemd/journal/socket"
# "postfix/smtp[123]: ", or "dovecot: ".
_HEAD = re.compile(r"([^\s:\[]+)(?:\[(\d+)\])?: ")
# Other words before a colon have no digit, as "warning" and "NOQUEUE".
_QUEUE_ID = re.compile(r"(?=[A-Za-z]*\d)([0-9A-Za-z]{6,20}): ")
#: Characters of a text. A datagram must be one that every kernel takes.
_LONGEST = 16 * 1024
_FACILITY_MAIL = 2


class JournalSink:
    """Sends each line as an entry. Raises OSError where there is no journal."""

    def __init__(self, path: str = SOCKET) -> None:
        self._daemon = Datagrams(path)

    def write(self, lines: list[str]) -> None:
        self._daemon.send_all(map(encode, lines))

    def reopen(self) -> None:
        self._daemon.reopen()

    def close(self) -> None:
        self._daemon.close()


def encode(line: str) -> bytes:
    """The datagram for a line without time and host."""
    fields = {"PRIORITY": str(severity_of(line)), "SYSLOG_FACILITY": str(_FACILITY_MAIL)}
    text = line.rstrip("\n")
    head = _HEAD.match(text)
    if head is not None:
        text = text[head.end() :]
        fields["SYSLOG_IDENTIFIER"] = head[1]
        if head[2]:
            fields["SYSLOG_PID"] = head[2]
        queue_id = _QUEUE_ID.match(text)
        if queue_id is not None:
            fields["QUEUE_ID"] = queue_id[1]
    fields["MESSAGE"] = text[:_LONGEST]
    entry = "".join(f"{name}={value}\n" for name, value in fields.items())
    return entry.encode("utf-8", "backslashreplace")


def is_journal(fd: int) -> bool:
    """Whether a file descriptor is a stream to the journal (systemd.exec(5), $JOURNAL_STREAM).

    The variable alone is no proof: it is inherited by what runs with another output.
    """
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))
